//! What the caller of a model gives: the inputs of the graph and their symbolic dimensions.

use std::collections::HashSet;

use bertha_graph::{Dim, Graph, Shape, TensorType};

use super::context::{Scope, Value};
use super::graph::Importer;
use crate::error::{ImportError, Result};
use crate::onnx::dtype_of;
use crate::onnx::proto::{GraphProto, TensorShapeProto, ValueInfoProto, dimension, type_proto};

/// Declares the inputs of the graph. Initializers are listed among the inputs of old files; those are constants.
pub(super) fn declare<'m>(
    importer: &Importer<'m>,
    graph: &mut Graph,
    scope: &mut Scope<'m>,
    source: &'m GraphProto,
) -> Result<()> {
    let mut symbols = Symbols::of(source);
    for input in &source.input {
        if let Some(Value::Initializer(_)) = scope.names.get(input.name.as_str()) {
            continue;
        }
        let failed = |reason: String| ImportError::tensor(importer.path, &input.name, reason);
        let ty = input_type(input, &mut symbols).map_err(failed)?;
        let tensor = graph.add_input(&input.name, ty).map_err(|error| failed(error.to_string()))?;
        scope.names.insert(&input.name, Value::Tensor(tensor));
    }
    Ok(())
}

fn input_type(input: &ValueInfoProto, symbols: &mut Symbols) -> Result<TensorType, String> {
    let value = input.r#type.as_ref().and_then(|ty| ty.value.as_ref()).ok_or("the input has no type")?;
    let tensor = match value {
        type_proto::Value::TensorType(tensor) => tensor,
        _ => {
            return Err("the input is not a tensor; sequences, maps, optional and sparse values are not \
                         supported"
                .into());
        }
    };
    let dtype = dtype_of(tensor.elem_type)
        .map_err(|what| format!("the input has {what}, which are not supported"))?;
    let shape =
        tensor.shape.as_ref().ok_or("the input has no shape; declare at least the number of dimensions")?;
    Ok(TensorType::new(dtype, symbols.shape(&input.name, shape)))
}

/// The names of the dimensions of a graph's inputs.
struct Symbols {
    taken: HashSet<String>,
}

impl Symbols {
    /// The names that the file gives are taken, so that made ones do not meet them.
    fn of(source: &GraphProto) -> Self {
        let mut taken = HashSet::new();
        for shape in source.input.iter().filter_map(declared_shape) {
            for dim in &shape.dim {
                if let Some(dimension::Value::DimParam(name)) = &dim.value {
                    taken.insert(sanitize(name));
                }
            }
        }
        Symbols { taken }
    }

    fn shape(&mut self, input: &str, shape: &TensorShapeProto) -> Shape {
        let dims = shape.dim.iter().enumerate().map(|(index, dim)| match &dim.value {
            Some(dimension::Value::DimValue(size)) if *size >= 0 => Dim::from(*size),
            Some(dimension::Value::DimParam(name)) if !name.is_empty() => Dim::symbol(&sanitize(name)),
            // A negative size is how some writers say that it is not known.
            _ => Dim::symbol(&self.fresh(&sanitize(&format!("{input}_{index}")))),
        });
        Shape(dims.collect())
    }

    fn fresh(&mut self, base: &str) -> String {
        let mut name = base.to_owned();
        let mut number = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{base}_{number}");
            number += 1;
        }
        name
    }
}

fn declared_shape(input: &ValueInfoProto) -> Option<&TensorShapeProto> {
    match input.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => tensor.shape.as_ref(),
        _ => None,
    }
}

/// A name that the graph's text format can hold: a letter or `_`, then letters, digits, `_` and `.`.
fn sanitize(name: &str) -> String {
    let mut clean: String =
        name.chars().map(|c| if c.is_alphanumeric() || c == '_' || c == '.' { c } else { '_' }).collect();
    if !clean.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        clean.insert(0, '_');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_become_symbols() {
        for (name, symbol) in [
            ("batch_size", "batch_size"),
            ("batch size", "batch_size"),
            ("2*seq", "_2_seq"),
            ("?", "_"),
            ("unk__12", "unk__12"),
        ] {
            assert_eq!(sanitize(name), symbol);
            assert!(bertha_graph::is_symbol_name(&sanitize(name)));
        }
    }
}
