//! Expansions move behind elementwise nodes, where less is computed, and go where the reader broadcasts anyway.
//!
//! Exporters expand the attention mask to `[batch, heads, seq, seq]` first and compute it then; some take the shape from
//! the scores, which keeps a product alive that nobody needs any more.

use bertha_graph::{Dim, Graph, Node, NodeId, Op, TensorId};

use crate::driver::Pass;
use crate::patch::{Findings, NewNode, Patch, Value};
use crate::pattern::{input, one_node, output, scalar};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct Expansions;

impl Pass for Expansions {
    fn name(&self) -> &'static str {
        "expansions"
    }

    fn summary(&self) -> &'static str {
        "expansions go where their reader broadcasts, and move behind elementwise nodes"
    }

    fn find(&self, graph: &Graph, _uses: &Uses) -> Findings {
        let patches = graph.node_ids().zip(graph.nodes()).filter_map(|(id, node)| match &node.op {
            Op::Attention(_) if keeps_its_keys(graph, id, 3) => without_expansion(graph, id, 3),
            Op::Unary(_) | Op::Binary(_) | Op::Where | Op::Cast { .. } => {
                (0..node.inputs.len()).find_map(|index| {
                    let broadcasts = broadcasts_without(graph, node, index).unwrap_or(false);
                    let alone = if broadcasts { without_expansion(graph, id, index) } else { None };
                    alone.or_else(|| behind(graph, (id, node), index))
                })
            }
            _ => None,
        });
        Findings { patches: patches.collect(), ..Findings::default() }
    }
}

/// The expansion that gives operand `index`, and what it expands.
fn expanded(graph: &Graph, id: NodeId, index: usize) -> Option<(NodeId, TensorId)> {
    let (expand, node) = producer(graph, input(graph, id, index)?)?;
    (node.op == Op::Expand).then_some((expand, input(graph, expand, 0)?))
}

/// The node with an operand as it was before it was expanded.
fn without_expansion(graph: &Graph, id: NodeId, index: usize) -> Option<Patch> {
    let (expand, x) = expanded(graph, id, index)?;
    let node = graph.node(id);
    if node.outputs.iter().skip(1).any(Option::is_some) {
        return None;
    }
    let mut inputs: Vec<_> = node.inputs.iter().map(|input| input.map(Value::Old)).collect();
    *inputs.get_mut(index)? = Some(Value::Old(x));
    let what = format!("{} broadcasts {} itself", node.name, graph.tensor(x).name);
    Some(one_node(vec![expand, id], (node.name.clone(), node.op.clone()), inputs, output(graph, id)?, what))
}

/// Whether a mask has a value for every key before it is expanded too. Kernels of attention read a row of them for each query;
/// one value for all keys is better expanded once, for all layers.
fn keeps_its_keys(graph: &Graph, id: NodeId, index: usize) -> bool {
    let last = |tensor: TensorId| graph.tensor(tensor).ty.shape.dims().last();
    let mask = input(graph, id, index).and_then(last);
    mask.is_some() && mask == expanded(graph, id, index).and_then(|(_, x)| last(x))
}

/// Whether the operands broadcast to the same result without the expansion of one of them.
fn broadcasts_without(graph: &Graph, node: &Node, index: usize) -> Option<bool> {
    let result = node.outputs.first().copied().flatten()?;
    let id = match graph.tensor(result).origin {
        bertha_graph::Origin::Node { node, .. } => node,
        _ => return None,
    };
    let (_, x) = expanded(graph, id, index)?;
    let operands = node.inputs.iter().enumerate().filter_map(|(at, operand)| {
        let operand = if at == index { x } else { (*operand)? };
        Some(graph.tensor(operand).ty.shape.dims())
    });
    let operands: Vec<&[Dim]> = operands.collect();
    let dims = graph.tensor(result).ty.shape.dims();
    let mut aligned = dims.iter().rev().enumerate();
    Some(aligned.all(|(from_end, dim)| {
        let mut own =
            operands.iter().filter_map(|dims| dims.len().checked_sub(from_end + 1).map(|axis| &dims[axis]));
        let fits = own.clone().all(|own| own == dim || own.as_const() == Some(1));
        fits && own.any(|own| own == dim)
    }))
}

/// The expansion behind the node instead of before it, when all other operands are scalars.
fn behind(graph: &Graph, (id, node): (NodeId, &Node), index: usize) -> Option<Patch> {
    let (expand, x) = expanded(graph, id, index)?;
    let (before, result) = (input(graph, id, index)?, output(graph, id)?);
    if graph.tensor(before).ty.shape != graph.tensor(result).ty.shape {
        return None;
    }
    let rank = graph.tensor(x).ty.shape.rank();
    let others = node.inputs.iter().enumerate().filter(|(at, _)| *at != index);
    for (_, operand) in others {
        let operand = (*operand)?;
        scalar(graph, operand).filter(|_| graph.tensor(operand).ty.shape.rank() <= rank)?;
    }
    let mut inputs: Vec<_> = node.inputs.iter().map(|input| input.map(Value::Old)).collect();
    *inputs.get_mut(index)? = Some(Value::Old(x));
    let computed = NewNode { name: node.name.clone(), op: node.op.clone(), inputs, outputs: 1 };
    let inputs = vec![Some(Value::New { node: 0, output: 0 }), input(graph, expand, 1).map(Value::Old)];
    let expansion = NewNode { name: graph.node(expand).name.clone(), op: Op::Expand, inputs, outputs: 1 };
    Some(Patch {
        removes: vec![expand, id],
        nodes: vec![computed, expansion],
        replaces: vec![(result, Value::New { node: 1, output: 0 })],
        what: format!("{} is computed before it is expanded", node.name),
    })
}
