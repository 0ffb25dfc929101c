use bertha_graph::{DType, Op, PadMode, TensorData};
use proptest::prelude::*;

use crate::support::{NUMBERS, Random, check, check_all, config, floats, i64s, ints};

fn rank_at_least(random: &mut Random, least: usize, most: usize) -> Vec<usize> {
    (0..least + random.below(most - least + 1)).map(|_| random.dim()).collect()
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn reshape_squeeze_unsqueeze(seed: u64) {
        let mut random = Random::new(seed);
        let shape = random.shape(4);
        let dtype = random.pick(&DType::ALL);
        let x = random.tensor(dtype, &shape);
        let count = x.len() as i64;
        check_all(&Op::Reshape { allow_zero: true }, &[&x, &i64s(&[count, 1])]);
        check_all(&Op::Unsqueeze, &[&x, &i64s(&[0, -1])]);
        check_all(&Op::Squeeze, &[&x]);
    }

    #[test]
    fn transpose(seed: u64) {
        let mut random = Random::new(seed);
        let shape = random.shape(5);
        let mut perm: Vec<usize> = (0..shape.len()).collect();
        for i in (1..perm.len()).rev() {
            perm.swap(i, random.below(i + 1));
        }
        let dtype = random.pick(&DType::ALL);
        check_all(&Op::Transpose { perm }, &[&random.tensor(dtype, &shape)]);
    }

    #[test]
    fn concat_and_split(seed: u64) {
        let mut random = Random::new(seed);
        let shape = rank_at_least(&mut random, 1, 4);
        let axis = random.below(shape.len());
        let dtype = random.pick(&DType::ALL);
        let signed = if random.flip() { axis as i64 } else { axis as i64 - shape.len() as i64 };
        let parts: Vec<TensorData> = (0..1 + random.below(4))
            .map(|_| {
                let mut shape = shape.clone();
                shape[axis] = random.dim();
                random.tensor(dtype, &shape)
            })
            .collect();
        check_all(&Op::Concat { axis: signed }, &parts.iter().collect::<Vec<_>>());
        let whole = random.tensor(dtype, &shape);
        let split = Op::Split { axis: signed, parts: 1 + random.below(4) };
        check_all(&split, &[&whole]);
        let first = random.below(shape[axis] + 1);
        let sizes = i64s(&[first as i64, 0, (shape[axis] - first) as i64]);
        check_all(&Op::Split { axis: signed, parts: 3 }, &[&whole, &sizes]);
    }

    #[test]
    fn slice(seed: u64) {
        let mut random = Random::new(seed);
        let shape = random.shape(4);
        let dtype = random.pick(&DType::ALL);
        let x = random.tensor(dtype, &shape);
        let axes: Vec<i64> = (0..shape.len() as i64).filter(|_| random.flip()).collect();
        let mut list = |low, high| -> Vec<i64> { axes.iter().map(|_| random.between(low, high)).collect() };
        let (mut starts, mut ends) = (list(-7, 7), list(-7, 7));
        let steps: Vec<i64> = list(1, 3).iter().zip(list(0, 1)).map(|(s, back)| if back == 1 { -s } else { *s }).collect();
        if random.flip() {
            starts.iter_mut().zip(&steps).for_each(|(start, step)| *start = if *step < 0 { -1 } else { 0 });
            ends.iter_mut().zip(&steps).for_each(|(end, step)| *end = if *step < 0 { i64::MIN } else { i64::MAX });
        }
        check_all(&Op::Slice, &[&x, &i64s(&starts), &i64s(&ends), &i64s(&axes), &i64s(&steps)]);
    }

    #[test]
    fn expand_and_tile(seed: u64) {
        let mut random = Random::new(seed);
        let to = random.shape(4);
        let from = random.broadcastable(&to);
        let dtype = random.pick(&DType::ALL);
        let x = random.tensor(dtype, &from);
        check_all(&Op::Expand, &[&x, &i64s(&to.iter().map(|d| *d as i64).collect::<Vec<_>>())]);
        let repeats: Vec<i64> = from.iter().map(|_| random.between(0, 3)).collect();
        check_all(&Op::Tile, &[&x, &i64s(&repeats)]);
    }

    #[test]
    fn gather(seed: u64) {
        let mut random = Random::new(seed);
        let mut shape = rank_at_least(&mut random, 1, 4);
        let axis = random.below(shape.len());
        shape[axis] = shape[axis].max(1);
        let size = shape[axis] as i64;
        let dtype = random.pick(&DType::ALL);
        let x = random.tensor(dtype, &shape);
        let index = random.pick(&[DType::I64, DType::I32]);
        let indices_shape = random.shape(2);
        let indices = random.within(index, &indices_shape, -size, size - 1);
        check_all(&Op::Gather { axis: axis as i64 }, &[&x, &indices]);

        let mut elements = shape.clone();
        elements.iter_mut().for_each(|dim| *dim = random.below(*dim + 1));
        elements[axis] = random.below(6);
        let indices = random.within(index, &elements, -size, size - 1);
        check_all(&Op::GatherElements { axis: axis as i64 }, &[&x, &indices]);
    }

    #[test]
    fn gather_nd(seed: u64) {
        let mut random = Random::new(seed);
        let shape: Vec<usize> = (0..1 + random.below(4)).map(|_| 1 + random.below(5)).collect();
        let batch_dims = random.below(shape.len());
        let depth = random.below(shape.len() - batch_dims + 1);
        let smallest = shape[batch_dims..batch_dims + depth].iter().min().map_or(1, |least| *least as i64);
        let indices_shape = [&shape[..batch_dims], &random.shape(2)[..], &[depth]].concat();
        let indices = random.within(DType::I64, &indices_shape, -smallest, smallest - 1);
        let dtype = random.pick(&DType::ALL);
        check_all(&Op::GatherNd { batch_dims }, &[&random.tensor(dtype, &shape), &indices]);
    }

    #[test]
    fn pad(seed: u64) {
        let mut random = Random::new(seed);
        let mode = random.pick(&[PadMode::Constant, PadMode::Edge, PadMode::Reflect, PadMode::Wrap]);
        let shape: Vec<usize> = (0..random.below(4)).map(|_| 3 + random.below(4)).collect();
        let dtype = random.pick(&DType::ALL);
        let x = random.tensor(dtype, &shape);
        let axes: Vec<i64> = (0..shape.len() as i64).filter(|_| random.flip()).collect();
        let pads: Vec<i64> = (0..2 * axes.len()).map(|_| random.between(-1, 9)).collect();
        let value = random.tensor(dtype, &[]);
        let value = random.flip().then_some(&value);
        check(&Op::Pad { mode }, &[Some(&x), Some(&i64s(&pads)), value, Some(&i64s(&axes))]);
    }

    #[test]
    fn shapes_and_constants(seed: u64) {
        let mut random = Random::new(seed);
        let shape = random.shape(4);
        let x = random.tensor(DType::U8, &shape);
        let end = random.flip().then(|| random.between(-5, 5));
        check_all(&Op::Shape { start: random.between(-5, 5), end }, &[&x]);
        let dtype = random.pick(&DType::ALL);
        let value = random.tensor(dtype, &[1]);
        check_all(&Op::ConstantOfShape { value }, &[&i64s(&shape.iter().map(|d| *d as i64).collect::<Vec<_>>())]);
    }

    #[test]
    fn range(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&NUMBERS);
        let low = if dtype.is_signed() { -20 } else { 0 };
        let (start, limit) = (random.between(low, 20), random.between(low, 20));
        let delta = match random.between(if dtype.is_signed() { -5 } else { 1 }, 5) {
            0 => 1,
            delta => delta,
        };
        let scalar = |v: i64| match dtype.is_float() {
            true => floats(dtype, &[], &[v as f64 / 4.0]),
            false => ints(dtype, &[], &[v]),
        };
        check_all(&Op::Range, &[&scalar(start), &scalar(limit), &scalar(delta)]);
    }
}
