//! Convolutions of all float dtypes.

use bertha_graph::{ConvAttrs, ConvAxis};

use super::error::{Fault, Outcome, fault};
use super::nest::Small;
use super::number::{Arith, Number, with_float};
use super::operands::{Operands, expect_shape};
use super::scratch::Scratch;
use super::tensor::TensorMut;

/// The most dimensions after batch and channels.
const MAX_AXES: usize = 14;

/// For each image and each of its result's channels: the bias, then for each channel of the group and each element of the
/// window that element of the weight times the part of `x` that it sees.
pub(super) fn conv(
    attrs: &ConvAttrs,
    operands: Operands,
    y: &mut TensorMut,
    scratch: &mut Scratch,
) -> Outcome {
    let x = operands.required(0, "x")?;
    let weight = operands.typed(1, "weight", x.dtype)?;
    let bias = operands.optional_typed(2, "bias", x.dtype)?;
    y.expect_dtype(x.dtype)?;
    let ([batch, channels, sizes @ ..], [out, part, kernel @ ..]) = (x.shape, weight.shape) else {
        return fault!("`x` {:?} and `weight` {:?} need batch and channels", x.shape, weight.shape);
    };
    let (batch, channels, out, part) = (*batch, *channels, *out, *part);
    attrs.check(sizes.len()).map_err(Fault::Operands)?;
    let fits = sizes.len() == kernel.len()
        && sizes.len() <= MAX_AXES
        && Some(channels) == part.checked_mul(attrs.groups);
    if !fits || out % attrs.groups != 0 {
        return fault!(
            "`x` {:?} does not fit the weight {:?} in {} groups",
            x.shape,
            weight.shape,
            attrs.groups
        );
    }
    if let Some(bias) = bias {
        expect_shape(bias, "bias", &[out])?;
    }
    let mut axes = [ConvAxis { size: 0, kernel: 0, stride: 1, dilation: 1, begin: 0, out: 0 }; MAX_AXES];
    for (d, axis) in axes[..sizes.len()].iter_mut().enumerate() {
        *axis = attrs.axis(d, sizes[d], kernel[d]).map_err(Fault::Operands)?;
    }
    let axes = &axes[..sizes.len()];
    let shape = Small::of([batch, out].into_iter().chain(axes.iter().map(|axis| axis.out)))?;
    y.expect_shape(&shape)?;
    let [image, plane, window] =
        [sizes.iter().product::<usize>(), shape[2..].iter().product(), kernel.iter().product()];
    with_float!(x.dtype, T => {
        let (values, weights, y) = (x.slice::<T>(), weight.slice::<T>(), y.slice::<T>());
        let bias = bias.map(|bias| bias.slice::<T>());
        // The channels of a group in the type that is computed in, and one plane of sums.
        let (group, sums) = scratch.two::<<T as Number>::Wide, <T as Number>::Wide>(part * image, plane);
        let results = out / attrs.groups;
        for (number, y) in y.chunks_exact_mut((results * plane).max(1)).enumerate() {
            let (row, g) = (number / attrs.groups, number % attrs.groups);
            T::widen_all(&values[(row * channels + g * part) * image..][..part * image], group);
            for (channel, y) in y.chunks_exact_mut(plane.max(1)).enumerate() {
                let channel = g * results + channel;
                sums.fill(bias.map_or(Arith::ZERO, |bias| bias[channel].widen()));
                let weights = weights[channel * part * window..][..part * window].chunks_exact(window);
                for (x, weights) in group.chunks_exact(image.max(1)).zip(weights) {
                    for (tap, weight) in weights.iter().enumerate() {
                        add_tap(axes, tap, window, weight.widen(), x, sums);
                    }
                }
                T::narrow_all(sums, y);
            }
        }
        Ok::<(), Fault>(())
    })
}

/// Adds `weight * x` for one element of the window, whose position is `tap` of the `window` elements in row-major order.
fn add_tap<W: Arith>(axes: &[ConvAxis], tap: usize, window: usize, weight: W, x: &[W], sums: &mut [W]) {
    let Some((axis, rest)) = axes.split_first() else {
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum = sum.plus(weight.times(*x)));
        return;
    };
    let inner = window / axis.kernel;
    let (here, tap) = (tap / inner, tap % inner);
    let range = axis.positions(here);
    if range.is_empty() {
        return;
    }
    if rest.is_empty() {
        let first = axis.source(range.start, here);
        let sums = sums[range].iter_mut();
        if axis.stride == 1 {
            sums.zip(&x[first..]).for_each(|(sum, x)| *sum = sum.plus(weight.times(*x)));
        } else {
            sums.zip(x[first..].iter().step_by(axis.stride))
                .for_each(|(sum, x)| *sum = sum.plus(weight.times(*x)));
        }
        return;
    }
    let (x_step, y_step) = (x.len() / axis.size, sums.len() / axis.out);
    for position in range {
        let x = &x[axis.source(position, here) * x_step..][..x_step];
        add_tap(rest, tap, inner, weight, x, &mut sums[position * y_step..][..y_step]);
    }
}
