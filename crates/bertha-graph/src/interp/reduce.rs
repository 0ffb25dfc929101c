//! Sums and what is made of them.

use super::Context;
use super::args::{Args, floats, one_integer};
use super::error::{Fault, fault};
use super::index::{around, broadcast_positions, for_each_index, normalize_axes, normalize_axis, strides};
use super::value::{Elements, Value, element_count};
use crate::dtype::DType;
use crate::op::ReduceOp;

/// What [`reduce`] is asked for beside its operands.
#[derive(Clone, Copy)]
pub(super) struct ReduceAttrs {
    pub op: ReduceOp,
    pub keep_dims: bool,
    pub noop_with_empty_axes: bool,
}

/// Sum, mean or product over axes. The mean of integers drops the fraction.
pub(super) fn reduce(attrs: ReduceAttrs, args: Args, context: Context) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let axes = args.optional_integers(1, "axes")?.unwrap_or_default();
    if axes.is_empty() && attrs.noop_with_empty_axes {
        return Ok(x.clone());
    }
    let mut reduced = vec![axes.is_empty(); x.rank()];
    normalize_axes(&axes, x.rank())?.into_iter().for_each(|axis| reduced[axis] = true);

    let kept: Vec<usize> = (0..x.rank()).map(|d| if reduced[d] { 1 } else { x.shape()[d] }).collect();
    let shape: Vec<usize> =
        (0..x.rank()).filter(|d| attrs.keep_dims || !reduced[*d]).map(|d| kept[d]).collect();
    let results = element_count(&shape)?;
    // For each element of `x`, in order, the result that it goes into.
    let mut into = Vec::with_capacity(x.len());
    let steps: Vec<usize> = strides(&kept)
        .into_iter()
        .zip(&reduced)
        .map(|(stride, reduced)| if *reduced { 0 } else { stride })
        .collect();
    for_each_index(x.shape(), |index| into.push(index.iter().zip(&steps).map(|(i, s)| i * s).sum::<usize>()));
    let count: usize = (0..x.rank()).filter(|d| reduced[*d]).map(|d| x.shape()[d]).product();

    let product = attrs.op == ReduceOp::Prod;
    match x.elements() {
        Elements::Float(v) => {
            let mut sums = vec![if product { 1.0 } else { 0.0 }; results];
            for (x, at) in v.iter().zip(into) {
                if product { sums[at] *= x } else { sums[at] += x }
            }
            if attrs.op == ReduceOp::Mean {
                sums.iter_mut().for_each(|sum| *sum /= count as f64);
            }
            Ok(context.floats(x.dtype(), shape, sums))
        }
        Elements::Int(v) => {
            let mut sums = vec![i128::from(product); results];
            for (x, at) in v.iter().zip(into) {
                sums[at] = if product { sums[at].wrapping_mul(*x) } else { sums[at] + x };
            }
            if attrs.op == ReduceOp::Mean {
                // Of nothing, 0: there is no NaN among integers.
                sums.iter_mut().for_each(|sum| *sum = sum.checked_div(count as i128).unwrap_or(0));
            }
            Ok(Value::ints(x.dtype(), shape, sums))
        }
        Elements::Bool(_) => fault!("not defined for bool"),
    }
}

/// Running sum along one axis.
pub(super) fn cumsum(exclusive: bool, reverse: bool, args: Args, context: Context) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let axis = normalize_axis(one_integer(args.required(1, "axis")?, "axis")?, x.rank())?;
    let (outer, size, inner) = around(x.shape(), axis);
    let shape = x.shape().to_vec();
    let lanes = (outer, size, inner);
    match x.elements() {
        Elements::Float(v) => {
            Ok(context.floats(x.dtype(), shape, running_sums(v, lanes, exclusive, reverse)))
        }
        Elements::Int(v) => Ok(Value::ints(x.dtype(), shape, running_sums(v, lanes, exclusive, reverse))),
        Elements::Bool(_) => fault!("not defined for bool"),
    }
}

fn running_sums<T: Copy + Default + std::ops::AddAssign>(
    values: &[T],
    (outer, size, inner): (usize, usize, usize),
    exclusive: bool,
    reverse: bool,
) -> Vec<T> {
    let mut sums = vec![T::default(); values.len()];
    for o in 0..outer {
        for i in 0..inner {
            let mut sum = T::default();
            for step in 0..size {
                let along = if reverse { size - 1 - step } else { step };
                let at = (o * size + along) * inner + i;
                if exclusive {
                    sums[at] = sum;
                }
                sum += values[at];
                if !exclusive {
                    sums[at] = sum;
                }
            }
        }
    }
    sums
}

/// Softmax along one axis. A lane of minus infinities gives NaN.
pub(super) fn softmax(axis: i64, args: Args, context: Context) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let values = floats(x, "x")?;
    let axis = normalize_axis(axis, x.rank())?;
    let (outer, size, inner) = around(x.shape(), axis);
    let mut result = vec![0.0; values.len()];
    for o in 0..outer {
        for i in 0..inner {
            let at = |step: usize| (o * size + step) * inner + i;
            let lane: Vec<f64> = (0..size).map(|step| values[at(step)]).collect();
            for (step, p) in softmax_of(&lane).into_iter().enumerate() {
                result[at(step)] = p;
            }
        }
    }
    Ok(context.floats(x.dtype(), x.shape().to_vec(), result))
}

/// `exp(x - max) / sum(exp(x - max))`.
pub(super) fn softmax_of(lane: &[f64]) -> Vec<f64> {
    let max = lane.iter().copied().fold(f64::NEG_INFINITY, super::elementwise::maximum);
    let exps: Vec<f64> = lane.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|x| x / sum).collect()
}

/// `(x - mean) / sqrt(variance + epsilon) * gamma + beta` over the dimensions from `axis` on; then the mean and
/// `1 / sqrt(variance + epsilon)`, both `F32`.
pub(super) fn layer_norm(axis: i64, epsilon: f32, args: Args, context: Context) -> Result<Vec<Value>, Fault> {
    let x = args.required(0, "x")?;
    let values = floats(x, "x")?;
    let axis = normalize_axis(axis, x.rank())?;
    let gamma = args.required(1, "gamma")?;
    let gamma_at = broadcast_positions(gamma.shape(), x.shape())?;
    let gamma = floats(gamma, "gamma")?;
    let beta = match args.optional(2) {
        Some(beta) => Some((floats(beta, "beta")?, broadcast_positions(beta.shape(), x.shape())?)),
        None => None,
    };
    let rows: usize = x.shape()[..axis].iter().product();
    let width: usize = x.shape()[axis..].iter().product();
    let (mut result, mut means, mut inverses) = (Vec::with_capacity(values.len()), vec![], vec![]);
    for row in 0..rows {
        let lane = &values[row * width..(row + 1) * width];
        let mean = lane.iter().sum::<f64>() / width as f64;
        let variance = lane.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width as f64;
        let inverse = 1.0 / (variance + f64::from(epsilon)).sqrt();
        for (i, x) in lane.iter().enumerate() {
            let at = row * width + i;
            let shift = beta.as_ref().map_or(0.0, |(beta, beta_at)| beta[beta_at[at]]);
            result.push((x - mean) * inverse * gamma[gamma_at[at]] + shift);
        }
        means.push(mean);
        inverses.push(inverse);
    }
    let mut reduced = x.shape().to_vec();
    reduced[axis..].fill(1);
    Ok(vec![
        context.floats(x.dtype(), x.shape().to_vec(), result),
        context.floats(DType::F32, reduced.clone(), means),
        context.floats(DType::F32, reduced, inverses),
    ])
}
