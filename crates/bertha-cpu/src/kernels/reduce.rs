//! Sums and maxima over a row, for the kernels that normalise.
//!
//! A sum runs in `4 * LANES` partial sums, added pairwise at the end: over n values its rounding error is that of
//! n / (4 LANES) additions, and the order depends on n alone.

use super::simd::Simd;

/// Partial vectors: enough to hide an addition's latency.
const PARTS: usize = 4;

/// A row's running sum.
#[derive(Clone, Copy)]
pub(super) struct Sum<S: Simd>([S::F; PARTS]);

impl<S: Simd> Sum<S> {
    #[inline(always)]
    pub(super) fn new(s: S) -> Self {
        Self([s.zero(); PARTS])
    }

    /// Adds the `step`-th vector of the row.
    #[inline(always)]
    pub(super) fn add(&mut self, s: S, step: usize, x: S::F) {
        self.0[step % PARTS] = s.add(self.0[step % PARTS], x);
    }

    /// Adds the square of the `step`-th vector of the row.
    #[inline(always)]
    pub(super) fn add_square(&mut self, s: S, step: usize, x: S::F) {
        self.0[step % PARTS] = s.fma(x, x, self.0[step % PARTS]);
    }

    #[inline(always)]
    pub(super) fn total(self, s: S) -> f32 {
        let [a, b, c, d] = self.0;
        s.reduce_sum(s.add(s.add(a, b), s.add(c, d)))
    }
}

/// Largest |x| of a row; NaN values are passed over.
#[inline(always)]
pub(super) fn max_abs<S: Simd>(s: S, row: &[f32]) -> f32 {
    let mut largest = s.zero();
    let chunks = row.chunks_exact(S::LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        largest = s.max(s.abs(s.load(chunk)), largest);
    }
    largest = s.max(s.abs(s.load_first(tail)), largest);
    s.reduce_max(largest)
}

/// Multiplies a row by a number.
#[inline(always)]
pub(super) fn scale_row<S: Simd>(s: S, row: &mut [f32], factor: f32) {
    let factor = s.splat(factor);
    let mut chunks = row.chunks_exact_mut(S::LANES);
    for chunk in &mut chunks {
        let x = s.load(chunk);
        s.store(chunk, s.mul(x, factor));
    }
    let tail = chunks.into_remainder();
    let x = s.load_first(tail);
    s.store_first(tail, s.mul(x, factor));
}

/// A power of two that brings `largest`, positive and finite, near 1.
#[inline(always)]
pub(super) fn power_of_two_near_reciprocal(largest: f32) -> f32 {
    // Exponents -126..=126, so that factor and reciprocal are both normal.
    let exponent = ((largest.to_bits() >> 23) as i32 - 127).clamp(-126, 126);
    f32::from_bits(((127 - exponent) as u32) << 23)
}
