//! Dimensions of inputs and outputs.

use std::collections::BTreeMap;

use bertha_import::onnx::proto::dimension;

use crate::changes::Changes;
use crate::error::{Result, SurgeryError};
use crate::model::Model;
use crate::names::nearest;
use crate::tensor::Value;
use crate::types::describe;

/// A length as it is written on a command line: a number, a name, or `?` for an unknown one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Length {
    /// Always the same.
    Fixed(i64),
    /// The same wherever the name occurs.
    Named(String),
    /// Not known.
    Unknown,
}

impl Length {
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Length, String> {
        let text = text.trim();
        let starts_like_a_number = |c: char| c.is_ascii_digit() || c == '-' || c == '+';
        if text == "?" {
            Ok(Length::Unknown)
        } else if text.is_empty() {
            Err("a length is empty: give a number, a name, or `?`".into())
        } else if text.starts_with(starts_like_a_number) {
            match text.parse::<i64>() {
                Ok(number) if number >= 0 => Ok(Length::Fixed(number)),
                _ => Err(format!("`{text}` is no length: give a number of 0 or more, a name, or `?`")),
            }
        } else {
            Ok(Length::Named(text.to_owned()))
        }
    }

    pub(crate) fn value(&self) -> Option<dimension::Value> {
        match self {
            Length::Fixed(number) => Some(dimension::Value::DimValue(*number)),
            Length::Named(name) => Some(dimension::Value::DimParam(name.clone())),
            Length::Unknown => None,
        }
    }
}

/// Sets the shapes of inputs and outputs, each a name and its lengths. Where a named length of the file changes, it changes in
/// every shape of the file.
///
/// # Errors
/// [`SurgeryError::Request`] for an unknown name, another number of dimensions than there are, or two lengths for one name.
pub fn set_shapes(model: &mut Model, shapes: &[(String, Vec<Length>)]) -> Result<Changes> {
    let mut symbols: BTreeMap<String, Length> = BTreeMap::new();
    let mut fixed_changes = false;
    for (name, lengths) in shapes {
        let value = ports(model).find(|value| value.name() == name);
        let Some(value) = value else {
            let near = nearest(name, ports(model).map(Value::name));
            return Err(SurgeryError::request(format!("there is no input or output `{name}`{near}")));
        };
        let Some(tensor) = value.tensor_type() else {
            return Err(SurgeryError::request(format!("`{name}` is no tensor: it is {}", describe(value))));
        };
        let Some(shape) = tensor.shape else { continue };
        if shape.dim.len() != lengths.len() {
            return Err(SurgeryError::request(format!(
                "`{name}` is {}, of {} dimensions; {} lengths are given",
                describe(value),
                shape.dim.len(),
                lengths.len()
            )));
        }
        for (dim, length) in shape.dim.iter().zip(lengths) {
            match &dim.value {
                Some(dimension::Value::DimParam(symbol)) => {
                    match symbols.insert(symbol.clone(), length.clone()) {
                        Some(other) if other != *length => {
                            return Err(SurgeryError::request(format!(
                                "the length `{symbol}` is given two values; name the shapes of all inputs that have it"
                            )));
                        }
                        _ => {}
                    }
                }
                Some(dimension::Value::DimValue(number)) => {
                    fixed_changes |= *length != Length::Fixed(*number)
                }
                None => {}
            }
        }
    }
    symbols.retain(|symbol, length| *length != Length::Named(symbol.clone()));
    let mut changes = Changes::default();
    apply(model, shapes, &symbols, &mut changes);
    if fixed_changes {
        model.graph.for_each_mut(&mut |graph| graph.value_infos.clear());
        changes.note("a length that was fixed has changed: the shapes of tensors in between were taken out");
        changes.note("shapes of outputs that are not named here are as they were");
    }
    Ok(changes)
}

/// Gives a named length of the file another name or a number, in every shape.
///
/// # Errors
/// [`SurgeryError::Request`] when no input or output has it.
pub fn set_length(model: &mut Model, symbol: &str, length: &Length) -> Result<Changes> {
    let dims = ports(model).filter_map(Value::tensor_type).filter_map(|tensor| tensor.shape);
    let known: Vec<String> = dims
        .flat_map(|shape| shape.dim)
        .filter_map(|dim| match dim.value {
            Some(dimension::Value::DimParam(name)) => Some(name),
            _ => None,
        })
        .collect();
    if !known.iter().any(|name| name == symbol) {
        let near = nearest(symbol, known.iter().map(String::as_str));
        return Err(SurgeryError::request(format!("no input or output has a length named `{symbol}`{near}")));
    }
    let symbols = BTreeMap::from([(symbol.to_owned(), length.clone())]);
    let mut changes = Changes::default();
    apply(model, &[], &symbols, &mut changes);
    Ok(changes)
}

fn ports(model: &Model) -> impl Iterator<Item = &Value> {
    model.graph.inputs.iter().chain(&model.graph.outputs)
}

fn apply(
    model: &mut Model,
    shapes: &[(String, Vec<Length>)],
    symbols: &BTreeMap<String, Length>,
    changes: &mut Changes,
) {
    let graph = &mut model.graph;
    for value in graph.inputs.iter_mut().chain(&mut graph.outputs) {
        let before = describe(value);
        let given = shapes.iter().find(|(name, _)| name == value.name());
        match given {
            Some((_, lengths)) => value.set_lengths(&lengths.iter().map(Length::value).collect::<Vec<_>>()),
            None => substitute(value, symbols),
        }
        let after = describe(value);
        if before != after {
            changes.change(format!("`{}`: {before} becomes {after}", value.name()));
        }
    }
    let mut between = 0usize;
    graph.for_each_mut(&mut |graph| {
        for value in &mut graph.value_infos {
            let before = value.clone();
            substitute(value, symbols);
            between += usize::from(*value != before);
        }
    });
    if between > 0 {
        changes.change(format!("the shapes of {between} tensors in between follow"));
    }
}

fn substitute(value: &mut Value, symbols: &BTreeMap<String, Length>) {
    let Some(shape) = value.tensor_type().and_then(|tensor| tensor.shape) else { return };
    let mut changed = false;
    let lengths = shape.dim.into_iter().map(|dim| match &dim.value {
        Some(dimension::Value::DimParam(name)) => match symbols.get(name) {
            Some(length) => {
                changed = true;
                length.value()
            }
            None => dim.value,
        },
        _ => dim.value,
    });
    let lengths: Vec<_> = lengths.collect();
    if changed {
        value.set_lengths(&lengths);
    }
}
