//! The order in which a graph's tensors and nodes were added, which is the order of the text format.

use crate::graph::{Graph, NodeId, Origin, TensorId};

/// One step of writing a graph down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    /// An input is declared.
    Input(TensorId),
    /// A constant is given.
    Constant(TensorId),
    /// A node computes its outputs.
    Node(NodeId),
}

impl Graph {
    /// Inputs, constants and nodes, merged so that adding them one by one gives every tensor and node its id again.
    pub(crate) fn statements(&self) -> Vec<Statement> {
        let mut statements = Vec::with_capacity(self.tensors().len());
        let mut next = 0u32;
        let count = self.nodes().len() as u32;
        for id in self.tensor_ids() {
            match &self.tensor(id).origin {
                Origin::Input => statements.push(Statement::Input(id)),
                Origin::Constant(_) => statements.push(Statement::Constant(id)),
                Origin::Node { node, .. } => {
                    let end = node.0.saturating_add(1).min(count);
                    statements.extend((next..end).map(|node| Statement::Node(NodeId(node))));
                    next = next.max(end);
                }
            }
        }
        // Nodes without an output come last.
        statements.extend((next..count).map(|node| Statement::Node(NodeId(node))));
        statements
    }
}
