//! Operations that pick elements: slices and gathers.

use crate::dim::Dim;
use crate::error::RuleError;
use crate::shape::Shape;

use super::args::{Args, Types, normalize_axis};
use super::{Fact, FreshSymbols, Outcome, dims, layout};

/// Bounds from here on mean "to the end": exporters write `i32::MAX` or `i64::MAX`.
const TO_THE_END: i64 = i32::MAX as i64;

/// One axis of a slice; an unknown bound is `None`.
struct Cut {
    axis: usize,
    start: Option<Dim>,
    end: Option<Dim>,
    step: Option<i64>,
}

pub(super) fn slice(inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["x", "starts", "ends", "axes?", "steps?"])?;
    let x = args.get(0)?;
    let mut fact = Fact::with_value(x.dtype(), x.ty.shape.clone(), x.value.clone());
    let Some(cuts) = cuts(&args, x.rank())? else {
        // Not even the axes are known.
        let dims = x.dims().iter().map(|_| symbols.fresh()).collect();
        return Ok(vec![Fact::with_value(x.dtype(), Shape(dims), None)]);
    };
    for cut in cuts {
        let Some(size) = fact.dims().get(cut.axis).cloned() else { continue };
        let picked = picked(&cut, &size);
        fact.value = picked.as_ref().and_then(|picked| layout::pick(&fact, cut.axis, picked));
        let len = cut_len(&cut, &size).unwrap_or_else(|| symbols.fresh());
        if let Some(dim) = fact.ty.shape.0.get_mut(cut.axis) {
            *dim = len;
        }
    }
    Ok(vec![fact])
}

/// The axes that are cut; `None` when they are not known.
fn cuts(args: &Args<'_>, rank: usize) -> Result<Option<Vec<Cut>>, RuleError> {
    let count = args.list_len(1)?;
    for index in [2, 3, 4] {
        let len = if args.opt(index).is_some() { args.list_len(index)? } else { None };
        if let (Some(count), Some(len)) = (count, len)
            && count != len
        {
            return Err(args.error(index, format_args!("{count} elements, as many as starts")));
        }
    }
    let axes = match args.opt(3) {
        Some(_) if args.ints(3)?.is_none() => return Ok(None),
        Some(_) => args.axes(3, rank)?.unwrap_or_default(),
        None => match count {
            Some(count) if count <= rank => (0..count).collect(),
            Some(_) => return Err(args.error(1, format_args!("at most {rank} elements"))),
            None => return Ok(None),
        },
    };
    let (starts, ends) = (args.list(1)?, args.list(2)?);
    let steps = match args.opt(4) {
        Some(_) => args.ints(4)?,
        None => Some(vec![1; axes.len()]),
    };
    if steps.as_ref().is_some_and(|steps| steps.contains(&0)) {
        return Err(RuleError("a slice's step cannot be 0".into()));
    }
    let at = |list: &Option<Vec<Dim>>, index: usize| list.as_ref().and_then(|list| list.get(index).cloned());
    let cuts = axes.into_iter().enumerate().map(|(index, axis)| Cut {
        axis,
        start: at(&starts, index),
        end: at(&ends, index),
        step: steps.as_ref().and_then(|steps| steps.get(index).copied()),
    });
    Ok(Some(cuts.collect()))
}

/// Number of elements that a cut leaves of a dimension.
fn cut_len(cut: &Cut, size: &Dim) -> Option<Dim> {
    if let Some((count, ..)) = concrete(cut, size) {
        return Some(Dim::from(count));
    }
    let (start, end, step) = (cut.start.as_ref()?, cut.end.as_ref()?, cut.step?);
    if step < 0 {
        // The whole dimension in reverse is the one symbolic case that occurs.
        let whole = start.as_const() == Some(-1) && end.as_const().is_some_and(|end| end <= -TO_THE_END);
        return (whole && step == -1).then(|| size.clone());
    }
    let len = dims::at_least_zero(&clamped(end, size)? - &clamped(start, size)?)?;
    let rounded_up = &len + &Dim::from(step.checked_sub(1)?);
    rounded_up.floor_div(step).filter(|len| !len.is_unwieldy())
}

/// A bound of a forward slice as a position in `0..=size`, when it is known which.
fn clamped(bound: &Dim, size: &Dim) -> Option<Dim> {
    if bound.as_const().is_some_and(|bound| bound >= TO_THE_END) {
        return Some(size.clone());
    }
    let negative = bound.upper_bound().is_some_and(|bound| bound < 0);
    if negative {
        return dims::at_least_zero(size + bound);
    }
    (bound.lower_bound()? >= 0).then(|| dims::min(bound, size)).flatten()
}

/// `(count, start, step)` of a cut whose bounds, step and dimension are all numbers.
fn concrete(cut: &Cut, size: &Dim) -> Option<(i64, i64, i64)> {
    let size = i128::from(size.as_const()?);
    let step = i128::from(cut.step?);
    let absolute = |bound: &Option<Dim>| {
        let bound = i128::from(bound.as_ref()?.as_const()?);
        Some(if bound < 0 { bound + size } else { bound })
    };
    let (start, end) = (absolute(&cut.start)?, absolute(&cut.end)?);
    let (start, end) = match step > 0 {
        true => (start.clamp(0, size.max(0)), end.clamp(0, size.max(0))),
        false => (start.clamp(-1, size - 1), end.clamp(-1, size - 1)),
    };
    let span = if step > 0 { end - start } else { start - end };
    let count = if span > 0 { (span + step.abs() - 1) / step.abs() } else { 0 };
    Some((i64::try_from(count).ok()?, i64::try_from(start).ok()?, i64::try_from(step).ok()?))
}

/// Positions that a cut picks, when they are few and known.
fn picked(cut: &Cut, size: &Dim) -> Option<Vec<usize>> {
    let (count, start, step) = concrete(cut, size)?;
    if count > super::TRACKED_ELEMENTS as i64 {
        return None;
    }
    (0..count).map(|i| usize::try_from(start.checked_add(step.checked_mul(i)?)?).ok()).collect()
}

pub(super) fn gather(axis: i64, inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x", "indices"])?;
    let (x, indices) = (args.get(0)?, args.typed(1, &Types::INDEX)?);
    let axis = normalize_axis(axis, x.rank())?;
    let (before, rest) = x.dims().split_at(axis);
    let after = rest.get(1..).unwrap_or_default();
    let dims = [before, indices.dims(), after].concat();
    Ok(vec![Fact::with_value(x.dtype(), Shape(dims), gathered(x, indices, axis))])
}

fn gathered(x: &Fact, indices: &Fact, axis: usize) -> Option<Vec<Dim>> {
    let size = x.dims().get(axis)?.as_const()?;
    let positions = indices.value.as_ref()?.iter().map(|index| {
        let index = index.as_const()?;
        let position = if index < 0 { index.checked_add(size)? } else { index };
        (position < size).then(|| usize::try_from(position).ok()).flatten()
    });
    layout::pick(x, axis, &positions.collect::<Option<Vec<_>>>()?)
}

pub(super) fn gather_elements(axis: i64, inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x", "indices"])?;
    let x = args.get(0)?;
    args.typed(1, &Types::INDEX)?;
    normalize_axis(axis, x.rank())?;
    let indices = args.rank(1, x.rank())?;
    Ok(vec![Fact::with_value(x.dtype(), indices.ty.shape.clone(), None)])
}

pub(super) fn gather_nd(batch_dims: usize, inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x", "indices"])?;
    let (x, indices) = (args.get(0)?, args.typed(1, &Types::INDEX)?);
    let Some((tuple, leading)) = indices.dims().split_last() else {
        return Err(args.error(1, "at least one dimension"));
    };
    let Some(tuple) = tuple.as_const().and_then(|tuple| usize::try_from(tuple).ok()) else {
        return Err(args.error(1, "a known last dimension"));
    };
    if batch_dims > leading.len() || batch_dims > x.rank() {
        return Err(RuleError(format!(
            "{batch_dims} batch dimensions are too many for {} and indices {}",
            x.ty, indices.ty
        )));
    }
    let (batch, addressed) = x.dims().split_at(batch_dims);
    let (index_batch, rest) = leading.split_at(batch_dims);
    let Some(batch) = dims::unify_all(batch, index_batch) else {
        return Err(args.error(1, format_args!("the batch dimensions {batch:?} of x")));
    };
    let Some(slice) = addressed.get(tuple..).filter(|_| tuple > 0) else {
        let most = addressed.len();
        return Err(args.error(1, format_args!("a last dimension of 1 to {most}")));
    };
    let dims = [batch.as_slice(), rest, slice].concat();
    Ok(vec![Fact::with_value(x.dtype(), Shape(dims), None)])
}
