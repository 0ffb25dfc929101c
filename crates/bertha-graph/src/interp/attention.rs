//! Dense attention and rotary embedding, as ONNX defines them.

use super::Context;
use super::args::{Args, expect_dtype, expect_rank, expect_shape, floats, integers};
use super::error::{Fault, fault};
use super::index::broadcast_positions;
use super::reduce::softmax_of;
use super::value::{Elements, Value, element_count};
use crate::dtype::DType;
use crate::op::AttentionAttrs;

/// `[batch, heads, seq, dim]`.
struct Heads {
    batch: usize,
    heads: usize,
    seq: usize,
    dim: usize,
    values: Vec<f64>,
}

impl Heads {
    /// A 4-D operand as it is, a 3-D one split into heads.
    fn of(x: &Value, heads: usize, name: &str) -> Result<Heads, Fault> {
        let values = floats(x, name)?;
        match *x.shape() {
            [batch, heads, seq, dim] => Ok(Heads { batch, heads, seq, dim, values: values.to_vec() }),
            [batch, seq, hidden] if heads > 0 && hidden % heads == 0 => {
                let dim = hidden / heads;
                let mut split = Heads { batch, heads, seq, dim, values: Vec::with_capacity(values.len()) };
                for b in 0..batch {
                    for h in 0..heads {
                        for s in 0..seq {
                            let at = (b * seq + s) * hidden + h * dim;
                            split.values.extend(&values[at..at + dim]);
                        }
                    }
                }
                Ok(split)
            }
            [_, _, hidden] => fault!("`{name}`: {hidden} columns do not split into {heads} heads"),
            _ => fault!("`{name}` has shape {:?}, expected 3 or 4 dimensions", x.shape()),
        }
    }

    fn row(&self, batch: usize, head: usize, position: usize) -> &[f64] {
        let at = ((batch * self.heads + head) * self.seq + position) * self.dim;
        &self.values[at..at + self.dim]
    }

    /// These positions after those of a cache.
    fn after(self, past: Option<&Value>, name: &str) -> Result<Heads, Fault> {
        let Some(past) = past else { return Ok(self) };
        let cached = Heads::of(past, 0, name)?;
        if [cached.batch, cached.heads, cached.dim] != [self.batch, self.heads, self.dim] {
            return fault!(
                "`{name}` has shape {:?}, which does not precede [{}, {}, {}, {}]",
                past.shape(),
                self.batch,
                self.heads,
                self.seq,
                self.dim
            );
        }
        let seq = cached.seq + self.seq;
        let mut values = Vec::with_capacity(cached.values.len() + self.values.len());
        for b in 0..self.batch {
            for h in 0..self.heads {
                (0..cached.seq).for_each(|s| values.extend(cached.row(b, h, s)));
                (0..self.seq).for_each(|s| values.extend(self.row(b, h, s)));
            }
        }
        Ok(Heads { seq, values, ..self })
    }

    fn into_value(self, dtype: DType, context: Context) -> Value {
        context.floats(dtype, vec![self.batch, self.heads, self.seq, self.dim], self.values)
    }
}

/// What is added to the scores: minus infinity hides a key.
struct Bias {
    mask: Option<(Vec<f64>, Vec<usize>)>,
    /// Keys before the first query, for each batch, when later keys are hidden.
    causal: Option<Vec<i64>>,
    /// Keys that are there, for each batch.
    lengths: Option<Vec<i64>>,
    shape: [usize; 4],
}

impl Bias {
    /// The bias of all keys for one query.
    fn row(&self, batch: usize, head: usize, query: usize) -> Vec<f64> {
        let [_, heads, queries, keys] = self.shape;
        let hide = |hidden: bool| if hidden { f64::NEG_INFINITY } else { 0.0 };
        (0..keys)
            .map(|key| {
                let mask = self.mask.as_ref().map_or(0.0, |(mask, at)| {
                    mask[at[((batch * heads + head) * queries + query) * keys + key]]
                });
                let causal = self
                    .causal
                    .as_ref()
                    .map_or(0.0, |offsets| hide(key as i64 > (query as i64).saturating_add(offsets[batch])));
                let length = self.lengths.as_ref().map_or(0.0, |lengths| hide(key as i64 >= lengths[batch]));
                mask + causal + length
            })
            .collect()
    }
}

/// The mask as numbers to add, its last dimension extended to `keys` with hidden ones, and where its elements belong.
fn additive_mask(mask: &Value, dtype: DType, shape: [usize; 4]) -> Result<(Vec<f64>, Vec<usize>), Fault> {
    let keys = shape[3];
    let Some((given, lead)) = mask.shape().split_last() else {
        return fault!("`mask` is a scalar, expected at least one dimension");
    };
    let values: Vec<f64> = match mask.elements() {
        Elements::Bool(v) => v.iter().map(|seen| if *seen { 0.0 } else { f64::NEG_INFINITY }).collect(),
        _ => {
            expect_dtype(mask, "mask", dtype)?;
            floats(mask, "mask")?.to_vec()
        }
    };
    if *given >= keys {
        return Ok((values, broadcast_positions(mask.shape(), &shape)?));
    }
    let mut extended = Vec::new();
    for row in 0..lead.iter().product() {
        extended.extend(&values[row * given..(row + 1) * given]);
        extended.extend(std::iter::repeat_n(f64::NEG_INFINITY, keys - given));
    }
    Ok((extended, broadcast_positions(&[lead, &[keys]].concat(), &shape)?))
}

fn bias(attrs: &AttentionAttrs, args: Args, dtype: DType, shape: [usize; 4]) -> Result<Bias, Fault> {
    let [batch, _, queries, _] = shape;
    element_count(&shape)?;
    let mask = args.optional(3).map(|mask| additive_mask(mask, dtype, shape)).transpose()?;
    let lengths = match args.optional(6) {
        Some(lengths) => {
            expect_shape(lengths, "nonpad_kv_seqlen", &[batch])?;
            Some(integers(lengths, "nonpad_kv_seqlen")?)
        }
        None => None,
    };
    let causal = attrs.is_causal.then(|| match (args.optional(4), &lengths) {
        (Some(past), _) => vec![past.shape()[2] as i64; batch],
        (None, Some(lengths)) => lengths.iter().map(|length| length.saturating_sub(queries as i64)).collect(),
        (None, None) => vec![0; batch],
    });
    Ok(Bias { mask, causal, lengths, shape })
}

/// Scaled dot-product attention: the result, the keys and values with what was cached before them, and the scores as
/// `scores_mode` asks for them.
///
/// Scores are capped before the mask is added. A query that sees no key gives zeros.
pub(super) fn attention(attrs: &AttentionAttrs, args: Args, context: Context) -> Result<Vec<Value>, Fault> {
    let (q, k, v) = (args.required(0, "q")?, args.required(1, "k")?, args.required(2, "v")?);
    let dtype = q.dtype();
    if args.optional(4).is_some() != args.optional(5).is_some() {
        return fault!("`past_key` and `past_value` must come together");
    }
    for (value, name) in [(args.optional(4), "past_key"), (args.optional(5), "past_value")] {
        value.map_or(Ok(()), |value| expect_rank(value, name, 4))?;
    }
    if q.rank() != k.rank() || q.rank() != v.rank() {
        return fault!("q, k and v have shapes {:?}, {:?} and {:?}", q.shape(), k.shape(), v.shape());
    }
    let queries = Heads::of(q, attrs.q_heads, "q")?;
    let keys = Heads::of(k, attrs.kv_heads, "k")?.after(args.optional(4), "past_key")?;
    let values = Heads::of(v, attrs.kv_heads, "v")?.after(args.optional(5), "past_value")?;
    let agrees = keys.batch == queries.batch
        && keys.dim == queries.dim
        && [values.batch, values.heads, values.seq] == [keys.batch, keys.heads, keys.seq]
        && keys.heads > 0
        && queries.heads % keys.heads == 0;
    if !agrees {
        return fault!(
            "q, k and v of shapes {:?}, {:?} and {:?} do not fit",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    let bias = bias(attrs, args, dtype, [queries.batch, queries.heads, queries.seq, keys.seq])?;
    let (attended, scores) = attend(attrs, &queries, &keys, &values, &bias)?;
    let scores_shape = bias.shape.to_vec();
    let result =
        if q.rank() == 3 { attended.into_rows(dtype, context) } else { attended.into_value(dtype, context) };
    Ok(vec![
        result,
        keys.into_value(k.dtype(), context),
        values.into_value(v.dtype(), context),
        context.floats(dtype, scores_shape, scores),
    ])
}

/// The attended values, and the scores as asked for.
fn attend(
    attrs: &AttentionAttrs,
    queries: &Heads,
    keys: &Heads,
    values: &Heads,
    bias: &Bias,
) -> Result<(Heads, Vec<f64>), Fault> {
    let scale = attrs.scale.map_or(1.0 / (queries.dim as f64).sqrt(), f64::from);
    let softcap = f64::from(attrs.softcap);
    let group = queries.heads / keys.heads;
    let (batch, heads, seq) = (queries.batch, queries.heads, queries.seq);
    let mut out = Heads { batch, heads, seq, dim: values.dim, values: Vec::new() };
    out.values.reserve(element_count(&[batch, heads, seq, values.dim])?);
    let mut scores = Vec::with_capacity(element_count(&bias.shape)?);
    for b in 0..batch {
        for h in 0..heads {
            for i in 0..seq {
                let query = queries.row(b, h, i);
                let dot = |j| query.iter().zip(keys.row(b, h / group, j)).map(|(q, k)| q * k).sum::<f64>();
                let raw: Vec<f64> = (0..keys.seq).map(|j| dot(j) * scale).collect();
                let capped: Vec<f64> = raw
                    .iter()
                    .map(|x| if softcap > 0.0 { softcap * (x / softcap).tanh() } else { *x })
                    .collect();
                let row_bias = bias.row(b, h, i);
                let biased: Vec<f64> = capped.iter().zip(&row_bias).map(|(x, bias)| x + bias).collect();
                let seen = row_bias.iter().any(|bias| *bias != f64::NEG_INFINITY);
                let weights = if seen { softmax_of(&biased) } else { vec![0.0; keys.seq] };
                let mut row = vec![0.0; values.dim];
                for (j, p) in weights.iter().enumerate() {
                    row.iter_mut().zip(values.row(b, h / group, j)).for_each(|(sum, v)| *sum += p * v);
                }
                out.values.extend(row);
                scores.extend(match attrs.scores_mode {
                    0 => raw,
                    1 => capped,
                    2 => biased,
                    3 => weights,
                    mode => return fault!("scores mode {mode} is not defined; expected 0 to 3"),
                });
            }
        }
    }
    Ok((out, scores))
}

impl Heads {
    /// As `[batch, seq, heads * dim]`.
    fn into_rows(self, dtype: DType, context: Context) -> Value {
        let mut values = Vec::with_capacity(self.values.len());
        for b in 0..self.batch {
            for s in 0..self.seq {
                (0..self.heads).for_each(|h| values.extend(self.row(b, h, s)));
            }
        }
        context.floats(dtype, vec![self.batch, self.seq, self.heads * self.dim], values)
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
pub(super) fn rotary_embedding(attrs: RotaryAttrs, args: Args, context: Context) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    // Where the columns of a head begin, by batch, position and head.
    let (batch, seq, heads, dim, strides) = match *x.shape() {
        [batch, heads, seq, dim] => (batch, seq, heads, dim, [heads * seq * dim, dim, seq * dim]),
        [batch, seq, hidden] if attrs.heads > 0 && hidden % attrs.heads == 0 => {
            let dim = hidden / attrs.heads;
            (batch, seq, attrs.heads, dim, [seq * hidden, hidden, dim])
        }
        _ => return fault!("`x` of shape {:?} does not split into {} heads", x.shape(), attrs.heads),
    };
    let rotated = if attrs.rotary_dim == 0 { dim } else { attrs.rotary_dim };
    if rotated > dim || rotated % 2 != 0 {
        return fault!("{rotated} of {dim} columns cannot be rotated in pairs");
    }
    let half = rotated / 2;
    let rows = cache_rows(args, batch, seq, half)?;
    let cos = floats(args.required(1, "cos_cache")?, "cos_cache")?;
    let sin = floats(args.required(2, "sin_cache")?, "sin_cache")?;
    let mut values = floats(x, "x")?.to_vec();
    for b in 0..batch {
        for s in 0..seq {
            let row = rows[b * seq + s] * half;
            for h in 0..heads {
                let start = b * strides[0] + s * strides[1] + h * strides[2];
                for pair in 0..half {
                    let (first, second) =
                        if attrs.interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
                    let (re, im) = (values[start + first], values[start + second]);
                    let (cos, sin) = (cos[row + pair], sin[row + pair]);
                    values[start + first] = re * cos - im * sin;
                    values[start + second] = re * sin + im * cos;
                }
            }
        }
    }
    Ok(context.floats(x.dtype(), x.shape().to_vec(), values))
}

/// The row of the caches for each batch and position. With `position_ids` the caches are `[positions, half]`, else
/// `[batch, seq, half]`, where the first two dimensions may be 1.
fn cache_rows(args: Args, batch: usize, seq: usize, half: usize) -> Result<Vec<usize>, Fault> {
    let (cos, sin) = (args.required(1, "cos_cache")?, args.required(2, "sin_cache")?);
    expect_shape(sin, "sin_cache", cos.shape())?;
    let Some(ids) = args.optional(3) else {
        expect_rank(cos, "cos_cache", 3)?;
        expect_shape(cos, "cos_cache", &[cos.shape()[0], cos.shape()[1], half])?;
        return broadcast_positions(&cos.shape()[..2], &[batch, seq]);
    };
    expect_shape(ids, "position_ids", &[batch, seq])?;
    expect_rank(cos, "cos_cache", 2)?;
    let positions = cos.shape()[0];
    expect_shape(cos, "cos_cache", &[positions, half])?;
    integers(ids, "position_ids")?
        .into_iter()
        .map(|id| super::index::normalize_index(id, positions, "`position_ids`"))
        .collect()
}
