//! Convolution kernels, called with tensors.

use bertha_graph::{ConvAttrs, ConvAxis};
use smallvec::SmallVec;

use super::encoder::{Operands, floats, operand, optional};
use super::packed::PackedWeight;
use crate::generic::{TensorMut, TensorRef};
use crate::kernels::conv::{self, ConvShape};
use crate::kernels::{AlignedBuf, Context};

type Axes = SmallVec<[ConvAxis; 3]>;

/// The geometry, checked against the planned result.
fn axes(attrs: &ConvAttrs, x: &TensorRef<'_>, window: &[usize], y: &TensorMut<'_>) -> Result<Axes, String> {
    let ([batch, _, sizes @ ..], [y_batch, _, planned @ ..]) = (x.shape, y.shape) else {
        return Err(format!("expected images, found {:?} and {:?}", x.shape, y.shape));
    };
    if batch != y_batch || sizes.len() != window.len() || planned.len() != window.len() {
        return Err(format!("{:?} does not become {:?} by windows of {window:?}", x.shape, y.shape));
    }
    let axes: Axes = sizes
        .iter()
        .zip(window)
        .enumerate()
        .map(|(axis, (size, kernel))| attrs.axis(axis, *size, *kernel))
        .collect::<Result<_, _>>()?;
    match axes.iter().zip(planned).all(|(axis, planned)| axis.out == *planned) {
        true => Ok(axes),
        false => Err(format!("{:?} does not become {:?} by windows of {window:?}", x.shape, y.shape)),
    }
}

fn results<'a>(y: &'a mut TensorMut<'_>) -> &'a mut [f32] {
    bytemuck::cast_slice_mut(y.bytes)
}

pub(super) fn dense(
    context: &mut Context,
    operands: &Operands<'_>,
    (attrs, window, weight): (&ConvAttrs, &[usize], &PackedWeight),
    windows: &mut AlignedBuf,
    y: &mut TensorMut<'_>,
) -> Result<(), String> {
    let x = operand(operands, 0)?;
    let bias = optional(operands, 1).map(|bias| floats(&bias)).transpose()?;
    let axes = axes(attrs, &x, window, y)?;
    let (batch, channels, out) = (x.shape[0], x.shape[1], y.shape[1]);
    let depth = channels * window.iter().product::<usize>();
    let desc = weight.desc();
    if (desc.k, desc.n) != (depth, out) || bias.is_some_and(|bias| bias.len() != out) {
        return Err(format!("{:?} does not fit a weight of {} x {}", x.shape, desc.k, desc.n));
    }
    let shape = ConvShape { batch, channels, out, axes: &axes };
    conv::dense(context, shape, (floats(&x)?, &weight.operand()?, bias), windows, results(y))
        .ok_or_else(|| format!("there is no memory for windows of {depth} values and their products"))
}

pub(super) fn depthwise(
    context: &mut Context,
    operands: &Operands<'_>,
    attrs: &ConvAttrs,
    y: &mut TensorMut<'_>,
) -> Result<(), String> {
    let (x, weight) = (operand(operands, 0)?, operand(operands, 1)?);
    let bias = optional(operands, 2).map(|bias| floats(&bias)).transpose()?;
    let axes = axes(attrs, &x, weight.shape.get(2..).unwrap_or_default(), y)?;
    let (batch, channels, out) = (x.shape[0], x.shape[1], y.shape[1]);
    let fits = channels == attrs.groups
        && channels > 0
        && out % channels == 0
        && matches!(weight.shape, [weights, 1, ..] if *weights == out)
        && bias.is_none_or(|bias| bias.len() == out);
    if !fits {
        return Err(format!("{:?} does not fit a weight of {:?}", x.shape, weight.shape));
    }
    let shape = ConvShape { batch, channels, out, axes: &axes };
    conv::depthwise(context, shape, (floats(&x)?, floats(&weight)?, bias), results(y));
    Ok(())
}
