//! A row divided by its Euclidean norm, from its parts: `x / max(sqrt(sum(x^2)), epsilon)`.

use bertha_graph::{BinaryOp, Graph, NodeId, Op, ReduceOp, TensorId, UnaryOp};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::{Findings, Patch, Value};
use crate::pattern::{axis_of, binary, input, ints, one_node, output, scalar, squared};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct L2Normalize;

const NAME: &str = "l2-normalize";

impl Pass for L2Normalize {
    fn name(&self) -> &'static str {
        NAME
    }

    fn summary(&self) -> &'static str {
        "rows divided by their norm become one normalisation"
    }

    fn find(&self, graph: &Graph, _uses: &Uses) -> Findings {
        let mut findings = Findings::default();
        for id in graph.node_ids() {
            match normalization(graph, id) {
                Some(Ok(patch)) => findings.patches.push(patch),
                Some(Err(why)) => {
                    let node = graph.node(id).name.clone();
                    findings.near_misses.push(NearMiss { pass: NAME, node, why: why.into() });
                }
                None => {}
            }
        }
        findings
    }
}

/// `None` where nothing is divided by the root of a sum of squares.
fn normalization(graph: &Graph, id: NodeId) -> Option<Result<Patch, &'static str>> {
    let result = output(graph, id)?;
    let (_, x, divisor) = binary(graph, result, BinaryOp::Div)?;
    let (bound, norm, epsilon) = lower_bound(graph, divisor)?;
    let (sqrt, root) = producer(graph, norm)?;
    if root.op != Op::Unary(UnaryOp::Sqrt) {
        return None;
    }
    let (sum, reduce) = producer(graph, input(graph, sqrt, 0)?)?;
    let Op::Reduce { op: ReduceOp::Sum, keep_dims: true, .. } = reduce.op else { return None };
    let (square, y) = squared(graph, input(graph, sum, 0)?)?;
    if y != x {
        return Some(Err("it divides something else than what it takes the norm of"));
    }
    let rank = graph.tensor(x).ty.shape.rank();
    let axes = ints(graph, input(graph, sum, 1)?)?;
    if !matches!(axes[..], [axis] if axis_of(axis, rank) == rank.checked_sub(1)) {
        return Some(Err("the norm is not that of the last dimension"));
    }
    if !graph.dtype(x).is_float() || epsilon < 0.0 {
        return Some(Err("the smallest divisor is negative"));
    }
    let name = graph.node(id).name.clone();
    let what = format!("{name} divides {} by its norm", graph.tensor(x).name);
    let op = Op::L2Normalize { epsilon: epsilon as f32 };
    let removes = vec![square, sum, sqrt, bound, id];
    Some(Ok(one_node(removes, (name, op), vec![Some(Value::Old(x))], result, what)))
}

/// `max(x, number)` or `clip(x, number)`: the node, `x`, the number.
fn lower_bound(graph: &Graph, tensor: TensorId) -> Option<(NodeId, TensorId, f64)> {
    let (id, node) = producer(graph, tensor)?;
    match node.op {
        Op::Clip if input(graph, id, 2).is_none() => {
            Some((id, input(graph, id, 0)?, scalar(graph, input(graph, id, 1)?)?))
        }
        Op::Binary(BinaryOp::Max) => {
            let (a, b) = (input(graph, id, 0)?, input(graph, id, 1)?);
            [(a, b), (b, a)].into_iter().find_map(|(x, bound)| Some((id, x, scalar(graph, bound)?)))
        }
        _ => None,
    }
}
