//! Operations on shapes, and operations whose operands are sizes.

use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::RuleError;
use crate::op::PadMode;
use crate::shape::Shape;
use crate::tensor::TensorData;

use super::args::{Args, Types};
use super::layout::known_rank;
use super::{Fact, FreshSymbols, Outcome, TRACKED_ELEMENTS, dims, value};

pub(super) fn shape(start: i64, end: Option<i64>, inputs: &[Option<Fact>]) -> Outcome {
    let x = Args::new(inputs, &["x"])?.get(0)?;
    let rank = x.rank() as i64;
    let position = |bound: i64| {
        let bound = if bound < 0 { bound.saturating_add(rank) } else { bound };
        bound.clamp(0, rank) as usize
    };
    let (start, end) = (position(start), end.map_or(x.rank(), position));
    let picked = x.dims().get(start..end).unwrap_or_default().to_vec();
    Ok(vec![Fact::with_value(DType::I64, Shape(vec![Dim::from(picked.len())]), Some(picked))])
}

pub(super) fn constant_of_shape(
    fill: &TensorData,
    inputs: &[Option<Fact>],
    symbols: &mut FreshSymbols,
) -> Outcome {
    let args = Args::new(inputs, &["shape"])?;
    if fill.len() != 1 {
        return Err(RuleError(format!("expected one value to fill with, found {}", fill.ty())));
    }
    let dims = match args.list(0)? {
        Some(dims) => dims,
        None => (0..known_rank(&args, 0)?).map(|_| symbols.fresh()).collect(),
    };
    let shape = Shape(dims);
    let value = shape.as_const().and_then(|sizes| {
        let fill = super::constant_value(fill)?.first()?.clone();
        Some(vec![fill; value::count(&sizes)?])
    });
    Ok(vec![Fact::with_value(fill.dtype(), shape, value)])
}

pub(super) fn expand(inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["x", "shape"])?;
    let x = args.get(0)?;
    let dims = match args.list(1)? {
        Some(requested) => {
            if requested.iter().any(|dim| dim.as_const().is_some_and(|size| size < 0)) {
                return Err(RuleError(format!("the requested shape {requested:?} has a negative size")));
            }
            dims::broadcast_dims(x.dims(), &requested, symbols)
                .ok_or_else(|| RuleError(format!("{} cannot be expanded to {requested:?}", x.ty)))?
        }
        None => unknown_expansion(x, known_rank(&args, 1)?, symbols),
    };
    let shape = Shape(dims);
    let value = shape.as_const().and_then(|sizes| value::spread(x, &sizes));
    Ok(vec![Fact::with_value(x.dtype(), shape, value)])
}

/// The dimensions when only the rank of the requested shape is known: sizes above 1 cannot change.
fn unknown_expansion(x: &Fact, rank: usize, symbols: &mut FreshSymbols) -> Vec<Dim> {
    let leading = rank.saturating_sub(x.rank());
    let mut dims: Vec<Dim> = (0..leading).map(|_| symbols.fresh()).collect();
    let settled = |dim: &Dim| dim.as_const().is_some_and(|size| size != 1);
    let requested_from = x.rank().saturating_sub(rank);
    dims.extend(x.dims().iter().enumerate().map(|(axis, dim)| {
        if axis < requested_from || settled(dim) { dim.clone() } else { symbols.fresh() }
    }));
    dims
}

pub(super) fn tile(inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["x", "repeats"])?;
    let x = args.get(0)?;
    if args.list_len(1)?.is_some_and(|len| len != x.rank()) {
        return Err(args.error(1, format_args!("{} elements, one for each dimension", x.rank())));
    }
    let Some(repeats) = args.list(1)? else {
        let dims = x.dims().iter().map(|_| symbols.fresh()).collect();
        return Ok(vec![Fact::with_value(x.dtype(), Shape(dims), None)]);
    };
    if repeats.iter().any(|count| count.as_const().is_some_and(|count| count < 0)) {
        return Err(RuleError(format!("expected no negative repeats, found {repeats:?}")));
    }
    let dims: Vec<Dim> = x.dims().iter().zip(&repeats).map(|(dim, count)| dim * count).collect();
    let value = match (repeats.as_slice(), &x.value) {
        ([count], Some(value)) => repeated(value, count),
        (_, Some(value)) if repeats.iter().all(|count| count.as_const() == Some(1)) => Some(value.clone()),
        _ => None,
    };
    Ok(vec![Fact::with_value(x.dtype(), Shape(dims), value)])
}

/// The contents of a vector, `count` times.
fn repeated(value: &[Dim], count: &Dim) -> Option<Vec<Dim>> {
    let count = usize::try_from(count.as_const()?).ok()?;
    let total = value.len().checked_mul(count)?;
    (total <= TRACKED_ELEMENTS).then(|| value.iter().cycle().take(total).cloned().collect())
}

pub(super) fn pad(mode: PadMode, inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["x", "pads", "value?", "axes?"])?;
    let x = args.get(0)?;
    if args.opt(2).is_some() {
        if mode != PadMode::Constant {
            return Err(args.error(2, "no value for a mode that copies elements"));
        }
        args.like(2, 0)?;
        args.single(2)?;
    }
    if let Some(count) = args.unknown_list(3)? {
        if args.list_len(1)?.is_some_and(|len| Some(len) != count.checked_mul(2)) {
            return Err(args.error(1, format_args!("two elements for each of {count} axes")));
        }
        // Any dimension may be one of the padded ones.
        let dims = x.dims().iter().map(|_| symbols.fresh()).collect();
        return Ok(vec![Fact::with_value(x.dtype(), Shape(dims), None)]);
    }
    let axes = args.axes(3, x.rank())?.unwrap_or_else(|| (0..x.rank()).collect());
    if args.list_len(1)?.is_some_and(|len| len != 2 * axes.len()) {
        return Err(args.error(1, format_args!("{} elements, two for each axis", 2 * axes.len())));
    }
    let pads = args.list(1)?;
    let mut dims = x.dims().to_vec();
    for (index, axis) in axes.iter().enumerate() {
        let Some(dim) = dims.get_mut(*axis) else { continue };
        let ends = pads.as_ref().and_then(|pads| Some((pads.get(index)?, pads.get(index + axes.len())?)));
        let padded = ends.map(|(begin, end)| &(&*dim + begin) + end);
        if let Some(size) = padded.as_ref().and_then(Dim::as_const).filter(|size| *size < 0) {
            return Err(RuleError(format!("the pads crop axis {axis} of {} to the size {size}", x.ty)));
        }
        *dim = padded.and_then(dims::at_least_zero).unwrap_or_else(|| symbols.fresh());
    }
    Ok(vec![Fact::with_value(x.dtype(), Shape(dims), None)])
}

pub(super) fn range(inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["start", "limit", "delta"])?;
    let start = args.typed(0, &Types::NUMBER)?;
    args.like(1, 0)?;
    args.like(2, 0)?;
    for index in 0..3 {
        args.single(index)?;
    }
    let dtype = start.dtype();
    let (len, value) = if dtype.is_float() { (float_range(&args)?, None) } else { int_range(&args)? };
    let len = len.unwrap_or_else(|| symbols.fresh());
    Ok(vec![Fact::with_value(dtype, Shape(vec![len]), value)])
}

type Counted = (Option<Dim>, Option<Vec<Dim>>);

/// Length and contents of a range of integers.
fn int_range(args: &Args<'_>) -> Result<Counted, RuleError> {
    let scalar = |index| args.opt(index).and_then(|fact| fact.value.as_ref()?.first().cloned());
    let Some(delta) = scalar(2) else { return Ok((None, None)) };
    if delta == Dim::from(0) {
        return Err(args.error(2, "a step other than 0"));
    }
    let (Some(start), Some(limit)) = (scalar(0), scalar(1)) else { return Ok((None, None)) };
    let len = int_range_len(&start, &limit, &delta);
    let count = len.as_ref().and_then(Dim::as_const).and_then(|len| usize::try_from(len).ok());
    let value = count.filter(|count| *count <= TRACKED_ELEMENTS).and_then(|count| {
        let at = |i: usize| value::add(&start, &value::mul(&delta, &Dim::from(i))?);
        (0..count).map(at).collect()
    });
    Ok((len, value))
}

/// `max(ceil((limit - start) / delta), 0)`.
fn int_range_len(start: &Dim, limit: &Dim, delta: &Dim) -> Option<Dim> {
    if let (Some(start), Some(limit), Some(delta)) = (start.as_const(), limit.as_const(), delta.as_const()) {
        let (span, delta) = (i128::from(limit) - i128::from(start), i128::from(delta));
        let count = if (span > 0) == (delta > 0) { (span.abs() + delta.abs() - 1) / delta.abs() } else { 0 };
        return i64::try_from(count).ok().map(Dim::from);
    }
    let span = limit - start;
    let len = if delta.as_const() == Some(1) { span } else { span.exact_div(delta)? };
    dims::at_least_zero(len)
}

/// Length of a range of floats, when its operands are constants.
fn float_range(args: &Args<'_>) -> Result<Option<Dim>, RuleError> {
    let scalar = |index| args.opt(index).and_then(|fact| fact.constant.as_ref()?.to_f64().first().copied());
    let (Some(start), Some(limit), Some(delta)) = (scalar(0), scalar(1), scalar(2)) else { return Ok(None) };
    let count = ((limit - start) / delta).ceil();
    // 2^53 elements fit no memory; NaN comes from a step of 0 or from bounds that are not numbers.
    if delta == 0.0 || count.is_nan() || count > 9e15 {
        return Err(RuleError(format!("a range from {start} to {limit} by {delta} has no length")));
    }
    Ok(Some(Dim::from(count.max(0.0) as i64)))
}
