//! How much arithmetic a graph is.

use bertha_graph::{Bindings, Graph, Node, Op, Shape, TensorId};

/// Floating-point operations of the matrix products and attentions of `graph` under `bindings`: two for each
/// multiply-add; elementwise work is not counted. `sum_of_squares` is that of the sequences' lengths, which is what
/// ragged attention costs. Nodes whose shapes `bindings` leave open count as nothing.
pub fn flops(graph: &Graph, bindings: &Bindings, sum_of_squares: f64) -> f64 {
    graph.nodes().iter().filter_map(|node| node_flops(graph, node, bindings, sum_of_squares)).sum()
}

/// The same for one node; `None` when it is no product or its shape is open.
pub fn node_flops(graph: &Graph, node: &Node, bindings: &Bindings, sum_of_squares: f64) -> Option<f64> {
    let input = |index: usize| node.inputs.get(index).copied().flatten();
    let output = node.outputs.first().copied().flatten()?;
    match &node.op {
        Op::Linear { .. }
        | Op::MatMul
        | Op::Gemm { trans_a: false, .. }
        | Op::MatMulInteger
        | Op::QLinearMatMul => {
            let depth = last_dim(graph, input(0)?, bindings)?;
            Some(2.0 * elements(graph, output, bindings)? * depth)
        }
        Op::RaggedAttention { .. } => Some(4.0 * sum_of_squares * last_dim(graph, output, bindings)?),
        Op::Attention(_) => {
            let keys = shape(graph, input(1)?, bindings)?;
            Some(4.0 * elements(graph, output, bindings)? * *keys.get(keys.len().checked_sub(2)?)?)
        }
        _ => None,
    }
}

fn shape(graph: &Graph, tensor: TensorId, bindings: &Bindings) -> Option<Vec<f64>> {
    let Shape(dims) = &graph.tensor(tensor).ty.shape;
    dims.iter().map(|dim| dim.eval(bindings).ok().map(|value| value as f64)).collect()
}

fn elements(graph: &Graph, tensor: TensorId, bindings: &Bindings) -> Option<f64> {
    shape(graph, tensor, bindings).map(|dims| dims.iter().product())
}

fn last_dim(graph: &Graph, tensor: TensorId, bindings: &Bindings) -> Option<f64> {
    shape(graph, tensor, bindings)?.last().copied()
}
