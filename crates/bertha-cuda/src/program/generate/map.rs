//! Results whose elements are functions of single elements of the operands.

use bertha_graph::{BinaryOp, Dim, GeluKind, Node, Op, Shape, TensorId, UnaryOp};

use super::text::{expression, map_kernel, strides};
use super::{Generated, Source, THREADS, result_storage};
use crate::program::lower::{Lowering, operand};

/// The kernel for a pointwise op or one that moves elements.
pub(super) fn generate(lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Result<Generated, String> {
    let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    match &node.op {
        Op::Unary(op) => {
            let x = Source::of(lowering, node, 0)?;
            let value = unary(*op).ok_or_else(|| node.op.mnemonic().to_owned())?;
            finish(lowering, node, y, vec![x], Vec::new(), &value.replace('@', "x0[i]"))
        }
        Op::Gelu(kind) => {
            let x = Source::of(lowering, node, 0)?;
            let value = match kind {
                GeluKind::Erf => "gelu_erf(x0[i])",
                GeluKind::Tanh => "gelu_tanh(x0[i])",
            };
            finish(lowering, node, y, vec![x], Vec::new(), value)
        }
        Op::Cast { .. } => {
            let x = Source::of(lowering, node, 0)?;
            finish(lowering, node, y, vec![x], Vec::new(), "(float)x0[i]")
        }
        Op::Binary(op) => {
            let value = binary(*op).ok_or_else(|| node.op.mnemonic().to_owned())?;
            let (a, b) = (Source::of(lowering, node, 0)?, Source::of(lowering, node, 1)?);
            let lines = vec![
                format!("const float a = x0[{}];", broadcast(&a.dims, &dims)?),
                format!("const float b = x1[{}];", broadcast(&b.dims, &dims)?),
            ];
            let lines = [coordinates(&dims)?, lines].concat();
            finish(lowering, node, y, vec![a, b], lines, value)
        }
        Op::Transpose { perm } => {
            let x = Source::of(lowering, node, 0)?;
            let mut at = vec![String::new(); perm.len()];
            for (axis, from) in perm.iter().enumerate() {
                *at.get_mut(*from).ok_or("a permutation of other dimensions")? = format!("d{axis}");
            }
            moved(lowering, node, y, x, &at)
        }
        Op::Gather { axis } => gather(lowering, node, y, *axis),
        Op::Slice => slice(lowering, node, y),
        _ => Err(node.op.mnemonic().to_owned()),
    }
}

/// Piece `index` of a `split`.
pub(super) fn piece(
    lowering: &mut Lowering<'_>,
    node: &Node,
    index: usize,
    y: TensorId,
) -> Result<Generated, String> {
    let Op::Split { axis, .. } = &node.op else {
        return Err(format!("{} with several results", node.op.mnemonic()));
    };
    let x = Source::of(lowering, node, 0)?;
    let axis = normal_axis(*axis, x.dims.len())?;
    let mut start = 0;
    for earlier in node.outputs.iter().take(index) {
        let id = earlier.ok_or("a split with a piece that nobody reads")?;
        let dim = lowering.graph.tensor(id).ty.shape.dims().get(axis).and_then(Dim::as_const);
        start += dim.ok_or("a split into pieces of unknown size")?;
    }
    let at =
        plain_coordinates(x.dims.len(), |other| (other == axis).then(|| format!("(d{other} + {start}ll)")));
    moved(lowering, node, y, x, &at)
}

fn gather(lowering: &mut Lowering<'_>, node: &Node, y: TensorId, axis: i64) -> Result<Generated, String> {
    let x = Source::of(lowering, node, 0)?;
    let axis = normal_axis(axis, x.dims.len())?;
    let indices = operand(node, 1).ok_or("gather without indices")?;
    let data = lowering.constant(indices).ok_or("gather with computed indices")?;
    let size = x.dims[axis].as_const().ok_or("gather along a dimension of unknown size")?;
    let rank = data.shape().len();
    let wanted = data.to_i64().ok_or("gather with indices that are no integers")?;
    if wanted.iter().any(|index| *index < -size || *index >= size) {
        return Err("gather with an index outside of its operand".into());
    }
    let strides_of_indices = strides(&data.shape().iter().map(|dim| Dim::from(*dim)).collect::<Vec<_>>())?;
    let place = (0..rank).map(|inner| format!("d{} * {}", axis + inner, strides_of_indices[inner]));
    let place = place.reduce(|sum, term| format!("{sum} + {term}")).unwrap_or_else(|| "0".into());
    let index = Source::of(lowering, node, 1)?;
    let chosen = format!("const long long chosen = x1[{place}] < 0 ? x1[{place}] + {size}ll : x1[{place}];");
    let at: Vec<String> = (0..x.dims.len())
        .map(|other| match other.cmp(&axis) {
            std::cmp::Ordering::Less => format!("d{other}"),
            std::cmp::Ordering::Equal => "chosen".into(),
            std::cmp::Ordering::Greater => format!("d{}", other + rank - 1),
        })
        .collect();
    let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    let lines = [coordinates(&dims)?, vec![chosen]].concat();
    let value = format!("x0[{}]", address(&x.dims, &at)?);
    finish(lowering, node, y, vec![x, index], lines, &value)
}

/// Slices with constant bounds along dimensions of known size.
fn slice(lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Result<Generated, String> {
    let x = Source::of(lowering, node, 0)?;
    let list = |index: usize| -> Result<Option<Vec<i64>>, String> {
        let Some(id) = operand(node, index) else { return Ok(None) };
        let data = lowering.constant(id).ok_or("slice with computed bounds")?;
        data.to_i64().map(Some).ok_or_else(|| "slice with bounds that are no integers".into())
    };
    let starts = list(1)?.ok_or("slice without starts")?;
    let axes = list(3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    let mut at = plain_coordinates(x.dims.len(), |_| None);
    for ((axis, start), step) in axes.iter().zip(&starts).zip(&steps) {
        let axis = normal_axis(*axis, x.dims.len())?;
        let size = x.dims[axis].as_const().ok_or("slice of a dimension of unknown size")?;
        // Where the first element lies, as the op's definition clamps it.
        let from = if *start < 0 { start + size } else { *start };
        let first = if *step < 0 { from.clamp(0, (size - 1).max(0)) } else { from.clamp(0, size) };
        at[axis] = format!("({first}ll + d{axis} * {step}ll)");
    }
    moved(lowering, node, y, x, &at)
}

/// The element of `x` at `at`, expressions of the result's coordinates.
fn moved(
    lowering: &mut Lowering<'_>,
    node: &Node,
    y: TensorId,
    x: Source,
    at: &[String],
) -> Result<Generated, String> {
    let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    let lines = coordinates(&dims)?;
    let value = format!("x0[{}]", address(&x.dims, at)?);
    finish(lowering, node, y, vec![x], lines, &value)
}

fn finish(
    lowering: &mut Lowering<'_>,
    node: &Node,
    y: TensorId,
    sources: Vec<Source>,
    lines: Vec<String>,
    value: &str,
) -> Result<Generated, String> {
    let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    let elements = Shape(dims).elements();
    expression(&elements)?;
    let storage = result_storage(lowering, y);
    let name = node.op.mnemonic();
    let entry = format!("bertha_{name}");
    let operands: Vec<_> = sources.iter().map(|source| source.storage).collect();
    let kernel = map_kernel(&entry, &operands, storage, &elements, &lines, value);
    let inputs = sources.iter().map(|source| source.read).collect();
    let y = lowering.write(y, storage);
    Ok(Generated { name, inputs, y, kernel, work: elements, per_block: THREADS })
}

/// Declares `d0`, `d1`, ...: the coordinates of element `i` of a tensor of these dimensions.
fn coordinates(dims: &[Dim]) -> Result<Vec<String>, String> {
    let strides = strides(dims)?;
    let line = |(axis, (dim, stride)): (usize, (&Dim, &String))| {
        Ok(match axis {
            0 => format!("const long long d0 = i / {stride};"),
            axis => format!("const long long d{axis} = i / {stride} % {};", expression(dim)?),
        })
    };
    dims.iter().zip(&strides).enumerate().map(line).collect()
}

fn plain_coordinates(rank: usize, other: impl Fn(usize) -> Option<String>) -> Vec<String> {
    (0..rank).map(|axis| other(axis).unwrap_or_else(|| format!("d{axis}"))).collect()
}

/// The index of the element at `at` in a tensor of these dimensions.
fn address(dims: &[Dim], at: &[String]) -> Result<String, String> {
    let strides = strides(dims)?;
    let terms = at.iter().zip(&strides).map(|(at, stride)| format!("{at} * {stride}"));
    Ok(terms.reduce(|sum, term| format!("{sum} + {term}")).unwrap_or_else(|| "0".into()))
}

/// The index of the element of a tensor `from` that stands at `d0`, `d1`, ... of a result `to` it broadcasts to.
fn broadcast(from: &[Dim], to: &[Dim]) -> Result<String, String> {
    let padding = to.len().checked_sub(from.len()).ok_or("an operand of higher rank than the result")?;
    let mut at = Vec::with_capacity(from.len());
    for (axis, dim) in from.iter().enumerate() {
        at.push(if dim.as_const() == Some(1) {
            "0".to_owned()
        } else if *dim == to[axis + padding] {
            format!("d{}", axis + padding)
        } else {
            return Err(format!("dimension {dim} broadcast to {}", to[axis + padding]));
        });
    }
    address(from, &at)
}

fn normal_axis(axis: i64, rank: usize) -> Result<usize, String> {
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|axis| *axis < rank).ok_or_else(|| format!("an axis {axis} of {rank}"))
}

/// An expression in which `@` stands for the operand.
fn unary(op: UnaryOp) -> Option<&'static str> {
    Some(match op {
        UnaryOp::Identity => "@",
        UnaryOp::Abs => "fabsf(@)",
        UnaryOp::Ceil => "ceilf(@)",
        UnaryOp::Cos => "cosf(@)",
        UnaryOp::Erf => "erff(@)",
        UnaryOp::Exp => "expf(@)",
        UnaryOp::Log => "logf(@)",
        UnaryOp::Neg => "-@",
        UnaryOp::Reciprocal => "1.0f / @",
        UnaryOp::Relu => "relu(@)",
        UnaryOp::Sigmoid => "1.0f / (1.0f + expf(-@))",
        UnaryOp::Sign => "(@ > 0.0f ? 1.0f : @ < 0.0f ? -1.0f : @)",
        UnaryOp::Sin => "sinf(@)",
        UnaryOp::Sqrt => "sqrtf(@)",
        UnaryOp::Tanh => "tanhf(@)",
        UnaryOp::IsNan | UnaryOp::Not => return None,
    })
}

fn binary(op: BinaryOp) -> Option<&'static str> {
    Some(match op {
        BinaryOp::Add => "a + b",
        BinaryOp::Sub => "a - b",
        BinaryOp::Mul => "a * b",
        BinaryOp::Div => "a / b",
        BinaryOp::Pow => "powf(a, b)",
        // As ONNX has it, NaN wins.
        BinaryOp::Max => "(a != a || b != b ? a + b : fmaxf(a, b))",
        BinaryOp::Min => "(a != a || b != b ? a + b : fminf(a, b))",
        _ => return None,
    })
}
