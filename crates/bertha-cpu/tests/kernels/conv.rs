//! Convolutions.

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::conv::{ConvShape, dense, depthwise};
use bertha_cpu::kernels::gemm::{PackedB, PackedDesc, Strided, pack_b};
use bertha_cpu::kernels::{AlignedBuf, Context};
use bertha_graph::ConvAxis;

use crate::common::{ROUND, Rng, assert_close, context};

/// An axis whose window fits.
fn axis(rng: &mut Rng, longest: usize) -> ConvAxis {
    let (kernel, stride, dilation) = (1 + rng.below(4), 1 + rng.below(3), 1 + rng.below(2));
    let extent = (kernel - 1) * dilation + 1;
    let (begin, end) = (rng.below(extent), rng.below(extent));
    let size = extent + rng.below(longest);
    ConvAxis { size, kernel, stride, dilation, begin, out: (size + begin + end - extent) / stride + 1 }
}

/// Axes that padding alone makes results of: no value, or none of a matrix's rows.
fn empty_images() -> [Vec<ConvAxis>; 3] {
    let empty = ConvAxis { size: 0, kernel: 3, stride: 1, dilation: 1, begin: 2, out: 2 };
    let full = ConvAxis { size: 5, kernel: 3, stride: 1, dilation: 1, begin: 1, out: 5 };
    [vec![empty], vec![empty, full], vec![full, empty]]
}

/// The indices of a row-major tensor's element, with the sizes outermost first.
fn indices(mut flat: usize, sizes: impl DoubleEndedIterator<Item = usize>) -> Vec<usize> {
    let mut found = Vec::new();
    for size in sizes.rev() {
        found.insert(0, flat % size);
        flat /= size;
    }
    found
}

/// One value of one channel's convolution by the definition, with the sum of the sizes of its terms.
fn reference(axes: &[ConvAxis], x: &[f32], weight: &[f32], position: usize) -> (f64, f64) {
    let position = indices(position, axes.iter().map(|axis| axis.out));
    let (mut sum, mut size) = (0.0, 0.0);
    for (tap, weight) in weight.iter().enumerate() {
        let tap = indices(tap, axes.iter().map(|axis| axis.kernel));
        let at = axes.iter().enumerate().try_fold(0, |at, (d, axis)| {
            let source = (position[d] * axis.stride + tap[d] * axis.dilation).checked_sub(axis.begin)?;
            (source < axis.size).then_some(at * axis.size + source)
        });
        if let Some(at) = at {
            let term = f64::from(x[at]) * f64::from(*weight);
            (sum, size) = (sum + term, size + term.abs());
        }
    }
    (sum, size)
}

struct Case {
    batch: usize,
    channels: usize,
    out: usize,
    /// Channels that each channel of the result sees.
    part: usize,
    axes: Vec<ConvAxis>,
    bias: bool,
}

fn check_case(ctx: &mut Context, rng: &mut Rng, case: &Case) {
    let Case { batch, channels, out, part, ref axes, .. } = *case;
    let product = |of: fn(&ConvAxis) -> usize| axes.iter().map(of).product::<usize>();
    let (image, plane, window) = (product(|a| a.size), product(|a| a.out), product(|a| a.kernel));
    let (x, weight) = (rng.values(batch * channels * image, 2.0), rng.values(out * part * window, 1.0));
    let bias = case.bias.then(|| rng.values(out, 1.0));
    let mut y = vec![f32::NAN; batch * out * plane];
    let shape = ConvShape { batch, channels, out, axes };
    if part == channels && channels > 1 || out == 1 {
        let desc = PackedDesc::new(ctx.isa().tier(), channels * window, out);
        let mut packed = vec![f32::NAN; desc.packed_len().expect("a small matrix")];
        pack_b(&desc, Strided::transposed(&weight, channels * window, out), &mut packed);
        let packed = PackedB::new(desc, &packed).expect("packed as described");
        dense(ctx, shape, (&x, &packed, bias.as_deref()), &mut AlignedBuf::default(), &mut y)
            .expect("memory for the windows");
    } else {
        depthwise(ctx, shape, (&x, &weight, bias.as_deref()), &mut y);
    }
    for (at, got) in y.iter().enumerate() {
        let (row, channel, position) = (at / plane / out, at / plane % out, at % plane);
        let first = row * channels + channel / (out * part / channels) * part;
        let (mut sum, mut size) = (f64::from(bias.as_ref().map_or(0.0, |bias| bias[channel])), 0.0);
        for c in 0..part {
            let x = &x[(first + c) * image..][..image];
            let (term, terms) =
                reference(axes, x, &weight[(channel * part + c) * window..][..window], position);
            (sum, size) = (sum + term, size + terms);
        }
        let roundings = 4.0 + (part * window) as f64;
        assert_close(*got, sum, roundings * ROUND * (size + sum.abs()), &|| {
            format!("value {at} of {shape:?}")
        });
    }
}

pub(crate) fn denses(isa: Isa) {
    let mut rng = Rng::new(31);
    for threads in [1, 3] {
        let mut ctx = context(isa, threads);
        for number in 0..60 {
            let dimensions = 1 + rng.below(3);
            let axes = (0..dimensions).map(|_| axis(&mut rng, 8)).collect();
            let channels = 2 + rng.below(5);
            let (batch, out) = (1 + rng.below(2), 1 + rng.below(40));
            let case = Case { batch, channels, out, part: channels, axes, bias: number % 2 == 0 };
            check_case(&mut ctx, &mut rng, &case);
        }
        for axes in empty_images() {
            check_case(
                &mut ctx,
                &mut rng,
                &Case { batch: 2, channels: 3, out: 4, part: 3, axes, bias: true },
            );
        }
        // Windows of one value, and more positions than a block has.
        let pointwise = |size| ConvAxis { size, kernel: 1, stride: 1, dilation: 1, begin: 0, out: size };
        let case = Case { batch: 2, channels: 33, out: 20, part: 33, axes: vec![pointwise(77)], bias: true };
        check_case(&mut ctx, &mut rng, &case);
        let long = ConvAxis { size: 200, kernel: 3, stride: 1, dilation: 1, begin: 1, out: 200 };
        let case = Case { batch: 1, channels: 6000, out: 2, part: 6000, axes: vec![long], bias: true };
        check_case(&mut ctx, &mut rng, &case);
    }
}

pub(crate) fn depthwises(isa: Isa) {
    let mut rng = Rng::new(32);
    for threads in [1, 3] {
        let mut ctx = context(isa, threads);
        for number in 0..80 {
            let dimensions = 1 + rng.below(3);
            let axes =
                (0..dimensions).map(|_| axis(&mut rng, if dimensions == 1 { 90 } else { 12 })).collect();
            let channels = 2 + rng.below(20);
            let (batch, out) = (1 + rng.below(2), channels * (1 + rng.below(2)));
            let case = Case { batch, channels, out, part: 1, axes, bias: number % 2 == 0 };
            check_case(&mut ctx, &mut rng, &case);
        }
        for axes in empty_images() {
            check_case(
                &mut ctx,
                &mut rng,
                &Case { batch: 2, channels: 3, out: 6, part: 1, axes, bias: true },
            );
        }
    }
}
