//! Equal computations and equal constants are kept once.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use bertha_graph::{BinaryOp, Graph, Node, NodeId, Op, Origin, TensorData, TensorId};

use crate::driver::Pass;
use crate::patch::{Findings, Patch, Value};
use crate::uses::Uses;

/// See the module.
pub(super) struct CommonSubexpressions;

impl Pass for CommonSubexpressions {
    fn name(&self) -> &'static str {
        "common-subexpressions"
    }

    fn summary(&self) -> &'static str {
        "nodes that compute the same, and constants with the same contents, become one"
    }

    /// One look suffices: operands are compared by what they have become already.
    fn find(&self, graph: &Graph, _uses: &Uses) -> Findings {
        let mut merge =
            Merge { graph, leader: graph.tensor_ids().collect(), removes: Vec::new(), constants: 0 };
        merge.constants();
        merge.nodes();
        let replaces: Vec<_> = graph
            .tensor_ids()
            .filter(|id| merge.leader[id.index()] != *id)
            .map(|id| (id, Value::Old(merge.leader[id.index()])))
            .collect();
        let mut findings = Findings::default();
        if !replaces.is_empty() {
            let what = match merge.removes.len() {
                0 => format!("constants the same as earlier ones: {}", merge.constants),
                nodes => format!("the same as earlier ones: {nodes} nodes, {} constants", merge.constants),
            };
            findings.patches.push(Patch { removes: merge.removes, nodes: Vec::new(), replaces, what });
        }
        findings
    }
}

struct Merge<'g> {
    graph: &'g Graph,
    /// The tensor that stands for each tensor.
    leader: Vec<TensorId>,
    removes: Vec<NodeId>,
    constants: usize,
}

impl Merge<'_> {
    fn constants(&mut self) {
        let mut seen: HashMap<u64, Vec<(TensorId, &TensorData)>> = HashMap::new();
        for id in self.graph.tensor_ids() {
            let Origin::Constant(data) = &self.graph.tensor(id).origin else { continue };
            let candidates = seen.entry(fingerprint(data)).or_default();
            match candidates.iter().find(|(_, other)| *other == data) {
                Some((first, _)) => {
                    self.leader[id.index()] = *first;
                    self.constants += 1;
                }
                None => candidates.push((id, data)),
            }
        }
    }

    fn nodes(&mut self) {
        let mut seen: HashMap<(&'static str, Vec<Option<TensorId>>), Vec<NodeId>> = HashMap::new();
        for (id, node) in self.graph.node_ids().zip(self.graph.nodes()) {
            // A branch of `If` is a graph of its own, and what a plugin does is its own affair.
            if matches!(node.op, Op::If { .. } | Op::Plugin(_)) {
                continue;
            }
            let candidates = seen.entry((kind(&node.op), self.operands(node))).or_default();
            let same = candidates.iter().find(|other| {
                let other = self.graph.node(**other);
                other.op == node.op && covers(other, node)
            });
            match same {
                Some(first) => {
                    let outputs = self.graph.node(*first).outputs.iter();
                    for (of_first, own) in outputs.zip(&node.outputs) {
                        if let (Some(of_first), Some(own)) = (of_first, own) {
                            self.leader[own.index()] = *of_first;
                        }
                    }
                    self.removes.push(id);
                }
                None => candidates.push(id),
            }
        }
    }

    /// The operands as they stand now, in one order where the order does not matter.
    fn operands(&self, node: &Node) -> Vec<Option<TensorId>> {
        let mut operands: Vec<_> =
            node.inputs.iter().map(|id| id.map(|id| self.leader[id.index()])).collect();
        use BinaryOp::{Add, And, Equal, Max, Min, Mul};
        if matches!(node.op, Op::Binary(Add | Mul | Max | Min | And | Equal)) {
            operands.sort();
        }
        operands
    }
}

/// The op's name, by which most different ops are told apart.
fn kind(op: &Op) -> &'static str {
    op.mnemonic()
}

/// Whether `first` computes every result that is wanted of `node`.
fn covers(first: &Node, node: &Node) -> bool {
    let of_first = first.outputs.iter().copied().chain(std::iter::repeat(None));
    node.outputs.iter().zip(of_first).all(|(own, of_first)| own.is_none() || of_first.is_some())
}

/// A hash of the type and of some of the bytes: enough to tell weights apart without reading all of them.
fn fingerprint(data: &TensorData) -> u64 {
    const SAMPLE: usize = 1024;
    let mut hasher = DefaultHasher::new();
    (data.dtype(), data.shape()).hash(&mut hasher);
    let bytes = data.bytes();
    bytes.get(..SAMPLE).unwrap_or(bytes).hash(&mut hasher);
    bytes.get(bytes.len().saturating_sub(SAMPLE)..).unwrap_or(bytes).hash(&mut hasher);
    hasher.finish()
}
