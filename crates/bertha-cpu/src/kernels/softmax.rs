//! Softmax over rows.
//!
//! Three passes over a row in the first-level cache: maximum, exponentials and their sum, scaling. Bound by the
//! exponential, about 15 operations per value.
//!
//! -inf is a masked value: its result is 0. A row of nothing but -inf has no softmax: [`softmax`] gives NaN, as the
//! formula does and ONNX and torch do; attention gives zeros instead (see `attention`).

use super::context::Context;
use super::elementwise::check_same_shape;
use super::math;
use super::reduce::{Max, Sum, for_vectors, scale_row};
use super::simd::{Simd, SimdOp};
use super::views::{Rows, RowsMut};

/// out = softmax(x) per row, or of what `out` holds where `x` is `None`.
///
/// # Panics
/// When the shapes differ or rows reach beyond their values.
pub fn softmax(ctx: &mut Context, x: Option<Rows<'_>>, out: RowsMut<'_>) {
    let isa = ctx.isa;
    check_same_shape(x, &out);
    ctx.for_row_blocks(out, |first, mut block| {
        for row in 0..block.rows {
            let out = block.row(row);
            if let Some(x) = x {
                out.copy_from_slice(x.row(first + row));
            }
            isa.run(SoftmaxRow(out));
        }
    });
}

/// One row, in place.
struct SoftmaxRow<'a>(&'a mut [f32]);

impl SimdOp for SoftmaxRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let largest = max(s, self.0);
        let sum = exp_minus(s, self.0, largest);
        scale_row(s, self.0, 1.0 / sum);
    }
}

/// Largest value of a row; NaN values may be passed over.
#[inline(always)]
fn max<S: Simd>(s: S, row: &[f32]) -> f32 {
    let mut largest = Max::new(s);
    for_vectors!(
        S,
        row.len(),
        |part, at| {
            largest.take(s, part, s.load(&row[at..]));
        },
        |at| {
            largest.take_first(s, row.len() - at, s.load_first(&row[at..]));
        }
    );
    largest.total(s)
}

/// `row = e^(row - largest)`; returns the sum of the results.
#[inline(always)]
pub(super) fn exp_minus<S: Simd>(s: S, row: &mut [f32], largest: f32) -> f32 {
    let shift = s.splat(largest);
    let mut sum = Sum::new(s);
    for_vectors!(
        S,
        row.len(),
        |part, at| {
            let y = math::exp(s, s.sub(s.load(&row[at..]), shift));
            s.store(&mut row[at..], y);
            sum.add(s, part, y);
        },
        |at| {
            let tail = &mut row[at..];
            let y = math::exp(s, s.sub(s.load_first(tail), shift));
            s.store_first(tail, y);
            sum.add(s, 0, s.select(s.first(tail.len()), y, s.zero()));
        }
    );
    sum.total(s)
}
