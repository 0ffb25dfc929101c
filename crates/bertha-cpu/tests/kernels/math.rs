//! Elementary functions over their whole range, against f64.

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::elementwise::{UnaryOp, unary};
use bertha_cpu::kernels::{Rows, RowsMut};

use crate::common::{Rng, context, ulps};

/// The functions in f64.
pub(crate) mod reference {
    pub(crate) fn gelu_erf(x: f64) -> f64 {
        if x == f64::NEG_INFINITY { 0.0 } else { 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2) }
    }

    pub(crate) fn gelu_tanh(x: f64) -> f64 {
        let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
        // 0.5 (1 + tanh z) without its cancellation for negative z.
        if x == f64::NEG_INFINITY { 0.0 } else { x / (1.0 + (-2.0 * z).exp()) }
    }

    pub(crate) fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }
}

/// What a function may be off by: ulps, or an absolute error that will do instead.
fn bounds(op: UnaryOp) -> (f64, f64) {
    match op {
        UnaryOp::Abs | UnaryOp::Neg | UnaryOp::Relu => (0.0, 0.0),
        UnaryOp::Reciprocal | UnaryOp::Sqrt => (0.51, 0.0),
        UnaryOp::Exp | UnaryOp::Log | UnaryOp::Erf => (2.0, 0.0),
        UnaryOp::Tanh => (3.0, 0.0),
        UnaryOp::Sigmoid => (4.0, 0.0),
        UnaryOp::GeluErf => (2.0, 1e-7),
        UnaryOp::GeluTanh => (8.0, 1e-7),
    }
}

fn reference(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Abs => x.abs(),
        UnaryOp::Neg => -x,
        UnaryOp::Relu => {
            if x.is_nan() {
                x
            } else {
                x.max(0.0)
            }
        }
        UnaryOp::Reciprocal => 1.0 / x,
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Erf => libm::erf(x),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Sigmoid => reference::sigmoid(x),
        UnaryOp::GeluErf => reference::gelu_erf(x),
        UnaryOp::GeluTanh => reference::gelu_tanh(x),
    }
}

/// Every exponent with random mantissas, a dense sweep of where the functions bend, and the special values.
fn inputs() -> Vec<f32> {
    let mut rng = Rng::new(11);
    let mut xs = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, -1.0];
    xs.extend([f32::MAX, f32::MIN, f32::MIN_POSITIVE, -f32::MIN_POSITIVE, 1e-45, -1e-45]);
    xs.extend([88.72, 88.73, -87.3, -87.4, -103.9, -104.1, 0.625, 4.0, 6.0, -6.0, 5.999_999_5]);
    for exponent in 0..255_u32 {
        for _ in 0..40 {
            let bits = (exponent << 23) | (rng.next() as u32 & 0x807f_ffff);
            xs.push(f32::from_bits(bits));
        }
    }
    let steps = 200_000;
    xs.extend((0..=steps).map(|i| (i as f32 / steps as f32 - 0.5) * 240.0));
    xs.extend((0..=steps).map(|i| (i as f32 / steps as f32 - 0.5) * 16.0));
    xs.extend((0..=steps).map(|i| i as f32 / steps as f32 * 3.0));
    xs
}

pub(crate) fn functions(isa: Isa) {
    let xs = inputs();
    let mut ctx = context(isa, 2);
    for op in UnaryOp::ALL {
        let mut ys = vec![0.0; xs.len()];
        unary(&mut ctx, op, Some(Rows::new(&xs, 1, xs.len())), RowsMut::new(&mut ys, 1, xs.len()));
        let (max_ulps, max_abs) = bounds(op);
        let (mut worst, mut worst_abs) = ((0.0, 0.0), (0.0, 0.0));
        for (&x, &y) in xs.iter().zip(&ys) {
            let want = reference(op, f64::from(x));
            if want.is_nan() {
                assert!(y.is_nan(), "{op:?}({x}) = {y}, not NaN");
                continue;
            }
            // Beyond the largest f32 the nearest answers are it and infinity.
            if want.abs() > f64::from(f32::MAX) {
                assert!(
                    f64::from(y) == want.signum() * f64::INFINITY || ulps(y, want) < 4.0,
                    "{op:?}({x}) = {y}"
                );
                continue;
            }
            let (error, off) = ((f64::from(y) - want).abs(), ulps(y, want));
            assert!(
                off <= max_ulps || error <= max_abs,
                "{op:?}({x}) = {y}, want {want}: {off} ulp, {error:e}"
            );
            if off > worst.0 && error > max_abs {
                worst = (off, f64::from(x));
            }
            if error > worst_abs.0 && want.abs() < 1.0 {
                worst_abs = (error, f64::from(x));
            }
        }
        println!("{isa} {op:?}: {:.2} ulp at {}, {:.2e} at {}", worst.0, worst.1, worst_abs.0, worst_abs.1);
        lanes_agree(isa, op, &xs[..300]);
    }
}

/// A value's result does not depend on its place in a vector or in the tail, and strided rows work in place.
fn lanes_agree(isa: Isa, op: UnaryOp, xs: &[f32]) {
    let mut ctx = context(isa, 1);
    let one = |ctx: &mut _, x: f32| {
        let mut y = [x];
        unary(ctx, op, None, RowsMut::new(&mut y, 1, 1));
        y[0].to_bits()
    };
    let (cols, stride) = (29, 37);
    let mut ys = xs.to_vec();
    let rows = xs.len() / stride;
    unary(&mut ctx, op, None, RowsMut { data: &mut ys, rows, cols, stride });
    for (i, (&x, &y)) in xs.iter().zip(&ys).enumerate().take(rows * stride) {
        let want = if i % stride < cols { one(&mut ctx, x) } else { x.to_bits() };
        assert!(y.to_bits() == want || y.is_nan() && f32::from_bits(want).is_nan(), "{op:?} at {i}");
    }
}
