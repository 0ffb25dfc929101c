//! Functions of one element, or of elements at the same place.

use bertha_graph::{BinaryOp, DType, GeluKind, Op, TensorData, TensorId, UnaryOp};

use super::super::context::{IDENTITY, NodeContext, Translated};
use super::super::dtypes;

macro_rules! plain {
    ($($name:ident => $op:expr;)*) => {
        $(pub(super) fn $name(node: &mut NodeContext) -> Translated {
            node.emit_plain($op)
        })*
    };
}

plain! {
    abs => Op::Unary(UnaryOp::Abs);
    ceil => Op::Unary(UnaryOp::Ceil);
    cos => Op::Unary(UnaryOp::Cos);
    erf => Op::Unary(UnaryOp::Erf);
    is_nan => Op::Unary(UnaryOp::IsNan);
    log => Op::Unary(UnaryOp::Log);
    neg => Op::Unary(UnaryOp::Neg);
    not => Op::Unary(UnaryOp::Not);
    reciprocal => Op::Unary(UnaryOp::Reciprocal);
    relu => Op::Unary(UnaryOp::Relu);
    sigmoid => Op::Unary(UnaryOp::Sigmoid);
    sign => Op::Unary(UnaryOp::Sign);
    sin => Op::Unary(UnaryOp::Sin);
    sqrt => Op::Unary(UnaryOp::Sqrt);
    tanh => Op::Unary(UnaryOp::Tanh);
    add => Op::Binary(BinaryOp::Add);
    sub => Op::Binary(BinaryOp::Sub);
    mul => Op::Binary(BinaryOp::Mul);
    div => Op::Binary(BinaryOp::Div);
    and => Op::Binary(BinaryOp::And);
    equal => Op::Binary(BinaryOp::Equal);
    greater => Op::Binary(BinaryOp::Greater);
    greater_or_equal => Op::Binary(BinaryOp::GreaterOrEqual);
    less => Op::Binary(BinaryOp::Less);
    less_or_equal => Op::Binary(BinaryOp::LessOrEqual);
    select => Op::Where;
}

/// A constant under a second name stays one constant; anything else keeps its node.
pub(super) fn identity(node: &mut NodeContext) -> Translated {
    let input = node.input(0)?;
    match node.graph.tensor(input).constant() {
        Some(_) => node.alias(input),
        None => node.emit(IDENTITY, &[Some(input)]),
    }
}

pub(super) fn cast(node: &mut NodeContext) -> Translated {
    let to = node.int("to")?.ok_or("attribute `to` is missing")?;
    // Both say how to round to 8-bit floats, which are refused below.
    node.flag("saturate", true)?;
    node.string("round_mode")?;
    let to = dtypes::dtype(to).map_err(|what| format!("casts to {what}, which are not supported"))?;
    node.emit_plain(Op::Cast { to })
}

pub(super) fn gelu(node: &mut NodeContext) -> Translated {
    let kind = match node.string("approximate")?.as_deref() {
        None | Some("none") => GeluKind::Erf,
        Some("tanh") => GeluKind::Tanh,
        Some(other) => {
            return Err(format!("attribute `approximate` is `{other}`, not `none` or `tanh`").into());
        }
    };
    node.emit_plain(Op::Gelu(kind))
}

/// Bounds are attributes before version 11, inputs from then on.
pub(super) fn clip(node: &mut NodeContext) -> Translated {
    if node.opset >= 11 {
        return node.emit_plain(Op::Clip);
    }
    let x = node.input(0)?;
    let dtype = node.dtype(x);
    let mut inputs = vec![Some(x)];
    for bound in ["min", "max"] {
        inputs.push(match node.float(bound)? {
            None => None,
            Some(value) => Some(node.constant(bound, scalar(dtype, f64::from(value))?)?),
        });
    }
    node.emit(Op::Clip, &inputs)
}

pub(super) fn max(node: &mut NodeContext) -> Translated {
    fold(node, BinaryOp::Max)
}

pub(super) fn min(node: &mut NodeContext) -> Translated {
    fold(node, BinaryOp::Min)
}

/// Any number of operands as a chain of two.
pub(super) fn fold(node: &mut NodeContext, op: BinaryOp) -> Translated {
    let mut sum = node.input(0)?;
    let count = node.node.input.len();
    if count == 1 {
        return node.emit(IDENTITY, &[Some(sum)]);
    }
    for index in 1..count {
        let next = node.input(index)?;
        if index + 1 == count {
            return node.emit(Op::Binary(op), &[Some(sum), Some(next)]);
        }
        sum = node.step(&format!("{}_{index}", op.mnemonic()), Op::Binary(op), &[Some(sum), Some(next)])?;
    }
    Ok(())
}

/// The exponent may be of another type than the base; the result has the type of the base.
pub(super) fn pow(node: &mut NodeContext) -> Translated {
    let (base, exponent) = (node.input(0)?, node.input(1)?);
    let (to, from) = (node.dtype(base), node.dtype(exponent));
    if to == from {
        return node.emit_plain(Op::Binary(BinaryOp::Pow));
    }
    let common = match (to.is_float(), from.is_float()) {
        (true, _) => to,
        (false, true) => DType::F64,
        (false, false) => DType::I64,
    };
    let base = node.cast("base", base, common)?;
    let exponent = node.cast("exponent", exponent, common)?;
    let op = Op::Binary(BinaryOp::Pow);
    if common == to {
        return node.emit(op, &[Some(base), Some(exponent)]);
    }
    let power = node.step("power", op, &[Some(base), Some(exponent)])?;
    node.emit(Op::Cast { to }, &[Some(power)])
}

/// A scalar of a given type.
pub(super) fn scalar(dtype: DType, value: f64) -> Translated<TensorData> {
    dtypes::filled(dtype, Vec::new(), value).map_err(|error| error.to_string().into())
}

/// The operands as the graph wants them.
pub(super) fn some<const N: usize>(tensors: [TensorId; N]) -> [Option<TensorId>; N] {
    tensors.map(Some)
}
