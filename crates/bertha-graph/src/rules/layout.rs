//! Operations that move elements without computing.

use crate::dim::Dim;
use crate::error::RuleError;
use crate::shape::Shape;

use super::args::{Args, normalize_axis};
use super::{Fact, FreshSymbols, MAX_OUTPUTS, MAX_RANK, Outcome, dims, value};

pub(super) fn reshape(allow_zero: bool, inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["x", "shape"])?;
    let x = args.get(0)?;
    let target = match args.list(1)? {
        Some(target) => reshape_target(x, &target, allow_zero, symbols)?,
        None => unknown_target(&args, x, symbols)?,
    };
    Ok(vec![Fact::with_value(x.dtype(), Shape(target), x.value.clone())])
}

/// The dimensions that a requested shape stands for.
fn reshape_target(
    x: &Fact,
    requested: &[Dim],
    allow_zero: bool,
    symbols: &mut FreshSymbols,
) -> Result<Vec<Dim>, RuleError> {
    let mut target = Vec::with_capacity(requested.len());
    let mut inferred = None;
    // Dimensions that are copied drop out of the division that finds the inferred one, so that it works for empty
    // batches too.
    let mut copied = vec![false; x.rank()];
    let mut others = Vec::new();
    for (index, dim) in requested.iter().enumerate() {
        match dim.as_const() {
            Some(-1) if inferred.is_some() => {
                return Err(RuleError(format!("the requested shape {requested:?} has -1 more than once")));
            }
            Some(-1) => inferred = Some(index),
            Some(size) if size < 0 => {
                return Err(RuleError(format!(
                    "the requested shape {requested:?} has the negative size {size}"
                )));
            }
            Some(0) if !allow_zero => {
                let (Some(source), Some(copied)) = (x.dims().get(index), copied.get_mut(index)) else {
                    let rank = x.rank();
                    return Err(RuleError(format!(
                        "the requested shape {requested:?} copies dimension {index} (by 0), but {} has only {rank}",
                        x.ty
                    )));
                };
                *copied = true;
                target.push(source.clone());
                continue;
            }
            _ => others.push(dim.clone()),
        }
        target.push(dim.clone());
    }
    let rest: Vec<Dim> =
        x.dims().iter().zip(&copied).filter(|(_, copied)| !**copied).map(|(dim, _)| dim.clone()).collect();
    let (have, want) = (dims::elements(&rest), dims::elements(&others));
    let wrong = || RuleError(format!("{} cannot be reshaped to {requested:?}", x.ty));
    match (inferred, have, want) {
        (Some(index), Some(have), Some(want)) => {
            let constant = have.is_const() && want.is_const();
            let size = match have.exact_div(&want) {
                Some(size) => size,
                None if constant => return Err(wrong()),
                None => symbols.fresh(),
            };
            set(&mut target, index, size);
        }
        (Some(index), ..) => set(&mut target, index, symbols.fresh()),
        (None, Some(have), Some(want)) if have.is_const() && want.is_const() && have != want => {
            return Err(wrong());
        }
        (None, ..) => {}
    }
    Ok(target)
}

fn set(target: &mut [Dim], index: usize, dim: Dim) {
    if let Some(slot) = target.get_mut(index) {
        *slot = dim;
    }
}

/// The target when only its rank is known.
fn unknown_target(args: &Args<'_>, x: &Fact, symbols: &mut FreshSymbols) -> Result<Vec<Dim>, RuleError> {
    let rank = known_rank(args, 1)?;
    if rank == 1
        && let Some(elements) = dims::elements(x.dims())
    {
        return Ok(vec![elements]);
    }
    Ok((0..rank).map(|_| symbols.fresh()).collect())
}

/// The length of a shape operand, which is the rank of the result.
pub(super) fn known_rank(args: &Args<'_>, index: usize) -> Result<usize, RuleError> {
    match args.list_len(index)? {
        Some(rank) if rank <= MAX_RANK => Ok(rank),
        Some(_) => Err(args.error(index, format_args!("at most {MAX_RANK} elements"))),
        None => Err(args.error(index, "a length that is known before the graph runs")),
    }
}

pub(super) fn transpose(perm: &[usize], inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x"])?;
    let x = args.get(0)?;
    let rank = x.rank();
    let mut seen = vec![false; rank];
    for axis in perm {
        match seen.get_mut(*axis) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(args.error(0, format_args!("the permutation {perm:?} to name each axis once"))),
        }
    }
    if perm.len() != rank {
        return Err(args.error(0, format_args!("{} dimensions for the permutation {perm:?}", perm.len())));
    }
    let dims = perm.iter().filter_map(|axis| x.dims().get(*axis).cloned()).collect();
    let value = if rank <= 1 { x.value.clone() } else { None };
    Ok(vec![Fact::with_value(x.dtype(), Shape(dims), value)])
}

pub(super) fn squeeze(inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["x", "axes?"])?;
    let x = args.get(0)?;
    if let Some(count) = args.unknown_list(1)? {
        return match x.rank().checked_sub(count) {
            Some(rank) => Ok(vec![unknown_dims(x, rank, symbols)]),
            None => Err(args.error(1, format_args!("at most {} axes", x.rank()))),
        };
    }
    let axes = match args.axes(1, x.rank())? {
        Some(axes) => axes,
        None if x.dims().iter().all(Dim::is_const) => {
            let ones = x.dims().iter().enumerate().filter(|(_, dim)| dim.as_const() == Some(1));
            ones.map(|(axis, _)| axis).collect()
        }
        None => return Err(args.error(0, "known dimensions (or axes), to tell which are 1")),
    };
    for axis in &axes {
        if x.dims().get(*axis).and_then(Dim::as_const).is_some_and(|size| size != 1) {
            return Err(args.error(0, format_args!("dimension {axis} to be 1")));
        }
    }
    let kept = x.dims().iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
    let dims = kept.map(|(_, dim)| dim.clone()).collect();
    Ok(vec![Fact::with_value(x.dtype(), Shape(dims), x.value.clone())])
}

/// The result when the axes are only known once the graph runs, but their number before.
fn unknown_dims(x: &Fact, rank: usize, symbols: &mut FreshSymbols) -> Fact {
    Fact::with_value(x.dtype(), Shape((0..rank).map(|_| symbols.fresh()).collect()), None)
}

pub(super) fn unsqueeze(inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["x", "axes"])?;
    let x = args.get(0)?;
    if let Some(count) = args.unknown_list(1)? {
        return Ok(vec![unknown_dims(x, x.rank().saturating_add(count).min(MAX_RANK + 1), symbols)]);
    }
    let rank = x.rank() + args.ints(1)?.map_or(0, |axes| axes.len());
    let axes = args.axes(1, rank)?.unwrap_or_default();
    let mut old = x.dims().iter();
    let dims = (0..rank)
        .filter_map(|axis| if axes.contains(&axis) { Some(Dim::from(1)) } else { old.next().cloned() })
        .collect();
    Ok(vec![Fact::with_value(x.dtype(), Shape(dims), x.value.clone())])
}

pub(super) fn concat(axis: i64, inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["x.."])?;
    let first = args.get(0)?;
    let axis = normalize_axis(axis, first.rank())?;
    let mut dims = first.dims().to_vec();
    // The size along the axis, as long as the sum is worth knowing.
    let mut total = dims.get(axis).cloned();
    let mut value = first.value.clone();
    for index in 1..args.len() {
        let x = args.rank(index, dims.len())?;
        args.like(index, 0)?;
        for (position, (dim, other)) in dims.iter_mut().zip(x.dims()).enumerate() {
            if position == axis {
                total = total.map(|total| &total + other).filter(|total| !total.is_unwieldy());
                continue;
            }
            *dim = dims::unify(dim, other).ok_or_else(|| {
                args.error(index, format_args!("dimension {position} to be {dim} as before"))
            })?;
        }
        // Row-major contents follow each other only along the first axis.
        value = value.filter(|_| axis == 0).zip(x.value.clone()).map(|(mut value, more)| {
            value.extend(more);
            value
        });
    }
    set(&mut dims, axis, total.unwrap_or_else(|| symbols.fresh()));
    Ok(vec![Fact::with_value(first.dtype(), Shape(dims), value)])
}

pub(super) fn split(axis: i64, parts: usize, inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["x", "sizes?"])?;
    let x = args.get(0)?;
    let axis = normalize_axis(axis, x.rank())?;
    if parts == 0 || parts > MAX_OUTPUTS {
        return Err(RuleError(format!("expected 1 to {MAX_OUTPUTS} parts, found {parts}")));
    }
    let whole = x.dims().get(axis).cloned().unwrap_or_else(|| Dim::from(0));
    let sizes = match args.opt(1) {
        Some(_) => given_sizes(&args, parts, &whole, symbols)?,
        None => equal_sizes(parts, &whole, symbols),
    };
    let mut start = Some(0usize);
    let facts = sizes.into_iter().map(|size| {
        let mut dims = x.dims().to_vec();
        set(&mut dims, axis, size.clone());
        let end = start.zip(size.as_const()).and_then(|(s, n)| s.checked_add(usize::try_from(n).ok()?));
        let value = start.zip(end).filter(|_| x.rank() == 1);
        let value = value.zip(x.value.as_ref()).and_then(|((s, e), v)| v.get(s..e).map(<[Dim]>::to_vec));
        start = end;
        Fact::with_value(x.dtype(), Shape(dims), value)
    });
    Ok(facts.collect())
}

fn given_sizes(
    args: &Args<'_>,
    parts: usize,
    whole: &Dim,
    symbols: &mut FreshSymbols,
) -> Result<Vec<Dim>, RuleError> {
    if args.list_len(1)?.is_some_and(|len| len != parts) {
        return Err(args.error(1, format_args!("one size for each of {parts} outputs")));
    }
    let Some(sizes) = args.list(1)? else {
        return Ok((0..parts).map(|_| symbols.fresh()).collect());
    };
    if sizes.iter().any(|size| size.as_const().is_some_and(|size| size < 0)) {
        return Err(RuleError(format!("expected no negative sizes, found {sizes:?}")));
    }
    let sum = sizes.iter().try_fold(Dim::from(0), |sum, size| value::add(&sum, size));
    if sum.is_none_or(|sum| dims::unify(&sum, whole).is_none()) {
        return Err(RuleError(format!("the sizes {sizes:?} do not add up to the dimension, {whole}")));
    }
    Ok(sizes)
}

/// Equal sizes, rounded up, as long as there is something left.
fn equal_sizes(parts: usize, whole: &Dim, symbols: &mut FreshSymbols) -> Vec<Dim> {
    if let Some(size) = whole.exact_div(&Dim::from(parts)) {
        return vec![size; parts];
    }
    let Some(whole) = whole.as_const().and_then(|whole| usize::try_from(whole).ok()) else {
        return (0..parts).map(|_| symbols.fresh()).collect();
    };
    let size = whole.div_ceil(parts);
    let mut left = whole;
    (0..parts)
        .map(|_| {
            let part = size.min(left);
            left -= part;
            Dim::from(part)
        })
        .collect()
}

/// Whole slices picked from the contents of `x` along `axis`.
pub(super) fn pick(x: &Fact, axis: usize, picked: &[usize]) -> Option<Vec<Dim>> {
    let value = x.value.as_ref()?;
    let shape = x.ty.shape.as_const()?;
    let inner: usize = shape.get(axis + 1..)?.iter().product();
    let outer: usize = shape.get(..axis)?.iter().product();
    let size = *shape.get(axis)?;
    value::count(&[outer, picked.len(), inner])?;
    let mut result = Vec::new();
    for o in 0..outer {
        for i in picked {
            let start = (o * size + i) * inner;
            result.extend_from_slice(value.get(start..start + inner)?);
        }
    }
    Some(result)
}
