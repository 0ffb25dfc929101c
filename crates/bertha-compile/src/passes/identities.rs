//! Nodes whose result is their operand go away.

use bertha_graph::{BinaryOp, Graph, NodeId, Op, TensorId, UnaryOp};

use crate::driver::Pass;
use crate::patch::{Findings, Patch};
use crate::pattern::{forward, input, ints, output, scalar};
use crate::uses::Uses;

/// See the module.
pub(super) struct Identities;

impl Pass for Identities {
    fn name(&self) -> &'static str {
        "identities"
    }

    fn summary(&self) -> &'static str {
        "casts, reshapes, transposes, slices, expansions and arithmetic that change nothing go away"
    }

    fn find(&self, graph: &Graph, _uses: &Uses) -> Findings {
        let patches = graph.node_ids().filter_map(|id| identity(graph, id)).collect();
        Findings { patches, ..Findings::default() }
    }
}

fn identity(graph: &Graph, id: NodeId) -> Option<Patch> {
    let node = graph.node(id);
    let result = output(graph, id)?;
    let same = unchanged(graph, id)?;
    // An operand of another shape would be broadcast by the node.
    if graph.tensor(same).ty != graph.tensor(result).ty {
        return None;
    }
    let what = format!("{} changes nothing, {} stands for it", node.name, graph.tensor(same).name);
    Some(forward(id, result, same, what))
}

/// The operand that the result equals, if it has the same type.
fn unchanged(graph: &Graph, id: NodeId) -> Option<TensorId> {
    let node = graph.node(id);
    let first = input(graph, id, 0)?;
    let scalar_at = |index| input(graph, id, index).and_then(|tensor| scalar(graph, tensor));
    match &node.op {
        Op::Unary(UnaryOp::Identity) | Op::Cast { .. } | Op::Reshape { .. } | Op::Expand => Some(first),
        Op::Squeeze | Op::Unsqueeze => Some(first),
        Op::Transpose { perm } => perm.iter().enumerate().all(|(to, from)| to == *from).then_some(first),
        // A slice that reverses keeps the shape too.
        Op::Slice => match input(graph, id, 4) {
            None => Some(first),
            Some(steps) => ints(graph, steps)?.iter().all(|step| *step == 1).then_some(first),
        },
        Op::Concat { .. } => (node.inputs.len() == 1).then_some(first),
        Op::Split { parts: 1, .. } => Some(first),
        Op::Binary(op) => {
            let second = input(graph, id, 1)?;
            let neutral = match op {
                BinaryOp::Add | BinaryOp::Sub => 0.0,
                BinaryOp::Mul | BinaryOp::Div | BinaryOp::Pow => 1.0,
                _ => return None,
            };
            let commutes = matches!(op, BinaryOp::Add | BinaryOp::Mul);
            match (scalar_at(0), scalar_at(1)) {
                (_, Some(value)) if value == neutral => Some(first),
                (Some(value), _) if commutes && value == neutral => Some(second),
                _ => None,
            }
        }
        Op::Where => {
            let condition = graph.tensor(first).constant()?.as_bools().ok()?;
            let branch = match (condition.iter().all(|c| *c), condition.iter().all(|c| !*c)) {
                (true, false) => 1,
                (false, true) => 2,
                _ => return None,
            };
            input(graph, id, branch)
        }
        _ => None,
    }
}
