//! Functions of single elements.

use super::Context;
use super::args::{Args, bools, expect_dtype};
use super::error::{Fault, fault};
use super::index::{broadcast, broadcast_positions};
use super::value::{Elements, Value, saturate};
use crate::dtype::DType;
use crate::op::{Activation, BinaryOp, GeluKind, UnaryOp};

/// One function applied to every element.
pub(super) fn unary(op: UnaryOp, args: Args, context: Context) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let shape = x.shape().to_vec();
    match x.elements() {
        _ if op == UnaryOp::Identity => Ok(x.clone()),
        Elements::Bool(v) if op == UnaryOp::Not => Ok(Value::bools(shape, v.iter().map(|b| !b).collect())),
        Elements::Float(v) if op == UnaryOp::IsNan => {
            Ok(Value::bools(shape, v.iter().map(|x| x.is_nan()).collect()))
        }
        Elements::Float(v) if op != UnaryOp::Not => {
            let values = v.iter().map(|x| float_unary(op, *x)).collect();
            Ok(context.floats(x.dtype(), shape, values))
        }
        Elements::Int(v) => {
            let values = v.iter().map(|x| int_unary(op, *x)).collect::<Option<Vec<_>>>();
            match values {
                Some(values) => Ok(Value::ints(x.dtype(), shape, values)),
                None => fault!("not defined for {}", x.dtype()),
            }
        }
        _ => fault!("not defined for {}", x.dtype()),
    }
}

fn float_unary(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Abs => x.abs(),
        UnaryOp::Ceil => x.ceil(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Erf => libm::erf(x),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Neg => -x,
        UnaryOp::Reciprocal => 1.0 / x,
        UnaryOp::Relu => maximum(x, 0.0),
        UnaryOp::Sigmoid => sigmoid(x),
        UnaryOp::Sign => sign(x),
        UnaryOp::Sin => x.sin(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Identity | UnaryOp::IsNan | UnaryOp::Not => x,
    }
}

/// The functions that ONNX defines for integers too; `None` for the others.
fn int_unary(op: UnaryOp, x: i128) -> Option<i128> {
    match op {
        UnaryOp::Abs => Some(x.abs()),
        UnaryOp::Neg => Some(-x),
        UnaryOp::Relu => Some(x.max(0)),
        UnaryOp::Sign => Some(x.signum()),
        // Computed as a real number, then truncated: 0 but for saturated arguments.
        UnaryOp::Erf => Some(libm::erf(x as f64) as i128),
        _ => None,
    }
}

/// -1, 0 or 1; NaN stays NaN.
fn sign(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else if x == 0.0 {
        0.0
    } else {
        x
    }
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// The larger one; NaN if either is NaN.
pub(super) fn maximum(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// The smaller one; NaN if either is NaN.
pub(super) fn minimum(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

/// Gaussian error linear unit.
pub(super) fn gelu(kind: GeluKind, args: Args, context: Context) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let values = super::args::floats(x, "x")?.iter().map(|x| gelu_of(kind, *x)).collect();
    Ok(context.floats(x.dtype(), x.shape().to_vec(), values))
}

fn gelu_of(kind: GeluKind, x: f64) -> f64 {
    match kind {
        // erfc keeps the digits of the left tail, where 1 + erf would cancel.
        GeluKind::Erf => 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        GeluKind::Tanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

/// The end of a fused product.
pub(super) fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu => maximum(x, 0.0),
        Activation::Tanh => x.tanh(),
        Activation::GeluErf => gelu_of(GeluKind::Erf, x),
        Activation::GeluTanh => gelu_of(GeluKind::Tanh, x),
        Activation::Silu => x * sigmoid(x),
    }
}

/// One function of two broadcast operands.
pub(super) fn binary(op: BinaryOp, args: Args, context: Context) -> Result<Value, Fault> {
    let (a, b) = (args.required(0, "a")?, args.required(1, "b")?);
    let shape = broadcast(&[a.shape(), b.shape()])?;
    let at_a = broadcast_positions(a.shape(), &shape)?;
    let at_b = broadcast_positions(b.shape(), &shape)?;
    if op == BinaryOp::Pow {
        return pow(a, b, shape, &at_a, &at_b, context);
    }
    expect_dtype(b, "b", a.dtype())?;
    let pairs = at_a.iter().copied().zip(at_b.iter().copied());
    match (a.elements(), b.elements()) {
        (Elements::Float(u), Elements::Float(v)) if op != BinaryOp::And => {
            let pairs = pairs.map(|(i, j)| (u[i], v[j]));
            Ok(if op.is_predicate() {
                Value::bools(shape, pairs.map(|(x, y)| compare(op, x, y)).collect())
            } else {
                context.floats(a.dtype(), shape, pairs.map(|(x, y)| float_binary(op, x, y)).collect())
            })
        }
        (Elements::Int(u), Elements::Int(v)) if op != BinaryOp::And => {
            let pairs = pairs.map(|(i, j)| (u[i], v[j]));
            Ok(if op.is_predicate() {
                Value::bools(shape, pairs.map(|(x, y)| compare(op, x, y)).collect())
            } else {
                Value::ints(a.dtype(), shape, pairs.map(|(x, y)| int_binary(op, x, y)).collect())
            })
        }
        (Elements::Bool(u), Elements::Bool(v)) if matches!(op, BinaryOp::And | BinaryOp::Equal) => {
            let values = pairs.map(|(i, j)| if op == BinaryOp::And { u[i] && v[j] } else { u[i] == v[j] });
            Ok(Value::bools(shape, values.collect()))
        }
        _ => fault!("not defined for {}", a.dtype()),
    }
}

fn float_binary(op: BinaryOp, x: f64, y: f64) -> f64 {
    match op {
        BinaryOp::Add => x + y,
        BinaryOp::Sub => x - y,
        BinaryOp::Mul => x * y,
        BinaryOp::Div => x / y,
        BinaryOp::Max => maximum(x, y),
        BinaryOp::Min => minimum(x, y),
        _ => f64::NAN,
    }
}

/// Exact in 128 bits, or modulo 2^128; the caller wraps the result into the dtype.
fn int_binary(op: BinaryOp, x: i128, y: i128) -> i128 {
    match op {
        BinaryOp::Add => x + y,
        BinaryOp::Sub => x - y,
        BinaryOp::Mul => x.wrapping_mul(y),
        // Division by zero gives 0, as NumPy has it; ONNX leaves it undefined.
        BinaryOp::Div => x.checked_div(y).unwrap_or(0),
        BinaryOp::Max => x.max(y),
        BinaryOp::Min => x.min(y),
        _ => 0,
    }
}

fn compare<T: PartialOrd>(op: BinaryOp, x: T, y: T) -> bool {
    match op {
        BinaryOp::Equal => x == y,
        BinaryOp::Greater => x > y,
        BinaryOp::GreaterOrEqual => x >= y,
        BinaryOp::Less => x < y,
        BinaryOp::LessOrEqual => x <= y,
        _ => false,
    }
}

/// `a` to the power of `b`, whose dtype may be another; the result has the dtype of `a`.
fn pow(
    a: &Value,
    b: &Value,
    shape: Vec<usize>,
    at_a: &[usize],
    at_b: &[usize],
    context: Context,
) -> Result<Value, Fault> {
    let pairs = at_a.iter().zip(at_b);
    match (a.elements(), b.elements()) {
        (Elements::Bool(_), _) | (_, Elements::Bool(_)) => {
            fault!("not defined for {} to the power of {}", a.dtype(), b.dtype())
        }
        (Elements::Int(u), Elements::Int(v)) => {
            Ok(Value::ints(a.dtype(), shape, pairs.map(|(i, j)| int_pow(u[*i], v[*j])).collect()))
        }
        _ => {
            let (u, v) = (a.to_f64(), b.to_f64());
            let values: Vec<f64> = pairs.map(|(i, j)| u[*i].powf(v[*j])).collect();
            Ok(if a.dtype().is_float() {
                context.floats(a.dtype(), shape, values)
            } else {
                Value::ints(a.dtype(), shape, values.iter().map(|x| saturate(a.dtype(), *x)).collect())
            })
        }
    }
}

/// `base ^ exponent` modulo 2^128; negative exponents truncate the fraction toward zero, and 0 to one gives 0.
fn int_pow(base: i128, exponent: i128) -> i128 {
    if exponent < 0 {
        return match base {
            1 => 1,
            -1 => {
                if exponent % 2 == 0 {
                    1
                } else {
                    -1
                }
            }
            _ => 0,
        };
    }
    let (mut result, mut square, mut rest) = (1i128, base, exponent);
    while rest > 0 {
        if rest & 1 == 1 {
            result = result.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        rest >>= 1;
    }
    result
}

/// `x` within the bounds; when they cross, the upper one wins.
pub(super) fn clip(args: Args) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let mut result = x.clone();
    for (at, name) in [(1, "min"), (2, "max")] {
        let Some(bound) = args.optional(at) else { continue };
        expect_dtype(bound, name, x.dtype())?;
        if bound.len() != 1 {
            return fault!("`{name}` has shape {:?}, expected a scalar", bound.shape());
        }
        let upper = at == 2;
        let shape = x.shape().to_vec();
        result = match (result.elements(), bound.elements()) {
            (Elements::Float(v), Elements::Float(b)) => {
                let limit = if upper { minimum } else { maximum };
                Value::floats(x.dtype(), shape, v.iter().map(|x| limit(*x, b[0])).collect())
            }
            (Elements::Int(v), Elements::Int(b)) => {
                let limit = if upper { i128::min } else { i128::max };
                Value::ints(x.dtype(), shape, v.iter().map(|x| limit(*x, b[0])).collect())
            }
            _ => return fault!("not defined for {}", x.dtype()),
        };
    }
    if x.dtype() == DType::Bool {
        return fault!("not defined for bool");
    }
    Ok(result)
}

/// Elements of `a` where the condition holds, of `b` elsewhere.
pub(super) fn where_(args: Args) -> Result<Value, Fault> {
    let condition = args.required(0, "condition")?;
    let (a, b) = (args.required(1, "a")?, args.required(2, "b")?);
    expect_dtype(b, "b", a.dtype())?;
    let holds = bools(condition, "condition")?;
    let shape = broadcast(&[condition.shape(), a.shape(), b.shape()])?;
    let at_condition = broadcast_positions(condition.shape(), &shape)?;
    let at_a = broadcast_positions(a.shape(), &shape)?;
    let at_b = broadcast_positions(b.shape(), &shape)?;
    // Positions in `a` followed by `b`.
    let positions: Vec<usize> =
        (0..at_a.len()).map(|i| if holds[at_condition[i]] { at_a[i] } else { a.len() + at_b[i] }).collect();
    Ok(Value::join(a.dtype(), &[a, b]).take(shape, &positions))
}

/// Conversion of the element type.
///
/// Floats become integers by dropping the fraction; out of range they saturate and NaN gives 0 (ONNX leaves both
/// undefined). Integers wrap. What is not zero is true.
pub(super) fn cast(to: DType, args: Args, context: Context) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let shape = x.shape().to_vec();
    Ok(match x.elements() {
        Elements::Float(v) => match to {
            DType::Bool => Value::bools(shape, v.iter().map(|x| *x != 0.0).collect()),
            _ if to.is_float() => context.floats(to, shape, v.clone()),
            _ => Value::ints(to, shape, v.iter().map(|x| saturate(to, *x)).collect()),
        },
        Elements::Int(v) => match to {
            DType::Bool => Value::bools(shape, v.iter().map(|x| *x != 0).collect()),
            _ if to.is_float() => {
                context.floats(to, shape, v.iter().map(|x| context.integer(to, *x)).collect())
            }
            _ => Value::ints(to, shape, v.clone()),
        },
        Elements::Bool(v) => match to {
            DType::Bool => x.clone(),
            _ if to.is_float() => {
                context.floats(to, shape, v.iter().map(|x| f64::from(u8::from(*x))).collect())
            }
            _ => Value::ints(to, shape, v.iter().map(|x| i128::from(*x)).collect()),
        },
    })
}
