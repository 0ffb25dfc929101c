//! Batched products of two runtime operands: ONNX MatMul and Gemm whose right side is no constant.
//!
//! Work item: one matrix of the batch by a few panels of its B, which the item packs into its worker's scratch, then
//! multiplies as a packed product. Packing costs k x nr copies per panel against m x k x nr multiply-adds.

use std::marker::PhantomData;

use super::super::context::Context;
use super::super::simd::{Simd, SimdOp};
use super::pack::{Strided, pack_panel};
use super::tile::OneF32;
use super::{Block, Epilogue, MAX_KC, Target, Tiles, copy_stride, tile, worth_forking};
use crate::isa::Tier;
use crate::pool::Disjoint;

/// Panels packed per item: enough to pay for a copy of A where it needs one.
const GROUP: usize = 4;

/// Sizes of a batched product: C `[batch, m, n]` = A `[m, k]` B `[k, n]` per matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulShape {
    /// Matrices.
    pub batch: usize,
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
}

/// One side of a batched product: `batch` matrices in one tensor, each with the same strides.
#[derive(Clone, Copy, Debug)]
pub struct MatmulOperand<'a> {
    /// The tensor's values.
    pub data: &'a [f32],
    /// Where each matrix starts; one entry for all where the operand is broadcast over the batch.
    pub offsets: &'a [usize],
    /// Distance from row to row.
    pub row_stride: usize,
    /// Distance from column to column.
    pub col_stride: usize,
}

impl<'a> MatmulOperand<'a> {
    fn matrix(&self, index: usize, rows: usize, cols: usize) -> Strided<'a> {
        let offset = if self.offsets.len() == 1 { self.offsets[0] } else { self.offsets[index] };
        let data = if rows == 0 || cols == 0 { &[] } else { &self.data[offset..] };
        Strided { data, rows, cols, row_stride: self.row_stride, col_stride: self.col_stride }
    }

    fn check(&self, batch: usize, rows: usize, cols: usize) {
        assert!(
            matches!(self.offsets.len(), 1) || self.offsets.len() == batch,
            "one offset per matrix, or one"
        );
        for index in 0..self.offsets.len() {
            self.matrix(index, rows, cols).check();
        }
    }
}

/// f32 of scratch per worker that [`matmul`] needs on `tier` for a depth of `k`.
const fn scratch_len(tier: Tier, k: usize) -> usize {
    GROUP * k * tile::nr(tier) + tile::max_mr(tier) * copy_stride(if k < MAX_KC { k } else { MAX_KC })
}

/// C = epilogue(A B) for every matrix of a batch; `c` is `[batch, m, n]`, contiguous.
///
/// The epilogue's residual must be empty: with a batch there is no one matrix it could be. Rows have the same
/// independence as [`super::gemm`]'s.
///
/// # Panics
/// When a matrix reaches beyond its tensor, or `c` has not `batch * m * n` values.
pub fn matmul(
    ctx: &mut Context,
    shape: MatmulShape,
    a: MatmulOperand<'_>,
    b: MatmulOperand<'_>,
    c: &mut [f32],
    epilogue: &Epilogue<'_>,
) {
    let MatmulShape { batch, m, n, k } = shape;
    assert_eq!(c.len(), batch * m * n, "C is [batch, m, n]");
    assert!(epilogue.residual.is_none(), "a batched product has no residual");
    if c.is_empty() {
        return;
    }
    epilogue.check(m, n);
    a.check(batch, m, k);
    b.check(batch, k, n);

    let isa = ctx.isa;
    let (tier, threads) = (isa.tier(), ctx.threads());
    let (nr, max_mr) = (tile::nr(tier), tile::max_mr(tier));
    let panels = n.div_ceil(nr);
    let groups = panels.div_ceil(GROUP);
    ctx.reserve(scratch_len(tier, k));
    let c = Target::F32(Disjoint::new(c));
    let item = |index: usize, scratch: &mut [f32]| {
        let (matrix, group) = (index / groups, index % groups);
        let range = group * GROUP..((group + 1) * GROUP).min(panels);
        let (packed, scratch) = scratch.split_at_mut(GROUP * k * nr);
        isa.run(PackPanels {
            b: b.matrix(matrix, k, n),
            first: range.start,
            count: range.len(),
            out: packed,
        });
        let a = a.matrix(matrix, m, k);
        let total = m.div_ceil(max_mr);
        isa.run(Block {
            a,
            copy: a.col_stride != 1,
            tiles: Tiles { first: 0, end: total, total, rows: m },
            b: packed,
            panels: range,
            n,
            c: &c,
            streams: false,
            c_start: matrix * m * n,
            c_stride: n,
            epilogue,
            after: None,
            scratch,
            word: PhantomData::<OneF32>,
        });
    };
    let items = batch * groups;
    if worth_forking(threads, batch * m, n, k) {
        ctx.pool.run_with(items, &mut ctx.scratch, |part, scratch| item(part.index, scratch));
    } else {
        for index in 0..items {
            item(index, &mut ctx.scratch[0]);
        }
    }
}

/// Packs panels `first .. first + count` of `b`.
struct PackPanels<'a> {
    b: Strided<'a>,
    first: usize,
    count: usize,
    out: &'a mut [f32],
}

impl SimdOp for PackPanels<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let nr = tile::nr(S::TIER);
        let size = self.b.rows * nr;
        for panel in 0..self.count {
            let out = &mut self.out[panel * size..(panel + 1) * size];
            pack_panel(s, self.b, (self.first + panel) * nr, out);
        }
    }
}
