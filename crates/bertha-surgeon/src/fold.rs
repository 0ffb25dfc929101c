//! Computing what depends on constants only.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use bertha_graph::interp::{Interpreter, Precision};
use bertha_import::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, dimension, type_proto,
};
use bertha_import::onnx::{ImportOptions, import_model, tensor_proto};
use prost::Message;

use crate::changes::Changes;
use crate::clean::sweep;
use crate::error::Result;
use crate::matcher::scope::constant_value;
use crate::model::Model;
use crate::names::node_name;
use crate::node::Node;
use crate::tensor::{Tensor, Value};
use crate::types;
use crate::uses::{Uses, reads};

/// What may be folded.
#[derive(Clone, Copy, Debug)]
pub struct FoldOptions {
    /// Results of more bytes than this stay computed.
    pub max_bytes: usize,
    /// Once the results of all nodes together have more bytes than this, further nodes stay computed.
    pub max_total_bytes: usize,
    /// Nodes whose operands have more elements than this stay: the interpreter is exact but slow.
    pub max_elements: usize,
}

impl Default for FoldOptions {
    fn default() -> Self {
        FoldOptions { max_bytes: 16 << 20, max_total_bytes: 256 << 20, max_elements: 4 << 20 }
    }
}

/// Computes nodes that read nothing but constants, with Bertha's reference interpreter, and puts constants in their place;
/// also `Shape` of what has fixed lengths. Nodes of ops that Bertha does not know, and what depends on them, stay.
///
/// # Errors
/// [`SurgeryError::Request`](crate::SurgeryError::Request) when a tensor is made twice.
pub fn fold(model: &mut Model, options: &FoldOptions) -> Result<Changes> {
    let mut changes = Changes::default();
    let folded = compute(model, options, &mut changes)?;
    let graph = &mut model.graph;
    let mut loose = Vec::new();
    let mut at = 0;
    let nodes: HashSet<usize> = folded.nodes;
    graph.nodes.retain(|node| {
        at += 1;
        let goes = nodes.contains(&(at - 1));
        if goes {
            loose.extend(node.inputs.iter().chain(&node.outputs).cloned());
        }
        !goes
    });
    // Results that only folded nodes read are swept out with them.
    graph.initializers.extend(folded.constants.values().map(Tensor::new));
    sweep(graph, loose);
    Ok(changes)
}

struct Folded {
    nodes: HashSet<usize>,
    constants: BTreeMap<String, TensorProto>,
}

fn compute(model: &Model, options: &FoldOptions, changes: &mut Changes) -> Result<Folded> {
    let graph = &model.graph;
    Uses::new(graph)?;
    let inputs: HashSet<&str> = graph.inputs.iter().map(Value::name).collect();
    let outputs: HashSet<&str> = graph.outputs.iter().map(Value::name).collect();
    let mut known: HashMap<String, TensorProto> = HashMap::new();
    for tensor in &graph.initializers {
        if model.ir_version() < 4 || !inputs.contains(tensor.name()) {
            known.insert(tensor.name().to_owned(), tensor.proto());
        }
    }
    let mut folded = Folded { nodes: HashSet::new(), constants: BTreeMap::new() };
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let (mut total, mut left) = (0usize, 0usize);
    let inferred = LazyCell::new(|| types::infer_all(model));
    for (at, node) in graph.nodes.iter().enumerate() {
        if node.is("Constant") {
            if let (Some(name), Some(mut tensor)) = (
                node.outputs.first(),
                node.attributes.first().and_then(|attribute| constant_value(&attribute.value())),
            ) {
                name.clone_into(&mut tensor.name);
                known.insert(name.clone(), tensor);
            }
            continue;
        }
        // An output of the model must come from a node.
        if node.outputs.iter().any(|output| outputs.contains(output.as_str())) || node.outputs.is_empty() {
            continue;
        }
        let result = match static_shape(model, node, &|name| inferred.get(name).cloned()) {
            Some(shape) => Ok(vec![shape]),
            None if !reads(node).into_iter().all(|name| known.contains_key(name)) => continue,
            None => evaluate(model, node, &known, options),
        };
        match result {
            Ok(results) => {
                let bytes: usize = results.iter().map(TensorProto::encoded_len).sum();
                if total.saturating_add(bytes) > options.max_total_bytes {
                    left += 1;
                    continue;
                }
                total += bytes;
                let what = results
                    .iter()
                    .map(|tensor| format!("{}{:?}", types::type_name(tensor.data_type), tensor.dims));
                let what = what.collect::<Vec<_>>().join(", ");
                changes.change(format!(
                    "node `{}` ({}) is now the constant {what}",
                    node_name(node, at),
                    node.op()
                ));
                folded.nodes.insert(at);
                for tensor in results {
                    known.insert(tensor.name.clone(), tensor.clone());
                    folded.constants.insert(tensor.name.clone(), tensor);
                }
            }
            Err(why) => *reasons.entry(format!("{}: {why}", node.op())).or_default() += 1,
        }
    }
    if left > 0 {
        changes.note(format!(
            "{left} nodes stay: the constants would have more than {} bytes together",
            options.max_total_bytes
        ));
    }
    for (reason, count) in reasons {
        changes.note(format!("{count} nodes stay: {reason}"));
    }
    Ok(folded)
}

/// The result of a Shape node whose operand has fixed lengths.
///
/// `inferred` are the types that the importer finds, asked for only when the file does not say one.
fn static_shape(
    model: &Model,
    node: &Node,
    inferred: &dyn Fn(&str) -> Option<type_proto::Tensor>,
) -> Option<TensorProto> {
    let name = node.inputs.first().filter(|_| node.is("Shape"))?;
    let stated = model.graph.value(name).and_then(|value| value.tensor_type());
    let dims = match stated.and_then(|ty| ty.shape) {
        Some(shape) => shape.dim,
        None => inferred(name)?.shape?.dim,
    };
    let lengths: Vec<i64> = dims
        .iter()
        .map(|dim| match dim.value {
            // Some writers say an unknown length as -1.
            Some(dimension::Value::DimValue(length)) => Some(length).filter(|length| *length >= 0),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let rank = i64::try_from(lengths.len()).ok()?;
    let end_at = |name: &str, default: i64| {
        let place = node.attribute(name).map_or(default, |attribute| attribute.value().i);
        let from_front = if place < 0 { place.saturating_add(rank) } else { place };
        usize::try_from(from_front.clamp(0, rank)).unwrap_or(0)
    };
    let (start, end) = (end_at("start", 0), end_at("end", rank));
    let lengths = lengths.get(start..end.max(start)).unwrap_or_default();
    let data = bertha_graph::TensorData::vector(lengths.to_vec());
    Some(tensor_proto(node.outputs.first()?, &data))
}

/// The results of one node, by a model that has nothing else.
fn evaluate(
    model: &Model,
    node: &Node,
    known: &HashMap<String, TensorProto>,
    options: &FoldOptions,
) -> Result<Vec<TensorProto>, String> {
    if node.attributes.iter().any(|attribute| attribute.graph_count() > 0) {
        return Err("it has inner graphs".into());
    }
    let mut operands: Vec<&str> = reads(node);
    operands.sort_unstable();
    operands.dedup();
    let mut elements = 0usize;
    let mut initializer = Vec::new();
    for name in operands {
        let Some(tensor) = known.get(name) else { return Err(format!("`{name}` is not known")) };
        let count = tensor
            .dims
            .iter()
            .fold(1usize, |product, dim| product.saturating_mul(usize::try_from(*dim).unwrap_or(usize::MAX)));
        elements = elements.saturating_add(count);
        initializer.push(tensor.clone());
    }
    if elements > options.max_elements {
        return Err(format!("its operands have more than {} elements", options.max_elements));
    }
    let proto = NodeProto::decode(node.field(1).value()).map_err(|error| error.to_string())?;
    let names: Vec<&String> = node.outputs.iter().filter(|name| !name.is_empty()).collect();
    let output = names.iter().map(|name| ValueInfoProto { name: (*name).clone(), ..Default::default() });
    let graph = GraphProto { node: vec![proto], initializer, output: output.collect(), ..Default::default() };
    let opset_import = model
        .opsets()
        .map(|(domain, version)| OperatorSetIdProto { domain: domain.to_owned(), version })
        .collect();
    let part = ModelProto {
        ir_version: model.ir_version().max(4),
        opset_import,
        graph: Some(graph),
        ..Default::default()
    };
    let import = ImportOptions { companions: false, ..ImportOptions::default() };
    let imported = import_model(&part, model.path(), &import).map_err(|error| short(&error.to_string()))?;
    // The shape rules tell how large the results are before anything is computed.
    for (_, tensor) in imported.graph.outputs() {
        let ty = &imported.graph.tensor(*tensor).ty;
        let bytes = ty.shape.as_const().and_then(|dims| bertha_graph::byte_count(ty.dtype, &dims).ok());
        match bytes {
            Some(bytes) if bytes <= options.max_bytes => {}
            Some(_) => return Err(format!("its result has more than {} bytes", options.max_bytes)),
            None => return Err("the size of its result is not known beforehand".into()),
        }
    }
    let results = Interpreter::new(&imported.graph, Precision::Native)
        .run(&[])
        .map_err(|error| short(&error.to_string()))?;
    Ok(results.into_iter().map(|(name, data)| tensor_proto(&name, &data)).collect())
}

/// The end of a message, which says what is wrong; the beginning names a file that is not there.
fn short(message: &str) -> String {
    message.rsplit(": ").next().unwrap_or(message).to_owned()
}
