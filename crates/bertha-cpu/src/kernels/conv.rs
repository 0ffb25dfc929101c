//! Convolutions over channels-first images: `[batch, channels, sizes..]` to `[batch, out, sizes..]`.
//!
//! Dense ones become products: the windows that positions of the result see are copied side by side as rows of a matrix
//! (im2col), a block of positions at a time, and multiplied by the packed weight; the block of the product is stored
//! transposed. Depthwise ones (one channel in for each out) have too few multiply-adds per value for that: each plane of
//! the result sums its window's shifted planes of `x` directly, vector by vector.

use bertha_graph::ConvAxis;

use super::context::{AlignedBuf, Context};
use super::gemm::{Epilogue, PackedB, gemm, row_stride};
use super::simd::{Simd, SimdOp};
use super::views::{Rows, RowsMut};

/// What the operands of a convolution are.
#[derive(Clone, Copy, Debug)]
pub struct ConvShape<'a> {
    /// Images.
    pub batch: usize,
    /// Channels of `x`.
    pub channels: usize,
    /// Channels of the result.
    pub out: usize,
    /// The dimensions of an image.
    pub axes: &'a [ConvAxis],
}

impl ConvShape<'_> {
    /// Values of one channel of `x`.
    fn image(&self) -> usize {
        self.axes.iter().map(|axis| axis.size).product()
    }

    /// Values of one channel of the result.
    fn plane(&self) -> usize {
        self.axes.iter().map(|axis| axis.out).product()
    }

    /// Elements of a window in one channel.
    fn window(&self) -> usize {
        self.axes.iter().map(|axis| axis.kernel).product()
    }

    fn check(&self, x: &[f32], bias: Option<&[f32]>, y: &[f32]) {
        assert_eq!(x.len(), self.batch * self.channels * self.image(), "x has the shape's values");
        assert_eq!(y.len(), self.batch * self.out * self.plane(), "the result has the shape's values");
        assert!(bias.is_none_or(|bias| bias.len() == self.out), "one bias for each channel of the result");
    }
}

/// Values of a block of windows and its product, of which one is in work at a time: four megabytes, which the weight is
/// read once for.
const BLOCK: usize = 1 << 20;
/// Fewest positions in a block.
const MIN_POSITIONS: usize = 64;
/// Edge of the squares in which blocks are transposed.
const SQUARE: usize = 16;

/// `y = weight * x + bias` over dense windows. `weight` is packed from `[out, channels * window]`, whose columns go by
/// channel, then by position within the window. `scratch` holds a block of windows and its product; `None` when there is
/// no memory for them.
///
/// # Panics
/// When shapes disagree, or the weight was packed for another tier than the context's.
#[must_use]
pub fn dense(
    ctx: &mut Context,
    shape: ConvShape<'_>,
    (x, weight, bias): (&[f32], &PackedB<'_>, Option<&[f32]>),
    scratch: &mut AlignedBuf,
    y: &mut [f32],
) -> Option<()> {
    shape.check(x, bias, y);
    let (image, plane, out) = (shape.image(), shape.plane(), shape.out);
    let depth = shape.channels * shape.window();
    assert_eq!((weight.desc().k, weight.desc().n), (depth, out), "the weight has the shape's windows");
    if plane == 0 || out == 0 {
        return Some(());
    }
    let stride = row_stride(depth);
    let block = (BLOCK / (stride + out)).max(MIN_POSITIONS).min(plane);
    scratch.reserve(block * (stride + out))?;
    let (windows, product) = scratch.split_at_mut(block * stride);
    let epilogue = Epilogue { bias, ..Epilogue::default() };
    // Images of the result lead: where padding is all there is, those of `x` have no values.
    for (index, y) in y.chunks_mut(out * plane).enumerate() {
        let x = &x[index * shape.channels * image..][..shape.channels * image];
        for first in (0..plane).step_by(block) {
            let rows = block.min(plane - first);
            let windows = &mut windows[..rows * stride];
            ctx.for_row_blocks(RowsMut { data: windows, rows, cols: depth, stride }, |row, mut to| {
                fill_windows(&shape, x, first + row, &mut to);
            });
            let windows = Rows { data: windows, rows, cols: depth, stride };
            gemm(ctx, windows, weight, RowsMut::new(&mut product[..rows * out], rows, out), &epilogue);
            let product = Rows::new(&product[..rows * out], rows, out);
            let y = RowsMut { data: &mut y[first..], rows: out, cols: rows, stride: plane };
            ctx.for_row_blocks(y, |channel, mut to| transpose(product, channel, &mut to));
        }
    }
    Some(())
}

/// Rows of windows, from that of position `first` of an image on.
fn fill_windows(shape: &ConvShape<'_>, x: &[f32], first: usize, to: &mut RowsMut<'_>) {
    let image = shape.image();
    let pointwise =
        |axis: &ConvAxis| axis.kernel == 1 && axis.stride == 1 && axis.begin == 0 && axis.out == axis.size;
    if shape.axes.iter().all(pointwise) {
        // A window is one value of each channel: rows and columns change places.
        for square in (0..to.cols).step_by(SQUARE) {
            let channels = square..to.cols.min(square + SQUARE);
            for row in 0..to.rows {
                let to = &mut to.row(row)[channels.clone()];
                for (channel, to) in channels.clone().zip(to) {
                    *to = x[channel * image + first + row];
                }
            }
        }
        return;
    }
    if image == 0 {
        // Padding alone.
        (0..to.rows).for_each(|row| to.row(row).fill(0.0));
        return;
    }
    let window = shape.window();
    for row in 0..to.rows {
        let windows = to.row(row).chunks_exact_mut(window);
        for (x, to) in x.chunks_exact(image).zip(windows) {
            fill_window(shape.axes, first + row, shape.plane(), x, to);
        }
    }
}

/// What position number `position` of the `plane` positions of the result sees of one channel; zeros outside of it.
fn fill_window(axes: &[ConvAxis], position: usize, plane: usize, x: &[f32], to: &mut [f32]) {
    let Some((axis, rest)) = axes.split_first() else {
        to.copy_from_slice(x);
        return;
    };
    let inner_plane = plane / axis.out;
    let (here, position) = (position / inner_plane, position % inner_plane);
    let inner_image = x.len().checked_div(axis.size).unwrap_or(0);
    let inner_window = to.len() / axis.kernel;
    for (tap, to) in to.chunks_exact_mut(inner_window).enumerate() {
        let at =
            (here * axis.stride + tap * axis.dilation).checked_sub(axis.begin).filter(|at| *at < axis.size);
        match at {
            None => to.fill(0.0),
            Some(at) if rest.is_empty() => to[0] = x[at],
            Some(at) => fill_window(rest, position, inner_plane, &x[at * inner_image..][..inner_image], to),
        }
    }
}

/// Columns of `from`, from column `first` on, as rows.
fn transpose(from: Rows<'_>, first: usize, to: &mut RowsMut<'_>) {
    for square in (0..from.rows).step_by(SQUARE) {
        let rows = square..from.rows.min(square + SQUARE);
        for column in 0..to.rows {
            let to = &mut to.row(column)[rows.clone()];
            for (row, to) in rows.clone().zip(to) {
                *to = from.data[row * from.stride + first + column];
            }
        }
    }
}

/// `y = weight * x + bias` where each channel of `x` gives `out / channels` of the result's. `weight` is
/// `[out, window]`.
///
/// # Panics
/// When shapes disagree.
pub fn depthwise(
    ctx: &mut Context,
    shape: ConvShape<'_>,
    (x, weight, bias): (&[f32], &[f32], Option<&[f32]>),
    y: &mut [f32],
) {
    shape.check(x, bias, y);
    let (image, plane, window) = (shape.image(), shape.plane(), shape.window());
    assert!(shape.channels > 0 && shape.out.is_multiple_of(shape.channels), "channels divide the result's");
    assert_eq!(weight.len(), shape.out * window, "a window for each channel of the result");
    let isa = ctx.isa;
    let each = shape.out / shape.channels;
    ctx.for_row_blocks(RowsMut::new(y, shape.batch * shape.out, plane), |first, mut block| {
        for row in 0..block.rows {
            let (batch, channel) = ((first + row) / shape.out, (first + row) % shape.out);
            let x = &x[(batch * shape.channels + channel / each) * image..][..image];
            let y = block.row(row);
            y.fill(bias.map_or(0.0, |bias| bias[channel]));
            for (tap, weight) in weight[channel * window..][..window].iter().enumerate() {
                isa.run(Tap { axes: shape.axes, tap, window, weight: *weight, x, y });
            }
        }
    });
}

/// `y += weight * x` for one element of the window: number `tap` of the `window` elements.
struct Tap<'a> {
    axes: &'a [ConvAxis],
    tap: usize,
    window: usize,
    weight: f32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl SimdOp for Tap<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tap { axes, tap, window, weight, x, y } = self;
        let Some((last, outer)) = axes.split_last() else {
            y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
            return;
        };
        let here = tap % last.kernel;
        let range = last.positions(here);
        if range.is_empty() {
            return;
        }
        let source = last.source(range.start, here);
        let (rows, x_rows) = (y.len() / last.out, x.len() / last.size);
        let weight = s.splat(weight);
        for row in 0..rows {
            let Some(x_row) = source_row(outer, tap / last.kernel, window / last.kernel, row, rows) else {
                continue;
            };
            debug_assert!(x_row < x_rows);
            let y = &mut y[row * last.out..][range.clone()];
            let x = &x[x_row * last.size..][..last.size][source..];
            if last.stride == 1 {
                multiply_add(s, weight, &x[..y.len()], y);
            } else {
                multiply_add_strided(s, weight, x, last.stride, y);
            }
        }
    }
}

/// The row of `x` that row `row` of the result sees through the outer part of the window's element `tap`; `None` outside.
#[inline(always)]
fn source_row(outer: &[ConvAxis], tap: usize, window: usize, row: usize, rows: usize) -> Option<usize> {
    let (mut source, mut tap, mut row, mut window, mut rows) = (0, tap, row, window, rows);
    for axis in outer {
        window /= axis.kernel;
        rows /= axis.out;
        let position = (row / rows * axis.stride + tap / window * axis.dilation).checked_sub(axis.begin)?;
        if position >= axis.size {
            return None;
        }
        source = source * axis.size + position;
        (tap, row) = (tap % window, row % rows);
    }
    Some(source)
}

/// `y += weight * x`.
#[inline(always)]
fn multiply_add<S: Simd>(s: S, weight: S::F, x: &[f32], y: &mut [f32]) {
    let (mut xs, mut ys) = (x.chunks_exact(S::LANES), y.chunks_exact_mut(S::LANES));
    for (x, y) in (&mut xs).zip(&mut ys) {
        let sum = s.fma(weight, s.load(x), s.load(y));
        s.store(y, sum);
    }
    let (x, y) = (xs.remainder(), ys.into_remainder());
    if !y.is_empty() {
        let sum = s.fma(weight, s.load_first(x), s.load_first(y));
        s.store_first(y, sum);
    }
}

/// `y += weight * x` with values of `x` that are `stride` apart.
#[inline(always)]
fn multiply_add_strided<S: Simd>(s: S, weight: S::F, x: &[f32], stride: usize, y: &mut [f32]) {
    // As the vectors do it: fused where the tier can, so that a value does not depend on where it lies.
    for (y, at) in y.iter_mut().zip((0..).step_by(stride)) {
        let sum = s.fma(weight, s.splat(x[at]), s.splat(*y));
        s.store_first(std::slice::from_mut(y), sum);
    }
}
