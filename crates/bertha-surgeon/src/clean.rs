//! Taking out what nothing uses.

use std::collections::{HashMap, HashSet};

use crate::changes::Changes;
use crate::graph::Graph;
use crate::model::Model;
use crate::names::{node_name, op};
use crate::node::Node;
use crate::tensor::Tensor;
use crate::uses::reads;

/// Takes out nodes whose results nobody reads, constants that nothing reads, types of tensors that are not there,
/// functions that nobody calls, and operator sets without operators. Inputs and outputs stay. A model with parts for training
/// stays as it is, since those refer to tensors of the graph by name.
pub fn clean(model: &mut Model) -> Changes {
    if model.has_training_info() {
        let mut changes = Changes::default();
        changes.note("nothing is taken out: the file has parts for training, which may refer to it by name");
        return changes;
    }
    take_out(model)
}

/// [`clean`], whatever parts for training say.
pub(crate) fn take_out(model: &mut Model) -> Changes {
    let mut changes = Changes::default();
    let overridable = model.ir_version() >= 4;
    clean_graph(&mut model.graph, overridable, &mut changes);
    drop_unused_functions(model, &mut changes);
    let before: Vec<_> = model.opsets().map(|(domain, _)| domain.to_owned()).collect();
    model.drop_unused_opsets();
    let after: HashSet<_> = model.opsets().map(|(domain, _)| domain.to_owned()).collect();
    for domain in before.iter().filter(|domain| !after.contains(*domain)) {
        changes.change(format!("took out the operator set `{domain}`, of which no operator is used"));
    }
    changes
}

/// `overridable`: since version 4 of the format a constant that is an input too is that input's default; before, every
/// constant had to be listed as an input.
fn clean_graph(graph: &mut Graph, overridable: bool, changes: &mut Changes) {
    for node in &mut graph.nodes {
        node.graphs_mut().for_each(|inner| clean_graph(inner, overridable, changes));
    }
    let mut needed: HashSet<&str> = graph.outputs.iter().map(|value| value.name()).collect();
    let mut stay = vec![false; graph.nodes.len()];
    for (at, node) in graph.nodes.iter().enumerate().rev() {
        if node.outputs.is_empty() || node.outputs.iter().any(|output| needed.contains(output.as_str())) {
            stay[at] = true;
            needed.extend(reads(node));
        }
    }
    for annotation in &graph.annotations {
        if needed.contains(annotation.tensor()) {
            needed.extend(annotation.parameters());
        }
    }
    let inputs: HashSet<&str> = graph.inputs.iter().map(|value| value.name()).collect();
    // A default goes with its input, which stays; a constant of an old file takes the input of its name along.
    let is_default = |name: &str| overridable && inputs.contains(name);
    let unused = |name: &str| !needed.contains(name) && !is_default(name);
    let drop_initializers: HashSet<String> =
        graph.initializers.iter().map(Tensor::name).filter(|name| unused(name)).map(str::to_owned).collect();
    let drop_sparse: HashSet<String> = graph
        .sparse_initializers
        .iter()
        .map(|tensor| tensor.name())
        .filter(|name| unused(name))
        .map(str::to_owned)
        .collect();
    let mut present: HashSet<String> = inputs.into_iter().map(str::to_owned).collect();
    present.extend(graph.outputs.iter().map(|value| value.name().to_owned()));
    for (at, node) in graph.nodes.iter().enumerate() {
        if stay[at] {
            present.extend(node.outputs.iter().cloned());
        } else {
            changes.change(format!(
                "took out node `{}` ({}), whose result is not used",
                node_name(node, at),
                node.op()
            ));
        }
    }
    let mut flags = stay.into_iter();
    graph.nodes.retain(|_| flags.next().unwrap_or(true));
    if !drop_initializers.is_empty() {
        changes.change(format!("took out {} constants that nothing reads", drop_initializers.len()));
    }
    graph.initializers.retain(|tensor| !drop_initializers.contains(tensor.name()));
    graph.sparse_initializers.retain(|tensor| !drop_sparse.contains(tensor.name()));
    graph.inputs.retain(|value| !drop_initializers.contains(value.name()));
    present.extend(graph.given_names().map(str::to_owned).collect::<Vec<_>>());
    graph.value_infos.retain(|value| present.contains(value.name()));
    graph.annotations.retain(|annotation| present.contains(annotation.tensor()));
}

fn drop_unused_functions(model: &mut Model, changes: &mut Changes) {
    // A function may call others, so those that are called are followed. Operators go by the one name that `op` gives them:
    // the default domain has two.
    let mut called: HashSet<String> = HashSet::new();
    let mut open: Vec<String> = Vec::new();
    let note = |open: &mut Vec<String>, nodes: &[Node]| open.extend(nodes.iter().map(Node::op));
    model.graph.for_each(&mut |graph| note(&mut open, &graph.nodes));
    while let Some(name) = open.pop() {
        for function in model.functions.iter().filter(|function| op(&function.domain, &function.name) == name)
        {
            if called.contains(&name) {
                break;
            }
            note(&mut open, &function.nodes);
            function.nodes.iter().flat_map(Node::graphs).for_each(|inner| {
                inner.for_each(&mut |graph| note(&mut open, &graph.nodes));
            });
        }
        called.insert(name);
    }
    model.functions.retain(|function| {
        let name = op(&function.domain, &function.name);
        let stays = called.contains(&name);
        if !stays {
            changes.change(format!("took out function `{name}`, which nobody calls"));
        }
        stays
    });
}

/// Takes out the nodes and constants that make these tensors, where nothing reads them any more, and then what only those
/// read. What was not read before is not touched.
pub(crate) fn sweep(graph: &mut Graph, tensors: Vec<String>) -> usize {
    let mut readers: HashMap<String, usize> = HashMap::new();
    for name in graph.nodes.iter().flat_map(reads).chain(graph.outputs.iter().map(|value| value.name())) {
        *readers.entry(name.to_owned()).or_default() += 1;
    }
    for annotation in &graph.annotations {
        for name in annotation.parameters() {
            *readers.entry(name.to_owned()).or_default() += 1;
        }
    }
    let mut producers: HashMap<String, usize> = HashMap::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        producers.extend(node.outputs.iter().filter(|name| !name.is_empty()).map(|name| (name.clone(), at)));
    }
    let unread =
        |readers: &HashMap<String, usize>, name: &str| readers.get(name).is_none_or(|count| *count == 0);
    let mut gone: HashSet<usize> = HashSet::new();
    let mut names: HashSet<String> = HashSet::new();
    let mut open = tensors;
    while let Some(name) = open.pop() {
        if !unread(&readers, &name) {
            continue;
        }
        let producer = producers.get(&name).copied();
        names.insert(name);
        let Some(at) = producer.filter(|at| !gone.contains(at)) else { continue };
        let node = &graph.nodes[at];
        if node.outputs.iter().all(|output| output.is_empty() || unread(&readers, output)) {
            gone.insert(at);
            names.extend(node.outputs.iter().cloned());
            for read in reads(node) {
                if let Some(count) = readers.get_mut(read) {
                    *count = count.saturating_sub(1);
                }
                open.push(read.to_owned());
            }
        }
    }
    let mut at = 0;
    graph.nodes.retain(|_| {
        at += 1;
        !gone.contains(&(at - 1))
    });
    let inputs: HashSet<String> = graph.inputs.iter().map(|value| value.name().to_owned()).collect();
    let outputs: HashSet<String> = graph.outputs.iter().map(|value| value.name().to_owned()).collect();
    let made: HashSet<String> = graph.nodes.iter().flat_map(|node| node.outputs.clone()).collect();
    names.retain(|name| !inputs.contains(name) && !outputs.contains(name) && !made.contains(name));
    let before = graph.initializers.len();
    graph.initializers.retain(|tensor| !names.contains(tensor.name()));
    graph.sparse_initializers.retain(|tensor| !names.contains(tensor.name()));
    graph.value_infos.retain(|value| !names.contains(value.name()));
    graph.annotations.retain(|annotation| !names.contains(annotation.tensor()));
    gone.len() + before - graph.initializers.len()
}
