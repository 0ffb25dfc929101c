//! Dense attention and rotary embedding, as ONNX defines them.

use bertha_graph::{AttentionAttrs, DType};

use super::error::{Fault, Outcome, fault};
use super::nest::Nest;
use super::norm::dot;
use super::number::{Arith, Float, Number, Real, with_float};
use super::operands::{Ints, Operands, expect_dtype, expect_shape};
use super::reduce::softmax_of;
use super::scratch::Scratch;
use super::tensor::{TensorMut, TensorRef};

/// Queries, keys or values by batch, head and position, however they lie.
#[derive(Clone, Copy)]
struct Heads {
    batch: usize,
    heads: usize,
    seq: usize,
    dim: usize,
    /// Elements from one batch, head and position to the next.
    steps: [usize; 3],
}

impl Heads {
    /// `[batch, heads, seq, dim]`, or `[batch, seq, heads * dim]`.
    fn of(shape: &[usize], heads: usize, name: &str) -> Outcome<Heads> {
        match *shape {
            [batch, heads, seq, dim] => {
                Ok(Heads { batch, heads, seq, dim, steps: [heads * seq * dim, seq * dim, dim] })
            }
            [batch, seq, hidden] if heads > 0 && hidden.is_multiple_of(heads) => {
                let dim = hidden / heads;
                Ok(Heads { batch, heads, seq, dim, steps: [seq * hidden, dim, hidden] })
            }
            _ => fault!("`{name}` of shape {shape:?} does not split into {heads} heads"),
        }
    }

    fn row<'t, T>(&self, values: &'t [T], batch: usize, head: usize, position: usize) -> &'t [T] {
        let at = batch * self.steps[0] + head * self.steps[1] + position * self.steps[2];
        &values[at..at + self.dim]
    }
}

/// New keys (or values) after those of a cache.
#[derive(Clone, Copy)]
struct Cached<'a> {
    new: (TensorRef<'a>, Heads),
    past: Option<(TensorRef<'a>, Heads)>,
}

impl<'a> Cached<'a> {
    fn new(new: TensorRef<'a>, heads: usize, past: Option<TensorRef<'a>>, name: &str) -> Outcome<Self> {
        let own = Heads::of(new.shape, heads, name)?;
        let past = match past {
            Some(past) => {
                expect_dtype(past, "past", new.dtype)?;
                let [_, _, seq, _] = *past.shape else {
                    return fault!("the cache of `{name}` has shape {:?}, expected 4 dimensions", past.shape);
                };
                expect_shape(past, "past", &[own.batch, own.heads, seq, own.dim])?;
                Some((past, Heads::of(past.shape, 0, name)?))
            }
            None => None,
        };
        Ok(Cached { new: (new, own), past })
    }

    /// Positions in all.
    fn seq(&self) -> usize {
        self.new.1.seq + self.past_seq()
    }

    fn past_seq(&self) -> usize {
        self.past.map_or(0, |(_, heads)| heads.seq)
    }

    fn row<T: Number>(&self, batch: usize, head: usize, position: usize) -> &'a [T] {
        match self.past {
            Some((past, heads)) if position < heads.seq => heads.row(past.slice(), batch, head, position),
            _ => self.new.1.row(self.new.0.slice(), batch, head, position - self.past_seq()),
        }
    }

    /// Writes all positions as `[batch, heads, seq, dim]`.
    fn present<T: Number>(&self, y: &mut TensorMut) -> Outcome {
        let Heads { batch, heads, dim, .. } = self.new.1;
        y.expect_dtype(self.new.0.dtype)?;
        y.expect_shape(&[batch, heads, self.seq(), dim])?;
        let mut rows = y.slice::<T>().chunks_exact_mut(dim.max(1));
        for b in 0..batch {
            for h in 0..heads {
                for s in 0..self.seq() {
                    if let Some(row) = rows.next() {
                        row.copy_from_slice(self.row(b, h, s));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What hides keys or is added to their scores.
struct Bias<'a> {
    /// The mask, the loops over `[batch, heads, queries, its own keys]`, and how many keys it has.
    mask: Option<(TensorRef<'a>, Nest<1>, usize)>,
    is_causal: bool,
    past: usize,
    lengths: Option<Ints<'a>>,
    /// Batches, heads, queries, keys.
    sizes: [usize; 4],
}

impl<'a> Bias<'a> {
    fn new(
        attrs: &AttentionAttrs,
        operands: Operands<'a, '_>,
        dtype: DType,
        past: usize,
        sizes: [usize; 4],
    ) -> Outcome<Self> {
        let [batch, heads, queries, keys] = sizes;
        let mask = match operands.optional(3) {
            Some(mask) => {
                if mask.dtype != DType::Bool {
                    expect_dtype(mask, "mask", dtype)?;
                }
                let Some(own_keys) = mask.shape.last() else {
                    return fault!("`mask` is a scalar, expected at least one dimension");
                };
                // Keys beyond its last dimension are hidden.
                let covered = [batch, heads, queries, (*own_keys).min(keys)];
                Some((mask, Nest::broadcast(&covered, [mask.shape])?, covered[3]))
            }
            None => None,
        };
        let lengths = match operands.optional(6) {
            Some(lengths) => {
                expect_shape(lengths, "nonpad_kv_seqlen", &[batch])?;
                Some(Ints::of(lengths, "nonpad_kv_seqlen")?)
            }
            None => None,
        };
        Ok(Bias { mask, is_causal: attrs.is_causal, past, lengths, sizes })
    }

    /// Fills `row` with the bias of all keys for one query; minus infinity hides a key. Says whether any is seen.
    fn fill<T: Float>(&self, batch: usize, head: usize, query: usize, row: &mut [T::Wide]) -> bool {
        row.fill(Arith::ZERO);
        if let Some((mask, nest, own_keys)) = &self.mask {
            let [_, heads, queries, _] = self.sizes;
            let (mine, beyond) = row.split_at_mut(*own_keys);
            beyond.fill(Real::NEG_INFINITY);
            let first = ((batch * heads + head) * queries + query) * own_keys;
            if !mine.is_empty() {
                let [at] = nest.locate(first);
                // Within a row the mask is dense, for it has as many keys as the row, or a single one.
                let step = usize::from(mask.shape.last().is_some_and(|last| *last != 1));
                for (key, bias) in mine.iter_mut().enumerate() {
                    *bias = mask_at::<T>(*mask, at + key * step);
                }
            }
        }
        let length = self.lengths.map(|lengths| lengths.get(batch));
        let seen_by_query = match (self.is_causal, length) {
            (false, _) => i64::MAX,
            (true, Some(length)) if self.past == 0 => {
                (query as i64 + 1).saturating_add(length).saturating_sub(self.sizes[2] as i64)
            }
            (true, _) => (query + 1 + self.past) as i64,
        };
        let seen = seen_by_query.min(length.unwrap_or(i64::MAX)).clamp(0, row.len() as i64) as usize;
        row[seen..].fill(Real::NEG_INFINITY);
        row.iter().any(|bias| *bias != Real::NEG_INFINITY)
    }
}

fn mask_at<T: Float>(mask: TensorRef, at: usize) -> T::Wide {
    match mask.dtype {
        DType::Bool if mask.bytes[at] != 0 => Arith::ZERO,
        DType::Bool => Real::NEG_INFINITY,
        _ => mask.slice::<T>()[at].widen(),
    }
}

/// Scaled dot-product attention: the result, the keys and values with what was cached before them, and the scores as
/// `scores_mode` asks for them.
///
/// Scores are capped before the mask is added. A query that sees no key gives zeros.
pub(super) fn attention(
    attrs: &AttentionAttrs,
    operands: Operands,
    results: &mut [Option<TensorMut>],
    scratch: &mut Scratch,
) -> Outcome {
    let q = operands.required(0, "q")?;
    let k = operands.typed(1, "k", q.dtype)?;
    let v = operands.typed(2, "v", q.dtype)?;
    let (past_k, past_v) = (operands.optional(4), operands.optional(5));
    if past_k.is_some() != past_v.is_some() || q.rank() != k.rank() || q.rank() != v.rank() {
        return fault!("q, k and v need one rank, and the caches of k and v must come together");
    }
    let queries = Heads::of(q.shape, attrs.q_heads, "q")?;
    let keys = Cached::new(k, attrs.kv_heads, past_k, "k")?;
    let values = Cached::new(v, attrs.kv_heads, past_v, "v")?;
    let (key, value) = (keys.new.1, values.new.1);
    let agrees = [key.batch, key.dim] == [queries.batch, queries.dim]
        && [value.batch, value.heads] == [key.batch, key.heads]
        && values.seq() == keys.seq()
        && key.heads > 0
        && queries.heads.is_multiple_of(key.heads);
    if !agrees || attrs.scores_mode > 3 {
        return fault!("q, k and v of shapes {:?}, {:?} and {:?} do not fit", q.shape, k.shape, v.shape);
    }
    let sizes = [queries.batch, queries.heads, queries.seq, keys.seq()];
    let bias = Bias::new(attrs, operands, q.dtype, keys.past_seq(), sizes)?;
    let job = Job { attrs, q, queries, keys, values, bias, rows: q.rank() == 3 };
    with_float!(q.dtype, T => job.run::<T>(results, scratch))
}

struct Job<'a> {
    attrs: &'a AttentionAttrs,
    q: TensorRef<'a>,
    queries: Heads,
    keys: Cached<'a>,
    values: Cached<'a>,
    bias: Bias<'a>,
    /// Whether the result is `[batch, seq, heads * dim]`.
    rows: bool,
}

impl Job<'_> {
    fn run<T: Float>(&self, results: &mut [Option<TensorMut>], scratch: &mut Scratch) -> Outcome {
        let [batch, heads, seq, total] = self.bias.sizes;
        let mut listed = results.iter_mut().map(Option::as_mut);
        let mut result = listed.next().flatten();
        if let Some(present) = listed.next().flatten() {
            self.keys.present::<T>(present)?;
        }
        if let Some(present) = listed.next().flatten() {
            self.values.present::<T>(present)?;
        }
        let mut scores = listed.next().flatten();
        let dim_v = self.values.new.1.dim;
        if let Some(y) = &result {
            y.expect_dtype(T::DTYPE)?;
            match self.rows {
                true => y.expect_shape(&[batch, seq, heads * dim_v])?,
                false => y.expect_shape(&[batch, heads, seq, dim_v])?,
            }
        }
        if let Some(scores) = &scores {
            scores.expect_dtype(T::DTYPE)?;
            scores.expect_shape(&self.bias.sizes)?;
        }
        let dim = self.queries.dim;
        let head_len = total * (dim + dim_v);
        let (wide, rows) = scratch.two::<T::Wide, T::Wide>(head_len, dim + dim_v + 3 * total);
        let (keys, values) = wide.split_at_mut(total * dim);
        let group = heads / self.keys.new.1.heads;
        for b in 0..batch {
            for h in 0..heads {
                if h % group == 0 {
                    self.widen_head::<T>(b, h / group, keys, values);
                }
                for i in 0..seq {
                    let mut row = Rows::split(rows, dim, dim_v, total);
                    let asked = self.attend::<T>([b, h, i], keys, values, &mut row);
                    if let Some(y) = &mut result {
                        let at =
                            if self.rows { (b * seq + i) * heads + h } else { (b * heads + h) * seq + i };
                        T::narrow_all(row.out, &mut y.slice()[at * dim_v..(at + 1) * dim_v]);
                    }
                    if let Some(scores) = &mut scores {
                        let first = ((b * heads + h) * seq + i) * total;
                        T::narrow_all(row.of(asked), &mut scores.slice()[first..first + total]);
                    }
                }
            }
        }
        Ok::<(), Fault>(())
    }

    /// Keys and values of one head, contiguous.
    fn widen_head<T: Float>(&self, batch: usize, head: usize, keys: &mut [T::Wide], values: &mut [T::Wide]) {
        for (which, wide, dim) in
            [(&self.keys, keys, self.queries.dim), (&self.values, values, self.values.new.1.dim)]
        {
            for (position, wide) in wide.chunks_exact_mut(dim.max(1)).enumerate() {
                T::widen_all(which.row(batch, head, position), wide);
            }
        }
    }

    /// One query: fills `out`, and says which row holds the scores that are asked for.
    fn attend<T: Float>(
        &self,
        [batch, head, query]: [usize; 3],
        keys: &[T::Wide],
        values: &[T::Wide],
        row: &mut Rows<T::Wide>,
    ) -> Asked {
        let (dim, dim_v) = (self.queries.dim, row.out.len());
        let scale = self.attrs.scale.map_or(1.0 / (dim as f64).sqrt(), f64::from);
        let (scale, cap) = (T::Wide::from_f64(scale), f64::from(self.attrs.softcap));
        T::widen_all(self.queries.row(self.q.slice::<T>(), batch, head, query), row.query);
        for (j, score) in row.scores.iter_mut().enumerate() {
            *score = dot(row.query, &keys[j * dim..(j + 1) * dim]).times(scale);
        }
        let mode = self.attrs.scores_mode;
        if mode == 0 {
            row.kept.copy_from_slice(row.scores);
        }
        if cap > 0.0 {
            let cap = T::Wide::from_f64(cap);
            row.scores.iter_mut().for_each(|score| *score = score.over(cap).tanh().times(cap));
        }
        if mode == 1 {
            row.kept.copy_from_slice(row.scores);
        }
        let any_seen = self.bias.fill::<T>(batch, head, query, row.bias);
        row.scores.iter_mut().zip(&*row.bias).for_each(|(score, bias)| *score = score.plus(*bias));
        if mode == 2 {
            row.kept.copy_from_slice(row.scores);
        }
        match any_seen {
            true => softmax_of(row.scores),
            false => row.scores.fill(Arith::ZERO),
        }
        row.out.fill(Arith::ZERO);
        if dim_v > 0 {
            for (weight, value) in row.scores.iter().zip(values.chunks_exact(dim_v)) {
                row.out.iter_mut().zip(value).for_each(|(sum, v)| *sum = sum.plus(weight.times(*v)));
            }
        }
        if mode == 3 { Asked::Weights } else { Asked::Kept }
    }
}

/// Which row of [`Rows`] holds the scores that are asked for.
#[derive(Clone, Copy)]
enum Asked {
    Weights,
    Kept,
}

/// Working memory for one query.
struct Rows<'a, W> {
    query: &'a mut [W],
    out: &'a mut [W],
    scores: &'a mut [W],
    bias: &'a mut [W],
    kept: &'a mut [W],
}

impl<'a, W> Rows<'a, W> {
    fn split(rows: &'a mut [W], dim: usize, dim_v: usize, total: usize) -> Self {
        let (query, rest) = rows.split_at_mut(dim);
        let (out, rest) = rest.split_at_mut(dim_v);
        let (scores, rest) = rest.split_at_mut(total);
        let (bias, rest) = rest.split_at_mut(total);
        Rows { query, out, scores, bias, kept: &mut rest[..total] }
    }

    fn of(&self, asked: Asked) -> &[W] {
        match asked {
            Asked::Weights => self.scores,
            Asked::Kept => self.kept,
        }
    }
}

/// What [`rotary_embedding`] is asked for beside its operands.
#[derive(Clone, Copy)]
pub(super) struct RotaryAttrs {
    pub interleaved: bool,
    pub heads: usize,
    pub rotary_dim: usize,
}

/// Rotates pairs of columns of each head by the angle of its position.
pub(super) fn rotary_embedding(attrs: RotaryAttrs, operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    let cos = operands.typed(1, "cos_cache", x.dtype)?;
    let sin = operands.typed(2, "sin_cache", x.dtype)?;
    y.expect_dtype(x.dtype)?;
    y.expect_shape(x.shape)?;
    let heads = Heads::of(x.shape, attrs.heads, "x")?;
    let rotated = if attrs.rotary_dim == 0 { heads.dim } else { attrs.rotary_dim };
    if rotated > heads.dim || !rotated.is_multiple_of(2) {
        return fault!("{rotated} of {} columns cannot be rotated in pairs", heads.dim);
    }
    let half = rotated / 2;
    expect_shape(sin, "sin_cache", cos.shape)?;
    let places = [heads.batch, heads.seq];
    let rows = match (operands.optional(3), cos.shape) {
        (Some(ids), [positions, width]) if *width == half => {
            expect_shape(ids, "position_ids", &places)?;
            CacheRows { by_place: Nest::at([0]), ids: Some((Ints::of(ids, "position_ids")?, *positions)) }
        }
        (None, [lead @ .., width]) if *width == half && lead.len() == 2 => {
            CacheRows { by_place: Nest::broadcast(&places, [lead])?, ids: None }
        }
        _ => return fault!("`cos_cache` has shape {:?}, which does not fit {half} pairs", cos.shape),
    };
    y.bytes.copy_from_slice(x.bytes);
    with_float!(x.dtype, T => {
        let y = y.slice::<T>();
        for place in 0..heads.batch * heads.seq {
            let row = rows.at(place)? * half;
            let (cos, sin) = (&cos.slice::<T>()[row..row + half], &sin.slice::<T>()[row..row + half]);
            for h in 0..heads.heads {
                let [batch, head, position] = heads.steps;
                let start = place / heads.seq * batch + place % heads.seq * position + h * head;
                rotate::<T>(&mut y[start..start + rotated], cos, sin, attrs.interleaved);
            }
        }
        Ok::<(), Fault>(())
    })
}

/// Which row of the caches belongs to a place, `batch * seq + position`.
struct CacheRows<'a> {
    /// Without ids: the caches broadcast to the places.
    by_place: Nest<1>,
    /// The id of each place, and how many positions the caches have.
    ids: Option<(Ints<'a>, usize)>,
}

impl CacheRows<'_> {
    fn at(&self, place: usize) -> Outcome<usize> {
        match self.ids {
            Some((ids, positions)) => ids.position(place, positions),
            None => Ok(self.by_place.locate(place)[0]),
        }
    }
}

fn rotate<T: Float>(columns: &mut [T], cos: &[T], sin: &[T], interleaved: bool) {
    let half = cos.len();
    for pair in 0..half {
        let (first, second) = if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
        let (re, im) = (columns[first].widen(), columns[second].widen());
        let (cos, sin) = (cos[pair].widen(), sin[pair].widen());
        columns[first] = T::narrow(re.times(cos).minus(im.times(sin)));
        columns[second] = T::narrow(re.times(sin).plus(im.times(cos)));
    }
}
