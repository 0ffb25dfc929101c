//! Branches as graphs of their own.

use std::collections::{HashMap, HashSet};

use bertha_graph::{Graph, TensorData, TensorId, TensorType};

use super::context::{NodeContext, Scope, Translated, Value};
use super::graph::MAX_DEPTH;
use crate::onnx::proto::{GraphProto, NodeProto};

/// What the branches of a node use of the graph around it.
pub(super) struct Captured<'m> {
    /// Tensors that become inputs of each branch, in order.
    inputs: Vec<(&'m str, TensorId, TensorType)>,
    /// Constants, which each branch has for itself, so that the shape rules can see them.
    constants: Vec<(&'m str, TensorData)>,
    /// Optional operands that a function's caller left out.
    absent: Vec<&'m str>,
}

impl Captured<'_> {
    /// The tensors to pass to the branches.
    pub(super) fn tensors(&self) -> impl Iterator<Item = TensorId> {
        self.inputs.iter().map(|(_, tensor, _)| *tensor)
    }
}

/// Finds what the branches use of the graph around them.
pub(super) fn capture<'m>(
    node: &mut NodeContext<'_, 'm>,
    branches: &[&'m GraphProto],
) -> Translated<Captured<'m>> {
    let mut free = Vec::new();
    let mut seen = HashSet::new();
    for branch in branches {
        free_names(branch, &HashSet::new(), MAX_DEPTH, &mut |name| {
            if seen.insert(name) {
                free.push(name);
            }
        })?;
    }
    let mut captured = Captured { inputs: Vec::new(), constants: Vec::new(), absent: Vec::new() };
    for name in free {
        match node.importer.resolve(node.graph, node.scope, name)? {
            None => captured.absent.push(name),
            Some(id) => match node.graph.tensor(id).constant() {
                Some(data) => captured.constants.push((name, data.clone())),
                None => captured.inputs.push((name, id, node.ty(id).clone())),
            },
        }
    }
    Ok(captured)
}

/// Reports each name that a graph uses and does not define.
fn free_names<'m>(
    graph: &'m GraphProto,
    outer: &HashSet<&'m str>,
    depth: usize,
    report: &mut dyn FnMut(&'m str),
) -> Translated {
    if depth == 0 {
        return Err(format!("branches lie more than {MAX_DEPTH} deep within one another").into());
    }
    let mut defined = outer.clone();
    defined.extend(graph.input.iter().map(|input| input.name.as_str()));
    defined.extend(graph.initializer.iter().map(|tensor| tensor.name.as_str()));
    for node in &graph.node {
        for name in node.input.iter().filter(|name| !name.is_empty()) {
            if !defined.contains(name.as_str()) {
                report(name);
            }
        }
        for inner in inner_graphs(node) {
            free_names(inner, &defined, depth - 1, report)?;
        }
        defined.extend(node.output.iter().map(String::as_str));
    }
    for output in &graph.output {
        if !defined.contains(output.name.as_str()) {
            report(&output.name);
        }
    }
    Ok(())
}

fn inner_graphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|attribute| attribute.g.as_deref().into_iter().chain(&attribute.graphs))
}

/// Translates a branch.
pub(super) fn translate<'m>(
    node: &mut NodeContext<'_, 'm>,
    branch: &'m GraphProto,
    label: &str,
    captured: &Captured<'m>,
) -> Translated<Graph> {
    enter(node, branch)?;
    let mut graph = Graph::new(format!("{}/{label}", node.name));
    let mut scope = Scope {
        names: HashMap::new(),
        opsets: node.scope.opsets.clone(),
        attributes: node.scope.attributes.clone(),
        prefix: String::new(),
    };
    for (name, _, ty) in &captured.inputs {
        let tensor = graph.add_input(*name, ty.clone())?;
        scope.names.insert(name, Value::Tensor(tensor));
    }
    for (name, data) in &captured.constants {
        let tensor = graph.add_constant(*name, data.clone())?;
        scope.names.insert(name, Value::Tensor(tensor));
    }
    scope.names.extend(captured.absent.iter().map(|name| (*name, Value::Absent)));
    node.importer.initializers(&mut scope, branch)?;
    node.importer.nodes(&mut graph, &mut scope, &branch.node)?;
    node.importer.depth -= 1;
    node.importer.outputs(&mut graph, &mut scope, branch)?;
    Ok(graph)
}

/// Translates a branch in the place of its node. The other branch may not even fit: exporters guard with a condition
/// what is only valid for some shapes.
pub(super) fn inline<'m>(node: &mut NodeContext<'_, 'm>, branch: &'m GraphProto) -> Translated {
    enter(node, branch)?;
    let mut scope = Scope {
        names: node.scope.names.clone(),
        opsets: node.scope.opsets.clone(),
        attributes: node.scope.attributes.clone(),
        prefix: format!("{}/", node.name),
    };
    node.importer.initializers(&mut scope, branch)?;
    node.importer.nodes(node.graph, &mut scope, &branch.node)?;
    node.importer.depth -= 1;
    for (inner, outer) in branch.output.iter().zip(&node.node.output) {
        let tensor = node.importer.resolve(node.graph, &mut scope, &inner.name)?;
        if !outer.is_empty() {
            node.scope.names.insert(outer, tensor.map_or(Value::Absent, Value::Tensor));
        }
    }
    Ok(())
}

/// Checks a branch before its nodes are translated, one level deeper.
fn enter<'m>(node: &mut NodeContext<'_, 'm>, branch: &'m GraphProto) -> Translated {
    if node.importer.depth == MAX_DEPTH {
        return Err(format!("branches lie more than {MAX_DEPTH} deep within one another").into());
    }
    if let Some(input) = branch.input.first() {
        return Err(
            format!("branch `{}` has an input `{}`; branches have none", branch.name, input.name).into()
        );
    }
    node.importer.refuse_sparse(branch)?;
    node.importer.depth += 1;
    Ok(())
}
