//! Operands of an op, by position and with the name under which messages speak of them.

use super::error::{Fault, fault};
use super::value::{Elements, Value};
use crate::dtype::DType;

/// The operands; absent optional ones are `None` or beyond the end.
#[derive(Clone, Copy)]
pub(super) struct Args<'a>(pub &'a [Option<&'a Value>]);

impl<'a> Args<'a> {
    /// An operand that may be absent.
    pub(super) fn optional(&self, at: usize) -> Option<&'a Value> {
        self.0.get(at).copied().flatten()
    }

    /// An operand that must be there.
    pub(super) fn required(&self, at: usize, name: &str) -> Result<&'a Value, Fault> {
        match self.optional(at) {
            Some(value) => Ok(value),
            None => fault!("operand {at} (`{name}`) is missing"),
        }
    }

    /// An integer operand that must be there, as a list.
    pub(super) fn integers(&self, at: usize, name: &str) -> Result<Vec<i64>, Fault> {
        integers(self.required(at, name)?, name)
    }

    /// An integer operand that may be absent, as a list.
    pub(super) fn optional_integers(&self, at: usize, name: &str) -> Result<Option<Vec<i64>>, Fault> {
        self.optional(at).map(|value| integers(value, name)).transpose()
    }
}

/// The elements of an integer tensor.
pub(super) fn integers(value: &Value, name: &str) -> Result<Vec<i64>, Fault> {
    int_elements(value, name)?
        .iter()
        .map(|v| i64::try_from(*v).map_err(|_| Fault(format!("`{name}`: {v} does not fit 64 signed bits"))))
        .collect()
}

/// The elements of an integer tensor, as they are held.
pub(super) fn int_elements<'a>(value: &'a Value, name: &str) -> Result<&'a [i128], Fault> {
    match value.elements() {
        Elements::Int(v) => Ok(v),
        _ => fault!("`{name}` is {}, expected integers", value.dtype()),
    }
}

/// The elements of a float tensor.
pub(super) fn floats<'a>(value: &'a Value, name: &str) -> Result<&'a [f64], Fault> {
    match value.elements() {
        Elements::Float(v) => Ok(v),
        _ => fault!("`{name}` is {}, expected floats", value.dtype()),
    }
}

/// The elements of a `Bool` tensor.
pub(super) fn bools<'a>(value: &'a Value, name: &str) -> Result<&'a [bool], Fault> {
    match value.elements() {
        Elements::Bool(v) => Ok(v),
        _ => fault!("`{name}` is {}, expected bool", value.dtype()),
    }
}

/// The only element of an integer tensor.
pub(super) fn one_integer(value: &Value, name: &str) -> Result<i64, Fault> {
    match integers(value, name)?.as_slice() {
        [one] => Ok(*one),
        many => fault!("`{name}` has {} elements, expected one", many.len()),
    }
}

/// The operand has exactly `rank` dimensions.
pub(super) fn expect_rank(value: &Value, name: &str, rank: usize) -> Result<(), Fault> {
    if value.rank() != rank {
        return fault!("`{name}` has shape {:?}, expected {rank} dimensions", value.shape());
    }
    Ok(())
}

/// The operand has exactly this shape.
pub(super) fn expect_shape(value: &Value, name: &str, shape: &[usize]) -> Result<(), Fault> {
    if value.shape() != shape {
        return fault!("`{name}` has shape {:?}, expected {shape:?}", value.shape());
    }
    Ok(())
}

/// The operand has this dtype.
pub(super) fn expect_dtype(value: &Value, name: &str, dtype: DType) -> Result<(), Fault> {
    if value.dtype() != dtype {
        return fault!("`{name}` is {}, expected {dtype}", value.dtype());
    }
    Ok(())
}
