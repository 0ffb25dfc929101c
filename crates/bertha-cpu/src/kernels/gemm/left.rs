//! The left operand as the words that tiles read.

use half::bf16;

use super::super::context::{AlignedBuf, Context};
use super::super::simd::{Simd, SimdOp};
use super::super::views::Rows;
use super::{Left, row_stride};
use crate::pool::Disjoint;

/// Rows and columns, checked.
pub(super) fn shape(a: &Left<'_>) -> (usize, usize) {
    match a {
        Left::F32(a) => {
            a.check();
            (a.rows, a.cols)
        }
        Left::Bf16(a) => {
            a.check();
            (a.rows, a.cols)
        }
    }
}

/// bf16 rows as pairs, where they are whole pairs and lie as words must.
pub(super) fn as_words<'a>(a: &Left<'a>) -> Option<Rows<'a>> {
    let Left::Bf16(a) = a else { return None };
    if !a.cols.is_multiple_of(2) || !a.stride.is_multiple_of(2) {
        return None;
    }
    let whole = a.data.len() / 2 * 2;
    let data = bytemuck::try_cast_slice(&a.data[..whole]).ok()?;
    Some(Rows { data, rows: a.rows, cols: a.cols / 2, stride: a.stride / 2 })
}

/// Words of a row of `cols` values, and how far apart such rows are kept.
const fn row_words(cols: usize) -> (usize, usize) {
    let words = cols.div_ceil(2);
    (words, row_stride(words))
}

/// Rounds A to pairs of bf16 in `words`, on all workers.
pub(super) fn round(ctx: &mut Context, a: &Left<'_>, words: &mut AlignedBuf) {
    /// Fewest values that are worth a part of their own.
    const MIN_PART: usize = 8 << 10;
    let (isa, (rows, cols)) = (ctx.isa, shape(a));
    let (row_words, stride) = row_words(cols);
    words.reserve(rows * stride).expect("memory for the rounded operand");
    let parts = (rows * cols / MIN_PART).clamp(1, 2 * ctx.threads()).min(rows.max(1));
    let words = Disjoint::new(words);
    ctx.pool.run(parts, |part| {
        for row in rows * part.index / parts..rows * (part.index + 1) / parts {
            // SAFETY: every row belongs to one part, and rows do not overlap.
            let to = unsafe { words.slice(row * stride, row_words) };
            let to: &mut [bf16] = bytemuck::cast_slice_mut(to);
            match a {
                Left::F32(a) => isa.run_bf16(RoundRow { from: a.row(row), to: &mut to[..cols] }),
                Left::Bf16(a) => to[..cols].copy_from_slice(a.row(row)),
            }
            to[cols..].fill(bf16::ZERO);
        }
    });
}

/// What [`round`] left in `words`.
pub(super) fn rounded<'a>(a: &Left<'_>, words: &'a AlignedBuf) -> Rows<'a> {
    let (rows, cols) = shape(a);
    let (cols, stride) = row_words(cols);
    Rows { data: words, rows, cols, stride }
}

/// Rounds one row.
pub(in crate::kernels) struct RoundRow<'a> {
    pub(in crate::kernels) from: &'a [f32],
    pub(in crate::kernels) to: &'a mut [bf16],
}

impl SimdOp for RoundRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut to = self.to.chunks_mut(S::LANES);
        let mut from = self.from.chunks_exact(S::LANES);
        for (from, to) in (&mut from).zip(&mut to) {
            // SAFETY: both hold at most a vector, and `to` as many as it is said to.
            unsafe { s.store_bf16_ptr(to.as_mut_ptr(), to.len(), s.load(from)) };
        }
        if let Some(to) = to.next() {
            let x = s.load_first(from.remainder());
            // SAFETY: as above.
            unsafe { s.store_bf16_ptr(to.as_mut_ptr(), to.len(), x) };
        }
    }
}
