//! Results whose elements are functions of single elements of the operands.

use bertha_graph::{BinaryOp, DType, Dim, GeluKind, Node, Op, Shape, TensorId, UnaryOp};

use super::code::{Code, map_kernel};
use super::{Draft, Generated, Source, THREADS, result_storage};
use crate::program::Storage;
use crate::program::lower::{Lowered, Lowering, operand};

/// The kernel for a pointwise op.
pub(super) fn generate(lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Lowered<Generated> {
    let what = || node.op.mnemonic().to_owned();
    match &node.op {
        Op::Unary(op) => {
            let x = Source::of(lowering, node, 0)?;
            let value =
                unary(*op, x.storage).ok_or_else(|| format!("{} of {}", what(), x.storage.c_name()))?;
            simple(lowering, node, y, vec![x], &value.replace('@', "x0[i]"))
        }
        Op::Gelu(kind) => {
            let x = Source::of(lowering, node, 0)?;
            let value = match kind {
                GeluKind::Erf => "gelu_erf(x0[i])",
                GeluKind::Tanh => "gelu_tanh(x0[i])",
            };
            simple(lowering, node, y, vec![x], value)
        }
        Op::Cast { to } => {
            let x = Source::of(lowering, node, 0)?;
            let value = match to {
                DType::Bool => "x0[i] != 0",
                to if to.is_float() => "(float)x0[i]",
                // Toward zero.
                _ => "x0[i]",
            };
            simple(lowering, node, y, vec![x], value)
        }
        Op::Binary(op) => {
            let (a, b) = (Source::of(lowering, node, 0)?, Source::of(lowering, node, 1)?);
            let value = binary(*op, a.storage, b.storage)
                .ok_or_else(|| format!("{} of {}", what(), a.storage.c_name()))?;
            pointwise(lowering, node, y, vec![a, b], value)
        }
        Op::Where => {
            let sources = [0, 1, 2].map(|index| Source::of(lowering, node, index));
            let [condition, a, b] = sources;
            pointwise(lowering, node, y, vec![condition?, a?, b?], "v0 ? v1 : v2")
        }
        Op::Clip => clip(lowering, node, y),
        Op::Range => {
            let (start, delta) = (Source::of(lowering, node, 0)?, Source::of(lowering, node, 2)?);
            simple(lowering, node, y, vec![start, delta], "x0[0] + i * x1[0]")
        }
        Op::ConstantOfShape { value } => {
            let whole = value.to_i64().and_then(|values| values.first().copied());
            let float = value.to_f64().first().map(|value| (*value as f32).to_bits());
            let value = match (whole, float) {
                (Some(value), _) => format!("{}ll", value.max(-i64::MAX)),
                (None, Some(bits)) => format!("__int_as_float(0x{bits:08x})"),
                (None, None) => return Err("constant_of_shape without a value".into()),
            };
            simple(lowering, node, y, Vec::new(), &value)
        }
        _ => Err(what()),
    }
}

/// Bounds are scalars, and either may be absent.
fn clip(lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Lowered<Generated> {
    let mut sources = vec![Source::of(lowering, node, 0)?];
    let mut value = "x0[i]".to_owned();
    // As ONNX has it, the upper bound wins, and NaN stays.
    for (index, comparison) in [(1, "<"), (2, ">")] {
        if operand(node, index).is_some() {
            sources.push(Source::of(lowering, node, index)?);
            let bound = format!("x{}[0]", sources.len() - 1);
            value = format!("({value} {comparison} {bound} ? {bound} : {value})");
        }
    }
    simple(lowering, node, y, sources, &value)
}

/// A result of the first operand's shape.
fn simple(
    lowering: &mut Lowering<'_>,
    node: &Node,
    y: TensorId,
    sources: Vec<Source>,
    value: &str,
) -> Lowered<Generated> {
    let code = Code::new(lowering.is_ragged());
    finish(lowering, node, y, (code, sources), (&[], value))
}

/// A result that all operands broadcast to; `v0`, `v1`, ... are their elements.
fn pointwise(
    lowering: &mut Lowering<'_>,
    node: &Node,
    y: TensorId,
    sources: Vec<Source>,
    value: &str,
) -> Lowered<Generated> {
    let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    let mut code = Code::new(lowering.is_ragged());
    let mut lines = code.coordinates(&dims)?;
    for (index, source) in sources.iter().enumerate() {
        let at = code.broadcast(&source.dims, &dims)?;
        lines.push(format!("const {} v{index} = x{index}[{at}];", value_type(source.storage)));
    }
    finish(lowering, node, y, (code, sources), (&lines, value))
}

/// The type that an operand's elements are read as.
fn value_type(storage: Storage) -> &'static str {
    match storage {
        Storage::F32 | Storage::F16 | Storage::Bf16 => "float",
        Storage::I32 | Storage::I64 => "long long",
        Storage::Bool => "bool",
    }
}

/// A kernel over all elements of the result.
pub(super) fn finish(
    lowering: &mut Lowering<'_>,
    node: &Node,
    y: TensorId,
    (code, sources): (Code, Vec<Source>),
    text: (&[String], &str),
) -> Lowered<Generated> {
    let storage = result_storage(lowering, node, y, &sources)?;
    finish_as(storage, lowering, node, y, (code, sources), text)
}

/// As [`finish`], for a result of this type.
pub(super) fn finish_as(
    storage: Storage,
    lowering: &mut Lowering<'_>,
    node: &Node,
    y: TensorId,
    (mut code, sources): (Code, Vec<Source>),
    (lines, value): (&[String], &str),
) -> Lowered<Generated> {
    let work: Dim = Shape(lowering.graph.tensor(y).ty.shape.dims().to_vec()).elements();
    let operands: Vec<_> = sources.iter().map(|source| source.storage).collect();
    let entry = format!("bertha_{}", node.op.mnemonic());
    let kernel = map_kernel(&mut code, &entry, &operands, storage, &work, (lines, value))?;
    Draft { sources, storage, kernel, code, work, per_block: THREADS }.finish(lowering, node, y)
}

/// An expression in which `@` stands for the operand.
fn unary(op: UnaryOp, x: Storage) -> Option<&'static str> {
    match x {
        Storage::Bool => return (op == UnaryOp::Not).then_some("!@"),
        Storage::I32 | Storage::I64 => {
            return match op {
                UnaryOp::Abs => Some("(@ < 0 ? -@ : @)"),
                UnaryOp::Neg => Some("-@"),
                UnaryOp::Sign => Some("(@ > 0) - (@ < 0)"),
                _ => None,
            };
        }
        Storage::F32 | Storage::F16 | Storage::Bf16 => {}
    }
    Some(match op {
        UnaryOp::Identity => "@",
        UnaryOp::Abs => "fabsf(@)",
        UnaryOp::Ceil => "ceilf(@)",
        UnaryOp::Cos => "cosf(@)",
        UnaryOp::Erf => "erff(@)",
        UnaryOp::Exp => "expf(@)",
        UnaryOp::IsNan => "@ != @",
        UnaryOp::Log => "logf(@)",
        UnaryOp::Neg => "-@",
        UnaryOp::Reciprocal => "1.0f / @",
        UnaryOp::Relu => "relu(@)",
        UnaryOp::Sigmoid => "1.0f / (1.0f + expf(-@))",
        UnaryOp::Sign => "(@ > 0.0f ? 1.0f : @ < 0.0f ? -1.0f : @)",
        UnaryOp::Sin => "sinf(@)",
        UnaryOp::Sqrt => "sqrtf(@)",
        UnaryOp::Tanh => "tanhf(@)",
        UnaryOp::Not => return None,
    })
}

/// An expression of `v0` and `v1`.
fn binary(op: BinaryOp, a: Storage, b: Storage) -> Option<&'static str> {
    let floats = a.is_float() && b.is_float();
    let bools = a == Storage::Bool && b == Storage::Bool;
    Some(match op {
        BinaryOp::And if bools => "v0 && v1",
        BinaryOp::Equal => "v0 == v1",
        _ if bools => return None,
        BinaryOp::Add => "v0 + v1",
        BinaryOp::Sub => "v0 - v1",
        BinaryOp::Mul => "v0 * v1",
        BinaryOp::Div if floats => "v0 / v1",
        BinaryOp::Pow if floats => "powf(v0, v1)",
        // As ONNX has it, NaN wins.
        BinaryOp::Max if floats => "(v0 != v0 || v1 != v1 ? v0 + v1 : fmaxf(v0, v1))",
        BinaryOp::Min if floats => "(v0 != v0 || v1 != v1 ? v0 + v1 : fminf(v0, v1))",
        BinaryOp::Max => "(v0 > v1 ? v0 : v1)",
        BinaryOp::Min => "(v0 < v1 ? v0 : v1)",
        BinaryOp::Greater => "v0 > v1",
        BinaryOp::GreaterOrEqual => "v0 >= v1",
        BinaryOp::Less => "v0 < v1",
        BinaryOp::LessOrEqual => "v0 <= v1",
        // Whole numbers could be divided by zero.
        BinaryOp::Div | BinaryOp::Pow | BinaryOp::And => return None,
    })
}
