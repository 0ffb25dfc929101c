//! What both attentions do with a head's rows: fetch them ahead, pack them, multiply a tile's height of them.

use super::super::context::LINE;
use super::super::gemm::tile::{self, AnyTile, Prefetch, TileArgs, Word};
use super::super::gemm::{Strided, pack_panel};
use super::super::simd::Simd;
use super::{HeadRows, Sequences};

/// Fetches the rows of a head of `rows`, `dim` values each: those of share `share.0` of `share.1`. Rows of one head are far
/// apart, so nothing else fetches them ahead.
#[inline(always)]
pub(in crate::kernels) fn fetch_head<S: Simd, T>(
    s: S,
    seqs: &Sequences<'_>,
    (seq, head): (usize, usize),
    (rows, len, dim): (&HeadRows<'_, T>, usize, usize),
    share: (usize, usize),
) {
    let start = rows.layout.start(seqs, seq, head);
    for row in len * share.0 / share.1..len * (share.0 + 1) / share.1 {
        let row: *const f32 = rows.data.as_ptr().wrapping_add(start + row * rows.layout.row_stride).cast();
        for line in 0..(dim * size_of::<T>()).div_ceil(LINE * size_of::<f32>()) {
            s.prefetch(row.wrapping_add(line * LINE));
        }
    }
}

/// Packs all panels of `b`.
#[inline(always)]
pub(in crate::kernels) fn pack_panels<S: Simd>(s: S, b: Strided<'_>, out: &mut [f32]) {
    let nr = tile::nr(S::TIER);
    if b.rows > 0 {
        for (panel, out) in out.chunks_exact_mut(b.rows * nr).enumerate() {
            pack_panel(s, b, panel * nr, out);
        }
    }
}

/// C = A B for one tile's height of rows and every panel of B. Operands are (pointer, row stride), B is (panels, k, n).
///
/// # Safety
/// A must have `rows` rows of k values, B k rows per panel, C `rows` rows of n values; `rows` is a tile's.
#[inline(always)]
pub(in crate::kernels) unsafe fn tiles_of_row<S: Simd, W: Word>(
    s: S,
    rows: usize,
    (a, a_stride): (*const f32, usize),
    (b, k, n): (*const f32, usize, usize),
    (c, c_stride): (*mut f32, usize),
) {
    let nr = tile::nr(S::TIER);
    let mut col = 0;
    while col < n {
        // SAFETY: this function's contract; panel `col / nr` starts at `col * k`.
        unsafe {
            let args = TileArgs {
                k,
                a,
                a_stride,
                b: b.add(col * k),
                c: c.add(col),
                c_stride,
                cols: nr.min(n - col),
                accumulate: false,
                next: b,
                next_lines: Prefetch::None,
            };
            AnyTile { rows, args }.run::<S, W>(s);
        }
        col += nr;
    }
}
