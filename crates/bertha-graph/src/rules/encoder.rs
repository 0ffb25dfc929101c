//! Encoder operations.

use crate::dim::Dim;
use crate::error::RuleError;
use crate::op::{RelativeBuckets, WeightLayout};
use crate::shape::Shape;

use super::args::{Args, Types};
use super::{Fact, Outcome, dims};

pub(super) fn embedding_sum(inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["ids or table.."])?;
    if args.len() % 2 != 0 {
        return Err(RuleError(format!("expected pairs of ids and table, found {} inputs", args.len())));
    }
    let mut ids = args.typed(0, &Types::INDEX)?.dims().to_vec();
    let mut hidden = table_width(&args, 1)?.clone();
    for pair in 1..args.len() / 2 {
        let (index, table) = (2 * pair, 2 * pair + 1);
        let more = args.typed(index, &Types::INDEX)?;
        ids = dims::unify_all(&ids, more.dims()).ok_or_else(|| {
            args.error(index, format_args!("the shape of the first ids, {}", Shape(ids.clone())))
        })?;
        args.like(table, 1)?;
        hidden = dims::unify(&hidden, table_width(&args, table)?)
            .ok_or_else(|| args.error(table, format_args!("rows of {hidden} as the first table has")))?;
    }
    ids.push(hidden);
    Ok(vec![Fact::with_value(args.get(1)?.dtype(), Shape(ids), None)])
}

pub(super) fn embedding_layer_norm(inputs: &[Option<Fact>]) -> Outcome {
    let pairs = inputs.len().saturating_sub(2);
    let mut results = embedding_sum(&inputs[..pairs])?;
    let args = Args::new(inputs, &["ids, table, (ids, table).., gamma, beta.."])?;
    for (index, what) in [(pairs, "gamma"), (pairs + 1, "beta")] {
        args.like(index, 1)?;
        let hidden = results.first().and_then(|sum| sum.dims().last());
        let fits = matches!((args.get(index)?.dims(), hidden), ([width], Some(hidden))
            if dims::unify(width, hidden).is_some());
        if !fits {
            return Err(args.error(index, format_args!("{what} [hidden], as wide as the tables")));
        }
    }
    results.truncate(1);
    Ok(results)
}

fn table_width<'a>(args: &Args<'a>, index: usize) -> Result<&'a Dim, RuleError> {
    match args.typed(index, &Types::FLOAT)?.dims() {
        [_, hidden] => Ok(hidden),
        _ => Err(args.error(index, "a table [rows, hidden]")),
    }
}

pub(super) fn linear(layout: WeightLayout, inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x", "weight", "bias?", "residual?"])?;
    let x = args.typed(0, &Types::FLOAT)?;
    for index in 1..4 {
        args.opt_like(index, 0)?;
    }
    let (expected, inner, out) = match (layout, args.get(1)?.dims()) {
        (WeightLayout::OutIn, [out, inner]) => ("[out, in]", inner, out),
        (WeightLayout::InOut, [inner, out]) => ("[in, out]", inner, out),
        (WeightLayout::OutIn, _) => return Err(args.error(1, "a matrix [out, in]")),
        (WeightLayout::InOut, _) => return Err(args.error(1, "a matrix [in, out]")),
    };
    let Some((last, leading)) = x.dims().split_last() else {
        return Err(args.error(0, "at least one dimension"));
    };
    if dims::unify(last, inner).is_none() {
        return Err(
            args.error(1, format_args!("a matrix {expected} with in = {last}, the last dimension of x"))
        );
    }
    if let Some(bias) = args.opt(2)
        && dims::unify_all(bias.dims(), std::slice::from_ref(out)).is_none()
    {
        return Err(args.error(2, format_args!("[{out}], one element for each output")));
    }
    let mut shape = leading.to_vec();
    shape.push(out.clone());
    if let Some(residual) = args.opt(3) {
        shape = dims::unify_all(&shape, residual.dims()).ok_or_else(|| {
            args.error(3, format_args!("the shape of the result, {}", Shape(shape.clone())))
        })?;
    }
    Ok(vec![Fact::with_value(x.dtype(), Shape(shape), None)])
}

pub(super) fn ragged_attention(
    heads: usize,
    relative: Option<&RelativeBuckets>,
    inputs: &[Option<Fact>],
) -> Outcome {
    let args = Args::new(inputs, &["q", "k?", "v?", "cu_seqlens", "relative_bias?"])?;
    let q = args.typed(0, &Types::FLOAT)?;
    let mut shape = args.rank(0, 2)?.dims().to_vec();
    match (args.opt(1), args.opt(2)) {
        (None, None) => shape = third_of_columns(&args, shape)?,
        (None, Some(_)) => return Err(args.error(1, "keys, as there are values")),
        (Some(_), None) => return Err(args.error(2, "values, as there are keys")),
        (Some(_), Some(_)) => {
            for index in [1, 2] {
                let other = args.like(index, 0)?;
                shape = dims::unify_all(&shape, other.dims())
                    .ok_or_else(|| args.error(index, format_args!("the shape of q, {}", q.ty.shape)))?;
            }
        }
    }
    let width = shape.last().and_then(Dim::as_const);
    let heads_i64 = i64::try_from(heads).ok().filter(|heads| *heads > 0);
    match (heads_i64, width) {
        (None, _) => return Err(RuleError(format!("expected a number of heads, found {heads}"))),
        (Some(heads), Some(width)) if width % heads != 0 => {
            return Err(args.error(0, format_args!("a width that divides into {heads} heads")));
        }
        _ => {}
    }
    batch_size(&args, 3)?;
    match (relative, args.opt_like(4, 0)?) {
        (None, None) => {}
        (Some(_), None) => return Err(args.error(4, "the table of relative biases")),
        (None, Some(_)) => return Err(args.error(4, "no table, as no buckets are given")),
        (Some(relative), Some(table)) => {
            let expected = [Dim::from(relative.buckets), Dim::from(heads)];
            if dims::unify_all(table.dims(), &expected).is_none() {
                return Err(args.error(4, format_args!("[{}, {heads}], buckets and heads", relative.buckets)));
            }
            if relative.buckets < 2 || relative.max_distance == 0 {
                return Err(RuleError(format!(
                    "expected at least 2 buckets and a distance, found {relative:?}"
                )));
            }
        }
    }
    Ok(vec![Fact::with_value(q.dtype(), Shape(shape), None)])
}

/// The shape of the queries among queries, keys and values that lie side by side.
fn third_of_columns(args: &Args<'_>, mut shape: Vec<Dim>) -> Result<Vec<Dim>, RuleError> {
    if let Some(columns) = shape.last_mut() {
        *columns = columns
            .exact_div(&Dim::from(3))
            .ok_or_else(|| args.error(0, "queries, keys and values side by side: a width that 3 divides"))?;
    }
    Ok(shape)
}

/// Number of sequences that `cu_seqlens` delimits.
fn batch_size(args: &Args<'_>, index: usize) -> Result<Dim, RuleError> {
    args.typed(index, &Types::I32)?;
    let boundaries = match args.get(index)?.dims() {
        [boundaries] => boundaries,
        _ => return Err(args.error(index, "a vector of batch + 1 offsets")),
    };
    match boundaries.as_const() {
        Some(count) if count < 1 => Err(args.error(index, "at least one offset")),
        _ => Ok(boundaries - &Dim::from(1)),
    }
}

pub(super) fn pool(inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x", "cu_seqlens"])?;
    let x = args.typed(0, &Types::FLOAT)?;
    let [_, hidden] = x.dims() else {
        return Err(args.error(0, "[tokens, hidden]"));
    };
    Ok(vec![Fact::with_value(x.dtype(), Shape(vec![batch_size(&args, 1)?, hidden.clone()]), None)])
}

pub(super) fn l2_normalize(inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x"])?;
    let x = args.typed(0, &Types::FLOAT)?;
    match x.rank() {
        0 => Err(args.error(0, "at least one dimension")),
        _ => Ok(vec![Fact::of(x.ty.clone())]),
    }
}
