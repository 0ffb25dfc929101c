//! Functions of one element or two.

use half::{bf16, f16};

use super::{GraphBuilder, misfit};
use crate::dtype::DType;
use crate::error::GraphError;
use crate::graph::TensorId;
use crate::op::{BinaryOp, GeluKind, Op, UnaryOp};
use crate::tensor::TensorData;

type Made = Result<TensorId, GraphError>;

/// Elementwise operations. Operands broadcast as in NumPy; both must have one element type.
impl GraphBuilder {
    /// Applies a function to every element.
    pub fn unary(&mut self, op: UnaryOp, x: TensorId) -> Made {
        self.node(Op::Unary(op), &[Some(x)])
    }

    /// Combines two tensors element by element.
    pub fn elementwise(&mut self, op: BinaryOp, a: TensorId, b: TensorId) -> Made {
        self.node(Op::Binary(op), &[Some(a), Some(b)])
    }

    /// `a + b`.
    pub fn add(&mut self, a: TensorId, b: TensorId) -> Made {
        self.elementwise(BinaryOp::Add, a, b)
    }

    /// `a - b`.
    pub fn sub(&mut self, a: TensorId, b: TensorId) -> Made {
        self.elementwise(BinaryOp::Sub, a, b)
    }

    /// `a * b`, element by element.
    pub fn mul(&mut self, a: TensorId, b: TensorId) -> Made {
        self.elementwise(BinaryOp::Mul, a, b)
    }

    /// `a / b`.
    pub fn div(&mut self, a: TensorId, b: TensorId) -> Made {
        self.elementwise(BinaryOp::Div, a, b)
    }

    /// `a` to the power of `b`.
    pub fn pow(&mut self, a: TensorId, b: TensorId) -> Made {
        self.elementwise(BinaryOp::Pow, a, b)
    }

    /// The larger of the two.
    pub fn max(&mut self, a: TensorId, b: TensorId) -> Made {
        self.elementwise(BinaryOp::Max, a, b)
    }

    /// The smaller of the two.
    pub fn min(&mut self, a: TensorId, b: TensorId) -> Made {
        self.elementwise(BinaryOp::Min, a, b)
    }

    /// `max(x, 0)`.
    pub fn relu(&mut self, x: TensorId) -> Made {
        self.unary(UnaryOp::Relu, x)
    }

    /// Hyperbolic tangent.
    pub fn tanh(&mut self, x: TensorId) -> Made {
        self.unary(UnaryOp::Tanh, x)
    }

    /// `1 / (1 + exp(-x))`.
    pub fn sigmoid(&mut self, x: TensorId) -> Made {
        self.unary(UnaryOp::Sigmoid, x)
    }

    /// Natural logarithm.
    pub fn log(&mut self, x: TensorId) -> Made {
        self.unary(UnaryOp::Log, x)
    }

    /// `e` to the power of `x`.
    pub fn exp(&mut self, x: TensorId) -> Made {
        self.unary(UnaryOp::Exp, x)
    }

    /// Square root.
    pub fn sqrt(&mut self, x: TensorId) -> Made {
        self.unary(UnaryOp::Sqrt, x)
    }

    /// Gaussian error linear unit, in the definition asked for: the two differ by up to 5e-4.
    pub fn gelu(&mut self, x: TensorId, kind: GeluKind) -> Made {
        self.node(Op::Gelu(kind), &[Some(x)])
    }

    /// `x * sigmoid(x)`, also called swish.
    pub fn silu(&mut self, x: TensorId) -> Made {
        let name = self.claim_name("silu");
        let gate = self.place(format!("{name}.sigmoid"), Op::Unary(UnaryOp::Sigmoid), &[Some(x)])?;
        self.place(name, Op::Binary(BinaryOp::Mul), &[Some(x), Some(gate)])
    }

    /// `x * factor`, with the factor rounded to the float type of `x`.
    ///
    /// # Errors
    /// When `x` is not of a float type.
    pub fn scale(&mut self, x: TensorId, factor: f64) -> Made {
        let name = self.claim_name("scale");
        let Some(data) = float_scalar(self.ty(x).dtype, factor) else {
            return Err(misfit(&name, "mul", format!("scale expects floats, found {}", self.ty(x))));
        };
        let factor = self.operand(&name, "factor", data)?;
        self.place(name, Op::Binary(BinaryOp::Mul), &[Some(x), Some(factor)])
    }

    /// `a` where the condition (of `Bool`) holds, else `b`; the three broadcast.
    pub fn select(&mut self, condition: TensorId, a: TensorId, b: TensorId) -> Made {
        self.node(Op::Where, &[Some(condition), Some(a), Some(b)])
    }

    /// The same values as elements of another type; floats truncate toward zero when they become integers.
    pub fn cast(&mut self, x: TensorId, to: DType) -> Made {
        self.node(Op::Cast { to }, &[Some(x)])
    }
}

/// `value` as a scalar of a float type; `None` for other types.
fn float_scalar(dtype: DType, value: f64) -> Option<TensorData> {
    match dtype {
        DType::F64 => Some(TensorData::scalar(value)),
        DType::F32 => Some(TensorData::scalar(value as f32)),
        DType::F16 => Some(TensorData::scalar(f16::from_f64(value))),
        DType::BF16 => Some(TensorData::scalar(bf16::from_f64(value))),
        _ => None,
    }
}
