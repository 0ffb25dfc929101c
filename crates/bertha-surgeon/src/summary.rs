//! What a model holds.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::graph::Graph;
use crate::model::Model;
use crate::names::node_name;
use crate::node::Node;
use crate::select::Selection;
use crate::tensor::Value;
use crate::types::{describe, type_name};

/// A model in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Version of the file format.
    pub ir_version: i64,
    /// The tool that wrote the file.
    pub producer: String,
    /// Operator sets: domain (`ai.onnx` for ONNX's own) and version.
    pub opsets: BTreeMap<String, i64>,
    /// Name and type of each input; constants that old files list among the inputs are left out.
    pub inputs: Vec<Port>,
    /// Name and type of each output.
    pub outputs: Vec<Port>,
    /// Nodes of the graph itself.
    pub nodes: usize,
    /// Nodes of inner graphs: branches and loops.
    pub inner_nodes: usize,
    /// How often each op occurs, inner graphs included, the most frequent first.
    pub ops: Vec<OpCount>,
    /// Constants.
    pub parameters: Parameters,
    /// Functions that the file defines.
    pub functions: Vec<String>,
    /// Types of tensors in between that the file says.
    pub value_infos: usize,
}

/// An input or output.
#[derive(Clone, Debug, Serialize)]
pub struct Port {
    /// The name.
    pub name: String,
    /// Element type and shape.
    #[serde(rename = "type")]
    pub ty: String,
}

/// An op and how often it occurs.
#[derive(Clone, Debug, Serialize)]
pub struct OpCount {
    /// The op, with its domain where that is not ONNX's own.
    pub op: String,
    /// How many nodes.
    pub count: usize,
}

/// The constants of a graph.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Parameters {
    /// How many there are.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
    /// Bytes that the elements take, external ones included.
    pub bytes: u64,
    /// How many lie in other files.
    pub external: usize,
    /// How many there are of each element type.
    pub types: BTreeMap<String, usize>,
}

/// Counts what is there.
pub fn summary(model: &Model) -> Summary {
    let graph = &model.graph;
    let port = |value: &Value| Port { name: value.name().to_owned(), ty: describe(value) };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut all = 0;
    let mut parameters = Parameters::default();
    graph.for_each(&mut |graph| {
        all += graph.nodes.len();
        for node in &graph.nodes {
            *counts.entry(node.op()).or_default() += 1;
        }
        count_parameters(graph, &mut parameters);
    });
    let mut ops: Vec<_> = counts.into_iter().map(|(op, count)| OpCount { op, count }).collect();
    ops.sort_by_key(|entry| std::cmp::Reverse(entry.count));
    let domain = |domain: &str| if domain.is_empty() { "ai.onnx".to_owned() } else { domain.to_owned() };
    Summary {
        ir_version: model.ir_version(),
        producer: model.producer(),
        opsets: model.opsets().map(|(name, version)| (domain(name), version)).collect(),
        inputs: graph
            .inputs
            .iter()
            .filter(|value| graph.initializer(value.name()).is_none())
            .map(port)
            .collect(),
        outputs: graph.outputs.iter().map(port).collect(),
        nodes: graph.nodes.len(),
        inner_nodes: all - graph.nodes.len(),
        ops,
        parameters,
        functions: model
            .functions
            .iter()
            .map(|function| crate::names::op(&function.domain, &function.name))
            .collect(),
        value_infos: graph.value_infos.len(),
    }
}

fn count_parameters(graph: &Graph, parameters: &mut Parameters) {
    for tensor in &graph.initializers {
        let tensor = tensor.proto();
        let elements = tensor
            .dims
            .iter()
            .fold(1u64, |product, dim| product.saturating_mul(u64::try_from(*dim).unwrap_or(0)));
        parameters.tensors += 1;
        parameters.elements = parameters.elements.saturating_add(elements);
        let bits = element_bits(tensor.data_type);
        parameters.bytes = parameters.bytes.saturating_add(elements.saturating_mul(bits).div_ceil(8));
        parameters.external += usize::from(tensor.data_location == 1);
        *parameters.types.entry(type_name(tensor.data_type)).or_default() += 1;
    }
}

/// Bits of an element; 0 for texts, whose size is not fixed.
fn element_bits(data_type: i32) -> u64 {
    use bertha_import::onnx::proto::DataType as T;
    match T::try_from(data_type) {
        Ok(T::Complex128) => 128,
        Ok(T::Double | T::Int64 | T::Uint64 | T::Complex64) => 64,
        Ok(T::Float | T::Int32 | T::Uint32) => 32,
        Ok(T::Float16 | T::Bfloat16 | T::Int16 | T::Uint16) => 16,
        Ok(T::Int4 | T::Uint4 | T::Float4e2m1) => 4,
        Ok(T::Int2 | T::Uint2) => 2,
        Ok(T::Float6e2m3 | T::Float6e3m2) => 6,
        Ok(T::String | T::Undefined) | Err(_) => 0,
        Ok(_) => 8,
    }
}

/// A node in words.
#[derive(Clone, Debug, Serialize)]
pub struct NodeLine {
    /// Position in its graph.
    pub position: usize,
    /// The names of the nodes around it, when it lies in an inner graph, each followed by a slash.
    pub within: String,
    /// The name, or one made of op and position.
    pub name: String,
    /// The op.
    pub op: String,
    /// Names of its inputs.
    pub inputs: Vec<String>,
    /// Names of its outputs.
    pub outputs: Vec<String>,
    /// Its attributes in words.
    pub attributes: BTreeMap<String, String>,
    /// Types of its outputs that the file says.
    pub types: Vec<String>,
}

/// The nodes that are chosen, those of inner graphs included.
pub fn list(model: &Model, nodes: &Selection) -> Vec<NodeLine> {
    let mut lines = Vec::new();
    list_graph(&model.graph, "", nodes, &mut lines);
    lines
}

fn list_graph(graph: &Graph, within: &str, nodes: &Selection, lines: &mut Vec<NodeLine>) {
    let values = graph.inputs.iter().chain(&graph.outputs).chain(&graph.value_infos);
    let types: HashMap<&str, &Value> = values.map(|value| (value.name(), value)).collect();
    for (position, node) in graph.nodes.iter().enumerate() {
        if nodes.chooses(node, position) {
            lines.push(line(&types, node, position, within));
        }
        let within = format!("{within}{}/", node_name(node, position));
        node.graphs().for_each(|inner| list_graph(inner, &within, nodes, lines));
    }
}

fn line(types: &HashMap<&str, &Value>, node: &Node, position: usize, within: &str) -> NodeLine {
    let attributes = node.attributes.iter().map(|attribute| {
        let text = match attribute.graph_count() {
            0 => crate::literal::describe(&attribute.value()),
            1 => "<graph>".to_owned(),
            count => format!("<{count} graphs>"),
        };
        (attribute.name.clone(), text)
    });
    NodeLine {
        position,
        within: within.to_owned(),
        name: node_name(node, position),
        op: node.op(),
        inputs: node.inputs.clone(),
        outputs: node.outputs.clone(),
        attributes: attributes.collect(),
        types: node
            .outputs
            .iter()
            .map(|name| types.get(name.as_str()).map_or("?".into(), |value| describe(value)))
            .collect(),
    }
}
