//! Who reads which tensor.

use bertha_graph::{Graph, Node, NodeId, Origin, TensorId};

/// For every tensor of a graph, the nodes that read it and whether it is an output.
#[derive(Debug)]
pub struct Uses {
    readers: Vec<Vec<NodeId>>,
    is_output: Vec<bool>,
}

impl Uses {
    /// Collects the uses of all tensors of `graph`.
    pub fn of(graph: &Graph) -> Self {
        let count = graph.tensors().len();
        let mut uses = Uses { readers: vec![Vec::new(); count], is_output: vec![false; count] };
        for (id, node) in graph.node_ids().zip(graph.nodes()) {
            for input in node.inputs.iter().flatten() {
                uses.readers[input.index()].push(id);
            }
        }
        for (_, tensor) in graph.outputs() {
            uses.is_output[tensor.index()] = true;
        }
        uses
    }

    /// The nodes that read `tensor`; one that reads it twice is listed twice.
    pub fn readers(&self, tensor: TensorId) -> &[NodeId] {
        &self.readers[tensor.index()]
    }

    /// Whether the caller can ask for `tensor`.
    pub fn is_output(&self, tensor: TensorId) -> bool {
        self.is_output[tensor.index()]
    }

    /// The one node that reads `tensor`, when nobody else does and it is no output.
    pub fn only_reader(&self, tensor: TensorId) -> Option<NodeId> {
        match self.readers(tensor) {
            [reader] if !self.is_output(tensor) => Some(*reader),
            _ => None,
        }
    }
}

/// The node that computes `tensor`, unless it is an input or a constant.
pub(crate) fn producer(graph: &Graph, tensor: TensorId) -> Option<(NodeId, &Node)> {
    match graph.tensor(tensor).origin {
        Origin::Node { node, .. } => Some((node, graph.node(node))),
        Origin::Input | Origin::Constant(_) => None,
    }
}
