//! Tests of the rules. Types are written as the text format has them.

mod compute;
mod control;
mod elementwise;
mod encoder;
mod layout;
mod properties;
mod select;
mod shape;

use super::{Fact, FreshSymbols, infer};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op::Op;
use crate::shape::{Shape, TensorType};
use crate::tensor::TensorData;

/// `f32[batch, 3]` as a type.
fn ty(text: &str) -> TensorType {
    let (dtype, dims) = text.strip_suffix(']').unwrap().split_once('[').unwrap();
    let dims = dims.split(',').filter(|dim| !dim.trim().is_empty()).map(|dim| dim.parse().unwrap());
    TensorType::new(dtype.parse().unwrap(), Shape(dims.collect()))
}

/// A tensor of which only the type is known.
fn t(text: &str) -> Option<Fact> {
    Some(Fact::of(ty(text)))
}

/// An `I64` vector of known contents, written as dimensions.
fn v(dims: &str) -> Option<Fact> {
    let dims: Vec<Dim> =
        dims.split(',').filter(|dim| !dim.trim().is_empty()).map(|dim| dim.parse().unwrap()).collect();
    Some(Fact::with_value(DType::I64, Shape(vec![Dim::from(dims.len())]), Some(dims)))
}

/// An `I64` scalar of known contents.
fn s(dim: &str) -> Option<Fact> {
    Some(Fact::with_value(DType::I64, Shape::default(), Some(vec![dim.parse().unwrap()])))
}

/// A constant.
fn c(data: TensorData) -> Option<Fact> {
    Some(Fact::of_constant(&data))
}

fn facts(op: &Op, inputs: &[Option<Fact>]) -> Vec<Fact> {
    infer(op, inputs, &mut FreshSymbols::starting_at(0)).unwrap()
}

/// The types of the results, separated by `; `.
fn types(op: Op, inputs: &[Option<Fact>]) -> String {
    let types: Vec<String> = facts(&op, inputs).iter().map(|fact| fact.ty.to_string()).collect();
    types.join("; ")
}

/// The contents of the first result, `-` when they are not known.
fn value(op: Op, inputs: &[Option<Fact>]) -> String {
    match &facts(&op, inputs)[0].value {
        Some(dims) => dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(", "),
        None => "-".into(),
    }
}

/// The message with which operands are refused.
fn error(op: Op, inputs: &[Option<Fact>]) -> String {
    match infer(&op, inputs, &mut FreshSymbols::starting_at(0)) {
        Ok(facts) => panic!("expected an error, found {facts:?}"),
        Err(error) => error.to_string(),
    }
}

/// Asserts that the message holds every part.
#[track_caller]
fn refused(op: Op, inputs: &[Option<Fact>], parts: &[&str]) {
    let message = error(op, inputs);
    for part in parts {
        assert!(message.contains(part), "{message:?} does not hold {part:?}");
    }
}
