//! Functions of one element.

use bertha_graph::{DType, GeluKind, UnaryOp};

use super::error::{Fault, Outcome};
use super::number::{Arith, Float, Number, Real, with_float, with_number};
use super::operands::Operands;
use super::tensor::TensorMut;

/// Elements that are widened at a time.
pub(super) const CHUNK: usize = 256;

/// `f` of every element of `x`, computed in the wide type.
pub(super) fn map<T: Number>(x: &[T], y: &mut [T], f: impl Fn(T::Wide) -> T::Wide) {
    if size_of::<T>() == size_of::<T::Wide>() {
        for (y, x) in y.iter_mut().zip(x) {
            *y = T::narrow(f(x.widen()));
        }
        return;
    }
    let mut wide = [T::Wide::ZERO; CHUNK];
    for (y, x) in y.chunks_mut(CHUNK).zip(x.chunks(CHUNK)) {
        let wide = &mut wide[..x.len()];
        T::widen_all(x, wide);
        wide.iter_mut().for_each(|v| *v = f(*v));
        T::narrow_all(wide, y);
    }
}

/// One function applied to every element.
pub(super) fn unary(op: UnaryOp, operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_shape(x.shape)?;
    match op {
        UnaryOp::IsNan => y.expect_dtype(DType::Bool)?,
        _ => y.expect_dtype(x.dtype)?,
    }
    match op {
        UnaryOp::Identity => y.bytes.copy_from_slice(x.bytes),
        UnaryOp::Not if x.dtype == DType::Bool => {
            y.bytes.iter_mut().zip(x.bytes).for_each(|(y, x)| *y = u8::from(*x == 0));
        }
        UnaryOp::Not => return Err(Fault::Unsupported(x.dtype.to_string())),
        UnaryOp::IsNan => with_float!(x.dtype, T => {
            is_nan::<T>(x.slice(), y.bytes);
            Ok(())
        })?,
        UnaryOp::Abs | UnaryOp::Neg | UnaryOp::Relu | UnaryOp::Sign => with_number!(x.dtype, T => {
            of_numbers::<T>(op, x.slice(), y.slice());
            Ok(())
        })?,
        _ => with_float!(x.dtype, T => {
            of_floats::<T>(op, x.slice(), y.slice());
            Ok(())
        })?,
    }
    Ok(())
}

fn is_nan<T: Float>(x: &[T], y: &mut [u8]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = u8::from(x.widen().is_nan()));
}

fn of_numbers<T: Number>(op: UnaryOp, x: &[T], y: &mut [T]) {
    match op {
        UnaryOp::Abs => map(x, y, Arith::magnitude),
        UnaryOp::Neg => map(x, y, Arith::negated),
        UnaryOp::Relu => map(x, y, |x| x.larger(Arith::ZERO)),
        UnaryOp::Sign => map(x, y, Arith::sign),
        _ => {}
    }
}

fn of_floats<T: Float>(op: UnaryOp, x: &[T], y: &mut [T]) {
    match op {
        UnaryOp::Ceil => map(x, y, Real::ceil),
        UnaryOp::Cos => map(x, y, Real::cos),
        UnaryOp::Erf => map(x, y, Real::erf),
        UnaryOp::Exp => map(x, y, Real::exp),
        UnaryOp::Log => map(x, y, Real::ln),
        UnaryOp::Reciprocal => map(x, y, |x| T::Wide::ONE.over(x)),
        UnaryOp::Sigmoid => map(x, y, sigmoid),
        UnaryOp::Sin => map(x, y, Real::sin),
        UnaryOp::Sqrt => map(x, y, Real::sqrt),
        UnaryOp::Tanh => map(x, y, Real::tanh),
        _ => {}
    }
}

/// `1 / (1 + exp(-x))`, without overflow on either side: `exp(-x)` may be infinite, its reciprocal is then 0.
pub(super) fn sigmoid<W: Real>(x: W) -> W {
    W::ONE.over(W::ONE.plus(x.negated().exp()))
}

/// Gaussian error linear unit.
pub(super) fn gelu(kind: GeluKind, operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_shape(x.shape)?;
    y.expect_dtype(x.dtype)?;
    with_float!(x.dtype, T => {
        match kind {
            GeluKind::Erf => map::<T>(x.slice(), y.slice(), gelu_erf),
            GeluKind::Tanh => map::<T>(x.slice(), y.slice(), gelu_tanh),
        }
        Ok(())
    })
}

/// `x/2 * erfc(-x / sqrt 2)`, which keeps the digits of the left tail.
pub(super) fn gelu_erf<W: Real>(x: W) -> W {
    let half = W::from_f64(0.5);
    half.times(x).times(x.times(W::from_f64(-std::f64::consts::FRAC_1_SQRT_2)).erfc())
}

/// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`.
pub(super) fn gelu_tanh<W: Real>(x: W) -> W {
    let cube = x.times(x).times(x);
    let inner = x.plus(cube.times(W::from_f64(0.044715)));
    let slope = W::from_f64(std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2);
    W::from_f64(0.5).times(x).times(W::ONE.plus(inner.times(slope).tanh()))
}
