//! Conversions between floats and narrow integers.

use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::RuleError;
use crate::shape::Shape;

use super::args::{Args, Types, normalize_axis};
use super::{Fact, Outcome, dims};

/// Where scales lie: the attributes that both directions share.
pub(super) struct Axis {
    pub(super) axis: i64,
    pub(super) block_size: usize,
}

pub(super) fn quantize_linear(axis: Axis, to: DType, inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x", "scale", "zero_point?"])?;
    let x = args.typed(0, &Types::FLOAT_OR_I32)?;
    if !Types::QUANTIZED.contains(to) {
        return Err(RuleError(format!("cannot quantise to {to}; expected {}", Types::QUANTIZED.name())));
    }
    check_parameters(&args, &axis)?;
    if args.opt(2).is_some_and(|zero_point| zero_point.dtype() != to) {
        return Err(args.error(2, format_args!("{to}, the type of the result")));
    }
    Ok(vec![Fact::with_value(to, x.ty.shape.clone(), None)])
}

pub(super) fn dequantize_linear(axis: Axis, to: DType, inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x", "scale", "zero_point?"])?;
    let x = args.typed(0, &Types::DEQUANTIZABLE)?;
    if !to.is_float() {
        return Err(RuleError(format!("cannot dequantise to {to}; expected {}", Types::FLOAT.name())));
    }
    check_parameters(&args, &axis)?;
    args.opt_like(2, 0)?;
    Ok(vec![Fact::with_value(to, x.ty.shape.clone(), None)])
}

/// Checks scale and zero point: one value, one for each element of the axis, or one for each block of it.
fn check_parameters(args: &Args<'_>, at: &Axis) -> Result<(), RuleError> {
    let (x, scale) = (args.get(0)?, args.typed(1, &Types::FLOAT)?);
    if let Some(zero_point) = args.opt(2)
        && dims::unify_all(zero_point.dims(), scale.dims()).is_none()
    {
        return Err(args.error(2, format_args!("the shape of the scale, {}", scale.ty.shape)));
    }
    if at.block_size > 0 {
        return check_blocks(args, at);
    }
    match scale.dims() {
        [] => Ok(()),
        [count] if count.as_const() == Some(1) => Ok(()),
        [count] => {
            let axis = normalize_axis(at.axis, x.rank())?;
            match x.dims().get(axis).and_then(|dim| dims::unify(dim, count)) {
                Some(_) => Ok(()),
                None => {
                    let expected = format!("one element, or one for each index of axis {axis} of {}", x.ty);
                    Err(args.error(1, expected))
                }
            }
        }
        _ => Err(args.error(1, "a scalar or a vector (only blocked quantisation has more dimensions)")),
    }
}

fn check_blocks(args: &Args<'_>, at: &Axis) -> Result<(), RuleError> {
    let (x, scale) = (args.get(0)?, args.rank(1, args.get(0)?.rank())?);
    let axis = normalize_axis(at.axis, x.rank())?;
    for (position, (dim, count)) in x.dims().iter().zip(scale.dims()).enumerate() {
        let fits = match (position == axis, dim.as_const()) {
            (false, _) => dims::unify(dim, count).is_some(),
            (true, None) => true,
            (true, Some(size)) => {
                let block = i64::try_from(at.block_size).unwrap_or(i64::MAX);
                let blocks = Dim::from(size / block + i64::from(size % block != 0));
                dims::unify(&blocks, count).is_some()
            }
        };
        if !fits {
            let block = at.block_size;
            let expected = format!("one element for each block of {block} along axis {axis} of {}", x.ty);
            return Err(args.error(1, expected));
        }
    }
    Ok(())
}

pub(super) fn dynamic_quantize_linear(inputs: &[Option<Fact>]) -> Outcome {
    let x = Args::new(inputs, &["x"])?.typed(0, &Types::F32)?;
    Ok(vec![
        Fact::with_value(DType::U8, x.ty.shape.clone(), None),
        Fact::with_value(DType::F32, Shape::default(), None),
        Fact::with_value(DType::U8, Shape::default(), None),
    ])
}
