use bertha_graph::{DType, Op, TensorData};
use proptest::prelude::*;

use crate::support::{FLOATS, Random, check, check_all, config, floats};

/// No parameter, one for all, or one for each row or column, in the forms that ONNX has.
fn parameter_shape(random: &mut Random, lead: &[usize], size: usize, rows: bool) -> Vec<usize> {
    match random.below(4) {
        0 => vec![],
        1 => vec![1],
        2 => vec![size],
        _ => [lead, &if rows { [size, 1] } else { [1, size] }].concat(),
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn matmul_integer(seed: u64) {
        let mut random = Random::new(seed);
        let (m, k, n) = (random.dim(), random.dim(), if random.below(9) == 0 { 520 } else { random.dim() });
        let lead: Vec<usize> = (0..random.below(3)).map(|_| 1 + random.below(3)).collect();
        let (dtype_a, dtype_b) = (random.pick(&[DType::I8, DType::U8]), random.pick(&[DType::I8, DType::U8]));
        let lead_b = random.broadcastable(&lead);
        let a = random.tensor(dtype_a, &[&lead[..], &[m, k]].concat());
        let b = random.tensor(dtype_b, &[&lead_b[..], &[k, n]].concat());
        let zero_a = parameter_shape(&mut random, &lead, m, true);
        let zero_a = random.tensor(dtype_a, &zero_a);
        let zero_b = parameter_shape(&mut random, &lead_b, n, false);
        let zero_b = random.tensor(dtype_b, &zero_b);
        let (zero_a, zero_b) = (random.flip().then_some(&zero_a), random.flip().then_some(&zero_b));
        check(&Op::MatMulInteger, &[Some(&a), Some(&b), zero_a, zero_b]);
    }

    #[test]
    fn qlinear_matmul(seed: u64) {
        let mut random = Random::new(seed);
        let (m, k, n) = (random.dim(), random.dim(), random.dim());
        let lead: Vec<usize> = (0..random.below(2)).map(|_| 1 + random.below(3)).collect();
        let bytes = [DType::I8, DType::U8];
        let (dtype_a, dtype_b, dtype_y) = (random.pick(&bytes), random.pick(&bytes), random.pick(&bytes));
        let a = random.tensor(dtype_a, &[&lead[..], &[m, k]].concat());
        let b = random.tensor(dtype_b, &[&lead[..], &[k, n]].concat());
        let shape_a = parameter_shape(&mut random, &lead, m, true);
        let shape_b = parameter_shape(&mut random, &lead, n, false);
        let scale = random.pick(&[DType::F32, DType::F16]);
        let inputs = [
            a,
            random.scales(scale, &shape_a),
            random.tensor(dtype_a, &shape_a),
            b,
            random.scales(scale, &shape_b),
            random.tensor(dtype_b, &shape_b),
            random.scales(scale, &[]),
            random.tensor(dtype_y, &[]),
        ];
        check_all(&Op::QLinearMatMul, &inputs.iter().collect::<Vec<_>>());
    }

    #[test]
    fn quantize_and_dequantize(seed: u64) {
        let mut random = Random::new(seed);
        let shape: Vec<usize> = (0..1 + random.below(3)).map(|_| 1 + random.dim()).collect();
        let axis = random.below(shape.len());
        let block_size = if random.below(3) == 0 { 1 + random.below(4) } else { 0 };
        let mut blocks = shape.clone();
        blocks[axis] = shape[axis].div_ceil(block_size.max(1));
        let parameters = match (block_size, random.below(3)) {
            (0, 0) => vec![],
            (0, 1) => vec![1],
            (0, _) => vec![shape[axis]],
            _ => blocks,
        };
        let dtype = random.pick(&FLOATS);
        // Multiples of an eighth: many quotients are ties.
        let eighths: Vec<f64> = random.within(DType::I64, &shape, -800, 800).to_f64().iter().map(|v| v / 8.0).collect();
        let x = floats(dtype, &shape, &eighths);
        let scale = random.scales(dtype, &parameters);
        let to = random.pick(&[DType::I8, DType::U8, DType::I16, DType::U16]);
        let zero = random.tensor(to, &parameters);
        let zero = random.flip().then_some(&zero);
        let axis = axis as i64 - if random.flip() { shape.len() as i64 } else { 0 };
        check(&Op::QuantizeLinear { axis, block_size, to }, &[Some(&x), Some(&scale), zero]);
        let quantized = random.tensor(to, &shape);
        check(&Op::DequantizeLinear { axis, block_size, to: dtype }, &[Some(&quantized), Some(&scale), zero]);
    }

    #[test]
    fn dynamic_quantize(seed: u64) {
        let mut random = Random::new(seed);
        let shape = random.shape(3);
        check_all(&Op::DynamicQuantizeLinear, &[&random.tensor(DType::F32, &shape)]);
    }
}

#[test]
fn a_range_without_extent_is_quantised() {
    check_all(&Op::DynamicQuantizeLinear, &[&TensorData::vector(vec![0f32, 0.0])]);
    check_all(&Op::DynamicQuantizeLinear, &[&TensorData::vector(vec![f32::NAN, 1.0])]);
}
