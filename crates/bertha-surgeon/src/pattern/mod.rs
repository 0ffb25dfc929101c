//! Patterns as text.
//!
//! ```text
//! # y = (x - mean) / sqrt(variance + epsilon) * gamma + beta
//! pattern layer-norm:
//!   mean     = ReduceMean(x, axes=[-1], keepdims=1)
//!   d        = Sub(x, mean)
//!   square   = Pow(d, 2) | Mul(d, d)
//!   variance = ReduceMean(square, axes=[-1], keepdims=1)
//!   root     = Sqrt(Add(variance, epsilon))
//!   scaled   = Mul(Div(d, root), gamma)
//!   y        = Add(scaled, beta)
//! where
//!   epsilon: constant, scalar
//!   gamma: constant, rank 1; beta: constant, rank 1
//!   epsilon < 0.01
//! replace
//!   y = bertha.plugins::LayerNorm(x, gamma, beta) { axis = -1, epsilon = epsilon }
//! ```
//!
//! - A statement `name = Op(operands, attribute=value)` describes a node. A name that no statement defines stands for any
//!   tensor, the same one wherever it occurs. `_` is any tensor, a number or list a constant of that value, `Op(...)` inside
//!   of another its operand, `a | b` either, `Cast?(x)` a node that may be missing, `...` any further operands.
//! - Operands of Add, Mul and other commutative ops match in either order.
//! - An attribute that is not written in the file counts with its default, and one that newer operator sets have as an
//!   operand (`axes`) is found there. A name as value (`axis=k`) captures the value.
//! - `where` holds conditions: `name: constant`, `scalar`, `rank 2`, `shape [_, 256]`, an element type, `shared` (may be read
//!   outside too; its node then stays), `not` before any; comparisons; `name in [1, 2]`.
//! - `replace` gives the new nodes. What they do not define is what the pattern found. `@2` after an op is the version of its
//!   operator set. Attributes take literals or captured values; `float(c)`, `int`, `floats`, `ints` and `tensor` convert.
//! - A `;` ends a statement as a new line does. A pattern without `pattern NAME:` is called after its origin.

mod ast;
mod check;
mod parse;
mod token;

pub use ast::Pattern;
pub(crate) use ast::{
    AttributePattern, Call, Comparison, Condition, ConditionKind, Conversion, Expression, Fact, NewAttribute,
    NewNode, NewValue, Operand,
};

use crate::error::PatternError;
use crate::literal::Literal;

/// Reads the patterns in a text. `origin` is what messages call it: a file's name.
///
/// # Errors
/// The first mistake, with line and column and what was expected.
pub fn parse_patterns(origin: &str, text: &str) -> Result<Vec<Pattern>, PatternError> {
    parse::patterns(token::Source { origin, text })
}

/// Reads one value: a number, a text in quotes, or a list of such.
///
/// # Errors
/// What was expected.
pub fn parse_literal(origin: &str, text: &str) -> Result<Literal, PatternError> {
    parse::literal(token::Source { origin, text })
}
