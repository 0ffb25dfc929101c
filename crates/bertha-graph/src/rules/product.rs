//! Matrix products.

use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::RuleError;
use crate::shape::Shape;

use super::args::{Args, Types};
use super::{Fact, FreshSymbols, Outcome, dims};

pub(super) fn matmul(inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["a", "b"])?;
    let a = args.typed(0, &Types::NUMBER)?;
    args.like(1, 0)?;
    Ok(vec![Fact::with_value(a.dtype(), product(&args, 0, 1, symbols)?, None)])
}

/// The shape of the product of two operands: over the last two dimensions, the others broadcast, a vector standing
/// for a row on the left and a column on the right.
fn product(args: &Args<'_>, a: usize, b: usize, symbols: &mut FreshSymbols) -> Result<Shape, RuleError> {
    let (left, right) = (args.get(a)?.dims(), args.get(b)?.dims());
    let (left_batch, rows, inner) = match left {
        [] => return Err(args.error(a, "at least one dimension")),
        [inner] => (&[][..], None, inner),
        [batch @ .., rows, inner] => (batch, Some(rows), inner),
    };
    let (right_batch, right_inner, columns) = match right {
        [] => return Err(args.error(b, "at least one dimension")),
        [inner] => (&[][..], inner, None),
        [batch @ .., inner, columns] => (batch, inner, Some(columns)),
    };
    if dims::unify(inner, right_inner).is_none() {
        let (left, right) = (&args.get(a)?.ty, &args.get(b)?.ty);
        return Err(RuleError(format!(
            "{left} times {right}: the last dimension of the first, {inner}, is not the second to last of the \
             second, {right_inner}"
        )));
    }
    let Some(mut shape) = dims::broadcast_dims(left_batch, right_batch, symbols) else {
        let (left, right) = (&args.get(a)?.ty, &args.get(b)?.ty);
        return Err(RuleError(format!("{left} times {right}: the leading dimensions do not broadcast")));
    };
    shape.extend(rows.into_iter().chain(columns).cloned());
    Ok(Shape(shape))
}

pub(super) fn gemm(trans_a: bool, trans_b: bool, inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["a", "b", "c?"])?;
    let a = args.typed(0, &Types::NUMBER)?;
    args.like(1, 0)?;
    args.opt_like(2, 0)?;
    let (rows, inner) = matrix(&args, 0, trans_a)?;
    let (right_inner, columns) = matrix(&args, 1, trans_b)?;
    if dims::unify(inner, right_inner).is_none() {
        return Err(args.error(1, format_args!("an inner dimension of {inner} (as {} has)", args.name(0))));
    }
    let shape = vec![rows.clone(), columns.clone()];
    if let Some(c) = args.opt(2)
        && !dims::broadcasts_into(c.dims(), &shape)
    {
        return Err(args.error(2, format_args!("something that broadcasts to {}", Shape(shape))));
    }
    Ok(vec![Fact::with_value(a.dtype(), Shape(shape), None)])
}

/// The two dimensions of a matrix, after an optional transposition.
fn matrix<'a>(args: &Args<'a>, index: usize, transposed: bool) -> Result<(&'a Dim, &'a Dim), RuleError> {
    match args.get(index)?.dims() {
        [a, b] if transposed => Ok((b, a)),
        [a, b] => Ok((a, b)),
        _ => Err(args.error(index, "a matrix")),
    }
}

pub(super) fn matmul_integer(inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["a", "b", "a_zero_point?", "b_zero_point?"])?;
    args.typed(0, &Types::BYTE)?;
    args.typed(1, &Types::BYTE)?;
    args.opt_like(2, 0)?;
    args.opt_like(3, 1)?;
    quantization_of_rows(&args, 2, 0)?;
    quantization_of_columns(&args, 3, 1)?;
    Ok(vec![Fact::with_value(DType::I32, product(&args, 0, 1, symbols)?, None)])
}

pub(super) fn qlinear_matmul(inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let names = &["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"];
    let args = Args::new(inputs, names)?;
    for index in [0, 3, 7] {
        args.typed(index, &Types::BYTE)?;
    }
    for index in [1, 4, 6] {
        args.typed(index, &Types::FLOAT)?;
    }
    args.like(2, 0)?;
    args.like(5, 3)?;
    for index in [1, 2] {
        quantization_of_rows(&args, index, 0)?;
    }
    for index in [4, 5] {
        quantization_of_columns(&args, index, 3)?;
    }
    let shape = product(&args, 0, 3, symbols)?;
    for index in [6, 7] {
        if !is_per_row(args.get(index)?.dims(), shape.dims()) {
            return Err(args.error(index, "a scalar, or one value for each row of the product"));
        }
    }
    Ok(vec![Fact::with_value(args.get(7)?.dtype(), shape, None)])
}

/// A scale or zero point of the left operand: one, or one for each row (as a vector, or with all leading
/// dimensions and a last one of 1).
fn quantization_of_rows(args: &Args<'_>, index: usize, operand: usize) -> Result<(), RuleError> {
    let Some(fact) = args.opt(index) else { return Ok(()) };
    match is_per_row(fact.dims(), args.get(operand)?.dims()) {
        true => Ok(()),
        false => {
            Err(args
                .error(index, format_args!("a scalar, or one value for each row of {}", args.name(operand))))
        }
    }
}

fn is_per_row(dims: &[Dim], operand: &[Dim]) -> bool {
    let rows = operand.len().checked_sub(2).and_then(|axis| operand.get(axis));
    match dims {
        [] => true,
        [count] => count.as_const() == Some(1) || rows.is_none_or(|rows| dims::unify(count, rows).is_some()),
        [.., last] => last.as_const().is_none_or(|last| last == 1) && dims::broadcasts_into(dims, operand),
    }
}

/// A scale or zero point of the right operand: one, or one for each column.
fn quantization_of_columns(args: &Args<'_>, index: usize, operand: usize) -> Result<(), RuleError> {
    let Some(fact) = args.opt(index) else { return Ok(()) };
    let matrix = args.get(operand)?.dims();
    let fits = match (fact.dims(), matrix) {
        ([], _) => true,
        ([.., row, _], _) if row.as_const().is_some_and(|row| row != 1) => false,
        (dims, matrix) => dims::broadcasts_into(dims, matrix),
    };
    match fits {
        true => Ok(()),
        false => Err(args
            .error(index, format_args!("a scalar, or one value for each column of {}", args.name(operand)))),
    }
}
