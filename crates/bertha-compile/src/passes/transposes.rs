//! Transposes of transposes and reshapes of reshapes become one; transposes written as reshapes are recognised.

use bertha_graph::{Graph, NodeId, Op, TensorData, TensorId};

use crate::driver::Pass;
use crate::patch::{Findings, Patch, Value};
use crate::pattern::{input, ints, one_node, output};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct Transposes;

impl Pass for Transposes {
    fn name(&self) -> &'static str {
        "transposes"
    }

    fn summary(&self) -> &'static str {
        "transposes and reshapes that follow each other become one"
    }

    fn find(&self, graph: &Graph, _uses: &Uses) -> Findings {
        let patches = graph.node_ids().filter_map(|id| {
            transpose_of_transpose(graph, id)
                .or_else(|| reshape_of_reshape(graph, id))
                .or_else(|| batched_transpose(graph, id))
        });
        Findings { patches: patches.collect(), ..Findings::default() }
    }
}

/// The permutation and operand of the transpose that computes `tensor`.
fn transpose(graph: &Graph, tensor: TensorId) -> Option<(NodeId, &[usize], TensorId)> {
    let (id, node) = producer(graph, tensor)?;
    match &node.op {
        Op::Transpose { perm } => Some((id, perm, input(graph, id, 0)?)),
        _ => None,
    }
}

fn transpose_of_transpose(graph: &Graph, id: NodeId) -> Option<Patch> {
    let result = output(graph, id)?;
    let (_, outer, middle) = transpose(graph, result)?;
    let (inner_id, inner, x) = transpose(graph, middle)?;
    let perm: Vec<usize> = outer.iter().filter_map(|axis| inner.get(*axis).copied()).collect();
    let name = graph.node(id).name.clone();
    let what = format!("{name} and the transpose before it become one");
    let op = Op::Transpose { perm };
    Some(one_node(vec![inner_id, id], (name, op), vec![Some(Value::Old(x))], result, what))
}

/// Only where the second shape needs nothing of the first: no 0 that copies one of its dimensions.
fn reshape_of_reshape(graph: &Graph, id: NodeId) -> Option<Patch> {
    let (Op::Reshape { .. }, Some(middle), Some(shape)) =
        (&graph.node(id).op, input(graph, id, 0), input(graph, id, 1))
    else {
        return None;
    };
    let (inner_id, inner) = producer(graph, middle)?;
    if !matches!(inner.op, Op::Reshape { .. } | Op::Squeeze | Op::Unsqueeze) {
        return None;
    }
    let x = input(graph, inner_id, 0)?;
    let (from, through) = (graph.tensor(x).ty.shape.dims(), graph.tensor(middle).ty.shape.dims());
    let copies_the_same = |axis: usize| from.get(axis).is_some() && from.get(axis) == through.get(axis);
    let target = ints(graph, shape)?;
    if !target.iter().enumerate().all(|(axis, size)| *size != 0 || copies_the_same(axis)) {
        return None;
    }
    let name = graph.node(id).name.clone();
    let what = format!("{name} and the reshape before it become one");
    let inputs = vec![
        Some(Value::Old(x)),
        Some(Value::Constant(graph.tensor(shape).name.clone(), TensorData::vector(target))),
    ];
    let op = Op::Reshape { allow_zero: false };
    Some(one_node(vec![inner_id, id], (name, op), inputs, output(graph, id)?, what))
}

/// `reshape(transpose(reshape(x)))` that merges the leading dimensions, exchanges the last two, and splits the leading
/// ones as they were.
fn batched_transpose(graph: &Graph, id: NodeId) -> Option<Patch> {
    let result = output(graph, id)?;
    let reshaped = |tensor: TensorId| {
        let (id, node) = producer(graph, tensor)?;
        matches!(node.op, Op::Reshape { .. }).then_some((id, input(graph, id, 0)?))
    };
    let (_, exchanged) = reshaped(result)?;
    let (transpose_id, perm, merged) = transpose(graph, exchanged)?;
    let (merge_id, x) = reshaped(merged)?;
    let dims = |tensor: TensorId| graph.tensor(tensor).ty.shape.dims();
    let ([_, rows, columns], [leading @ .., x_rows, x_columns]) = (dims(merged), dims(x)) else {
        return None;
    };
    let ([result_leading @ .., result_columns, result_rows], [0, 2, 1]) = (dims(result), perm) else {
        return None;
    };
    let same = rows == x_rows
        && columns == x_columns
        && leading == result_leading
        && columns == result_columns
        && rows == result_rows;
    if !same {
        return None;
    }
    let rank = dims(x).len();
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 2, rank - 1);
    let name = graph.node(transpose_id).name.clone();
    let what = format!("{name} exchanges the last two dimensions of {}", graph.tensor(x).name);
    let op = Op::Transpose { perm };
    Some(one_node(vec![merge_id, transpose_id, id], (name, op), vec![Some(Value::Old(x))], result, what))
}
