//! Layer norm and L2 normalisation over rows.
//!
//! Layer norm is two-pass in f32: the mean first, then the squares of the differences, never E[x^2] - mean^2. The
//! second pass also sums the differences, which is the rounding error of the mean, and corrects mean and variance by
//! it. Where the squares overflow (|x| near 1e19) the row is scaled by a power of two, exactly, and done again.
//!
//! Three passes over a row in the first-level cache: bound by loads and stores. The residual is added on the way in.

use super::context::Context;
use super::elementwise::check_same_shape;
use super::reduce::{Sum, max_abs, power_of_two_near_reciprocal, scale_row};
use super::simd::{Simd, SimdOp};
use super::views::{Rows, RowsMut};

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
    let isa = ctx.isa;
    check_same_shape(x, &out);
    check_same_shape(residual, &out);
    norm.check(out.cols);
    ctx.for_row_blocks(out, |first, mut block| {
        for row in 0..block.rows {
            let residual = residual.map(|r| r.row(first + row));
            let x = x.map(|x| x.row(first + row));
            isa.run(LayerNormRow { norm, x, residual, out: block.row(row) });
        }
    });
}

/// One row of [`layer_norm`].
pub(super) struct LayerNormRow<'a> {
    pub(super) norm: &'a LayerNorm<'a>,
    pub(super) x: Option<&'a [f32]>,
    pub(super) residual: Option<&'a [f32]>,
    pub(super) out: &'a mut [f32],
}

impl SimdOp for LayerNormRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let out = self.out;
        if let Some(x) = self.x {
            out.copy_from_slice(x);
        }
        if let Some(residual) = self.residual {
            add_row(s, out, residual);
        }
        let mut moments = Moments::of(s, out);
        let mut eps = self.norm.eps;
        if !moments.variance.is_finite() {
            let largest = max_abs(s, out);
            if largest.is_finite() && largest > 0.0 {
                let factor = power_of_two_near_reciprocal(largest);
                scale_row(s, out, factor);
                moments = Moments::of(s, out);
                eps = eps * factor * factor;
            }
        }
        let scale = 1.0 / (moments.variance + eps).sqrt();
        normalise(s, out, &moments, scale, self.norm);
    }
}

/// `out += residual`.
#[inline(always)]
fn add_row<S: Simd>(s: S, out: &mut [f32], residual: &[f32]) {
    let mut outs = out.chunks_exact_mut(S::LANES);
    let mut adds = residual.chunks_exact(S::LANES);
    for (out, add) in (&mut outs).zip(&mut adds) {
        let y = s.add(s.load(out), s.load(add));
        s.store(out, y);
    }
    let (out, add) = (outs.into_remainder(), adds.remainder());
    let y = s.add(s.load_first(out), s.load_first(add));
    s.store_first(out, y);
}

/// Mean and variance of a row. The mean is `mean + correction`, which together are closer than one f32.
struct Moments {
    mean: f32,
    correction: f32,
    variance: f32,
}

impl Moments {
    #[inline(always)]
    fn of<S: Simd>(s: S, row: &[f32]) -> Self {
        let n = row.len() as f32;
        let chunks = row.chunks_exact(S::LANES);
        let tail = chunks.remainder();
        let mut sum = Sum::new(s);
        let mut step = 0;
        for chunk in chunks.clone() {
            sum.add(s, step, s.load(chunk));
            step += 1;
        }
        sum.add(s, step, s.load_first(tail));
        let mean = sum.total(s) / n;

        let center = s.splat(mean);
        let (mut differences, mut squares) = (Sum::new(s), Sum::new(s));
        step = 0;
        for chunk in chunks {
            let d = s.sub(s.load(chunk), center);
            differences.add(s, step, d);
            squares.add_square(s, step, d);
            step += 1;
        }
        let (mut difference, mut square) = (differences.total(s), squares.total(s));
        for &x in tail {
            let d = x - mean;
            difference += d;
            square += d * d;
        }
        let correction = difference / n;
        // `max` would make a NaN 0 and hide it.
        let variance = square / n - correction * correction;
        Self { mean, correction, variance: if variance < 0.0 { 0.0 } else { variance } }
    }
}

/// `row = (row - mean) * scale * gamma + beta`.
#[inline(always)]
fn normalise<S: Simd>(s: S, row: &mut [f32], moments: &Moments, scale: f32, norm: &LayerNorm<'_>) {
    let (mean, correction, scale) = (s.splat(moments.mean), s.splat(moments.correction), s.splat(scale));
    let mut rows = row.chunks_exact_mut(S::LANES);
    let mut gammas = norm.gamma.chunks_exact(S::LANES);
    let mut betas = norm.beta.chunks_exact(S::LANES);
    for ((x, gamma), beta) in (&mut rows).zip(&mut gammas).zip(&mut betas) {
        let d = s.sub(s.sub(s.load(x), mean), correction);
        let y = s.fma(s.mul(d, scale), s.load(gamma), s.load(beta));
        s.store(x, y);
    }
    let x = rows.into_remainder();
    let d = s.sub(s.sub(s.load_first(x), mean), correction);
    let y = s.fma(s.mul(d, scale), s.load_first(gammas.remainder()), s.load_first(betas.remainder()));
    s.store_first(x, y);
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
    let chunks = row.chunks_exact(S::LANES);
    let tail = chunks.remainder();
    let mut sum = Sum::new(s);
    let mut step = 0;
    for chunk in chunks {
        sum.add_square(s, step, s.load(chunk));
        step += 1;
    }
    sum.add_square(s, step, s.load_first(tail));
    sum.total(s)
}
