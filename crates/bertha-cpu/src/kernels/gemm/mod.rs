//! Matrix products: C = epilogue(A B), of f32 or bf16 operands, with sums in f32.
//!
//! Work item: one panel of B (a tile's width) by a block of rows of A. Inside, k goes in blocks, and for every block
//! the tiles of the row block run down the panel, so the panel's block stays in the second-level cache beside A's
//! rows while the tile kernel already fetches the block that follows in memory. Row blocks are sized for half of the
//! second-level cache and cut into tiles of nearly equal height; threads share the items, never k. At 128 x 768 x 3072
//! an item reads 96 KiB of weights once for 6.3 million multiply-adds.
//!
//! Where workers share the items, sums accumulate in scratch and complete results go past the caches: see
//! `Context::streams`.
//!
//! Rows whose stride is a large power of two fall into one or two cache sets and evict each other; such an A is copied
//! tile by tile into scratch, and items are several panels wide to share the copy. [`row_stride`] gives strides that
//! need none.

mod batched;
mod epilogue;
mod left;
mod pack;
pub(crate) mod tile;

pub use batched::{MatmulOperand, MatmulShape, matmul};
pub use epilogue::{Activation, Epilogue};
pub(in crate::kernels) use left::RoundRow;
pub(crate) use pack::pack_panel;
pub use pack::{PackError, PackedB, PackedDesc, PackedType, Strided, pack_b};

use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;

use self::epilogue::{EpilogueTile, TileOutput};
use self::tile::{AnyTile, OneF32, Prefetch, TileArgs, TwoBf16, Word};
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
        let kc = desc.words().clamp(1, MAX_KC);
        let rows = (ctx.caches.l2 / 2 / (kc * size_of::<f32>())).max(4 * max_mr);
        let tiles = a.rows.div_ceil(max_mr);
        let mut row_blocks = a.rows.div_ceil(rows);
        let groups = desc.panels().div_ceil(group);
        if row_blocks > ctx.threads() {
            // Every worker gets whole blocks, which it then reads alone.
            row_blocks = row_blocks.next_multiple_of(ctx.threads());
        }
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

/// A, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Left<'a> {
    /// f32; for a packed operand of another type it is rounded first.
    F32(Rows<'a>),
    /// bf16, for a packed operand of that type.
    Bf16(Rows<'a, bf16>),
}

impl<'a> From<Rows<'a>> for Left<'a> {
    fn from(rows: Rows<'a>) -> Self {
        Self::F32(rows)
    }
}

impl<'a> From<Rows<'a, bf16>> for Left<'a> {
    fn from(rows: Rows<'a, bf16>) -> Self {
        Self::Bf16(rows)
    }
}

/// C, row-major.
#[derive(Debug)]
pub enum Product<'a> {
    /// f32.
    F32(RowsMut<'a>),
    /// Rounded to bf16 after the epilogue; for a packed operand of that type.
    Bf16(RowsMut<'a, bf16>),
}

impl<'a> From<RowsMut<'a>> for Product<'a> {
    fn from(rows: RowsMut<'a>) -> Self {
        Self::F32(rows)
    }
}

impl<'a> From<RowsMut<'a, bf16>> for Product<'a> {
    fn from(rows: RowsMut<'a, bf16>) -> Self {
        Self::Bf16(rows)
    }
}

impl Product<'_> {
    /// Rows, columns and row stride, checked.
    fn shape(&self) -> (usize, usize, usize) {
        match self {
            Self::F32(c) => {
                c.check();
                (c.rows, c.cols, c.stride)
            }
            Self::Bf16(c) => {
                c.check();
                (c.rows, c.cols, c.stride)
            }
        }
    }
}

/// C = epilogue(A B), with B packed; sums in f32 whatever the operands' type is.
///
/// A row of C depends on nothing but its row of A, B and the epilogue's operands: not on the other rows, their number
/// or the number of threads, to the bit. With k = 0 the product is 0.
///
/// # Panics
/// When shapes or types disagree, when a matrix reaches beyond its values, or when B was packed for another tier than the
/// context's, or for instructions that the CPU lacks ([`Isa::has_bf16`](crate::isa::Isa::has_bf16)).
pub fn gemm<'a>(
    ctx: &mut Context,
    a: impl Into<Left<'a>>,
    b: &PackedB<'_>,
    c: impl Into<Product<'a>>,
    epilogue: &Epilogue<'_>,
) {
    let (a, c, desc) = (a.into(), c.into(), *b.desc());
    let ((rows, cols), (c_rows, c_cols, _)) = (left::shape(&a), c.shape());
    assert_eq!(desc.tier, ctx.isa.tier(), "B was packed for the context's tier");
    assert_eq!(cols, desc.k, "A has as many columns as B has rows");
    assert_eq!((c_rows, c_cols), (rows, desc.n), "C has A's rows and B's columns");
    epilogue.check(rows, desc.n);
    if let Some(residual) = epilogue.residual {
        residual.check();
    }
    if rows * desc.n == 0 {
        return;
    }
    match (desc.dtype, a) {
        (PackedType::F32, Left::F32(a)) => {
            assert!(matches!(c, Product::F32(_)), "an f32 product has an f32 result");
            multiply::<OneF32>(ctx, a, b, c, epilogue);
        }
        (PackedType::F32, Left::Bf16(_)) => panic!("an f32 product takes f32 rows"),
        (PackedType::Bf16, a) => match left::as_words(&a) {
            Some(words) => multiply::<TwoBf16>(ctx, words, b, c, epilogue),
            None => {
                // Out of the context while the product borrows it.
                let mut words = std::mem::take(&mut ctx.rounded);
                left::round(ctx, &a, &mut words);
                multiply::<TwoBf16>(ctx, left::rounded(&a, &words), b, c, epilogue);
                ctx.rounded = words;
            }
        },
    }
}

/// [`gemm`] with A as words.
fn multiply<W: Word>(
    ctx: &mut Context,
    a: Rows<'_>,
    b: &PackedB<'_>,
    c: Product<'_>,
    epilogue: &Epilogue<'_>,
) {
    let (desc, isa, (_, _, c_stride)) = (*b.desc(), ctx.isa, c.shape());
    let (words, max_mr) = (desc.words(), tile::max_mr(desc.tier));
    let blocking = Blocking::choose(ctx, &a, &desc);
    let copied = if blocking.copy { gemm_scratch_len(desc.tier, words, a.stride) } else { 0 };
    let streams = worth_forking(ctx.threads(), a.rows, desc.n, desc.k)
        && match &c {
            Product::F32(c) => ctx.streams(c.data, c.stride),
            Product::Bf16(c) => ctx.streams(c.data, c.stride),
        };
    let sums = match c {
        Product::F32(_) if !streams => 0,
        _ => (a.rows.div_ceil(blocking.row_blocks) + max_mr) * blocking.group * desc.nr,
    };
    ctx.reserve(copied + sums);
    let (c, upcoming, threads) = (Target::new(c), ctx.upcoming(), ctx.threads());
    let groups = desc.panels().div_ceil(blocking.group);
    let items = groups * blocking.row_blocks;
    let item = |index: usize, after: Option<*const f32>, scratch: &mut [f32]| {
        let group = index % groups;
        let panels = group * blocking.group..((group + 1) * blocking.group).min(desc.panels());
        let block = Block {
            a: Strided { data: a.data, rows: a.rows, cols: words, row_stride: a.stride, col_stride: 1 },
            copy: blocking.copy,
            tiles: blocking.tiles(index / groups, a.rows, max_mr),
            b: &b.data()[panels.start * words * desc.nr..],
            panels,
            n: desc.n,
            c: &c,
            streams,
            c_start: 0,
            c_stride,
            epilogue,
            after,
            scratch,
            word: PhantomData::<W>,
        };
        W::run(isa, block);
    };
    if worth_forking(ctx.threads(), a.rows, desc.n, desc.k) {
        ctx.pool.run_with(items, &mut ctx.scratch, |part, scratch| {
            let last = part.index + 1 == items * (part.worker + 1) / threads;
            let after = upcoming.filter(|_| last).map(|next| next.first_panel(part.worker, threads));
            item(part.index, after, scratch);
        });
    } else {
        for index in 0..items {
            let after = upcoming.filter(|_| index + 1 == items).map(|next| next.first_panel(0, threads));
            item(index, after, &mut ctx.scratch[0]);
        }
    }
}

/// Whether a product has work enough to share.
pub(crate) const fn worth_forking(threads: usize, m: usize, n: usize, k: usize) -> bool {
    threads > 1 && m.saturating_mul(n).saturating_mul(k) >= MIN_FORK_WORK
}

/// Where a product goes.
enum Target<'a> {
    F32(Disjoint<'a, f32>),
    Bf16(Disjoint<'a, bf16>),
}

impl<'a> Target<'a> {
    fn new(product: Product<'a>) -> Self {
        match product {
            Product::F32(c) => Self::F32(Disjoint::new(c.data)),
            Product::Bf16(c) => Self::Bf16(Disjoint::new(c.data)),
        }
    }
}

/// A run of tiles by a run of panels: an item of a product.
struct Block<'a, W> {
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
    c: &'a Target<'a>,
    /// Whether results go past the caches.
    streams: bool,
    /// Where C's first row starts.
    c_start: usize,
    c_stride: usize,
    epilogue: &'a Epilogue<'a>,
    /// What the worker most likely reads after this item, where that is not what follows in B.
    after: Option<*const f32>,
    /// Room for a copy of a tile's rows where there is one, then for the sums where they do not accumulate in C.
    scratch: &'a mut [f32],
    word: PhantomData<W>,
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

impl<W: Word> SimdOp for Block<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (k, nr) = (self.a.cols, tile::nr(S::TIER));
        let next_lines = if self.tiles.end - self.tiles.first > 1 { Prefetch::One } else { Prefetch::Two };
        // Blocks of equal depth, so that each one's prefetch is the whole of the next.
        let k_blocks = k.div_ceil(MAX_KC).max(1);
        let scratch = std::mem::take(&mut self.scratch);
        let copied = if self.copy { tile::max_mr(S::TIER) * copy_stride(k.min(MAX_KC)) } else { 0 };
        let (copied, sums) = scratch.split_at_mut(copied);
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
                    copy_rows(&self.a, a, kc, rows, a_stride, copied);
                    a = &*copied;
                }
                // Sums that are complete at once need no more than a tile's room.
                let sums_row = if k_blocks > 1 { row - self.tiles.rows(self.tiles.first).0 } else { 0 };
                for panel in self.panels.clone() {
                    let b = &self.b[(panel - self.panels.start) * k * nr + k0 * nr..];
                    let col = panel * nr;
                    let place = TilePlace { row, rows, col, cols: nr.min(self.n - col) };
                    let (c, c_stride) = self.sums(&place, sums_row, nr, sums);
                    // What comes after this block: of the next panel where panels take turns, else of this one (or the
                    // next, which follows it). Two tiles fetch half of it each.
                    let next = if self.panels.len() > 1 { k * nr } else { kc * nr };
                    let half = (tile - self.tiles.first) % 2 * kc * S::LANES;
                    let next = match self.after {
                        Some(after) if k_end == k && panel + 1 == self.panels.end => after,
                        _ => b.as_ptr().wrapping_add(next),
                    };
                    let args = TileArgs {
                        k: kc,
                        a: a.as_ptr(),
                        a_stride,
                        b: b.as_ptr(),
                        c,
                        c_stride,
                        cols: place.cols,
                        accumulate: k0 > 0,
                        next: next.wrapping_add(half),
                        next_lines,
                    };
                    if k_end == k {
                        self.fetch_residual(s, &place);
                    }
                    // SAFETY: the makers of a Block checked that A has its rows of k values, C of n values, and that B
                    // has k rows in every panel; a copy has `rows` rows of `kc` values, and `sums` a panel's width for
                    // each of the block's rows. Items write disjoint tiles.
                    unsafe { AnyTile { rows, args }.run::<S, W>(s) };
                    if k_end == k {
                        self.finish_tile(s, &place, c, c_stride);
                    }
                }
            }
        }
        if self.streams {
            s.fence();
        }
    }
}

/// A tile's rows and columns in C.
struct TilePlace {
    row: usize,
    rows: usize,
    col: usize,
    cols: usize,
}

impl<W> Block<'_, W> {
    /// Where a tile's sums accumulate and how far apart their rows are: in C itself, or in `sums` from row `row` on.
    #[inline(always)]
    fn sums(&self, place: &TilePlace, row: usize, nr: usize, sums: &mut [f32]) -> (*mut f32, usize) {
        match self.c {
            Target::F32(c) if !self.streams => {
                (c.place(self.c_start + place.row * self.c_stride + place.col), self.c_stride)
            }
            _ => {
                let stride = self.panels.len() * nr;
                let start = row * stride + place.col - self.panels.start * nr;
                let tile = &mut sums[start..][..(place.rows - 1) * stride + place.cols];
                (tile.as_mut_ptr(), stride)
            }
        }
    }

    /// Fetches what the epilogue adds to a tile while the tile's last block computes: where rows were rounded for the
    /// product's operand, nobody has read them as f32 yet.
    #[inline(always)]
    fn fetch_residual<S: Simd>(&self, s: S, place: &TilePlace) {
        let Some(residual) = self.epilogue.residual else { return };
        let first = residual.data.as_ptr().wrapping_add(place.row * residual.stride + place.col);
        for row in 0..place.rows {
            for line in 0..place.cols.div_ceil(LINE) {
                s.prefetch(first.wrapping_add(row * residual.stride + line * LINE));
            }
        }
    }

    /// Applies the epilogue to a tile whose sums, at `c`, are complete, and brings them to C if they are not there.
    #[inline(always)]
    fn finish_tile<S: Simd>(&self, s: S, place: &TilePlace, c: *mut f32, c_stride: usize) {
        let &TilePlace { row, rows, col, cols } = place;
        let output = match self.c {
            Target::F32(out) if self.streams => {
                TileOutput::Streamed(out.place(self.c_start + row * self.c_stride + col), self.c_stride)
            }
            Target::F32(_) if self.epilogue.is_identity() => return,
            Target::F32(_) => TileOutput::InPlace,
            Target::Bf16(out) => {
                let to = out.place(self.c_start + row * self.c_stride + col);
                match self.streams {
                    true => TileOutput::StreamedBf16(to, self.c_stride),
                    false => TileOutput::Bf16(to, self.c_stride),
                }
            }
        };
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
            c_stride,
            bias,
            residual,
            residual_stride,
            activation: self.epilogue.activation,
            output,
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
