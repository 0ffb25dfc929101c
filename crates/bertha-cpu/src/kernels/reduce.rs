//! Sums and maxima over a row, for the kernels that normalise.
//!
//! A sum runs in `4 * LANES` partial sums, added pairwise at the end: over n values its rounding error is that of
//! n / (4 LANES) additions, and the order depends on n alone.

use super::simd::Simd;

/// Partial vectors: enough to hide an addition's latency.
pub(super) const PARTS: usize = 4;

/// Runs over `0..$len` a vector at a time: `$body` for every full one, at `$at`, with `$part` counting `0..PARTS` over
/// and over (a constant in every copy of the body, so that partial sums stay in registers), then `$tail` once for the
/// values from `$at` on that fill no vector, if any. A macro, since a closure would not carry the tier's instructions.
macro_rules! for_vectors {
    ($simd:ident, $len:expr, |$part:ident, $at:ident| $body:block, |$rest:ident| $tail:block) => {
        let len = $len;
        let mut next = 0;
        while next + $crate::kernels::reduce::PARTS * $simd::LANES <= len {
            for $part in 0..$crate::kernels::reduce::PARTS {
                let $at = next + $part * $simd::LANES;
                $body
            }
            next += $crate::kernels::reduce::PARTS * $simd::LANES;
        }
        for $part in 0..$crate::kernels::reduce::PARTS - 1 {
            if next + $simd::LANES <= len {
                let $at = next;
                $body
                next += $simd::LANES;
            }
        }
        if next < len {
            let $rest = next;
            $tail
        }
    };
}
pub(super) use for_vectors;

/// A row's running sum.
#[derive(Clone, Copy)]
pub(super) struct Sum<S: Simd>([S::F; PARTS]);

impl<S: Simd> Sum<S> {
    #[inline(always)]
    pub(super) fn new(s: S) -> Self {
        Self([s.zero(); PARTS])
    }

    /// Adds a vector to partial sum `part`.
    #[inline(always)]
    pub(super) fn add(&mut self, s: S, part: usize, x: S::F) {
        self.0[part] = s.add(self.0[part], x);
    }

    /// Adds the square of a vector to partial sum `part`.
    #[inline(always)]
    pub(super) fn add_square(&mut self, s: S, part: usize, x: S::F) {
        self.0[part] = s.fma(x, x, self.0[part]);
    }

    #[inline(always)]
    pub(super) fn total(self, s: S) -> f32 {
        let [a, b, c, d] = self.0;
        s.reduce_sum(s.add(s.add(a, b), s.add(c, d)))
    }
}

/// A row's running maximum. NaN values may be passed over.
#[derive(Clone, Copy)]
pub(super) struct Max<S: Simd>([S::F; PARTS]);

impl<S: Simd> Max<S> {
    #[inline(always)]
    pub(super) fn new(s: S) -> Self {
        Self([s.splat(f32::NEG_INFINITY); PARTS])
    }

    /// Takes a vector into partial maximum `part`.
    #[inline(always)]
    pub(super) fn take(&mut self, s: S, part: usize, x: S::F) {
        self.0[part] = s.max(x, self.0[part]);
    }

    /// Takes the first `n` lanes of a vector.
    #[inline(always)]
    pub(super) fn take_first(&mut self, s: S, n: usize, x: S::F) {
        self.take(s, 0, s.select(s.first(n), x, s.splat(f32::NEG_INFINITY)));
    }

    #[inline(always)]
    pub(super) fn total(self, s: S) -> f32 {
        let [a, b, c, d] = self.0;
        s.reduce_max(s.max(s.max(a, b), s.max(c, d)))
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
