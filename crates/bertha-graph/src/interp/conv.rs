//! Convolutions.

use super::Context;
use super::args::{Args, expect_dtype, expect_shape, floats};
use super::error::{Fault, fault};
use super::index::{for_each_index, strides};
use super::value::{Value, element_count};
use crate::conv::{ConvAttrs, ConvAxis};

/// Every element of the result by the definition: the sum over the channels of its group and the elements of the window
/// that lie within `x`.
pub(super) fn conv(attrs: &ConvAttrs, args: Args, context: Context) -> Result<Value, Fault> {
    let (x, weight) = (args.required(0, "x")?, args.required(1, "weight")?);
    expect_dtype(weight, "weight", x.dtype())?;
    let ([batch, channels, sizes @ ..], [out, part, kernel @ ..]) = (x.shape(), weight.shape()) else {
        return fault!("`x` and `weight` need batch and channels: {:?}, {:?}", x.shape(), weight.shape());
    };
    if sizes.len() != kernel.len() || Some(*channels) != part.checked_mul(attrs.groups) {
        return fault!("`x` {:?} does not fit the weight {:?}", x.shape(), weight.shape());
    }
    attrs.check(sizes.len()).map_err(Fault)?;
    if out % attrs.groups != 0 {
        return fault!("{out} results cannot be cut into {} groups", attrs.groups);
    }
    let bias = match args.optional(2) {
        Some(bias) => {
            expect_shape(bias, "bias", &[*out])?;
            floats(bias, "bias")?.to_vec()
        }
        None => vec![0.0; *out],
    };
    let axes: Vec<ConvAxis> = sizes
        .iter()
        .zip(kernel)
        .enumerate()
        .map(|(axis, (size, kernel))| attrs.axis(axis, *size, *kernel).map_err(Fault))
        .collect::<Result<_, _>>()?;
    let mut shape = vec![*batch, *out];
    shape.extend(axes.iter().map(|axis| axis.out));
    element_count(&shape)?;
    let (values, weights) = (floats(x, "x")?, floats(weight, "weight")?);
    let (steps_x, steps_w) = (strides(x.shape()), strides(weight.shape()));
    let mut sums = Vec::new();
    for_each_index(&shape, |index| {
        let (row, channel) = (index[0], index[1]);
        let first = channel / (out / attrs.groups) * part;
        let mut sum = bias[channel];
        for_each_index(kernel, |tap| {
            // Where the window's element lies in `x`; outside there are zeros.
            let mut at = row * steps_x[0];
            for (d, axis) in axes.iter().enumerate() {
                let position = index[d + 2] * axis.stride + tap[d] * axis.dilation;
                let Some(source) = position.checked_sub(axis.begin).filter(|source| *source < axis.size)
                else {
                    return;
                };
                at += source * steps_x[d + 2];
            }
            let tap_at: usize = tap.iter().zip(&steps_w[2..]).map(|(tap, step)| tap * step).sum();
            for c in 0..*part {
                let weight = weights[channel * steps_w[0] + c * steps_w[1] + tap_at];
                sum += values[at + (first + c) * steps_x[1]] * weight;
            }
        });
        sums.push(sum);
    });
    Ok(context.floats(x.dtype(), shape, sums))
}
