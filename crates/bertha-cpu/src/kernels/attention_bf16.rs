//! Attention on bf16 operands: [`super::attention`] with both products in bf16 and everything between them in f32.
//!
//! The items and their steps are the same. K is packed as it lies, in pairs along the head; V is packed in pairs of
//! neighbouring keys; the exponentials are rounded where the scores were, in pairs too, and their sum is that of the values
//! before rounding. Sums are f32, and a result is rounded once, after its division by the sum.

use half::bf16;

use super::attention::{
    Attention, HeadLayout, Item, for_items, pack_panels, scaled_and_biased, scores_stride, tiles_of_row,
};
use super::context::{Context, LINE};
use super::gemm::Strided;
use super::gemm::tile::{self, TwoBf16};
use super::math;
use super::reduce::{Sum, for_vectors};
use super::simd::{Simd, SimdOp};
use crate::isa::Tier;
use crate::pool::Disjoint;

/// Where the result goes.
#[derive(Debug)]
pub enum Mixed<'a> {
    /// f32.
    F32(&'a mut [f32]),
    /// Rounded to bf16.
    Bf16(&'a mut [bf16]),
}

impl Mixed<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(out) => out.len(),
            Self::Bf16(out) => out.len(),
        }
    }
}

/// The result, for all items.
enum Target<'a> {
    F32(Disjoint<'a, f32>),
    Bf16(Disjoint<'a, bf16>),
}

/// f32 of scratch per worker and its parts: K packed, V packed, scores, a tile of results.
fn scratch(tier: Tier, args: &Attention<'_, bf16>, keys: usize) -> [usize; 4] {
    let (nr, max_mr, shape) = (tile::nr(tier), tile::max_mr(tier), args.shape);
    [
        keys.next_multiple_of(nr) * (shape.head_dim / 2),
        keys.div_ceil(2) * shape.v_head_dim.next_multiple_of(nr),
        max_mr * scores_stride(tier, keys),
        max_mr * mixed_stride(tier, shape.v_head_dim),
    ]
}

/// Row stride of a tile of results.
const fn mixed_stride(tier: Tier, v_head_dim: usize) -> usize {
    v_head_dim.next_multiple_of(tile::nr(tier)) + LINE
}

/// out = softmax(scale Q K^T + bias) V; `out` has `v_head_dim` values per row and lies as `layout` says. A row depends on
/// its query and its sequence's keys and values alone, to the bit.
///
/// # Panics
/// When an operand, the bias or the output is too small for the batch, when output rows overlap, when heads or the rows
/// and heads of Q or K are an odd number of values apart, or where the CPU has no bf16 instructions.
pub fn attention_bf16(ctx: &mut Context, args: &Attention<'_, bf16>, layout: HeadLayout, out: Mixed<'_>) {
    args.check(out.len(), layout);
    let even = |layout: HeadLayout| {
        [layout.seq_stride, layout.head_stride, layout.row_stride]
            .iter()
            .all(|stride| stride.is_multiple_of(2))
    };
    let pairs = args.shape.head_dim.is_multiple_of(2) && even(args.q.layout) && even(args.k.layout);
    assert!(pairs, "queries and keys are whole pairs");
    let (isa, (_, kv_len)) = (ctx.isa, args.seqs.max_lengths());
    let strides = [layout.seq_stride, layout.head_stride, layout.row_stride];
    let (streams, out) = match out {
        Mixed::F32(out) => {
            (strides.iter().all(|stride| ctx.streams(out, *stride)), Target::F32(Disjoint::new(out)))
        }
        Mixed::Bf16(out) => {
            (strides.iter().all(|stride| ctx.streams(out, *stride)), Target::Bf16(Disjoint::new(out)))
        }
    };
    for_items(ctx, args, scratch(isa.tier(), args, kv_len).iter().sum(), |item, scratch| {
        isa.run_bf16(Head { args, layout, out: &out, streams, item, scratch });
    });
}

/// An item and what it works on.
struct Head<'a> {
    args: &'a Attention<'a, bf16>,
    layout: HeadLayout,
    out: &'a Target<'a>,
    /// Whether results go past the caches: then rows start at cache lines.
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
        let (dim, v_dim) = (shape.head_dim, shape.v_head_dim);
        let Item { seq, head, .. } = self.item;
        let (tiles, mine) = self.item.tiles(S::TIER, q_len);
        if mine.is_empty() {
            return;
        }
        let kv_head = head / (shape.heads / shape.kv_heads);
        let [k_len, v_len, scores_len, mixed_len] = scratch(S::TIER, self.args, kv_len);
        let (keys, rest) = self.scratch.split_at_mut(k_len);
        let (values, rest) = rest.split_at_mut(v_len);
        let (scores, rest) = rest.split_at_mut(scores_len);
        let mixed = &mut rest[..mixed_len];
        let keys_t = Strided {
            data: words(k.data, k.layout.start(&seqs, seq, kv_head)),
            rows: dim / 2,
            cols: kv_len,
            row_stride: 1,
            col_stride: k.layout.row_stride / 2,
        };
        pack_panels(s, keys_t, keys);
        let v_start = v.layout.start(&seqs, seq, kv_head).min(v.data.len());
        pack_pairs(s, &v.data[v_start..], v.layout.row_stride, (kv_len, v_dim), values);

        let (stride, mixed_stride) = (scores_stride(S::TIER, kv_len), mixed_stride(S::TIER, v_dim));
        let q_start = q.layout.start(&seqs, seq, head);
        let out_start = self.layout.start(&seqs, seq, head);
        for tile in mine {
            let (row, next) = (q_len * tile / tiles, q_len * (tile + 1) / tiles);
            let rows = next - row;
            let queries = words(q.data, q_start + row * q.layout.row_stride);
            // SAFETY: `attention_bf16` checked that Q has `q_len` rows of `dim` values; the scratch holds a tile's rows
            // of scores, K packed as `dim / 2` words per panel's row.
            unsafe {
                tiles_of_row::<S, TwoBf16>(
                    s,
                    rows,
                    (queries.as_ptr(), q.layout.row_stride / 2),
                    (keys.as_ptr(), dim / 2, kv_len),
                    (scores.as_mut_ptr(), stride),
                );
            }
            let mut factors = [0.0_f32; tile::max_mr(Tier::Avx512)];
            for i in 0..rows {
                let row_of_scores = &mut scores[i * stride..][..kv_len.next_multiple_of(2)];
                let bias = bias.row(seq, head, row + i, kv_len);
                let largest = scaled_and_biased(s, &mut row_of_scores[..kv_len], shape.scale, bias);
                factors[i] = round_weights(s, row_of_scores, kv_len, largest);
            }
            // SAFETY: a row of scores begins with its `kv_len` weights in pairs; V is packed as that many words per
            // panel's row; the scratch holds a tile's rows of results.
            unsafe {
                tiles_of_row::<S, TwoBf16>(
                    s,
                    rows,
                    (scores.as_ptr(), stride),
                    (values.as_ptr(), kv_len.div_ceil(2), v_dim),
                    (mixed.as_mut_ptr(), mixed_stride),
                );
            }
            for (i, factor) in factors.into_iter().enumerate().take(rows) {
                let at = out_start + (row + i) * self.layout.row_stride;
                let sums = &mixed[i * mixed_stride..][..v_dim];
                // SAFETY: `attention_bf16` checked that the output has `q_len` rows of `v_dim` values that do not overlap
                // and, with `streams`, start at cache lines; no other item writes these.
                unsafe {
                    match (self.out, self.streams) {
                        (Target::F32(out), false) => {
                            scale::<S, f32, false>(s, sums, factor, out.slice(at, v_dim));
                        }
                        (Target::F32(out), true) => {
                            scale::<S, f32, true>(s, sums, factor, out.slice(at, v_dim));
                        }
                        (Target::Bf16(out), false) => {
                            scale::<S, bf16, false>(s, sums, factor, out.slice(at, v_dim));
                        }
                        (Target::Bf16(out), true) => {
                            scale::<S, bf16, true>(s, sums, factor, out.slice(at, v_dim));
                        }
                    }
                }
            }
        }
        if self.streams {
            s.fence();
        }
    }
}

/// The pairs of bf16 from value `start` on, an even number, as words.
fn words(data: &[bf16], start: usize) -> &[f32] {
    let data = &data[start.min(data.len())..];
    bytemuck::cast_slice(&data[..data.len() / 2 * 2])
}

/// Packs V, `rows` x `cols` values, into panels of words: each holds a column's values in two neighbouring rows.
#[inline(always)]
fn pack_pairs<S: Simd>(s: S, v: &[bf16], stride: usize, (rows, cols): (usize, usize), out: &mut [f32]) {
    let (nr, pairs) = (tile::nr(S::TIER), rows.div_ceil(2));
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(v.len() >= (rows - 1) * stride + cols && out.len() >= pairs * cols.next_multiple_of(nr));
    let mut col = 0;
    while col < cols.next_multiple_of(nr) {
        let n = cols.saturating_sub(col).min(S::LANES);
        let (panel, within) = (col / nr, col % nr);
        for pair in 0..pairs {
            // A row or column that does not exist is read nowhere.
            let odd = if 2 * pair + 1 < rows { n } else { 0 };
            let even_at = v.as_ptr().wrapping_add(2 * pair * stride + col);
            let to = out.as_mut_ptr().wrapping_add((panel * pairs + pair) * nr + within);
            // SAFETY: `v` holds its rows and `out` its panels (checked above); `n` and `odd` end where they end.
            unsafe { s.store_ptr(to, s.load_bf16_pairs(even_at, n, even_at.wrapping_add(stride), odd)) };
        }
        col += S::LANES;
    }
}

/// Turns the first `keys` of a row of scores into `e^(score - largest)`, rounded to bf16, in pairs at the row's start, a
/// zero after an odd number of them; returns 1 over their sum, or 0 (and zeros) where every key is masked.
#[inline(always)]
fn round_weights<S: Simd>(s: S, row: &mut [f32], keys: usize, largest: f32) -> f32 {
    if largest == f32::NEG_INFINITY && row[..keys].iter().all(|&x| x == f32::NEG_INFINITY) {
        row.fill(0.0);
        return 0.0;
    }
    assert!(row.len() >= keys.next_multiple_of(2));
    let shift = s.splat(largest);
    let mut sum = Sum::new(s);
    // Values shrink to half their size in place: what is written lies before what is still to be read.
    let from = row.as_mut_ptr();
    let rounded = from.cast::<bf16>();
    for_vectors!(
        S,
        keys,
        |part, at| {
            // SAFETY: the row holds `keys` f32, a whole vector of them from `at` on, hence room for as many bf16.
            let y = math::exp(s, s.sub(unsafe { s.load_ptr(from.add(at)) }, shift));
            // SAFETY: as above.
            unsafe { s.store_bf16_ptr(rounded.add(at), S::LANES, y) };
            sum.add(s, part, y);
        },
        |at| {
            let n = keys - at;
            // SAFETY: the row holds `keys` f32, `n` of them from `at` on.
            let y = math::exp(s, s.sub(unsafe { s.load_first_ptr(from.add(at), n) }, shift));
            // SAFETY: as above.
            unsafe { s.store_bf16_ptr(rounded.add(at), n, y) };
            sum.add(s, 0, s.select(s.first(n), y, s.zero()));
        }
    );
    if keys % 2 == 1 {
        // SAFETY: an odd number of keys leaves room for one more bf16 in any row of at least one f32.
        unsafe { rounded.add(keys).write(bf16::ZERO) };
    }
    1.0 / sum.total(s)
}

/// A result's element type.
trait Store: Sized {
    /// Stores the first `n` lanes.
    ///
    /// # Safety
    /// `to` must be valid for writes of `n` values, at most `S::LANES`.
    unsafe fn store<S: Simd>(s: S, to: *mut Self, n: usize, x: S::F);

    /// Stores all lanes past the caches.
    ///
    /// # Safety
    /// `to` must be valid for writes of `S::LANES` values and aligned to as many.
    unsafe fn stream<S: Simd>(s: S, to: *mut Self, x: S::F);
}

impl Store for f32 {
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut f32, n: usize, x: S::F) {
        // SAFETY: this function's contract.
        unsafe { if n == S::LANES { s.store_ptr(to, x) } else { s.store_first_ptr(to, n, x) } }
    }

    #[inline(always)]
    unsafe fn stream<S: Simd>(s: S, to: *mut f32, x: S::F) {
        // SAFETY: this function's contract.
        unsafe { s.stream_ptr(to, x) }
    }
}

impl Store for bf16 {
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, to: *mut bf16, n: usize, x: S::F) {
        // SAFETY: this function's contract.
        unsafe { s.store_bf16_ptr(to, n, x) }
    }

    #[inline(always)]
    unsafe fn stream<S: Simd>(s: S, to: *mut bf16, x: S::F) {
        // SAFETY: this function's contract.
        unsafe { s.stream_bf16_ptr(to, x) }
    }
}

/// `to = factor from`; with `STREAM` past the caches.
///
/// # Safety
/// With `STREAM`, `to` must start at a cache line.
#[inline(always)]
unsafe fn scale<S: Simd, T: Store, const STREAM: bool>(s: S, from: &[f32], factor: f32, to: &mut [T]) {
    assert!(from.len() == to.len());
    let factor = s.splat(factor);
    let mut at = 0;
    while at < from.len() {
        let n = (from.len() - at).min(S::LANES);
        let x = if n == S::LANES { s.load(&from[at..]) } else { s.load_first(&from[at..]) };
        // SAFETY: `to` has as many values as `from`, and `n` of them are left; `at` is a multiple of vectors from its start.
        unsafe {
            let to = to.as_mut_ptr().add(at);
            if STREAM && n == S::LANES {
                T::stream(s, to, s.mul(x, factor));
            } else {
                T::store(s, to, n, s.mul(x, factor));
            }
        }
        at += n;
    }
}
