//! New names for tensors and nodes.

use crate::changes::Changes;
use crate::error::{Result, SurgeryError};
use crate::graph::Graph;
use crate::model::Model;
use crate::names::{nearest, node_name};
use crate::tensor::Value;
use crate::uses::defines;

/// What a tensor must be to be renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Any tensor, of inner graphs too.
    Tensor,
    /// An input of the model.
    Input,
    /// An output of the model.
    Output,
}

/// Renames a tensor wherever it is made, read, typed or annotated, in inner graphs too.
///
/// # Errors
/// [`SurgeryError::Request`] when there is no such tensor, or when the new name is taken.
pub fn rename_tensor(model: &mut Model, role: Role, old: &str, new: &str) -> Result<Changes> {
    let graph = &mut model.graph;
    let known = |values: &[Value], what: &str| {
        if values.iter().any(|value| value.name() == old) {
            return Ok(());
        }
        let near = nearest(old, values.iter().map(Value::name));
        Err(SurgeryError::request(format!("there is no {what} `{old}`{near}")))
    };
    match role {
        Role::Tensor => {
            let mut names: Vec<&str> = Vec::new();
            graph.for_each(&mut |graph| {
                names.extend(graph.given_names());
                names.extend(graph.nodes.iter().flat_map(|node| &node.outputs).map(String::as_str));
            });
            if old.is_empty() || names.iter().all(|name| *name != old) {
                let near = nearest(old, names.into_iter());
                return Err(SurgeryError::request(format!("there is no tensor `{old}`{near}")));
            }
        }
        Role::Input => known(&graph.inputs, "input")?,
        Role::Output => known(&graph.outputs, "output")?,
    }
    if new.is_empty() {
        return Err(SurgeryError::request("the new name is empty, which in ONNX means no tensor"));
    }
    let mut taken = false;
    graph.for_each(&mut |graph| {
        taken |= defines(graph, new);
        let read = graph.nodes.iter().flat_map(|node| &node.inputs);
        taken |= read.chain(graph.nodes.iter().flat_map(|node| &node.outputs)).any(|name| name == new);
    });
    if taken && old != new {
        return Err(SurgeryError::request(format!("there is a tensor `{new}` already")));
    }
    let mut changes = Changes::default();
    if old != new {
        rename_in(graph, old, new);
        let what = match role {
            Role::Tensor => "tensor",
            Role::Input => "input",
            Role::Output => "output",
        };
        changes.change(format!("{what} `{old}` is now `{new}`"));
        if model.has_training_info() {
            changes.note("the training parts of the file, which refer to tensors by name, are as they were");
        }
    }
    Ok(changes)
}

/// Renames where the graph defines it; else looks into inner graphs, which may define one each.
fn rename_in(graph: &mut Graph, old: &str, new: &str) {
    if defines(graph, old) {
        rename_visible(graph, old, new);
    } else {
        for inner in graph.nodes.iter_mut().flat_map(|node| node.graphs_mut()) {
            rename_in(inner, old, new);
        }
    }
}

/// Renames in a graph and in the inner graphs that see its tensor.
pub(crate) fn rename_visible(graph: &mut Graph, old: &str, new: &str) {
    for node in &mut graph.nodes {
        for name in node.inputs.iter_mut().chain(&mut node.outputs).filter(|name| *name == old) {
            new.clone_into(name);
        }
        for inner in node.graphs_mut() {
            // One that has a tensor of the same name of its own (which ONNX forbids, but files have) means that one.
            if !defines(inner, old) {
                rename_visible(inner, old, new);
            }
        }
    }
    graph
        .initializers
        .iter_mut()
        .filter(|tensor| tensor.name() == old)
        .for_each(|tensor| tensor.set_name(new));
    let sparse = graph.sparse_initializers.iter_mut();
    sparse.filter(|tensor| tensor.name() == old).for_each(|tensor| tensor.set_name(new));
    let values = graph.inputs.iter_mut().chain(&mut graph.outputs).chain(&mut graph.value_infos);
    values.filter(|value| value.name() == old).for_each(|value| value.set_name(new));
    graph.annotations.iter_mut().for_each(|annotation| annotation.rename(old, new));
}

/// Renames a node.
///
/// # Errors
/// [`SurgeryError::Request`] when there is no such node, or several.
pub fn rename_node(model: &mut Model, old: &str, new: &str) -> Result<Changes> {
    let selection = crate::Selection { names: vec![old.to_owned()], ..Default::default() };
    let mut changes = Changes::default();
    for at in selection.find(&model.graph)? {
        let node = &mut model.graph.nodes[at];
        changes.change(format!("node `{}` is now `{new}`", node_name(node, at)));
        new.clone_into(&mut node.name);
    }
    Ok(changes)
}
