//! Matrix products: C = epilogue(A B), f32.
//!
//! Work item: one panel of B (a tile's width) by a block of rows of A. Inside, k goes in blocks, and for every block
//! the tiles of the row block run down the panel, so the panel's block stays in the second-level cache beside A's
//! rows while the tile kernel already fetches the block that follows in memory. Row blocks are sized for half of the
//! second-level cache and cut into tiles of nearly equal height; threads share the items, never k. At 128 x 768 x 3072
//! an item reads 96 KiB of weights once for 6.3 million multiply-adds.
//!
//! Rows whose stride is a large power of two fall into one or two cache sets and evict each other; such an A is copied
//! tile by tile into scratch, and items are several panels wide to share the copy. [`row_stride`] gives strides that
//! need none.

mod batched;
mod epilogue;
mod pack;
pub(crate) mod tile;

pub use batched::{MatmulOperand, MatmulShape, matmul};
pub use epilogue::{Activation, Epilogue};
pub(crate) use pack::pack_panel;
pub use pack::{PackError, PackedB, PackedDesc, PackedType, Strided, pack_b};

use std::ops::Range;

use self::epilogue::EpilogueTile;
use self::tile::{AnyTile, Prefetch, TileArgs};
use super::context::{Context, LINE};
use super::simd::{Simd, SimdOp};
use super::views::{Rows, RowsMut};
use crate::pool::Disjoint;

/// A row stride of at least `cols` that spreads rows over the cache's sets: what buffers between GEMMs should use.
#[must_use]
pub const fn row_stride(cols: usize) -> usize {
    if crowds_sets(cols) { cols + LINE } else { cols }
}

/// Whether rows this far apart (in f32) share so few first-level cache sets that a tile's rows evict each other:
/// with 64 sets, a stride of a multiple of 32 lines leaves at most two.
const fn crowds_sets(stride: usize) -> bool {
    stride >= 32 * LINE && stride.is_multiple_of(32 * LINE)
}

/// Deepest block of k: with it, a panel's block takes 96 KiB on AVX-512.
const MAX_KC: usize = 768;
/// Panels per item where A is copied.
const COPY_GROUP: usize = 4;
/// Fewest rows worth copying: fewer do not fill a set's ways.
const COPY_MIN_ROWS: usize = 5;
/// Items per worker to aim at, so that stealing can even out.
const ITEMS_PER_WORKER: usize = 4;
/// Fewest multiply-adds worth a fork.
const MIN_FORK_WORK: usize = 100_000;

/// f32 of scratch per worker that [`gemm`] needs for rows of `k` values `stride` apart, on `tier`.
#[must_use]
pub const fn gemm_scratch_len(tier: crate::isa::Tier, k: usize, stride: usize) -> usize {
    if crowds_sets(stride) {
        tile::max_mr(tier) * copy_stride(if k < MAX_KC { k } else { MAX_KC })
    } else {
        0
    }
}

/// Row stride of the scratch copy of a block of A.
const fn copy_stride(kc: usize) -> usize {
    kc.next_multiple_of(2 * LINE) + LINE
}

/// How a product is cut into blocks.
#[derive(Clone, Copy, Debug)]
struct Blocking {
    /// Blocks of rows.
    row_blocks: usize,
    /// Panels per item.
    group: usize,
    /// Whether A is copied tile by tile.
    copy: bool,
}

impl Blocking {
    fn choose(ctx: &Context, a: &Rows<'_>, desc: &PackedDesc) -> Self {
        let max_mr = tile::max_mr(desc.tier);
        let copy = crowds_sets(a.stride) && a.rows >= COPY_MIN_ROWS;
        let group = if copy { COPY_GROUP.min(desc.panels().div_ceil(ctx.threads())).max(1) } else { 1 };
        // Half of the second-level cache for A's block, the rest for the panel's and what is fetched ahead.
        let kc = desc.k.clamp(1, MAX_KC);
        let rows = (ctx.caches.l2 / 2 / (kc * size_of::<f32>())).max(4 * max_mr);
        let tiles = a.rows.div_ceil(max_mr);
        let mut row_blocks = a.rows.div_ceil(rows);
        let groups = desc.panels().div_ceil(group);
        if ctx.threads() > 1 && row_blocks * groups < ITEMS_PER_WORKER * ctx.threads() {
            row_blocks = (ITEMS_PER_WORKER * ctx.threads()).div_ceil(groups).max(row_blocks);
        }
        Self { row_blocks: row_blocks.clamp(1, tiles), group, copy }
    }

    /// The tiles of one row block of `rows` rows.
    fn tiles(&self, row_block: usize, rows: usize, max_mr: usize) -> Tiles {
        let total = rows.div_ceil(max_mr);
        let (first, end) = (total * row_block / self.row_blocks, total * (row_block + 1) / self.row_blocks);
        Tiles { first, end, total, rows }
    }
}

/// C = epilogue(A B), with B packed.
///
/// A row of C depends on nothing but its row of A, B and the epilogue's operands: not on the other rows, their number
/// or the number of threads, to the bit. With k = 0 the product is 0.
///
/// # Panics
/// When shapes disagree, when a matrix reaches beyond its values, or when B was packed for another tier than the
/// context's.
pub fn gemm(ctx: &mut Context, a: Rows<'_>, b: &PackedB<'_>, c: RowsMut<'_>, epilogue: &Epilogue<'_>) {
    let desc = *b.desc();
    assert_eq!(desc.tier, ctx.isa.tier(), "B was packed for the context's tier");
    assert_eq!(a.cols, desc.k, "A has as many columns as B has rows");
    assert_eq!((c.rows, c.cols), (a.rows, desc.n), "C has A's rows and B's columns");
    a.check();
    c.check();
    epilogue.check(a.rows, desc.n);
    if let Some(residual) = epilogue.residual {
        residual.check();
    }
    if a.rows == 0 || desc.n == 0 {
        return;
    }
    let blocking = Blocking::choose(ctx, &a, &desc);
    if blocking.copy {
        ctx.reserve(gemm_scratch_len(desc.tier, desc.k, a.stride));
    }
    let (isa, c_stride) = (ctx.isa, c.stride);
    let c = Disjoint::new(c.data);
    let groups = desc.panels().div_ceil(blocking.group);
    let items = groups * blocking.row_blocks;
    let item = |index: usize, scratch: &mut [f32]| {
        let group = index % groups;
        let panels = group * blocking.group..((group + 1) * blocking.group).min(desc.panels());
        isa.run(Block {
            a: Strided { data: a.data, rows: a.rows, cols: a.cols, row_stride: a.stride, col_stride: 1 },
            copy: blocking.copy,
            tiles: blocking.tiles(index / groups, a.rows, tile::max_mr(desc.tier)),
            b: &b.data()[panels.start * desc.k * desc.nr..],
            panels,
            n: desc.n,
            c: &c,
            c_start: 0,
            c_stride,
            epilogue,
            scratch,
        });
    };
    if worth_forking(ctx.threads(), a.rows, desc.n, desc.k) {
        ctx.pool.run_with(items, &mut ctx.scratch, |part, scratch| item(part.index, scratch));
    } else {
        for index in 0..items {
            item(index, &mut ctx.scratch[0]);
        }
    }
}

/// Whether a product has work enough to share.
pub(crate) const fn worth_forking(threads: usize, m: usize, n: usize, k: usize) -> bool {
    threads > 1 && m.saturating_mul(n).saturating_mul(k) >= MIN_FORK_WORK
}

/// A run of tiles by a run of panels: an item of a product.
struct Block<'a> {
    a: Strided<'a>,
    /// Whether A is copied into scratch tile by tile (as it must be where its columns are not adjacent).
    copy: bool,
    /// Which of the tiles that A's rows are cut into, and how many there are.
    tiles: Tiles,
    /// The panels, packed; more may follow.
    b: &'a [f32],
    /// Which panels of B they are.
    panels: Range<usize>,
    /// Columns of B.
    n: usize,
    c: &'a Disjoint<'a, f32>,
    /// Where C's first row starts.
    c_start: usize,
    c_stride: usize,
    epilogue: &'a Epilogue<'a>,
    scratch: &'a mut [f32],
}

/// Tiles `first..end` of the `total` that `rows` rows are cut into, of nearly equal heights.
#[derive(Clone, Copy)]
struct Tiles {
    first: usize,
    end: usize,
    total: usize,
    rows: usize,
}

impl Tiles {
    const fn rows(&self, tile: usize) -> (usize, usize) {
        (self.rows * tile / self.total, self.rows * (tile + 1) / self.total)
    }
}

impl SimdOp for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (k, nr) = (self.a.cols, tile::nr(S::TIER));
        let next_lines = if self.tiles.end - self.tiles.first > 1 { Prefetch::One } else { Prefetch::Two };
        // Blocks of equal depth, so that each one's prefetch is the whole of the next.
        let k_blocks = k.div_ceil(MAX_KC).max(1);
        for k_block in 0..k_blocks {
            let (k0, k_end) = (k * k_block / k_blocks, k * (k_block + 1) / k_blocks);
            let kc = k_end - k0;
            for tile in self.tiles.first..self.tiles.end {
                let (row, end) = self.tiles.rows(tile);
                let rows = end - row;
                let start = row * self.a.row_stride + k0 * self.a.col_stride;
                let mut a = &self.a.data[start.min(self.a.data.len())..];
                let mut a_stride = self.a.row_stride;
                if self.copy && kc > 0 {
                    a_stride = copy_stride(kc);
                    copy_rows(&self.a, a, kc, rows, a_stride, self.scratch);
                    a = &*self.scratch;
                }
                for panel in self.panels.clone() {
                    let b = &self.b[(panel - self.panels.start) * k * nr + k0 * nr..];
                    let col = panel * nr;
                    let cols = nr.min(self.n - col);
                    let c = self.c.place(self.c_start + row * self.c_stride + col);
                    // What comes after this block: of the next panel where panels take turns, else of this one (or the
                    // next, which follows it). Two tiles fetch half of it each.
                    let next = if self.panels.len() > 1 { k * nr } else { kc * nr };
                    let half = (tile - self.tiles.first) % 2 * kc * S::LANES;
                    let args = TileArgs {
                        k: kc,
                        a: a.as_ptr(),
                        a_stride,
                        b: b.as_ptr(),
                        c,
                        c_stride: self.c_stride,
                        cols,
                        accumulate: k0 > 0,
                        next: b.as_ptr().wrapping_add(next + half),
                        next_lines,
                    };
                    // SAFETY: the makers of a Block checked that A has its rows of k values, C of n values, and that B
                    // has k rows in every panel; a copy has `rows` rows of `kc` values. Items write disjoint tiles.
                    unsafe { AnyTile { rows, args }.run(s) };
                    if k_end == k {
                        self.finish_tile(s, row, rows, col, cols, c);
                    }
                }
            }
        }
    }
}

impl Block<'_> {
    /// Applies the epilogue to a tile whose sums are complete.
    #[inline(always)]
    fn finish_tile<S: Simd>(&self, s: S, row: usize, rows: usize, col: usize, cols: usize, c: *mut f32) {
        if self.epilogue.is_identity() {
            return;
        }
        let bias = match self.epilogue.bias {
            Some(bias) => bias[col..].as_ptr(),
            None => std::ptr::null(),
        };
        let (residual, residual_stride) = match self.epilogue.residual {
            Some(r) => (r.data[row * r.stride + col..].as_ptr(), r.stride),
            None => (std::ptr::null(), 0),
        };
        s.vectorize(EpilogueTile {
            rows,
            cols,
            c,
            c_stride: self.c_stride,
            bias,
            residual,
            residual_stride,
            activation: self.epilogue.activation,
        });
    }
}

/// Copies `rows` rows of `kc` values of `a`, from `from` on, to adjacent columns and rows `to_stride` apart.
#[inline(always)]
fn copy_rows(a: &Strided<'_>, from: &[f32], kc: usize, rows: usize, to_stride: usize, to: &mut [f32]) {
    for row in 0..rows {
        let to = &mut to[row * to_stride..][..kc];
        let from = &from[row * a.row_stride..];
        if a.col_stride == 1 {
            to.copy_from_slice(&from[..kc]);
        } else {
            for (k, to) in to.iter_mut().enumerate() {
                *to = from[k * a.col_stride];
            }
        }
    }
}
