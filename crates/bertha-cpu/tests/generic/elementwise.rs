use bertha_graph::{BinaryOp, DType, GeluKind, Op, UnaryOp};
use proptest::prelude::*;

use crate::support::{FLOATS, NUMBERS, Random, check, check_all, config};

/// The dtypes that the shape rules let through.
fn unary_dtypes(op: UnaryOp) -> &'static [DType] {
    match op {
        UnaryOp::Identity => &DType::ALL,
        UnaryOp::Not => &[DType::Bool],
        UnaryOp::Abs | UnaryOp::Sign | UnaryOp::Neg | UnaryOp::Relu => &NUMBERS,
        _ => &FLOATS,
    }
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn unary(seed: u64) {
        let mut random = Random::new(seed);
        for op in UnaryOp::ALL {
            let dtype = random.pick(unary_dtypes(op));
            let shape = random.shape(3);
            check_all(&Op::Unary(op), &[&random.special(dtype, &shape)]);
        }
        for kind in [GeluKind::Erf, GeluKind::Tanh] {
            let dtype = random.pick(&FLOATS);
            let shape = random.shape(3);
            check_all(&Op::Gelu(kind), &[&random.tensor(dtype, &shape)]);
        }
    }

    #[test]
    fn binary(seed: u64) {
        let mut random = Random::new(seed);
        for op in BinaryOp::ALL {
            let dtype = match op {
                BinaryOp::And => DType::Bool,
                BinaryOp::Equal => random.pick(&DType::ALL),
                _ => random.pick(&NUMBERS),
            };
            let shape = random.shape(4);
            // One of the two has the full shape, so that it is the broadcast one.
            let (mut a, mut b) = (random.broadcastable(&shape), shape);
            if random.flip() {
                std::mem::swap(&mut a, &mut b);
            }
            check_all(&Op::Binary(op), &[&random.special(dtype, &a), &random.special(dtype, &b)]);
        }
    }

    #[test]
    fn pow_of_mixed_dtypes(seed: u64) {
        let mut random = Random::new(seed);
        let (base, exponent) = (random.pick(&NUMBERS), random.pick(&NUMBERS));
        let shape = random.shape(3);
        let exponent_shape = random.broadcastable(&shape);
        let a = random.tensor(base, &shape);
        let low = if exponent.is_signed() { -3 } else { 0 };
        let b = if exponent.is_float() {
            let whole = random.within(DType::I64, &exponent_shape, low, 4).to_f64();
            crate::support::floats(exponent, &exponent_shape, &whole)
        } else {
            random.within(exponent, &exponent_shape, low, 70)
        };
        // Floats to a high power differ in every digit of their logarithm.
        prop_assume!(!base.is_float() || exponent.is_float());
        check_all(&Op::Binary(BinaryOp::Pow), &[&a, &b]);
    }

    #[test]
    fn pow_of_common_exponents(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&FLOATS);
        let shape = random.shape(3);
        let a = random.tensor(dtype, &shape);
        for exponent in [0.0, 0.5, 1.0, 2.0, 3.0, -1.0] {
            check_all(&Op::Binary(BinaryOp::Pow), &[&a, &crate::support::floats(dtype, &[], &[exponent])]);
        }
    }

    #[test]
    fn clip(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&NUMBERS);
        let shape = random.shape(3);
        let x = random.special(dtype, &shape);
        let bounds = [random.special(dtype, &[]), random.tensor(dtype, &[])];
        let (low, high) = (random.flip().then_some(&bounds[0]), random.flip().then_some(&bounds[1]));
        check(&Op::Clip, &[Some(&x), low, high]);
    }

    #[test]
    fn where_(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&DType::ALL);
        let shape = random.shape(4);
        let mut shapes = [shape.clone(), random.broadcastable(&shape), random.broadcastable(&shape)];
        shapes.rotate_left(random.below(3));
        let condition = random.tensor(DType::Bool, &shapes[0]);
        check_all(&Op::Where, &[&condition, &random.tensor(dtype, &shapes[1]), &random.tensor(dtype, &shapes[2])]);
    }

    #[test]
    fn cast(seed: u64) {
        let mut random = Random::new(seed);
        let from = random.pick(&DType::ALL);
        let shape = random.shape(2);
        let x = random.special(from, &shape);
        for to in DType::ALL {
            check_all(&Op::Cast { to }, &[&x]);
        }
    }
}

#[test]
fn narrowing_to_bf16_is_that_of_the_half_crate() {
    let patterns: Vec<f32> = (0..=u16::MAX)
        .flat_map(|high| {
            [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| f32::from_bits(u32::from(high) << 16 | low))
        })
        .collect();
    let x = bertha_graph::TensorData::vector(patterns.clone());
    check_all(&Op::Cast { to: DType::BF16 }, &[&x]);
}
