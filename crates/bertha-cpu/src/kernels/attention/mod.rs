//! Attention: out = softmax(scale Q K^T + bias) V per sequence and head, f32.
//!
//! Work item: one head of one sequence, or a run of its query tiles where there are too few heads to go round. The
//! item packs K (transposed) and V of its head into panels in its worker's scratch, zero-filled at the tails, then
//! takes a tile's height of queries at a time: the scores of those rows against all keys (the GEMM's tile kernel), bias
//! and maximum, exponentials and sum, times V (the tile kernel again, straight into the output), divided by the sum.
//! Meanwhile the rows of the head that follows are fetched into the second-level cache: they are far apart.
//! Scores never leave the cache: 14 rows x 512 keys are 28 KiB. Packing costs 2 kv d copies against 2 q kv d
//! multiply-adds.
//!
//! A row of the result depends on its query and its sequence's keys and values alone, to the bit: not on the batch,
//! the split or the threads.
//!
//! A query whose every key is masked (all scores -inf) gets zeros, not NaN.

mod tiles;

use std::ops::Range;

use self::tiles::fetch_head;
pub(super) use self::tiles::{pack_panels, tiles_of_row};
use super::context::{Context, LINE};
use super::gemm::tile::{self, OneF32};
use super::gemm::{Strided, worth_forking};
use super::reduce::{Max, for_vectors, scale_row};
use super::simd::{Simd, SimdOp};
use super::softmax::exp_minus;
use super::views::CuSeqlens;
use crate::isa::Tier;
use crate::pool::Disjoint;

/// Heads and their sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` neighbouring query heads.
    pub kv_heads: usize,
    /// Values per query and key.
    pub head_dim: usize,
    /// Values per value row.
    pub v_head_dim: usize,
    /// What scores are multiplied by, before the bias is added.
    pub scale: f32,
}

impl AttentionShape {
    /// Multi-head attention with the usual scale, 1 / sqrt(head_dim).
    #[must_use]
    pub fn multi_head(heads: usize, head_dim: usize) -> Self {
        let scale = 1.0 / (head_dim as f32).sqrt();
        Self { heads, kv_heads: heads, head_dim, v_head_dim: head_dim, scale }
    }
}

/// How a batch's sequences lie in its operands.
#[derive(Clone, Copy, Debug)]
pub enum Sequences<'a> {
    /// One after the other, rows `cu[i] .. cu[i + 1]`; queries and keys have the same lengths.
    Ragged(CuSeqlens<'a>),
    /// Equal lengths, each sequence `seq_stride` after the one before it.
    Dense {
        /// Sequences.
        batch: usize,
        /// Queries per sequence.
        q_len: usize,
        /// Keys per sequence.
        kv_len: usize,
    },
}

impl Sequences<'_> {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Ragged(cu) => cu.sequences(),
            Self::Dense { batch, .. } => *batch,
        }
    }

    /// Queries and keys of a sequence.
    pub(super) fn lengths(&self, index: usize) -> (usize, usize) {
        match *self {
            Self::Ragged(cu) => {
                let len = cu.sequence(index).1;
                (len, len)
            }
            Self::Dense { q_len, kv_len, .. } => (q_len, kv_len),
        }
    }

    pub(super) fn max_lengths(&self) -> (usize, usize) {
        match *self {
            Self::Ragged(cu) => (cu.longest(), cu.longest()),
            Self::Dense { q_len, kv_len, .. } => (q_len, kv_len),
        }
    }
}

/// Where the rows of Q, K, V or the output lie: row t of head h of sequence i starts at
/// `start(i) + h * head_stride + t * row_stride`, with start(i) = `cu[i] * row_stride` for ragged batches and
/// `i * seq_stride` for dense ones. `[tokens, heads, head_dim]` has head_stride = head_dim and row_stride = heads *
/// head_dim; q, k and v in one `[tokens, 3 * heads * head_dim]` are three views of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLayout {
    /// Distance from sequence to sequence; ragged batches ignore it.
    pub seq_stride: usize,
    /// Distance from head to head.
    pub head_stride: usize,
    /// Distance from token to token.
    pub row_stride: usize,
}

impl HeadLayout {
    /// Ragged rows of heads side by side, `row_stride` apart.
    #[must_use]
    pub const fn ragged(head_dim: usize, row_stride: usize) -> Self {
        Self { seq_stride: 0, head_stride: head_dim, row_stride }
    }

    pub(super) fn start(&self, seqs: &Sequences<'_>, seq: usize, head: usize) -> usize {
        let start = match seqs {
            Sequences::Ragged(cu) => cu.sequence(seq).0 * self.row_stride,
            Sequences::Dense { .. } => seq * self.seq_stride,
        };
        start + head * self.head_stride
    }

    /// Checks that every row of `dim` values lies within `len` values.
    fn check(&self, seqs: &Sequences<'_>, query_side: bool, heads: usize, dim: usize, len: usize) {
        if heads == 0 || dim == 0 {
            return;
        }
        for seq in 0..seqs.count() {
            let (q_len, kv_len) = seqs.lengths(seq);
            let rows = if query_side { q_len } else { kv_len };
            if rows > 0 {
                let end = self.start(seqs, seq, heads - 1) + (rows - 1) * self.row_stride + dim;
                assert!(end <= len, "sequence {seq} reaches beyond its operand");
            }
        }
    }
}

impl HeadLayout {
    /// Checks that no two rows of `dim` values overlap: items write them at the same time. Rows of a token lie side by
    /// side within its stride, or a head's rows within the head's stride, and sequences do not interleave.
    fn check_disjoint(&self, seqs: &Sequences<'_>, heads: usize, dim: usize) {
        let (rows, batch) = match seqs {
            Sequences::Ragged(cu) => (cu.tokens(), 1),
            Sequences::Dense { batch, q_len, .. } => (*q_len, *batch),
        };
        if heads * rows * batch == 0 {
            return;
        }
        let across = (heads - 1) * self.head_stride + dim;
        let along = (rows - 1) * self.row_stride + dim;
        let token_major = (heads == 1 || self.head_stride >= dim) && (rows == 1 || self.row_stride >= across);
        let head_major = (rows == 1 || self.row_stride >= dim) && (heads == 1 || self.head_stride >= along);
        assert!(token_major || head_major, "output rows overlap");
        assert!(batch == 1 || self.seq_stride >= across + along - dim, "output sequences overlap");
    }
}

/// One of Q, K, V.
#[derive(Clone, Copy, Debug)]
pub struct HeadRows<'a, T = f32> {
    /// The values.
    pub data: &'a [T],
    /// Where rows lie.
    pub layout: HeadLayout,
}

/// What is added to the scaled scores, or masks them. Every form is rows of one value per key.
#[derive(Clone, Copy, Debug)]
pub enum AttentionBias<'a> {
    /// Nothing.
    None,
    /// `data[seq * seq_stride + head * head_stride + query * row_stride + key]`; a stride of 0 broadcasts. -inf masks.
    Additive {
        /// The values.
        data: &'a [f32],
        /// Distance from sequence to sequence.
        seq_stride: usize,
        /// Distance from head to head.
        head_stride: usize,
        /// Distance from query to query.
        row_stride: usize,
    },
    /// As `Additive`; 0 masks a key, anything else leaves it.
    Keep {
        /// The flags.
        data: &'a [u8],
        /// Distance from sequence to sequence.
        seq_stride: usize,
        /// Distance from head to head.
        head_stride: usize,
        /// Distance from query to query.
        row_stride: usize,
    },
    /// A bias by relative position, `table[head][key - query + max - 1]`: `[heads, 2 * max - 1]`.
    Relative {
        /// The table.
        table: &'a [f32],
        /// Most tokens per sequence.
        max: usize,
    },
}

/// A row of bias.
#[derive(Clone, Copy)]
pub(super) enum BiasRow<'a> {
    None,
    Add(&'a [f32]),
    Keep(&'a [u8]),
}

impl<'a> AttentionBias<'a> {
    #[inline(always)]
    pub(super) fn row(&self, seq: usize, head: usize, query: usize, keys: usize) -> BiasRow<'a> {
        match *self {
            Self::None => BiasRow::None,
            Self::Additive { data, seq_stride, head_stride, row_stride } => {
                BiasRow::Add(&data[seq * seq_stride + head * head_stride + query * row_stride..][..keys])
            }
            Self::Keep { data, seq_stride, head_stride, row_stride } => {
                BiasRow::Keep(&data[seq * seq_stride + head * head_stride + query * row_stride..][..keys])
            }
            Self::Relative { table, max } => {
                BiasRow::Add(&table[head * (2 * max - 1) + max - 1 - query..][..keys])
            }
        }
    }

    fn check(&self, seqs: &Sequences<'_>, heads: usize) {
        let (q_len, kv_len) = seqs.max_lengths();
        if heads == 0 || q_len == 0 || kv_len == 0 || seqs.count() == 0 {
            return;
        }
        let reach = |seq_stride: usize, head_stride: usize, row_stride: usize| {
            (seqs.count() - 1) * seq_stride + (heads - 1) * head_stride + (q_len - 1) * row_stride + kv_len
        };
        match *self {
            Self::None => {}
            Self::Additive { data, seq_stride, head_stride, row_stride } => {
                assert!(reach(seq_stride, head_stride, row_stride) <= data.len(), "the bias is too small");
            }
            Self::Keep { data, seq_stride, head_stride, row_stride } => {
                assert!(reach(seq_stride, head_stride, row_stride) <= data.len(), "the mask is too small");
            }
            Self::Relative { table, max } => {
                assert!(q_len.max(kv_len) <= max, "a sequence is longer than the relative positions' table");
                assert!(heads * (2 * max - 1) <= table.len(), "the relative positions' table is too small");
            }
        }
    }
}

/// Everything [`attention`] reads.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a, T = f32> {
    /// Heads and their sizes.
    pub shape: AttentionShape,
    /// The batch.
    pub seqs: Sequences<'a>,
    /// Queries, `head_dim` values per row.
    pub q: HeadRows<'a, T>,
    /// Keys, `head_dim` values per row.
    pub k: HeadRows<'a, T>,
    /// Values, `v_head_dim` values per row.
    pub v: HeadRows<'a, T>,
    /// Bias or mask.
    pub bias: AttentionBias<'a>,
}

impl<T> Attention<'_, T> {
    /// Checks everything against an output of `out_len` values.
    pub(super) fn check(&self, out_len: usize, layout: HeadLayout) {
        let s = self.shape;
        assert!(s.kv_heads > 0 && s.heads.is_multiple_of(s.kv_heads), "query heads share key heads evenly");
        self.q.layout.check(&self.seqs, true, s.heads, s.head_dim, self.q.data.len());
        self.k.layout.check(&self.seqs, false, s.kv_heads, s.head_dim, self.k.data.len());
        self.v.layout.check(&self.seqs, false, s.kv_heads, s.v_head_dim, self.v.data.len());
        layout.check(&self.seqs, true, s.heads, s.v_head_dim, out_len);
        layout.check_disjoint(&self.seqs, s.heads, s.v_head_dim);
        self.bias.check(&self.seqs, s.heads);
    }

    /// Multiply-adds of the whole.
    pub(super) fn work(&self) -> usize {
        let pairs: usize = (0..self.seqs.count())
            .map(|seq| {
                let (q_len, kv_len) = self.seqs.lengths(seq);
                q_len * kv_len
            })
            .sum();
        pairs * self.shape.heads * (self.shape.head_dim + self.shape.v_head_dim)
    }
}

/// Row stride of a tile's scores over `keys` keys.
pub(super) const fn scores_stride(tier: Tier, keys: usize) -> usize {
    keys.next_multiple_of(tile::nr(tier)) + LINE
}

/// Row stride of a tile's results that are not complete.
const fn results_stride(tier: Tier, v_dim: usize) -> usize {
    v_dim.next_multiple_of(tile::nr(tier)) + LINE
}

/// f32 of scratch per worker that [`attention`] needs on `tier` for sequences of at most `max_keys` keys.
#[must_use]
pub const fn attention_scratch_len(tier: Tier, shape: &AttentionShape, max_keys: usize) -> usize {
    let nr = tile::nr(tier);
    max_keys.next_multiple_of(nr) * shape.head_dim
        + tile::max_mr(tier) * results_stride(tier, shape.v_head_dim)
        + max_keys * shape.v_head_dim.next_multiple_of(nr)
        + tile::max_mr(tier) * scores_stride(tier, max_keys)
}

/// out = softmax(scale Q K^T + bias) V; `out` has `v_head_dim` values per row and lies as `layout` says.
///
/// # Panics
/// When an operand, the bias or the output is too small for the batch, or output rows overlap.
pub fn attention(ctx: &mut Context, args: &Attention<'_>, layout: HeadLayout, out: &mut [f32]) {
    args.check(out.len(), layout);
    let (isa, (_, kv_len)) = (ctx.isa, args.seqs.max_lengths());
    let HeadLayout { seq_stride, head_stride, row_stride } = layout;
    let streams =
        ctx.streams(out, row_stride) && ctx.streams(out, head_stride) && ctx.streams(out, seq_stride);
    let out = Disjoint::new(out);
    for_items(ctx, args, attention_scratch_len(isa.tier(), &args.shape, kv_len), |item, scratch| {
        isa.run(Head { args, layout, out: &out, streams, item, scratch });
    });
}

/// An item of work: a share of one head's query tiles.
#[derive(Clone, Copy)]
pub(super) struct Item {
    /// The sequence.
    pub(super) seq: usize,
    /// The query head.
    pub(super) head: usize,
    /// Which of the head's `splits` shares.
    split: usize,
    splits: usize,
    /// The sequence and query head that the worker most likely comes to next, if it is another.
    pub(super) next: Option<(usize, usize)>,
}

impl Item {
    /// How many tiles the `q_len` queries of the head are cut into, and which of them are this item's.
    #[inline(always)]
    pub(super) fn tiles(&self, tier: Tier, q_len: usize) -> (usize, Range<usize>) {
        let tiles = q_len.div_ceil(tile::max_mr(tier));
        (tiles, tiles * self.split / self.splits..tiles * (self.split + 1) / self.splits)
    }
}

/// Calls `run` with every item of a batch and at least `scratch` f32 of its worker's: on all workers where there is work
/// enough to share.
pub(super) fn for_items<T: Sync>(
    ctx: &mut Context,
    args: &Attention<'_, T>,
    scratch: usize,
    run: impl Fn(Item, &mut [f32]) + Sync,
) {
    let (tier, threads) = (ctx.isa.tier(), ctx.threads());
    let (heads, seqs) = (args.shape.heads, args.seqs.count());
    if heads * seqs == 0 {
        return;
    }
    ctx.reserve(scratch);
    let fork = worth_forking(threads, args.work(), 1, 1);
    let splits = if fork { splits(tier, threads, heads * seqs, args.seqs.max_lengths().0) } else { 1 };
    let items = heads * seqs * splits;
    let item = |index: usize| {
        let (head, split) = (index / splits, index % splits);
        let next = (index + 1) / splits;
        let next = (next > head && index + 1 < items).then_some((next / heads, next % heads));
        Item { seq: head / heads, head: head % heads, split, splits, next }
    };
    if fork {
        ctx.pool.run_with(items, &mut ctx.scratch, |part, scratch| run(item(part.index), scratch));
    } else {
        for index in 0..items {
            run(item(index), &mut ctx.scratch[0]);
        }
    }
}

/// How many items each of `heads` heads is cut into: enough for every worker, so that stealing can even out.
fn splits(tier: Tier, threads: usize, heads: usize, q_len: usize) -> usize {
    const ITEMS_PER_WORKER: usize = 4;
    let tiles = q_len.div_ceil(tile::max_mr(tier));
    (ITEMS_PER_WORKER * threads).div_ceil(heads).min(tiles).max(1)
}

/// An item and what it works on.
struct Head<'a> {
    args: &'a Attention<'a>,
    layout: HeadLayout,
    out: &'a Disjoint<'a, f32>,
    /// Whether results go past the caches.
    streams: bool,
    item: Item,
    scratch: &'a mut [f32],
}

impl SimdOp for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Attention { shape, seqs, q, k, v, bias } = *self.args;
        let (q_len, kv_len) = seqs.lengths(self.item.seq);
        let nr = tile::nr(S::TIER);
        let (dim, v_dim) = (shape.head_dim, shape.v_head_dim);
        let Item { seq, head, .. } = self.item;
        let (tiles, mine) = self.item.tiles(S::TIER, q_len);
        if mine.is_empty() {
            return;
        }
        let kv_head = head / (shape.heads / shape.kv_heads);
        let (k_len, v_len) = (kv_len.next_multiple_of(nr) * dim, kv_len * v_dim.next_multiple_of(nr));
        let (keys, rest) = self.scratch.split_at_mut(k_len);
        let (values, rest) = rest.split_at_mut(v_len);
        let results_stride = results_stride(S::TIER, v_dim);
        let (results, scores) = rest.split_at_mut(tile::max_mr(S::TIER) * results_stride);
        let keys_t = Strided {
            data: &k.data[k.layout.start(&seqs, seq, kv_head).min(k.data.len())..],
            rows: dim,
            cols: kv_len,
            row_stride: 1,
            col_stride: k.layout.row_stride,
        };
        let values_rows = Strided {
            data: &v.data[v.layout.start(&seqs, seq, kv_head).min(v.data.len())..],
            rows: kv_len,
            cols: v_dim,
            row_stride: v.layout.row_stride,
            col_stride: 1,
        };
        pack_panels(s, keys_t, keys);
        pack_panels(s, values_rows, values);

        let stride = scores_stride(S::TIER, kv_len);
        let q_start = q.layout.start(&seqs, seq, head);
        let out_start = self.layout.start(&seqs, seq, head);
        for tile in mine.clone() {
            if let Some((next_seq, next_head)) = self.item.next {
                let (q_len, kv_len) = seqs.lengths(next_seq);
                let kv_head = next_head / (shape.heads / shape.kv_heads);
                let share = (tile - mine.start, mine.len());
                fetch_head(s, &seqs, (next_seq, kv_head), (&k, kv_len, dim), share);
                fetch_head(s, &seqs, (next_seq, kv_head), (&v, kv_len, v_dim), share);
                fetch_head(s, &seqs, (next_seq, next_head), (&q, q_len, dim), share);
            }
            let (row, next) = (q_len * tile / tiles, q_len * (tile + 1) / tiles);
            let rows = next - row;
            let queries = &q.data[(q_start + row * q.layout.row_stride).min(q.data.len())..];
            // SAFETY: `attention` checked that Q has `q_len` rows of `dim` values; the scratch holds `max_mr` rows of
            // scores and K packed as `dim` rows per panel.
            unsafe {
                tiles_of_row::<S, OneF32>(
                    s,
                    rows,
                    (queries.as_ptr(), q.layout.row_stride),
                    (keys.as_ptr(), dim, kv_len),
                    (scores.as_mut_ptr(), stride),
                );
            }
            let mut factors = [0.0_f32; tile::max_mr(Tier::Avx512)];
            for i in 0..rows {
                let scores = &mut scores[i * stride..][..kv_len];
                let bias = bias.row(seq, head, row + i, kv_len);
                factors[i] = softmax_weights(s, scores, shape.scale, bias);
            }
            let at = out_start + row * self.layout.row_stride;
            let (sums, sums_stride) = match self.streams {
                true => (results.as_mut_ptr(), results_stride),
                false => (self.out.place(at), self.layout.row_stride),
            };
            // SAFETY: the scores' rows have `kv_len` values; V is packed as `kv_len` rows per panel; `attention`
            // checked that the output has `q_len` rows of `v_dim` values, and no other item writes these.
            unsafe {
                tiles_of_row::<S, OneF32>(
                    s,
                    rows,
                    (scores.as_ptr(), stride),
                    (values.as_ptr(), kv_len, v_dim),
                    (sums, sums_stride),
                );
                for (i, &factor) in factors.iter().enumerate().take(rows) {
                    let out = self.out.slice(at + i * self.layout.row_stride, v_dim);
                    match self.streams {
                        true => stream_scaled(s, &results[i * results_stride..][..v_dim], factor, out),
                        false => scale_row(s, out, factor),
                    }
                }
            }
        }
        if self.streams {
            s.fence();
        }
    }
}

/// `out = row factor`, past the caches.
///
/// # Safety
/// `out` must start at a multiple of a vector's size.
#[inline(always)]
unsafe fn stream_scaled<S: Simd>(s: S, row: &[f32], factor: f32, out: &mut [f32]) {
    let factor = s.splat(factor);
    let (mut rows, mut outs) = (row.chunks_exact(S::LANES), out.chunks_exact_mut(S::LANES));
    for (x, out) in (&mut rows).zip(&mut outs) {
        // SAFETY: room for a vector, at a multiple of vectors from an aligned start.
        unsafe { s.stream_ptr(out.as_mut_ptr(), s.mul(s.load(x), factor)) };
    }
    s.store_first(outs.into_remainder(), s.mul(s.load_first(rows.remainder()), factor));
}

/// `scores = e^(scale scores + bias - max)`; returns 1 over their sum, or 0 (and zeros) where every key is masked.
#[inline(always)]
fn softmax_weights<S: Simd>(s: S, scores: &mut [f32], scale: f32, bias: BiasRow<'_>) -> f32 {
    let largest = scaled_and_biased(s, scores, scale, bias);
    if largest == f32::NEG_INFINITY && scores.iter().all(|&x| x == f32::NEG_INFINITY) {
        scores.fill(0.0);
        return 0.0;
    }
    1.0 / exp_minus(s, scores, largest)
}

/// `scores = scale scores + bias`; returns the largest.
#[inline(always)]
pub(super) fn scaled_and_biased<S: Simd>(s: S, scores: &mut [f32], scale: f32, bias: BiasRow<'_>) -> f32 {
    match bias {
        BiasRow::None => scale_and_add::<S, false>(s, scores, scale, &[]),
        BiasRow::Add(bias) => scale_and_add::<S, true>(s, scores, scale, bias),
        BiasRow::Keep(keep) => {
            let largest = scale_and_add::<S, false>(s, scores, scale, &[]);
            if keep.contains(&0) { mask(scores, keep) } else { largest }
        }
    }
}

/// Masks what is not kept; returns the largest value left.
fn mask(scores: &mut [f32], keep: &[u8]) -> f32 {
    let mut largest = f32::NEG_INFINITY;
    for (x, &keep) in scores.iter_mut().zip(keep) {
        *x = if keep == 0 { f32::NEG_INFINITY } else { *x };
        largest = if *x > largest { *x } else { largest };
    }
    largest
}

/// `row = scale row + bias`; returns the largest value.
#[inline(always)]
fn scale_and_add<S: Simd, const BIAS: bool>(s: S, row: &mut [f32], scale: f32, bias: &[f32]) -> f32 {
    assert!(!BIAS || bias.len() == row.len());
    let factor = s.splat(scale);
    let mut largest = Max::new(s);
    for_vectors!(
        S,
        row.len(),
        |part, at| {
            let x = s.load(&row[at..]);
            let y = if BIAS { s.fma(x, factor, s.load(&bias[at..])) } else { s.mul(x, factor) };
            s.store(&mut row[at..], y);
            largest.take(s, part, y);
        },
        |at| {
            let tail = &mut row[at..];
            let x = s.load_first(tail);
            let y = if BIAS { s.fma(x, factor, s.load_first(&bias[at..])) } else { s.mul(x, factor) };
            s.store_first(tail, y);
            largest.take_first(s, tail.len(), y);
        }
    );
    largest.total(s)
}
