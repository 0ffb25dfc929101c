//! Layer norm from its parts: `(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * gamma + beta`, as exporters write it.

use bertha_graph::interp::{self, Precision};
use bertha_graph::{BinaryOp, DType, Graph, NodeId, Op, ReduceOp, TensorData, TensorId, UnaryOp};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::{Findings, Patch, Value};
use crate::pattern::{
    axis_of, binary, input, ints, is_row_of, one_node, only_read_by, output, scalar, squared,
};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct LayerNorm;

const NAME: &str = "layer-norm";

impl Pass for LayerNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn summary(&self) -> &'static str {
        "means, squares and roots become layer norms"
    }

    fn find(&self, graph: &Graph, uses: &Uses) -> Findings {
        let mut findings = Findings::default();
        for id in graph.node_ids() {
            match normalization(graph, id) {
                Some(Ok(found)) => findings.patches.extend(found.patch(graph, uses, id)),
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

/// A normalisation without scale and shift.
struct Normalization {
    x: TensorId,
    epsilon: f32,
    nodes: Vec<NodeId>,
}

/// The deviation from the mean, and one over the standard deviation or the standard deviation itself.
fn quotient(graph: &Graph, id: NodeId) -> Option<(TensorId, TensorId, Vec<NodeId>)> {
    let result = output(graph, id)?;
    if let Some((_, deviation, root)) = binary(graph, result, BinaryOp::Div) {
        let (sqrt, node) = producer(graph, root)?;
        return (node.op == Op::Unary(UnaryOp::Sqrt)).then_some((
            deviation,
            input(graph, sqrt, 0)?,
            vec![sqrt],
        ));
    }
    let (_, a, b) = binary(graph, result, BinaryOp::Mul)?;
    [(a, b), (b, a)].into_iter().find_map(|(deviation, inverse)| {
        let (outer, node) = producer(graph, inverse)?;
        match node.op {
            Op::Unary(UnaryOp::Reciprocal) => {
                let (sqrt, root) = producer(graph, input(graph, outer, 0)?)?;
                (root.op == Op::Unary(UnaryOp::Sqrt)).then_some((
                    deviation,
                    input(graph, sqrt, 0)?,
                    vec![sqrt, outer],
                ))
            }
            Op::Binary(BinaryOp::Pow) => (scalar(graph, input(graph, outer, 1)?) == Some(-0.5)).then_some((
                deviation,
                input(graph, outer, 0)?,
                vec![outer],
            )),
            Op::Binary(BinaryOp::Div) => {
                let (sqrt, root) = producer(graph, input(graph, outer, 1)?)?;
                let inverse = scalar(graph, input(graph, outer, 0)?) == Some(1.0);
                (inverse && root.op == Op::Unary(UnaryOp::Sqrt)).then_some((
                    deviation,
                    input(graph, sqrt, 0)?,
                    vec![sqrt, outer],
                ))
            }
            _ => None,
        }
    })
}

/// `None` where nothing looks like one, `Err` where a deviation is divided by a root but something differs.
fn normalization(graph: &Graph, id: NodeId) -> Option<Result<Normalization, &'static str>> {
    let (deviation, radicand, mut nodes) = quotient(graph, id)?;
    let (add, a, b) = binary(graph, radicand, BinaryOp::Add)?;
    let (variance, epsilon) = match (scalar(graph, a), scalar(graph, b)) {
        (_, Some(epsilon)) => (a, epsilon),
        (Some(epsilon), None) => (b, epsilon),
        (None, None) => return Some(Err("what is added to the variance is no constant")),
    };
    let (mean_of_squares, squares) = mean(graph, variance)?;
    let (square, base) = squared(graph, squares)?;
    let (subtraction, x, average) = binary(graph, without_cast(graph, deviation), BinaryOp::Sub)?;
    let (mean_of_x, averaged) = mean(graph, average)?;
    let same_deviation = without_cast(graph, base) == without_cast(graph, deviation);
    if !same_deviation || averaged != x {
        return Some(Err("what is squared, averaged and divided is not one deviation from the mean"));
    }
    if !(0.0..=1.0).contains(&epsilon) {
        return Some(Err("the epsilon is not between 0 and 1"));
    }
    nodes.extend([mean_of_x, subtraction, square, mean_of_squares, add, id]);
    nodes.sort();
    Some(Ok(Normalization { x, epsilon: epsilon as f32, nodes }))
}

/// What is averaged over the last dimension, which stays as 1.
fn mean(graph: &Graph, tensor: TensorId) -> Option<(NodeId, TensorId)> {
    let (id, node) = producer(graph, tensor)?;
    let Op::Reduce { op: ReduceOp::Mean, keep_dims: true, .. } = node.op else { return None };
    let x = input(graph, id, 0)?;
    let rank = graph.tensor(x).ty.shape.rank();
    let axes = ints(graph, input(graph, id, 1)?)?;
    match axes[..] {
        [axis] if axis_of(axis, rank) == rank.checked_sub(1) => Some((id, x)),
        _ => None,
    }
}

/// Exporters of half-precision models square in f32 or f64; layer norms keep their statistics so anyway.
fn without_cast(graph: &Graph, tensor: TensorId) -> TensorId {
    match producer(graph, tensor) {
        Some((id, node)) if matches!(node.op, Op::Cast { to: DType::F32 | DType::F64 }) => {
            match input(graph, id, 0) {
                Some(x) if graph.dtype(x).is_float() => x,
                _ => tensor,
            }
        }
        _ => tensor,
    }
}

impl Normalization {
    /// With the scale and the shift that follow, when they are constant rows.
    fn patch(self, graph: &Graph, uses: &Uses, id: NodeId) -> Option<Patch> {
        let mut result = output(graph, id)?;
        let name = graph.node(id).name.clone();
        let mut nodes = self.nodes;
        let dtype = graph.dtype(self.x);
        if graph.dtype(result) != dtype {
            let cast =
                uses.only_reader(result).filter(|cast| graph.node(*cast).op == Op::Cast { to: dtype })?;
            nodes.push(cast);
            result = output(graph, cast)?;
        }
        let mut gamma = None;
        let mut beta = None;
        if let Some((mul, row)) = only_read_by(graph, uses, result, BinaryOp::Mul)
            && is_row_of(graph, row, result)
        {
            nodes.push(mul);
            result = output(graph, mul)?;
            gamma = Some(row);
        }
        if let Some((add, row)) = only_read_by(graph, uses, result, BinaryOp::Add)
            && is_row_of(graph, row, result)
        {
            nodes.push(add);
            result = output(graph, add)?;
            beta = Some(row);
        }
        let gamma = match gamma {
            Some(row) => Value::Old(row),
            None => Value::Constant(format!("{name}.gamma"), ones(graph, self.x)?),
        };
        let mut inputs = vec![Some(Value::Old(self.x)), Some(gamma)];
        inputs.extend(beta.map(|row| Some(Value::Old(row))));
        let what = format!("{} nodes become the layer norm of {}", nodes.len(), graph.tensor(self.x).name);
        let op = Op::LayerNorm { axis: -1, epsilon: self.epsilon };
        Some(one_node(nodes, (name, op), inputs, result, what))
    }
}

/// A row of ones for the last dimension of `x`.
fn ones(graph: &Graph, x: TensorId) -> Option<TensorData> {
    let ty = &graph.tensor(x).ty;
    let width = usize::try_from(ty.shape.dims().last()?.as_const()?).ok()?;
    let ones = interp::Value::from_tensor(&TensorData::vector(vec![1f32; width]));
    let cast = interp::eval(&Op::Cast { to: ty.dtype }, &[Some(&ones)], Precision::Native).ok()?;
    cast.first().map(interp::Value::to_tensor)
}
