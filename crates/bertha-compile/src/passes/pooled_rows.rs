//! Where only one token of each sequence is read in the end, the steps before work on that token alone: the pool moves
//! before norms, linears and activations, up to the attention.

use bertha_graph::{Graph, Node, NodeId, Op, PoolKind, TensorId};

use crate::driver::Pass;
use crate::patch::{Findings, NewNode, Patch, Value};
use crate::pattern::{input, output};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct PooledRows;

impl Pass for PooledRows {
    fn name(&self) -> &'static str {
        "pooled-rows"
    }

    fn summary(&self) -> &'static str {
        "the last layer works on pooled tokens alone where nothing else is read of it"
    }

    fn find(&self, graph: &Graph, uses: &Uses) -> Findings {
        let patches = graph.node_ids().zip(graph.nodes()).filter_map(|(id, node)| match node.op {
            // Kinds that choose a row; the others mix rows.
            Op::Pool(PoolKind::Cls | PoolKind::LastToken) => before(graph, uses, (id, node)),
            _ => None,
        });
        Findings { patches: patches.collect(), ..Findings::default() }
    }
}

/// The pool before the row-wise node whose result it reads.
fn before(graph: &Graph, uses: &Uses, (pool, node): (NodeId, &Node)) -> Option<Patch> {
    let x = input(graph, pool, 0)?;
    let cu_seqlens = input(graph, pool, 1)?;
    // Nothing but this pool may read it; a residual makes two equal ones.
    let pools = uses.readers(x);
    let same =
        |reader: &NodeId| graph.node(*reader).op == node.op && graph.node(*reader).inputs == node.inputs;
    if uses.is_output(x) || !pools.iter().all(same) {
        return None;
    }
    let (id, row_wise) = producer(graph, x)?;
    let has_rows = row_operands(graph, row_wise)?;
    let mut nodes: Vec<NewNode> = Vec::new();
    let mut inputs = Vec::with_capacity(row_wise.inputs.len());
    for (index, operand) in row_wise.inputs.iter().enumerate() {
        inputs.push(match operand {
            Some(tensor) if has_rows.contains(&index) => {
                let pooled = vec![Some(Value::Old(*tensor)), Some(Value::Old(cu_seqlens))];
                let at = nodes.iter().position(|pool| pool.inputs == pooled).unwrap_or_else(|| {
                    let name = node.name.clone();
                    nodes.push(NewNode { name, op: node.op.clone(), inputs: pooled, outputs: 1 });
                    nodes.len() - 1
                });
                Some(Value::New { node: at, output: 0 })
            }
            other => other.map(Value::Old),
        });
    }
    nodes.push(NewNode { name: row_wise.name.clone(), op: row_wise.op.clone(), inputs, outputs: 1 });
    let last = Value::New { node: nodes.len() - 1, output: 0 };
    let replaces = pools.iter().filter_map(|pool| Some((output(graph, *pool)?, last.clone()))).collect();
    Some(Patch {
        removes: std::iter::once(id).chain(pools.iter().copied()).collect(),
        nodes,
        replaces,
        what: format!("{} works on {} alone", row_wise.name, node.name),
    })
}

/// The operands of a node that have a row for each token; `None` when the node does not treat every row alike.
fn row_operands(graph: &Graph, node: &Node) -> Option<Vec<usize>> {
    if node.outputs.iter().skip(1).any(Option::is_some) {
        return None;
    }
    let is_matrix = |id: TensorId| graph.tensor(id).ty.shape.rank() == 2;
    let is_constant = |id: TensorId| graph.tensor(id).constant().is_some();
    match &node.op {
        Op::LayerNorm { axis: -1 | 1, .. } | Op::L2Normalize { .. } | Op::Gelu(_) | Op::Unary(_) => {
            Some(vec![0])
        }
        Op::Linear { .. } => Some(vec![0, 3]),
        Op::Binary(_) => {
            let mut rows = Vec::new();
            for (index, operand) in node.inputs.iter().enumerate() {
                let operand = (*operand)?;
                match is_constant(operand) {
                    // A constant with a row of its own for each token would have to be pooled too.
                    true => (graph.tensor(operand).ty.shape.rank() < 2).then_some(())?,
                    false => is_matrix(operand).then(|| rows.push(index))?,
                }
            }
            Some(rows)
        }
        _ => None,
    }
}
