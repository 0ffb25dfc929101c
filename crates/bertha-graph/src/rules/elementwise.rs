//! Operations that treat every element alike.

use crate::dim::Dim;
use crate::dtype::DType;
use crate::op::{BinaryOp, UnaryOp};
use crate::shape::Shape;

use super::args::{Args, Types};
use super::{Fact, FreshSymbols, Outcome, dims, value};

pub(super) fn unary(op: UnaryOp, inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x"])?;
    let types = match op {
        UnaryOp::Identity => Types::ANY,
        UnaryOp::Not => Types::BOOL,
        UnaryOp::Abs | UnaryOp::Sign => Types::NUMBER,
        UnaryOp::Neg | UnaryOp::Relu => Types::SIGNED,
        _ => Types::FLOAT,
    };
    let x = args.typed(0, &types)?;
    let dtype = if op == UnaryOp::IsNan { DType::Bool } else { x.dtype() };
    let value = x.value.as_ref().and_then(|value| value.iter().map(|dim| apply(op, dim)).collect());
    Ok(vec![Fact::with_value(dtype, x.ty.shape.clone(), value)])
}

fn apply(op: UnaryOp, dim: &Dim) -> Option<Dim> {
    match op {
        UnaryOp::Identity => Some(dim.clone()),
        UnaryOp::Not => Some(Dim::from(i64::from(dim.as_const()? == 0))),
        UnaryOp::Neg => match dim.as_const() {
            Some(number) => number.checked_neg().map(Dim::from),
            None => Some(&Dim::from(0) - dim),
        },
        UnaryOp::Abs => match dim.as_const() {
            Some(number) => number.checked_abs().map(Dim::from),
            None => (dim.lower_bound()? >= 0).then(|| dim.clone()),
        },
        UnaryOp::Sign => dim.as_const().map(|number| Dim::from(number.signum())),
        UnaryOp::Relu => dims::at_least_zero(dim.clone()),
        _ => None,
    }
}

pub(super) fn binary(op: BinaryOp, inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["a", "b"])?;
    let types = match op {
        BinaryOp::And => Types::BOOL,
        BinaryOp::Equal => Types::ANY,
        _ => Types::NUMBER,
    };
    let a = args.typed(0, &types)?;
    // A power may have an exponent of another type; ONNX lets no other operation mix them.
    let b = if op == BinaryOp::Pow { args.typed(1, &types)? } else { args.like(1, 0)? };
    let shape = dims::broadcast(&a.ty.shape, &b.ty.shape, symbols)?;
    let value = value::binary(op, a, b, shape.dims());
    let dtype = if op.is_predicate() { DType::Bool } else { a.dtype() };
    Ok(vec![Fact::with_value(dtype, shape, value)])
}

pub(super) fn gelu(inputs: &[Option<Fact>]) -> Outcome {
    let x = Args::new(inputs, &["x"])?.typed(0, &Types::FLOAT)?;
    Ok(vec![Fact::of(x.ty.clone())])
}

pub(super) fn clip(inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x", "min?", "max?"])?;
    let x = args.typed(0, &Types::NUMBER)?;
    let mut value = x.value.clone();
    for (index, pick) in [(1, dims::max as value::Combine), (2, dims::min)] {
        let Some(bound) = args.opt_like(index, 0)? else { continue };
        args.single(index)?;
        let bound = bound.value.as_ref().and_then(|value| value.first());
        value =
            value.zip(bound).and_then(|(value, bound)| value.iter().map(|dim| pick(dim, bound)).collect());
    }
    Ok(vec![Fact::with_value(x.dtype(), x.ty.shape.clone(), value)])
}

pub(super) fn where_(inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["condition", "a", "b"])?;
    let condition = args.typed(0, &Types::BOOL)?;
    let (a, b) = (args.get(1)?, args.like(2, 1)?);
    let branches = dims::broadcast(&a.ty.shape, &b.ty.shape, symbols)?;
    let shape = dims::broadcast(&condition.ty.shape, &branches, symbols)?;
    let value = choose(condition, a, b, &shape);
    Ok(vec![Fact::with_value(a.dtype(), shape, value)])
}

/// The contents of `a` where the condition is known to hold, of `b` where it is known not to.
fn choose(condition: &Fact, a: &Fact, b: &Fact, shape: &Shape) -> Option<Vec<Dim>> {
    condition.value.as_ref()?;
    let to = shape.as_const()?;
    let condition = value::spread(condition, &to)?;
    // A branch that is never taken need not be known.
    let (a, b) = (value::spread(a, &to), value::spread(b, &to));
    condition
        .iter()
        .enumerate()
        .map(|(index, condition)| {
            let branch = if condition.as_const()? != 0 { &a } else { &b };
            branch.as_ref()?.get(index).cloned()
        })
        .collect()
}

pub(super) fn cast(to: DType, inputs: &[Option<Fact>]) -> Outcome {
    let x = Args::new(inputs, &["x"])?.get(0)?;
    Ok(vec![Fact::with_value(to, x.ty.shape.clone(), value::cast(x, to))])
}
