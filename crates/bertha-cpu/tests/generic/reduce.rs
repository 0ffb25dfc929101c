use bertha_graph::{DType, Op, ReduceOp};
use proptest::prelude::*;

use crate::support::{FLOATS, NUMBERS, Random, check, check_all, config, floats, i64s};

fn some_axis(random: &mut Random, rank: usize) -> i64 {
    random.between(-(rank as i64), rank as i64 - 1)
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn reductions(seed: u64) {
        let mut random = Random::new(seed);
        let op = random.pick(&ReduceOp::ALL);
        let dtype = random.pick(&NUMBERS);
        let shape = random.shape(4);
        let mut x = random.tensor(dtype, &shape);
        if op == ReduceOp::Prod && dtype.is_float() {
            // Close to 1, so that products neither vanish nor overflow.
            let values: Vec<f64> = x.to_f64().iter().map(|v| 1.0 + v / 40.0).collect();
            x = floats(dtype, &shape, &values);
        }
        let axes: Vec<i64> = (0..shape.len() as i64).filter(|_| random.flip()).collect();
        let axes = i64s(&axes);
        let op = Op::Reduce { op, keep_dims: random.flip(), noop_with_empty_axes: random.flip() };
        check(&op, &[Some(&x), random.flip().then_some(&axes)]);
    }

    #[test]
    fn running_sums(seed: u64) {
        let mut random = Random::new(seed);
        let shape: Vec<usize> = (0..1 + random.below(3)).map(|_| random.dim()).collect();
        let dtype = random.pick(&NUMBERS);
        let axis = some_axis(&mut random, shape.len());
        let op = Op::CumSum { exclusive: random.flip(), reverse: random.flip() };
        check_all(&op, &[&random.tensor(dtype, &shape), &i64s(&[axis]).reshaped(vec![]).unwrap()]);
    }

    #[test]
    fn softmax(seed: u64) {
        let mut random = Random::new(seed);
        let shape: Vec<usize> = (0..1 + random.below(3)).map(|_| random.dim()).collect();
        let dtype = random.pick(&FLOATS);
        let axis = some_axis(&mut random, shape.len());
        check_all(&Op::Softmax { axis }, &[&random.special(dtype, &shape)]);
    }

    #[test]
    fn layer_norm(seed: u64) {
        let mut random = Random::new(seed);
        let shape: Vec<usize> = (0..1 + random.below(3)).map(|_| 1 + random.dim()).collect();
        let dtype = random.pick(&FLOATS);
        let axis = some_axis(&mut random, shape.len());
        let first = if axis < 0 { axis + shape.len() as i64 } else { axis } as usize;
        let (gamma, beta) = (random.broadcastable(&shape[first..]), random.broadcastable(&shape[first..]));
        let gamma = if random.flip() { shape[first..].to_vec() } else { gamma };
        let (x, gamma, beta) =
            (random.tensor(dtype, &shape), random.tensor(dtype, &gamma), random.tensor(dtype, &beta));
        let op = Op::LayerNorm { axis, epsilon: 0.1 };
        check(&op, &[Some(&x), Some(&gamma), random.flip().then_some(&beta)]);
    }

    #[test]
    fn unit_rows(seed: u64) {
        let mut random = Random::new(seed);
        let shape: Vec<usize> = (0..1 + random.below(3)).map(|_| random.dim()).collect();
        let dtype = random.pick(&FLOATS);
        check_all(&Op::L2Normalize { epsilon: 1e-3 }, &[&random.tensor(dtype, &shape)]);
    }
}

#[test]
fn long_sums_of_f32_stay_accurate() {
    let values: Vec<f64> = (0..100_000).map(|i| 1.0 + f64::from(i % 7) * 0.125).collect();
    let x = floats(DType::F32, &[values.len()], &values);
    let op = Op::Reduce { op: ReduceOp::Mean, keep_dims: false, noop_with_empty_axes: false };
    check_all(&op, &[&x]);
}
