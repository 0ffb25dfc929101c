//! The encoder operations.

use super::Context;
use super::args::{Args, expect_rank, expect_shape, floats, integers};
use super::elementwise::activate;
use super::error::{Fault, fault};
use super::index::{broadcast, broadcast_positions};
use super::matmul::{multiply, transposed};
use super::reduce::softmax_of;
use super::value::{Value, element_count};
use crate::dtype::DType;
use crate::op::{Activation, PoolKind, RelativeBuckets, WeightLayout};

/// The sum of one row of each table.
pub(super) fn embedding_sum(args: Args, context: Context) -> Result<Value, Fault> {
    let (dtype, shape, sums) = row_sums(args)?;
    Ok(context.floats(dtype, shape, sums))
}

/// The layer norm of the sum of one row of each table.
pub(super) fn embedding_layer_norm(epsilon: f32, args: Args, context: Context) -> Result<Value, Fault> {
    let pairs = args.0.len().saturating_sub(2);
    let (gamma, beta) = (args.required(pairs, "gamma")?, args.required(pairs + 1, "beta")?);
    let (dtype, shape, mut sums) = row_sums(Args(&args.0[..pairs]))?;
    let hidden = shape.last().copied().unwrap_or(0);
    expect_shape(gamma, "gamma", &[hidden])?;
    expect_shape(beta, "beta", &[hidden])?;
    let (gamma, beta) = (floats(gamma, "gamma")?, floats(beta, "beta")?);
    for row in sums.chunks_mut(hidden.max(1)) {
        let mean = row.iter().sum::<f64>() / hidden as f64;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / hidden as f64;
        let inverse = 1.0 / (variance + f64::from(epsilon)).sqrt();
        for (x, (gamma, beta)) in row.iter_mut().zip(gamma.iter().zip(beta)) {
            *x = (*x - mean) * inverse * gamma + beta;
        }
    }
    Ok(context.floats(dtype, shape, sums))
}

/// Type, shape and elements of the sum of one row of each table, not rounded.
fn row_sums(args: Args) -> Result<(DType, Vec<usize>, Vec<f64>), Fault> {
    if !args.0.len().is_multiple_of(2) {
        return fault!("{} operands, expected pairs of ids and table", args.0.len());
    }
    let first = args.required(1, "table")?;
    expect_rank(first, "table", 2)?;
    let hidden = first.shape()[1];
    let pairs = (0..args.0.len() / 2)
        .map(|pair| Ok((args.required(2 * pair, "ids")?, args.required(2 * pair + 1, "table")?)))
        .collect::<Result<Vec<_>, Fault>>()?;
    let shape = broadcast(&pairs.iter().map(|(ids, _)| ids.shape()).collect::<Vec<_>>())?;
    let result_shape = [&shape[..], &[hidden]].concat();
    let mut sums = vec![0.0; element_count(&result_shape)?];
    for (ids, table) in pairs {
        expect_rank(table, "table", 2)?;
        super::args::expect_dtype(table, "table", first.dtype())?;
        let (rows, width) = (table.shape()[0], table.shape()[1]);
        if width != hidden {
            return fault!("a table has {width} columns, the first one {hidden}");
        }
        let (table, at) = (floats(table, "table")?, broadcast_positions(ids.shape(), &shape)?);
        let ids = integers(ids, "ids")?;
        for (token, at) in at.into_iter().enumerate() {
            let Some(row) = usize::try_from(ids[at]).ok().filter(|row| *row < rows) else {
                return fault!("`ids`: {} is out of range for a table of {rows} rows", ids[at]);
            };
            let sum = &mut sums[token * hidden..(token + 1) * hidden];
            sum.iter_mut().zip(&table[row * hidden..]).for_each(|(sum, x)| *sum += x);
        }
    }
    Ok((first.dtype(), result_shape, sums))
}

/// `activation(x * weight + bias) + residual` over the last dimension.
pub(super) fn linear(
    layout: WeightLayout,
    activation: Activation,
    args: Args,
    context: Context,
) -> Result<Value, Fault> {
    let (x, weight) = (args.required(0, "x")?, args.required(1, "weight")?);
    expect_rank(weight, "weight", 2)?;
    let (inputs, outputs) = match layout {
        WeightLayout::OutIn => (weight.shape()[1], weight.shape()[0]),
        WeightLayout::InOut => (weight.shape()[0], weight.shape()[1]),
    };
    let Some((last, lead)) = x.shape().split_last() else {
        return fault!("`x` is a scalar, expected at least one dimension");
    };
    if *last != inputs {
        return fault!("`x` has shape {:?}, but the weight takes {inputs} inputs", x.shape());
    }
    let shape = [lead, &[outputs]].concat();
    let mut sums = vec![0.0; element_count(&shape)?];
    let values = floats(weight, "weight")?;
    let turned;
    let in_out = match layout {
        WeightLayout::InOut => values,
        WeightLayout::OutIn => {
            turned = transposed(values, outputs, inputs);
            &turned
        }
    };
    let rows: usize = lead.iter().product();
    multiply(floats(x, "x")?, in_out, (rows, inputs, outputs), &mut sums);
    if let Some(bias) = args.optional(2) {
        expect_shape(bias, "bias", &[outputs])?;
        let bias = floats(bias, "bias")?;
        for row in sums.chunks_mut(outputs.max(1)) {
            row.iter_mut().zip(bias).for_each(|(sum, b)| *sum += b);
        }
    }
    sums.iter_mut().for_each(|sum| *sum = activate(activation, *sum));
    if let Some(residual) = args.optional(3) {
        expect_shape(residual, "residual", &shape)?;
        sums.iter_mut().zip(floats(residual, "residual")?).for_each(|(sum, r)| *sum += r);
    }
    Ok(context.floats(x.dtype(), shape, sums))
}

/// First and one past the last token of each sequence.
fn sequences(cu_seqlens: &Value, tokens: usize) -> Result<Vec<std::ops::Range<usize>>, Fault> {
    expect_rank(cu_seqlens, "cu_seqlens", 1)?;
    let bounds = integers(cu_seqlens, "cu_seqlens")?;
    let rises = bounds.windows(2).all(|pair| pair[0] <= pair[1]);
    if !rises || bounds.first() != Some(&0) || bounds.last() != Some(&(tokens as i64)) {
        return fault!("`cu_seqlens` must rise from 0 to {tokens}, the number of tokens; it is {bounds:?}");
    }
    Ok(bounds.windows(2).map(|pair| pair[0] as usize..pair[1] as usize).collect())
}

/// What [`ragged_attention`] is asked for beside its operands.
#[derive(Clone, Copy)]
pub(super) struct RaggedAttrs {
    pub heads: usize,
    pub scale: f32,
    pub relative: Option<RelativeBuckets>,
}

/// Bidirectional attention of each sequence with itself.
pub(super) fn ragged_attention(attrs: RaggedAttrs, args: Args, context: Context) -> Result<Value, Fault> {
    if args.optional(1).is_none() && args.optional(2).is_none() {
        return packed_attention(attrs, args, context);
    }
    let (q, k, v) = (args.required(0, "q")?, args.required(1, "k")?, args.required(2, "v")?);
    expect_rank(q, "q", 2)?;
    expect_rank(v, "v", 2)?;
    expect_shape(k, "k", q.shape())?;
    let (tokens, width, width_v) = (q.shape()[0], q.shape()[1], v.shape()[1]);
    let heads = attrs.heads;
    if heads == 0 || width % heads != 0 || width_v % heads != 0 || v.shape()[0] != tokens {
        return fault!("q of shape {:?} and v of {:?} do not split into {heads} heads", q.shape(), v.shape());
    }
    let sequences = sequences(args.required(3, "cu_seqlens")?, tokens)?;
    let bias = relative_bias(attrs, args)?;
    let (dim, dim_v) = (width / heads, width_v / heads);
    let (qs, ks, vs) = (floats(q, "q")?, floats(k, "k")?, floats(v, "v")?);
    let mut result = vec![0.0; tokens * width_v];
    for sequence in sequences {
        for head in 0..heads {
            for i in sequence.clone() {
                let query = &qs[i * width + head * dim..][..dim];
                let scores: Vec<f64> = sequence
                    .clone()
                    .map(|j| {
                        let key = &ks[j * width + head * dim..][..dim];
                        let dot: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
                        dot * f64::from(attrs.scale) + bias(i - sequence.start, j - sequence.start, head)
                    })
                    .collect();
                let out = &mut result[i * width_v + head * dim_v..][..dim_v];
                for (p, j) in softmax_of(&scores).into_iter().zip(sequence.clone()) {
                    let value = &vs[j * width_v + head * dim_v..][..dim_v];
                    out.iter_mut().zip(value).for_each(|(out, v)| *out += p * v);
                }
            }
        }
    }
    Ok(context.floats(q.dtype(), vec![tokens, width_v], result))
}

/// The same with queries, keys and values side by side.
fn packed_attention(attrs: RaggedAttrs, args: Args, context: Context) -> Result<Value, Fault> {
    let packed = args.required(0, "q")?;
    expect_rank(packed, "q", 2)?;
    let (tokens, columns) = (packed.shape()[0], packed.shape()[1]);
    if columns % 3 != 0 {
        return fault!(
            "queries, keys and values side by side have {columns} columns, which 3 does not divide"
        );
    }
    let (values, width) = (floats(packed, "q")?, columns / 3);
    let part = |index: usize| {
        let rows = (0..tokens).flat_map(|row| &values[row * columns + index * width..][..width]);
        Value::floats(packed.dtype(), vec![tokens, width], rows.copied().collect())
    };
    let parts = [part(0), part(1), part(2)];
    let operands: Vec<Option<&Value>> =
        parts.iter().map(Some).chain(args.0.iter().skip(3).copied()).collect();
    ragged_attention(attrs, Args(&operands), context)
}

/// The bias of a score, by position of query and key in their sequence and by head.
type ScoreBias<'a> = Box<dyn Fn(usize, usize, usize) -> f64 + 'a>;

fn relative_bias<'a>(attrs: RaggedAttrs, args: Args<'a>) -> Result<ScoreBias<'a>, Fault> {
    match (attrs.relative, args.optional(4)) {
        (Some(relative), Some(table)) => {
            expect_shape(table, "relative_bias", &[relative.buckets, attrs.heads])?;
            if relative.buckets < 2 || relative.max_distance == 0 {
                return fault!("{relative:?}: expected at least 2 buckets and a distance");
            }
            let table = floats(table, "relative_bias")?;
            Ok(Box::new(move |i, j, head| table[relative.bucket(i, j) * attrs.heads + head]))
        }
        (None, None) => Ok(Box::new(|_, _, _| 0.0)),
        (Some(_), None) => fault!("there are relative buckets, but no `relative_bias`"),
        (None, Some(_)) => {
            fault!("there is a `relative_bias`, but nothing says how distances map to its rows")
        }
    }
}

/// One row for each sequence.
pub(super) fn pool(kind: PoolKind, args: Args, context: Context) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    expect_rank(x, "x", 2)?;
    let (tokens, hidden) = (x.shape()[0], x.shape()[1]);
    let values = floats(x, "x")?;
    let sequences = sequences(args.required(1, "cu_seqlens")?, tokens)?;
    let mut result = Vec::with_capacity(sequences.len() * hidden);
    for (number, sequence) in sequences.iter().enumerate() {
        if sequence.is_empty() {
            return fault!("sequence {number} is empty and has nothing to pool");
        }
        let length = sequence.len() as f64;
        for column in 0..hidden {
            let rows = sequence.clone().map(|token| values[token * hidden + column]);
            let weighted = || rows.clone().zip(1..).map(|(x, weight)| x * f64::from(weight)).sum::<f64>();
            result.push(match kind {
                PoolKind::Cls => values[sequence.start * hidden + column],
                PoolKind::LastToken => values[(sequence.end - 1) * hidden + column],
                PoolKind::Mean => rows.sum::<f64>() / length,
                PoolKind::MeanSqrtLen => rows.sum::<f64>() / length.sqrt(),
                PoolKind::Max => rows.fold(f64::NEG_INFINITY, super::elementwise::maximum),
                PoolKind::WeightedMean => weighted() / (length * (length + 1.0) / 2.0),
            });
        }
    }
    Ok(context.floats(x.dtype(), vec![sequences.len(), hidden], result))
}

/// Rows of the last dimension, each divided by its norm.
pub(super) fn l2_normalize(epsilon: f32, args: Args, context: Context) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let Some(width) = x.shape().last() else {
        return fault!("`x` is a scalar, expected at least one dimension");
    };
    let mut values = floats(x, "x")?.to_vec();
    for row in values.chunks_mut((*width).max(1)) {
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::from(epsilon));
        row.iter_mut().for_each(|x| *x /= norm);
    }
    Ok(context.floats(x.dtype(), x.shape().to_vec(), values))
}
