//! Errors of graphs.

use crate::shape::TensorType;
use crate::tensor::TensorError;

/// Why a graph cannot be as asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// Two tensors of one name.
    #[error("there is a tensor `{name}` already; names are unique within a graph")]
    DuplicateTensor {
        /// The name.
        name: String,
    },
    /// Two nodes of one name.
    #[error("there is a node `{name}` already; names are unique within a graph")]
    DuplicateNode {
        /// The name.
        name: String,
    },
    /// Two outputs of one name.
    #[error("there is an output `{name}` already")]
    DuplicateOutput {
        /// The name.
        name: String,
    },
    /// A tensor without a name.
    #[error("a tensor needs a name")]
    EmptyName,
    /// More results than the op has.
    #[error("node `{node}` has {most} outputs, not {asked}")]
    TooManyOutputs {
        /// The node.
        node: String,
        /// What the op gives.
        most: usize,
        /// What was asked for.
        asked: usize,
    },
    /// The operands do not fit the op.
    #[error("node `{node}` ({op}): {source}")]
    Rule {
        /// The node.
        node: String,
        /// Its op.
        op: String,
        /// What does not fit.
        source: RuleError,
    },
    /// More or fewer inputs than the graph has.
    #[error("the graph has {expected} inputs, but {found} were given")]
    InputCount {
        /// Inputs that the graph has.
        expected: usize,
        /// Inputs given.
        found: usize,
    },
    /// An input of another type than declared.
    #[error("input `{name}`: expected {expected}, got {found}: {why}")]
    Input {
        /// The input.
        name: String,
        /// Its declared type.
        expected: TensorType,
        /// What was given.
        found: TensorType,
        /// In what they differ.
        why: String,
    },
    /// The graph is not what it says, found by the verifier.
    #[error("{where_}: {what}")]
    Invalid {
        /// Node or tensor.
        where_: String,
        /// What is wrong.
        what: String,
    },
    /// Bytes do not fit a constant.
    #[error("constant `{name}`: {source}")]
    Constant {
        /// The constant's name.
        name: String,
        /// What does not fit.
        source: TensorError,
    },
}

/// What operands an op refuses, and what it expected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct RuleError(pub String);
