//! Layer norm and L2 normalisation over rows.
//!
//! Layer norm is two-pass in f32: the mean first, then the squares of the differences, never E[x^2] - mean^2. The
//! second pass also sums the differences, which is the rounding error of the mean, and corrects mean and variance by
//! it. Where the squares overflow (|x| near 1e19) the row is scaled by a power of two, exactly, and done again.
//!
//! Three passes over a row in the first-level cache (sum, with what is added; differences; normalise): bound by loads and
//! stores.

use half::bf16;

use super::context::Context;
use super::elementwise::check_same_shape;
use super::gemm::RoundRow;
use super::reduce::{Sum, for_vectors, max_abs, power_of_two_near_reciprocal, scale_row};
use super::simd::{Simd, SimdOp};
use super::views::{Rows, RowsMut};
use crate::pool::Disjoint;

/// A layer norm's parameters.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// Scale, one per column.
    pub gamma: &'a [f32],
    /// Shift, one per column.
    pub beta: &'a [f32],
    /// Added to the variance; the model's own.
    pub eps: f32,
}

impl LayerNorm<'_> {
    pub(super) fn check(&self, cols: usize) {
        assert!(self.gamma.len() == cols && self.beta.len() == cols, "one gamma and beta per column");
    }
}

/// out = (y - mean(y)) / sqrt(var(y) + eps) * gamma + beta per row, where y = x + residual; `x` being `None`, the input
/// is what `out` holds.
///
/// # Panics
/// When the shapes differ or rows reach beyond their values.
pub fn layer_norm(
    ctx: &mut Context,
    norm: &LayerNorm<'_>,
    x: Option<Rows<'_>>,
    residual: Option<Rows<'_>>,
    out: RowsMut<'_>,
) {
    let (isa, streams) = (ctx.isa, ctx.streams(out.data, out.stride));
    check_same_shape(x, &out);
    check_same_shape(residual, &out);
    norm.check(out.cols);
    ctx.for_row_blocks(out, |first, mut block| {
        for row in 0..block.rows {
            let residual = residual.map(|r| r.row(first + row));
            let x = x.map(|x| x.row(first + row));
            isa.run(LayerNormRow { norm, x, residual, out: block.row(row), rounded: None, streams });
        }
    });
}

/// As [`layer_norm`] of `x`, and the result once more in `rounded`, for products that take bf16.
///
/// # Panics
/// As [`layer_norm`], and where the CPU has no bf16 instructions.
pub fn layer_norm_rounded(
    ctx: &mut Context,
    norm: &LayerNorm<'_>,
    x: Rows<'_>,
    out: RowsMut<'_>,
    rounded: RowsMut<'_, bf16>,
) {
    let isa = ctx.isa;
    check_same_shape(Some(x), &out);
    norm.check(out.cols);
    rounded.check();
    assert_eq!((out.rows, out.cols), (rounded.rows, rounded.cols), "both results have the same shape");
    let streams = ctx.streams(out.data, out.stride) && ctx.streams(rounded.data, rounded.stride);
    let (cols, stride) = (rounded.cols, rounded.stride);
    let rounded = Disjoint::new(rounded.data);
    ctx.for_row_blocks(out, |first, mut block| {
        for row in 0..block.rows {
            // SAFETY: rows do not overlap, and every row belongs to one block.
            let rounded = unsafe { Some(rounded.slice((first + row) * stride, cols)) };
            let (x, out) = (Some(x.row(first + row)), block.row(row));
            isa.run_bf16(LayerNormRow { norm, x, residual: None, out, rounded, streams });
        }
    });
}

/// One row of [`layer_norm`].
pub(super) struct LayerNormRow<'a> {
    pub(super) norm: &'a LayerNorm<'a>,
    pub(super) x: Option<&'a [f32]>,
    pub(super) residual: Option<&'a [f32]>,
    pub(super) out: &'a mut [f32],
    /// Where the result goes once more, rounded.
    pub(super) rounded: Option<&'a mut [bf16]>,
    /// Whether results may go past the caches: then `out` and `rounded` start at cache lines.
    pub(super) streams: bool,
}

impl SimdOp for LayerNormRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (norm, out, rounded) = (self.norm, self.out, self.rounded);
        if let (Some(x), None) = (self.x, self.residual) {
            // Read where it lies, three times: nothing is written but the result.
            let moments = Moments::of(s, x, sum_of(s, x));
            if moments.variance.is_finite() {
                let scale = moments.scale(norm.eps);
                match (rounded, self.streams) {
                    (None, false) => normalise::<S, true, false>(s, x, out, &moments, scale, norm),
                    (None, true) => normalise::<S, true, true>(s, x, out, &moments, scale, norm),
                    (Some(rounded), false) => {
                        normalise_rounded::<S, false>(s, x, (out, rounded), &moments, scale, norm);
                    }
                    (Some(rounded), true) => {
                        normalise_rounded::<S, true>(s, x, (out, rounded), &moments, scale, norm);
                    }
                }
                if self.streams {
                    s.fence();
                }
                return;
            }
        }
        let sum = match (self.x, self.residual) {
            (Some(x), Some(residual)) => take::<S, true, true>(s, x, residual, out),
            (Some(x), None) => take::<S, true, false>(s, x, &[], out),
            (None, Some(residual)) => take::<S, false, true>(s, &[], residual, out),
            (None, None) => sum_of(s, out),
        };
        let mut moments = Moments::of(s, out, sum);
        let mut eps = norm.eps;
        if !moments.variance.is_finite() {
            let largest = max_abs(s, out);
            if largest.is_finite() && largest > 0.0 {
                let factor = power_of_two_near_reciprocal(largest);
                scale_row(s, out, factor);
                moments = Moments::of(s, out, sum_of(s, out));
                eps = eps * factor * factor;
            }
        }
        normalise::<S, false, false>(s, &[], out, &moments, moments.scale(eps), norm);
        if let Some(rounded) = rounded {
            RoundRow { from: out, to: rounded }.run(s);
        }
    }
}

/// Sum of a row.
#[inline(always)]
fn sum_of<S: Simd>(s: S, row: &[f32]) -> f32 {
    let mut sum = Sum::new(s);
    for_vectors!(
        S,
        row.len(),
        |part, at| {
            sum.add(s, part, s.load(&row[at..]));
        },
        |at| {
            sum.add(s, 0, s.load_first(&row[at..]));
        }
    );
    sum.total(s)
}

/// Brings a row's input into `out` (`x` where `COPY`, else what is there; plus `residual` where `ADD`) and returns its
/// sum.
#[inline(always)]
fn take<S: Simd, const COPY: bool, const ADD: bool>(
    s: S,
    x: &[f32],
    residual: &[f32],
    out: &mut [f32],
) -> f32 {
    let n = out.len();
    assert!((!COPY || x.len() == n) && (!ADD || residual.len() == n));
    let mut sum = Sum::new(s);
    for_vectors!(
        S,
        n,
        |part, at| {
            let mut y = if COPY { s.load(&x[at..]) } else { s.load(&out[at..]) };
            if ADD {
                y = s.add(y, s.load(&residual[at..]));
            }
            s.store(&mut out[at..], y);
            sum.add(s, part, y);
        },
        |at| {
            let mut y = if COPY { s.load_first(&x[at..]) } else { s.load_first(&out[at..]) };
            if ADD {
                y = s.add(y, s.load_first(&residual[at..]));
            }
            s.store_first(&mut out[at..], y);
            sum.add(s, 0, y);
        }
    );
    sum.total(s)
}

/// Mean and variance of a row. The mean is `mean + correction`, which together are closer than one f32.
struct Moments {
    mean: f32,
    correction: f32,
    variance: f32,
}

impl Moments {
    #[inline(always)]
    fn of<S: Simd>(s: S, row: &[f32], sum: f32) -> Self {
        let n = row.len() as f32;
        let mean = sum / n;
        let center = s.splat(mean);
        let (mut differences, mut squares) = (Sum::new(s), Sum::new(s));
        for_vectors!(
            S,
            row.len(),
            |part, at| {
                let d = s.sub(s.load(&row[at..]), center);
                differences.add(s, part, d);
                squares.add_square(s, part, d);
            },
            |at| {
                let tail = &row[at..];
                let d = s.select(s.first(tail.len()), s.sub(s.load_first(tail), center), s.zero());
                differences.add(s, 0, d);
                squares.add_square(s, 0, d);
            }
        );
        let (difference, square) = (differences.total(s), squares.total(s));
        let correction = difference / n;
        // `max` would make a NaN 0 and hide it.
        let variance = square / n - correction * correction;
        Self { mean, correction, variance: if variance < 0.0 { 0.0 } else { variance } }
    }

    /// What differences from the mean are multiplied by.
    fn scale(&self, eps: f32) -> f32 {
        1.0 / (self.variance + eps).sqrt()
    }
}

/// `row = (x - mean) * scale * gamma + beta`, where x is `from` where `COPY`, else what `row` holds. With `STREAM`, which
/// `row` must start at a cache line for, the result goes past the caches.
#[inline(always)]
fn normalise<S: Simd, const COPY: bool, const STREAM: bool>(
    s: S,
    from: &[f32],
    row: &mut [f32],
    moments: &Moments,
    scale: f32,
    norm: &LayerNorm<'_>,
) {
    let (mean, correction, scale) = (s.splat(moments.mean), s.splat(moments.correction), s.splat(scale));
    let (gamma, beta) = (norm.gamma, norm.beta);
    assert!(gamma.len() == row.len() && beta.len() == row.len() && (!COPY || from.len() == row.len()));
    assert!(!STREAM || row.as_ptr().addr().is_multiple_of(S::LANES * size_of::<f32>()));
    for_vectors!(
        S,
        row.len(),
        |_part, at| {
            let x = if COPY { s.load(&from[at..]) } else { s.load(&row[at..]) };
            let d = s.sub(s.sub(x, mean), correction);
            let y = s.fma(s.mul(d, scale), s.load(&gamma[at..]), s.load(&beta[at..]));
            if STREAM {
                let to = &mut row[at..at + S::LANES];
                // SAFETY: room for a vector, at a multiple of vectors from where `row` starts, which is aligned.
                unsafe { s.stream_ptr(to.as_mut_ptr(), y) };
            } else {
                s.store(&mut row[at..], y);
            }
        },
        |at| {
            let x = if COPY { s.load_first(&from[at..]) } else { s.load_first(&row[at..]) };
            let d = s.sub(s.sub(x, mean), correction);
            let y = s.fma(s.mul(d, scale), s.load_first(&gamma[at..]), s.load_first(&beta[at..]));
            s.store_first(&mut row[at..], y);
        }
    );
}

/// As [`normalise`] of `from`, and the result once more, rounded.
#[inline(always)]
fn normalise_rounded<S: Simd, const STREAM: bool>(
    s: S,
    from: &[f32],
    (out, rounded): (&mut [f32], &mut [bf16]),
    moments: &Moments,
    scale: f32,
    norm: &LayerNorm<'_>,
) {
    let (mean, correction, scale) = (s.splat(moments.mean), s.splat(moments.correction), s.splat(scale));
    let (gamma, beta, n) = (norm.gamma, norm.beta, from.len());
    assert!([gamma.len(), beta.len(), out.len(), rounded.len()].iter().all(|len| *len == n));
    assert!(!STREAM || out.as_ptr().addr().is_multiple_of(S::LANES * size_of::<f32>()));
    assert!(!STREAM || rounded.as_ptr().addr().is_multiple_of(S::LANES * size_of::<bf16>()));
    for_vectors!(
        S,
        n,
        |_part, at| {
            let d = s.sub(s.sub(s.load(&from[at..]), mean), correction);
            let y = s.fma(s.mul(d, scale), s.load(&gamma[at..]), s.load(&beta[at..]));
            let (out, rounded) = (&mut out[at..at + S::LANES], &mut rounded[at..at + S::LANES]);
            // SAFETY: room for a vector in both, at a multiple of vectors from where they start, which is aligned where
            // that matters.
            unsafe {
                if STREAM {
                    s.stream_ptr(out.as_mut_ptr(), y);
                    s.stream_bf16_ptr(rounded.as_mut_ptr(), y);
                } else {
                    s.store_ptr(out.as_mut_ptr(), y);
                    s.store_bf16_ptr(rounded.as_mut_ptr(), S::LANES, y);
                }
            }
        },
        |at| {
            let d = s.sub(s.sub(s.load_first(&from[at..]), mean), correction);
            let y = s.fma(s.mul(d, scale), s.load_first(&gamma[at..]), s.load_first(&beta[at..]));
            s.store_first(&mut out[at..], y);
            // SAFETY: `rounded` holds `n - at` more values, fewer than a vector.
            unsafe { s.store_bf16_ptr(rounded.as_mut_ptr().add(at), n - at, y) };
        }
    );
}

/// rows = row / max(|row|, eps), |row| the Euclidean norm, in place.
///
/// # Panics
/// When rows reach beyond their values.
pub fn l2_normalize(ctx: &mut Context, eps: f32, rows: RowsMut<'_>) {
    let isa = ctx.isa;
    ctx.for_row_blocks(rows, |_, mut block| {
        for row in 0..block.rows {
            isa.run(L2Row { eps, row: block.row(row) });
        }
    });
}

/// One row of [`l2_normalize`].
struct L2Row<'a> {
    eps: f32,
    row: &'a mut [f32],
}

impl SimdOp for L2Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Squares outside this range lose bits or overflow: then the row is scaled first.
        const SAFE: std::ops::Range<f32> = 1e-20..1e36;
        let mut square = sum_of_squares(s, self.row);
        let mut eps = self.eps;
        if !SAFE.contains(&square) {
            let largest = max_abs(s, self.row);
            if largest.is_finite() && largest > 0.0 {
                let factor = power_of_two_near_reciprocal(largest);
                scale_row(s, self.row, factor);
                square = sum_of_squares(s, self.row);
                eps *= factor;
            }
        }
        scale_row(s, self.row, 1.0 / square.sqrt().max(eps));
    }
}

#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, row: &[f32]) -> f32 {
    let mut sum = Sum::new(s);
    for_vectors!(
        S,
        row.len(),
        |part, at| {
            sum.add_square(s, part, s.load(&row[at..]));
        },
        |at| {
            sum.add_square(s, 0, s.load_first(&row[at..]));
        }
    );
    sum.total(s)
}
