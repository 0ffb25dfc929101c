//! Types of tensors that the file does not say.

use std::collections::{HashMap, HashSet};

use bertha_graph::{Dim, TensorType};
use bertha_import::onnx::proto::{
    DataType, Dimension, ModelProto, TensorShapeProto, TypeProto, ValueInfoProto, dimension, type_proto,
};
use bertha_import::onnx::{ImportOptions, data_type, import_model};
use prost::Message;

use crate::error::{Result, SurgeryError};
use crate::graph::Graph;
use crate::model::Model;
use crate::names::nearest;
use crate::shapes::Length;
use crate::tensor::Value;
use crate::uses::{Uses, reads};

/// The type of a tensor as a message.
pub(crate) fn proto(ty: &TensorType) -> TypeProto {
    let dim = |dim: &Dim| match dim.as_const() {
        Some(number) => dimension::Value::DimValue(number),
        None => dimension::Value::DimParam(dim.to_string()),
    };
    let dims =
        ty.shape.dims().iter().map(|length| Dimension { value: Some(dim(length)), ..Default::default() });
    dense(data_type(ty.dtype) as i32, Some(dims.collect()))
}

/// A dense tensor's type.
pub(crate) fn dense(elem_type: i32, dims: Option<Vec<Dimension>>) -> TypeProto {
    let shape = dims.map(|dim| TensorShapeProto { dim });
    let tensor = type_proto::Tensor { elem_type, shape };
    TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }
}

/// A value of this name and type.
pub(crate) fn value(name: &str, ty: TypeProto) -> Value {
    Value::new(&ValueInfoProto { name: name.to_owned(), r#type: Some(ty), ..Default::default() })
}

/// What becomes of the values `names`: as the file has them where it says their type, else with the type of the constant
/// they are, else with the type that Bertha's importer finds.
///
/// # Errors
/// [`SurgeryError::Request`] naming a tensor whose type cannot be found.
pub(crate) fn values_of(model: &Model, names: &[String]) -> Result<Vec<Value>> {
    let graph = &model.graph;
    let mut missing = Vec::new();
    let mut found: HashMap<&str, Value> = HashMap::new();
    for name in names {
        let stated = graph.value(name).filter(|value| value.ty().is_some_and(|ty| ty.value.is_some()));
        let constant = || {
            let tensor = graph.initializer(name)?.proto();
            let length =
                |dim: &i64| Dimension { value: Some(dimension::Value::DimValue(*dim)), ..Default::default() };
            Some(value(name, dense(tensor.data_type, Some(tensor.dims.iter().map(length).collect()))))
        };
        match stated.cloned().or_else(constant) {
            Some(value) => drop(found.insert(name, value)),
            None => missing.push(name.clone()),
        }
    }
    let inferred = infer(model, &missing)?;
    names
        .iter()
        .map(|name| {
            if let Some(value) = found.get(name.as_str()) {
                return Ok(value.clone());
            }
            match &inferred.get(name) {
                Some(Ok(ty)) => Ok(value(name, ty.clone())),
                Some(Err(why)) => Err(SurgeryError::request(format!(
                    "the file does not say the type of tensor `{name}`, and it cannot be found ({why}): say it, as in \
                     {name}=float32[batch, 128]"
                ))),
                None => Err(SurgeryError::request(format!("the type of tensor `{name}` cannot be found"))),
            }
        })
        .collect()
}

/// The types of tensors, found by Bertha's importer and its shape rules; for each that cannot be found the reason.
pub(crate) fn infer(model: &Model, names: &[String]) -> Result<HashMap<String, Result<TypeProto, String>>> {
    let mut types = HashMap::new();
    if names.is_empty() {
        return Ok(types);
    }
    let decoded =
        ModelProto::decode(model.to_bytes()).map_err(|error| SurgeryError::request(error.to_string()))?;
    let uses = Uses::new(&model.graph)?;
    let together = import_types(model, &decoded, &uses, names);
    for name in names {
        let ty = match &together {
            Ok(types) => types.get(name).cloned().ok_or_else(|| "the importer dropped it".to_owned()),
            Err(why) if names.len() == 1 => Err(why.clone()),
            // One that cannot be imported does not keep the others from being found.
            Err(_) => import_types(model, &decoded, &uses, std::slice::from_ref(name)).and_then(|types| {
                types.get(name).cloned().ok_or_else(|| "the importer dropped it".to_owned())
            }),
        };
        types.insert(name.clone(), ty);
    }
    Ok(types)
}

/// The types of all tensors, when Bertha can import the model; none otherwise.
pub(crate) fn infer_all(model: &Model) -> HashMap<String, type_proto::Tensor> {
    let Ok(decoded) = ModelProto::decode(model.to_bytes()) else { return HashMap::new() };
    let options = ImportOptions { companions: false, ..ImportOptions::default() };
    let Ok(imported) = import_model(&decoded, model.path(), &options) else { return HashMap::new() };
    let mut found = HashMap::new();
    for tensor in imported.graph.tensors() {
        if let Some(type_proto::Value::TensorType(ty)) = proto(&tensor.ty).value {
            found.insert(tensor.name.clone(), ty);
        }
    }
    found
}

/// Imports the part of the model that computes these tensors.
fn import_types(
    model: &Model,
    decoded: &ModelProto,
    uses: &Uses<'_>,
    names: &[String],
) -> Result<HashMap<String, TypeProto>, String> {
    let needed = ancestors(&model.graph, uses, names.iter().map(String::as_str), &HashSet::new());
    let mut part = decoded.clone();
    let graph = part.graph.get_or_insert_default();
    let mut at = 0;
    graph.node.retain(|_| {
        at += 1;
        needed.contains(&(at - 1))
    });
    graph.output =
        names.iter().map(|name| ValueInfoProto { name: name.clone(), ..Default::default() }).collect();
    let options = ImportOptions { companions: false, ..ImportOptions::default() };
    let imported = import_model(&part, model.path(), &options).map_err(|error| error.to_string())?;
    let outputs = imported.graph.outputs().iter();
    Ok(outputs.map(|(name, tensor)| (name.clone(), proto(&imported.graph.tensor(*tensor).ty))).collect())
}

/// The nodes from which tensors are computed, not going beyond the tensors in `stop`.
pub(crate) fn ancestors<'a>(
    graph: &'a Graph,
    uses: &Uses<'_>,
    tensors: impl Iterator<Item = &'a str>,
    stop: &HashSet<&str>,
) -> HashSet<usize> {
    let mut found = HashSet::new();
    let mut open: Vec<&str> = tensors.filter(|name| !stop.contains(name)).collect();
    while let Some(name) = open.pop() {
        let Some((at, _)) = uses.producer(name) else { continue };
        if found.insert(at) {
            open.extend(reads(&graph.nodes[at]).into_iter().filter(|name| !stop.contains(name)));
        }
    }
    found
}

/// Says the type of a tensor in between, as `float32[batch, 128]`, where neither the file nor Bertha's importer can.
///
/// # Errors
/// [`SurgeryError::Request`] for a tensor that is not there or a type that is not written so.
pub fn declare_type(model: &mut Model, name: &str, ty: &str) -> Result<()> {
    let uses = Uses::new(&model.graph)?;
    if !uses.has(name) {
        let near = nearest(name, uses.names());
        return Err(SurgeryError::request(format!("there is no tensor `{name}`{near}")));
    }
    let wrong = || SurgeryError::request(format!("`{ty}` is no type: write it as `float32[batch, 128]`"));
    let (element, lengths) = ty.strip_suffix(']').and_then(|ty| ty.split_once('[')).ok_or_else(wrong)?;
    let element = element_type(element.trim()).ok_or_else(wrong)?;
    let lengths: Vec<&str> =
        if lengths.trim().is_empty() { Vec::new() } else { lengths.split(',').collect() };
    let dims = lengths.into_iter().map(|text| match Length::parse(text) {
        Ok(length) => Ok(Dimension { value: length.value(), ..Dimension::default() }),
        Err(why) => Err(SurgeryError::request(why)),
    });
    let value = value(name, dense(element, Some(dims.collect::<Result<_>>()?)));
    model.graph.value_infos.retain(|value| value.name() != name);
    model.graph.value_infos.push(value);
    Ok(())
}

/// The number of an element type by the name that [`type_name`] gives it.
fn element_type(name: &str) -> Option<i32> {
    (1..64).find(|number| DataType::try_from(*number).is_ok() && type_name(*number) == name)
}

/// `float32[batch, 128]`; parts that the file does not say are `?`.
pub fn describe(value: &Value) -> String {
    let Some(ty) = value.ty().and_then(|ty| ty.value) else { return "?".into() };
    match ty {
        type_proto::Value::TensorType(tensor) => {
            let shape = match &tensor.shape {
                Some(shape) => {
                    format!("[{}]", shape.dim.iter().map(dimension_text).collect::<Vec<_>>().join(", "))
                }
                None => "[...]".into(),
            };
            format!("{}{shape}", type_name(tensor.elem_type))
        }
        type_proto::Value::SparseTensorType(tensor) => format!("sparse {}", type_name(tensor.elem_type)),
        type_proto::Value::SequenceType(_) => "sequence".into(),
        type_proto::Value::MapType(_) => "map".into(),
        type_proto::Value::OptionalType(_) => "optional".into(),
        type_proto::Value::OpaqueType(_) => "opaque".into(),
    }
}

pub(crate) fn dimension_text(dim: &Dimension) -> String {
    match &dim.value {
        Some(dimension::Value::DimValue(number)) => number.to_string(),
        Some(dimension::Value::DimParam(name)) => name.clone(),
        None => "?".into(),
    }
}

/// The name of an element type, in NumPy's words.
pub(crate) fn type_name(elem_type: i32) -> String {
    match DataType::try_from(elem_type) {
        Ok(DataType::Float) => "float32".into(),
        Ok(DataType::Double) => "float64".into(),
        Ok(other) => format!("{other:?}").to_lowercase(),
        Err(_) => format!("type{elem_type}"),
    }
}
