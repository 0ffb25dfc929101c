//! Reductions, running sums, and normalisations over an axis.

use crate::dim::Dim;
use crate::dtype::DType;
use crate::op::ReduceOp;
use crate::shape::Shape;

use super::args::{Args, Types, normalize_axis};
use super::{Fact, FreshSymbols, Outcome, dims, value};

pub(super) fn reduce(
    op: ReduceOp,
    keep_dims: bool,
    noop_with_empty_axes: bool,
    inputs: &[Option<Fact>],
    symbols: &mut FreshSymbols,
) -> Outcome {
    let args = Args::new(inputs, &["x", "axes?"])?;
    let x = args.typed(0, &Types::NUMBER)?;
    let count = if args.opt(1).is_some() { args.list_len(1)? } else { Some(0) };
    let none = count == Some(0);
    if !none && args.ints(1)?.is_none() {
        return unknown_axes(&args, x, keep_dims, count, symbols);
    }
    let axes = match none {
        true if noop_with_empty_axes => return Ok(vec![x.clone()]),
        true => (0..x.rank()).collect(),
        false => args.axes(1, x.rank())?.unwrap_or_default(),
    };
    let value = value::reduce(op, x, &axes);
    let dims = x.dims().iter().enumerate().filter_map(|(axis, dim)| match axes.contains(&axis) {
        true => keep_dims.then(|| Dim::from(1)),
        false => Some(dim.clone()),
    });
    Ok(vec![Fact::with_value(x.dtype(), Shape(dims.collect()), value)])
}

/// The result when the axes depend on data: only its rank is known.
fn unknown_axes(
    args: &Args<'_>,
    x: &Fact,
    keep_dims: bool,
    count: Option<usize>,
    symbols: &mut FreshSymbols,
) -> Outcome {
    let rank = match (keep_dims, count) {
        (true, _) => x.rank(),
        (false, Some(count)) if count <= x.rank() => x.rank() - count,
        _ => return Err(args.error(1, "axes that are known before the graph runs")),
    };
    let dims = (0..rank).map(|_| symbols.fresh()).collect();
    Ok(vec![Fact::with_value(x.dtype(), Shape(dims), None)])
}

pub(super) fn cumsum(inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x", "axis"])?;
    let x = args.typed(0, &Types::NUMBER)?;
    args.typed(1, &Types::INDEX)?;
    args.single(1)?;
    if let Some(axis) = args.ints(1)?.and_then(|axes| axes.first().copied()) {
        normalize_axis(axis, x.rank())?;
    }
    Ok(vec![Fact::of(x.ty.clone())])
}

pub(super) fn softmax(axis: i64, inputs: &[Option<Fact>]) -> Outcome {
    let x = Args::new(inputs, &["x"])?.typed(0, &Types::FLOAT)?;
    normalize_axis(axis, x.rank())?;
    Ok(vec![Fact::of(x.ty.clone())])
}

pub(super) fn layer_norm(axis: i64, inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x", "gamma", "beta?"])?;
    let x = args.typed(0, &Types::FLOAT)?;
    let axis = normalize_axis(axis, x.rank())?;
    let (kept, normalized) = x.dims().split_at(axis);
    args.like(1, 0)?;
    args.opt_like(2, 0)?;
    for index in [1, 2] {
        if let Some(fact) = args.opt(index)
            && !dims::broadcasts_into(fact.dims(), normalized)
        {
            return Err(
                args.error(index, format_args!("the normalised dimensions, {}", Shape(normalized.to_vec())))
            );
        }
    }
    let mut statistics = kept.to_vec();
    statistics.extend(normalized.iter().map(|_| Dim::from(1)));
    let statistics = Fact::with_value(DType::F32, Shape(statistics), None);
    Ok(vec![Fact::of(x.ty.clone()), statistics.clone(), statistics])
}
