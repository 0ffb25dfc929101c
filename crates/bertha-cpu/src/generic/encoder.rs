//! The encoder operations in all float dtypes.

use bertha_graph::{Activation, PoolKind, RelativeBuckets, WeightLayout};

use super::error::{Fault, Outcome, fault};
use super::nest::{Nest, Small};
use super::norm::{dot, normalize};
use super::number::{Arith, Float, Number, Real, with_float};
use super::operands::{Ints, Operands, expect_shape, matrix};
use super::reduce::softmax_of;
use super::scratch::Scratch;
use super::tensor::{TensorMut, TensorRef};
use super::unary::{gelu_erf, gelu_tanh, sigmoid};

/// The sum of one row of each table. Ids of several tables broadcast.
pub(super) fn embedding_sum(operands: Operands, y: &mut TensorMut, scratch: &mut Scratch) -> Outcome {
    embeddings(operands, None, y, scratch)
}

/// The layer norm of the sum of one row of each table; gamma and beta are the last operands.
pub(super) fn embedding_layer_norm(
    epsilon: f32,
    operands: Operands,
    y: &mut TensorMut,
    scratch: &mut Scratch,
) -> Outcome {
    let pairs = operands.0.len().saturating_sub(2);
    let (gamma, beta) =
        (operands.typed(pairs, "gamma", y.dtype)?, operands.typed(pairs + 1, "beta", y.dtype)?);
    let hidden = y.shape.last().map_or(&[][..], std::slice::from_ref);
    expect_shape(gamma, "gamma", hidden)?;
    expect_shape(beta, "beta", hidden)?;
    embeddings(Operands(&operands.0[..pairs]), Some((gamma, beta, epsilon)), y, scratch)
}

/// The sum of one row of each table, normalised with gamma, beta and epsilon where they are given.
fn embeddings(
    operands: Operands,
    norm: Option<(TensorRef, TensorRef, f32)>,
    y: &mut TensorMut,
    scratch: &mut Scratch,
) -> Outcome {
    if operands.0.is_empty() || !operands.0.len().is_multiple_of(2) {
        return fault!("{} operands, expected pairs of ids and table", operands.0.len());
    }
    let Some((hidden, lead)) = y.shape.split_last() else {
        return fault!("the result is planned as a scalar");
    };
    let (hidden, tokens) = (*hidden, lead.iter().product::<usize>());
    for pair in 0..operands.0.len() / 2 {
        let table = operands.typed(2 * pair + 1, "table", y.dtype)?;
        let (_, width) = matrix(table, "table")?;
        let ids = operands.required(2 * pair, "ids")?;
        Nest::broadcast(lead, [ids.shape])?;
        Ints::of(ids, "ids")?;
        if width != hidden {
            return fault!("`table` has {width} columns, the result {hidden}");
        }
    }
    with_float!(y.dtype, T => {
        let (sums, row) = scratch.two::<<T as Number>::Wide, <T as Number>::Wide>(hidden, hidden);
        for token in 0..tokens {
            sums.fill(Arith::ZERO);
            for pair in 0..operands.0.len() / 2 {
                let ids = operands.required(2 * pair, "ids")?;
                let table = operands.required(2 * pair + 1, "table")?;
                let [at] = if ids.len() == tokens { [token] } else { Nest::broadcast(lead, [ids.shape])?.locate(token) };
                let id = Ints::of(ids, "ids")?.get(at);
                let Some(first) = usize::try_from(id).ok().filter(|id| *id < table.shape[0]) else {
                    return fault!("`ids`: {id} is out of range for a table of {} rows", table.shape[0]);
                };
                T::widen_all(&table.slice()[first * hidden..(first + 1) * hidden], row);
                sums.iter_mut().zip(&*row).for_each(|(sum, x)| *sum = sum.plus(*x));
            }
            let y = &mut y.slice()[token * hidden..(token + 1) * hidden];
            match norm {
                None => T::narrow_all(sums, y),
                Some((gamma, beta, epsilon)) => {
                    normalize(sums, epsilon);
                    let affine = gamma.slice::<T>().iter().zip(beta.slice::<T>());
                    for (y, (x, (gamma, beta))) in y.iter_mut().zip(sums.iter().zip(affine)) {
                        *y = T::narrow(x.times(gamma.widen()).plus(beta.widen()));
                    }
                }
            }
        }
        Ok::<(), Fault>(())
    })
}

/// `activation(x * weight + bias) + residual` over the last dimension.
pub(super) fn linear(
    layout: WeightLayout,
    activation: Activation,
    operands: Operands,
    y: &mut TensorMut,
    scratch: &mut Scratch,
) -> Outcome {
    use super::matmul::{Layout, Sizes, multiply};
    let x = operands.typed(0, "x", y.dtype)?;
    let weight = operands.typed(1, "weight", y.dtype)?;
    let bias = operands.optional_typed(2, "bias", y.dtype)?;
    let residual = operands.optional_typed(3, "residual", y.dtype)?;
    let (rows, columns) = matrix(weight, "weight")?;
    let (k, n, at_b) = match layout {
        WeightLayout::InOut => (rows, columns, Layout { start: 0, row: columns, column: 1 }),
        WeightLayout::OutIn => (columns, rows, Layout { start: 0, row: 1, column: columns }),
    };
    let Some((last, lead)) = x.shape.split_last() else {
        return fault!("`x` is a scalar, expected at least one dimension");
    };
    if *last != k {
        return fault!("`x` has shape {:?}, but the weight takes {k} inputs", x.shape);
    }
    y.expect_shape(&Small::of(lead.iter().copied().chain([n]))?)?;
    bias.map_or(Ok(()), |bias| expect_shape(bias, "bias", &[n]))?;
    residual.map_or(Ok(()), |residual| expect_shape(residual, "residual", y.shape))?;
    let sizes = Sizes { m: lead.iter().product(), k, n };
    let at_a = Layout { start: 0, row: k, column: 1 };
    with_float!(y.dtype, T => {
        let y = y.slice::<T>();
        let (bias, residual) = (bias.map(|b| b.slice::<T>()), residual.map(|r| r.slice::<T>()));
        multiply((x.slice::<T>(), at_a), (weight.slice(), at_b), sizes, scratch, |row, column, sums| {
            let first = row * n + column;
            for (i, (y, sum)) in y[first..first + sums.len()].iter_mut().zip(sums).enumerate() {
                let biased = bias.map_or(*sum, |bias| sum.plus(bias[column + i].widen()));
                let active = activate(activation, biased);
                *y = T::narrow(residual.map_or(active, |residual| active.plus(residual[first + i].widen())));
            }
        });
        Ok::<(), Fault>(())
    })
}

fn activate<W: Real>(activation: Activation, x: W) -> W {
    match activation {
        Activation::None => x,
        Activation::Relu => x.larger(W::ZERO),
        Activation::Tanh => x.tanh(),
        Activation::GeluErf => gelu_erf(x),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::Silu => x.times(sigmoid(x)),
    }
}

/// Where sequences begin and end among tokens.
#[derive(Clone, Copy)]
struct Sequences<'a> {
    bounds: Ints<'a>,
}

impl<'a> Sequences<'a> {
    fn of(cu_seqlens: TensorRef<'a>, tokens: usize) -> Outcome<Self> {
        let bounds = Ints::of(cu_seqlens, "cu_seqlens")?;
        let count = bounds.len();
        let valid = cu_seqlens.rank() == 1
            && count > 0
            && bounds.get(0) == 0
            && (1..count).all(|i| bounds.get(i - 1) <= bounds.get(i))
            && bounds.get(count - 1) == tokens as i64;
        if !valid {
            return fault!("`cu_seqlens` must rise from 0 to {tokens}, the number of tokens");
        }
        Ok(Sequences { bounds })
    }

    fn count(&self) -> usize {
        self.bounds.len() - 1
    }

    fn get(&self, sequence: usize) -> std::ops::Range<usize> {
        self.bounds.get(sequence) as usize..self.bounds.get(sequence + 1) as usize
    }
}

/// What [`ragged_attention`] is asked for beside its operands.
#[derive(Clone, Copy)]
pub(super) struct RaggedAttrs {
    pub heads: usize,
    pub scale: f32,
    pub relative: Option<RelativeBuckets>,
}

/// Bidirectional attention of each sequence with itself.
pub(super) fn ragged_attention(
    attrs: RaggedAttrs,
    operands: Operands,
    y: &mut TensorMut,
    scratch: &mut Scratch,
) -> Outcome {
    let q = operands.typed(0, "q", y.dtype)?;
    let (tokens, stride) = matrix(q, "q")?;
    let (k, v) = (operands.optional_typed(1, "k", y.dtype)?, operands.optional_typed(2, "v", y.dtype)?);
    let (width, qkv) = match (k, v) {
        (Some(k), Some(v)) => {
            expect_shape(k, "k", &[tokens, stride])?;
            expect_shape(v, "v", &[tokens, stride])?;
            (stride, [(q, 0), (k, 0), (v, 0)])
        }
        (None, None) if stride.is_multiple_of(3) => {
            (stride / 3, [(q, 0), (q, stride / 3), (q, 2 * (stride / 3))])
        }
        _ => {
            return fault!(
                "queries, keys and values must be three tensors, or one of {stride} columns in three parts"
            );
        }
    };
    y.expect_shape(&[tokens, width])?;
    if attrs.heads == 0 || !width.is_multiple_of(attrs.heads) {
        return fault!("{width} columns do not split into {} heads", attrs.heads);
    }
    let sequences = Sequences::of(operands.required(3, "cu_seqlens")?, tokens)?;
    let table = operands.optional_typed(4, "relative_bias", y.dtype)?;
    match (attrs.relative, table) {
        (None, None) => {}
        (Some(relative), Some(table)) if relative.buckets >= 2 && relative.max_distance > 0 => {
            expect_shape(table, "relative_bias", &[relative.buckets, attrs.heads])?;
        }
        _ => return fault!("`relative_bias` and relative buckets must come together"),
    }
    with_float!(y.dtype, T => {
        attend_sequences::<T>(attrs, sequences, qkv, table, (y.slice(), width), scratch);
        Ok::<(), Fault>(())
    })
}

fn attend_sequences<T: Float>(
    attrs: RaggedAttrs,
    sequences: Sequences,
    // With the column at which the part begins.
    [q, k, v]: [(TensorRef, usize); 3],
    table: Option<TensorRef>,
    (y, width): (&mut [T], usize),
    scratch: &mut Scratch,
) {
    let stride = q.0.shape[1];
    let (heads, dim) = (attrs.heads, width / attrs.heads);
    let [q, k, v] = [q, k, v].map(|(tensor, start)| (tensor.slice::<T>(), start));
    let table = attrs.relative.zip(table.map(|table| table.slice::<T>()));
    let scale = T::Wide::from_f64(f64::from(attrs.scale));
    for sequence in (0..sequences.count()).map(|i| sequences.get(i)) {
        let len = sequence.len();
        let (wide, row) = scratch.two::<T::Wide, T::Wide>(2 * len * dim, len + 2 * dim);
        let (keys, values) = wide.split_at_mut(len * dim);
        let (scores, row) = row.split_at_mut(len);
        let (query, out) = row.split_at_mut(dim);
        for head in 0..heads {
            let first = |start: usize, token: usize| token * stride + start + head * dim;
            for (j, token) in sequence.clone().enumerate() {
                T::widen_all(&k.0[first(k.1, token)..][..dim], &mut keys[j * dim..][..dim]);
                T::widen_all(&v.0[first(v.1, token)..][..dim], &mut values[j * dim..][..dim]);
            }
            for (i, token) in sequence.clone().enumerate() {
                T::widen_all(&q.0[first(q.1, token)..][..dim], query);
                for (j, score) in scores.iter_mut().enumerate() {
                    *score = dot(query, &keys[j * dim..][..dim]).times(scale);
                    if let Some((relative, table)) = table {
                        *score = score.plus(table[relative.bucket(i, j) * heads + head].widen());
                    }
                }
                softmax_of(scores);
                out.fill(Arith::ZERO);
                for (j, weight) in scores.iter().enumerate() {
                    let value = &values[j * dim..][..dim];
                    out.iter_mut().zip(value).for_each(|(sum, v)| *sum = sum.plus(weight.times(*v)));
                }
                T::narrow_all(out, &mut y[token * width + head * dim..][..dim]);
            }
        }
    }
}

/// One row for each sequence.
pub(super) fn pool(kind: PoolKind, operands: Operands, y: &mut TensorMut, scratch: &mut Scratch) -> Outcome {
    let x = operands.typed(0, "x", y.dtype)?;
    let (tokens, hidden) = matrix(x, "x")?;
    let sequences = Sequences::of(operands.required(1, "cu_seqlens")?, tokens)?;
    y.expect_shape(&[sequences.count(), hidden])?;
    if let Some(empty) = (0..sequences.count()).find(|i| sequences.get(*i).is_empty()) {
        return fault!("sequence {empty} is empty and has nothing to pool");
    }
    with_float!(y.dtype, T => {
        let (x, y) = (x.slice::<T>(), y.slice::<T>());
        let (sums, row) = scratch.two::<<T as Number>::Wide, <T as Number>::Wide>(hidden, hidden);
        for i in 0..sequences.count() {
            pool_sequence::<T>(kind, x, sequences.get(i), sums, row);
            T::narrow_all(sums, &mut y[i * hidden..(i + 1) * hidden]);
        }
        Ok::<(), Fault>(())
    })
}

fn pool_sequence<T: Float>(
    kind: PoolKind,
    x: &[T],
    sequence: std::ops::Range<usize>,
    sums: &mut [T::Wide],
    row: &mut [T::Wide],
) {
    let hidden = sums.len();
    let length = sequence.len() as f64;
    let used = match kind {
        PoolKind::Cls => sequence.start..sequence.start + 1,
        PoolKind::LastToken => sequence.end - 1..sequence.end,
        _ => sequence,
    };
    sums.fill(if kind == PoolKind::Max { Real::NEG_INFINITY } else { Arith::ZERO });
    for (i, token) in used.enumerate() {
        T::widen_all(&x[token * hidden..(token + 1) * hidden], row);
        let weight = T::Wide::from_f64(if kind == PoolKind::WeightedMean { i as f64 + 1.0 } else { 1.0 });
        for (sum, x) in sums.iter_mut().zip(&*row) {
            *sum = if kind == PoolKind::Max { sum.larger(*x) } else { sum.plus(x.times(weight)) };
        }
    }
    let divisor = match kind {
        PoolKind::Cls | PoolKind::LastToken | PoolKind::Max => return,
        PoolKind::Mean => length,
        PoolKind::MeanSqrtLen => length.sqrt(),
        PoolKind::WeightedMean => length * (length + 1.0) / 2.0,
    };
    let divisor = T::Wide::from_f64(divisor);
    sums.iter_mut().for_each(|sum| *sum = sum.over(divisor));
}
