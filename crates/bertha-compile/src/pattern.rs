//! What passes look for: constants close to a value, commutative operands, chains of nodes.

use bertha_graph::{BinaryOp, DType, Graph, NodeId, Op, TensorData, TensorId};

use crate::patch::{NewNode, Patch, Value};
use crate::uses::{Uses, producer};

/// The one element of a constant of any rank.
pub(crate) fn scalar(graph: &Graph, tensor: TensorId) -> Option<f64> {
    let data = graph.tensor(tensor).constant().filter(|data| data.len() == 1)?;
    data.to_f64().first().copied()
}

/// The elements of a constant that holds integers.
pub(crate) fn ints(graph: &Graph, tensor: TensorId) -> Option<Vec<i64>> {
    // Lists of axes and the like are short; a long constant is none of them.
    graph.tensor(tensor).constant().filter(|data| data.len() <= 64)?.to_i64()
}

/// Whether `value` is `expected` as far as `dtype` can tell.
pub(crate) fn is_close(value: f64, expected: f64, dtype: DType) -> bool {
    let tolerance = match dtype {
        DType::BF16 => 8e-3,
        DType::F16 => 1e-3,
        _ => 1e-6,
    };
    (value - expected).abs() <= tolerance * expected.abs()
}

/// Input number `index`, when it is there.
pub(crate) fn input(graph: &Graph, node: NodeId, index: usize) -> Option<TensorId> {
    graph.node(node).inputs.get(index).copied().flatten()
}

/// The first output.
pub(crate) fn output(graph: &Graph, node: NodeId) -> Option<TensorId> {
    graph.node(node).outputs.first().copied().flatten()
}

/// Node and operands, when `tensor` is the result of this function of two elements.
pub(crate) fn binary(graph: &Graph, tensor: TensorId, op: BinaryOp) -> Option<(NodeId, TensorId, TensorId)> {
    let (id, node) = producer(graph, tensor)?;
    match (&node.op, &node.inputs[..]) {
        (Op::Binary(found), [Some(a), Some(b)]) if *found == op => Some((id, *a, *b)),
        _ => None,
    }
}

/// What is left of a tensor when scalar factors are taken off.
pub(crate) struct Scaled {
    /// The tensor that is multiplied.
    pub(crate) tensor: TensorId,
    /// The product of the factors.
    pub(crate) factor: f64,
    /// The nodes that multiply or divide.
    pub(crate) nodes: Vec<NodeId>,
}

/// Takes products and quotients with constant scalars off `tensor`, and conversions between float types.
pub(crate) fn without_scale(graph: &Graph, tensor: TensorId) -> Scaled {
    let mut scaled = Scaled { tensor, factor: 1.0, nodes: Vec::new() };
    while let Some((id, node)) = producer(graph, scaled.tensor) {
        let (next, factor) = match (&node.op, &node.inputs[..]) {
            (Op::Binary(BinaryOp::Mul), [Some(a), Some(b)]) => match (scalar(graph, *a), scalar(graph, *b)) {
                (_, Some(factor)) => (*a, factor),
                (Some(factor), None) => (*b, factor),
                (None, None) => break,
            },
            (Op::Binary(BinaryOp::Div), [Some(a), Some(b)]) => match scalar(graph, *b) {
                Some(divisor) if divisor != 0.0 => (*a, 1.0 / divisor),
                _ => break,
            },
            _ => break,
        };
        // A scalar of higher rank would add dimensions.
        if graph.tensor(next).ty != graph.tensor(scaled.tensor).ty {
            break;
        }
        scaled.nodes.push(id);
        scaled.tensor = next;
        scaled.factor *= factor;
    }
    scaled
}

/// Non-negative axis of a tensor of this rank.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let rank_i64 = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis + rank_i64 } else { axis };
    usize::try_from(axis).ok().filter(|axis| *axis < rank)
}

/// A constant vector with one element for each column of `x`.
pub(crate) fn is_row_of(graph: &Graph, tensor: TensorId, x: TensorId) -> bool {
    let columns = graph.tensor(x).ty.shape.dims().last().and_then(|dim| dim.as_const());
    let row = graph.tensor(tensor).constant().map(TensorData::shape);
    matches!((row, columns), (Some([width]), Some(columns)) if i64::try_from(*width) == Ok(columns))
}

/// The only node that reads `tensor`, with its other operand, when it is this function of two elements.
pub(crate) fn only_read_by(
    graph: &Graph,
    uses: &Uses,
    tensor: TensorId,
    op: BinaryOp,
) -> Option<(NodeId, TensorId)> {
    let reader = uses.only_reader(tensor)?;
    match (&graph.node(reader).op, &graph.node(reader).inputs[..]) {
        (Op::Binary(found), [Some(a), Some(b)]) if *found == op => {
            Some((reader, if *a == tensor { *b } else { *a }))
        }
        _ => None,
    }
}

/// `x^2` or `x * x`.
pub(crate) fn squared(graph: &Graph, tensor: TensorId) -> Option<(NodeId, TensorId)> {
    if let Some((id, x, exponent)) = binary(graph, tensor, BinaryOp::Pow) {
        return (scalar(graph, exponent) == Some(2.0)).then_some((id, x));
    }
    let (id, a, b) = binary(graph, tensor, BinaryOp::Mul)?;
    (a == b).then_some((id, a))
}

/// The matrix with rows and columns exchanged.
pub(crate) fn transposed(matrix: &TensorData) -> Option<TensorData> {
    let [rows, columns] = *matrix.shape() else { return None };
    let (source, size) = (matrix.bytes(), matrix.dtype().size());
    let mut bytes = vec![0u8; source.len()];
    // Blocks, so that both sides stay in cache.
    const BLOCK: usize = 32;
    for row_block in (0..rows).step_by(BLOCK) {
        for column_block in (0..columns).step_by(BLOCK) {
            for row in row_block..rows.min(row_block + BLOCK) {
                for column in column_block..columns.min(column_block + BLOCK) {
                    let (from, to) = ((row * columns + column) * size, (column * rows + row) * size);
                    bytes[to..to + size].copy_from_slice(&source[from..from + size]);
                }
            }
        }
    }
    TensorData::from_bytes(matrix.dtype(), vec![columns, rows], bytes.into()).ok()
}

/// A patch by which one new node takes the place of `removes` and computes `result`.
pub(crate) fn one_node(
    removes: Vec<NodeId>,
    (name, op): (String, Op),
    inputs: Vec<Option<Value>>,
    result: TensorId,
    what: String,
) -> Patch {
    Patch {
        removes,
        nodes: vec![NewNode { name, op, inputs, outputs: 1 }],
        replaces: vec![(result, Value::New { node: 0, output: 0 })],
        what,
    }
}

/// A patch by which a tensor becomes another one that is there already.
pub(crate) fn forward(node: NodeId, from: TensorId, to: TensorId, what: String) -> Patch {
    Patch { removes: vec![node], nodes: Vec::new(), replaces: vec![(from, Value::Old(to))], what }
}
