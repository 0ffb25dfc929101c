//! Taking out what nothing uses.

use std::collections::{HashMap, HashSet};

use crate::changes::Changes;
use crate::graph::Graph;
use crate::model::Model;
use crate::names::{is_default_domain, node_name};
use crate::tensor::Tensor;
use crate::uses::reads;

/// Takes out nodes whose results nobody reads, constants that nothing reads, types of tensors that are not there,
/// functions that nobody calls, and operator sets without operators. Inputs and outputs stay.
pub fn clean(model: &mut Model) -> Changes {
    let mut changes = Changes::default();
    clean_graph(&mut model.graph, &mut changes);
    drop_unused_functions(model, &mut changes);
    let before: Vec<_> = model.opsets().map(|(domain, _)| domain.to_owned()).collect();
    model.drop_unused_opsets();
    let after: HashSet<_> = model.opsets().map(|(domain, _)| domain.to_owned()).collect();
    for domain in before.iter().filter(|domain| !after.contains(*domain)) {
        changes.change(format!("took out the operator set `{domain}`, of which no operator is used"));
    }
    changes
}

fn clean_graph(graph: &mut Graph, changes: &mut Changes) {
    for node in &mut graph.nodes {
        node.graphs_mut().for_each(|inner| clean_graph(inner, changes));
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
    let unused = |name: &str| !needed.contains(name);
    // Old files list constants among the inputs; such a pair goes together.
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
    // A function may call others, so those that are called are followed.
    let mut called: HashSet<(String, String)> = HashSet::new();
    let mut open: Vec<(String, String)> = Vec::new();
    model.graph.for_each(&mut |graph| {
        open.extend(graph.nodes.iter().map(|node| (node.domain.clone(), node.op_type.clone())));
    });
    while let Some(op) = open.pop() {
        if !called.insert(op.clone()) {
            continue;
        }
        for function in &model.functions {
            if (&function.domain, &function.name) == (&op.0, &op.1) {
                let body = &function.nodes;
                open.extend(body.iter().map(|node| (node.domain.clone(), node.op_type.clone())));
                body.iter().flat_map(|node| node.graphs()).for_each(|inner| {
                    inner.for_each(&mut |graph| {
                        open.extend(
                            graph.nodes.iter().map(|node| (node.domain.clone(), node.op_type.clone())),
                        );
                    });
                });
            }
        }
    }
    model.functions.retain(|function| {
        let same = |domain: &str| {
            domain == function.domain || is_default_domain(domain) && is_default_domain(&function.domain)
        };
        let stays = called.iter().any(|(domain, name)| same(domain) && *name == function.name);
        if !stays {
            changes.change(format!(
                "took out function `{}`, which nobody calls",
                crate::names::op(&function.domain, &function.name)
            ));
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
