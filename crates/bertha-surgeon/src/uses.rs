//! Who makes a tensor, and who reads it.

use std::collections::{HashMap, HashSet};

use crate::error::{Result, SurgeryError};
use crate::graph::Graph;
use crate::names::node_name;
use crate::node::Node;

/// Where the tensors of one graph are made and read. Inner graphs count as readers of what they take from outside.
pub(crate) struct Uses<'g> {
    producers: HashMap<&'g str, (usize, usize)>,
    readers: HashMap<&'g str, Vec<usize>>,
    outputs: HashSet<&'g str>,
    given: HashSet<&'g str>,
}

impl<'g> Uses<'g> {
    /// # Errors
    /// [`SurgeryError::Request`] when a tensor is made twice: nothing could say which of the two is meant.
    pub(crate) fn new(graph: &'g Graph) -> Result<Uses<'g>> {
        let mut uses = Uses {
            producers: HashMap::new(),
            readers: HashMap::new(),
            outputs: graph.outputs.iter().map(|value| value.name()).collect(),
            given: graph.given_names().collect(),
        };
        for (at, node) in graph.nodes.iter().enumerate() {
            for (output, name) in node.outputs.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                if let Some((other, _)) = uses.producers.insert(name, (at, output)) {
                    return Err(SurgeryError::request(format!(
                        "tensor `{name}` is made twice, by node `{}` and by node `{}`: the file is no valid ONNX",
                        node_name(&graph.nodes[other], other),
                        node_name(node, at)
                    )));
                }
                if uses.given.contains(name.as_str()) {
                    return Err(SurgeryError::request(format!(
                        "tensor `{name}` is made by node `{}` but is an input or a constant of the graph too: the file \
                         is no valid ONNX",
                        node_name(node, at)
                    )));
                }
            }
            for name in reads(node) {
                let readers = uses.readers.entry(name).or_default();
                if readers.last() != Some(&at) {
                    readers.push(at);
                }
            }
        }
        Ok(uses)
    }

    /// The node that makes a tensor, and as which of its outputs.
    pub(crate) fn producer(&self, tensor: &str) -> Option<(usize, usize)> {
        self.producers.get(tensor).copied()
    }

    /// The nodes that read a tensor, in order.
    pub(crate) fn readers(&self, tensor: &str) -> &[usize] {
        self.readers.get(tensor).map_or(&[], Vec::as_slice)
    }

    /// Whether it is an output of the graph.
    pub(crate) fn is_output(&self, tensor: &str) -> bool {
        self.outputs.contains(tensor)
    }

    /// Whether it is an input or a constant of the graph.
    pub(crate) fn is_given(&self, tensor: &str) -> bool {
        self.given.contains(tensor)
    }

    /// Whether the graph has a tensor of this name.
    pub(crate) fn has(&self, tensor: &str) -> bool {
        self.producers.contains_key(tensor) || self.given.contains(tensor)
    }

    /// All names of tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'g str> {
        self.producers.keys().copied().chain(self.given.iter().copied())
    }
}

/// What a node reads: its inputs, and what its inner graphs take from outside.
pub(crate) fn reads(node: &Node) -> Vec<&str> {
    let mut names: Vec<_> = node.inputs.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for graph in node.graphs() {
        names.extend(captures(graph));
    }
    names
}

/// What a graph takes from outside.
pub(crate) fn captures(graph: &Graph) -> Vec<&str> {
    let mut defined: HashSet<&str> = graph.given_names().collect();
    defined.extend(graph.nodes.iter().flat_map(|node| &node.outputs).map(String::as_str));
    let read = graph.nodes.iter().flat_map(reads).chain(graph.outputs.iter().map(|value| value.name()));
    read.filter(|name| !defined.contains(name)).collect()
}

/// Whether a graph itself defines a tensor of this name.
pub(crate) fn defines(graph: &Graph, name: &str) -> bool {
    graph.given_names().any(|given| given == name)
        || graph.nodes.iter().any(|node| node.outputs.iter().any(|output| output == name))
}

/// Lets all readers of `old` in the graph and its inner graphs read `new` instead.
pub(crate) fn redirect(graph: &mut Graph, old: &str, new: &str) {
    redirect_all(graph, &HashMap::from([(old, new)]));
}

/// Lets all readers of a key, in the graph and its inner graphs, read its value instead.
pub(crate) fn redirect_all(graph: &mut Graph, forwards: &HashMap<&str, &str>) {
    if forwards.is_empty() {
        return;
    }
    for node in &mut graph.nodes {
        for input in &mut node.inputs {
            if let Some(new) = forwards.get(input.as_str()) {
                (*new).clone_into(input);
            }
        }
        for inner in node.graphs_mut() {
            // A tensor of its own hides one of the outer graph.
            let mut seen = forwards.clone();
            seen.retain(|old, _| !defines(inner, old));
            redirect_all(inner, &seen);
            // What an inner graph gives back may be a tensor of the outer one.
            for output in &mut inner.outputs {
                if let Some(new) = seen.get(output.name()) {
                    output.set_name(new);
                }
            }
        }
    }
}

/// Puts nodes into an order in which each follows those it reads from, moving as few as possible.
///
/// # Errors
/// [`SurgeryError::Request`] when nodes read from each other in a circle.
pub(crate) fn sort(graph: &mut Graph) -> Result<()> {
    let order = {
        let uses = Uses::new(graph)?;
        let mut missing: Vec<usize> = Vec::with_capacity(graph.nodes.len());
        let mut followers: Vec<Vec<usize>> = vec![Vec::new(); graph.nodes.len()];
        for (at, node) in graph.nodes.iter().enumerate() {
            let mut before: Vec<usize> =
                reads(node).into_iter().filter_map(|name| uses.producer(name)).map(|(at, _)| at).collect();
            before.sort_unstable();
            before.dedup();
            missing.push(before.len());
            before.into_iter().for_each(|producer| followers[producer].push(at));
        }
        // Always the first that can go: an order that is right stays as it is.
        let ready = (0..missing.len()).filter(|at| missing[*at] == 0);
        let mut ready: std::collections::BinaryHeap<_> = ready.map(std::cmp::Reverse).collect();
        let mut order = Vec::with_capacity(missing.len());
        while let Some(std::cmp::Reverse(at)) = ready.pop() {
            order.push(at);
            for follower in &followers[at] {
                missing[*follower] -= 1;
                if missing[*follower] == 0 {
                    ready.push(std::cmp::Reverse(*follower));
                }
            }
        }
        if order.len() < missing.len() {
            let stuck = (0..missing.len()).find(|at| missing[*at] > 0).unwrap_or(0);
            return Err(SurgeryError::request(format!(
                "node `{}` would read what is made from its own result",
                node_name(&graph.nodes[stuck], stuck)
            )));
        }
        order
    };
    let mut nodes: Vec<Option<Node>> = std::mem::take(&mut graph.nodes).into_iter().map(Some).collect();
    graph.nodes = order.into_iter().filter_map(|at| nodes[at].take()).collect();
    Ok(())
}
