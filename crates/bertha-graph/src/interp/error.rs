//! Errors of the interpreter.

/// Why a graph or an op cannot be evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// The operands do not fit the op, or their contents are out of range.
    #[error("{op}: {what}")]
    Op {
        /// The op's mnemonic.
        op: &'static str,
        /// Which operand, what is wrong, what was expected.
        what: String,
    },
    /// A node of a graph failed.
    #[error("node `{node}` ({operands}): {source}")]
    Node {
        /// The node's name.
        node: String,
        /// Names and types of its operands.
        operands: String,
        /// What went wrong.
        source: Box<EvalError>,
    },
    /// What the caller gave for an input does not fit it.
    #[error("input `{input}`: {what}")]
    Input {
        /// The input's name.
        input: String,
        /// What is wrong and what was expected.
        what: String,
    },
    /// A computed tensor is not of the type that the shape rules gave it.
    #[error("tensor `{tensor}` was inferred to be {expected}, but {actual} was computed")]
    Type {
        /// The tensor's name.
        tensor: String,
        /// What the graph says.
        expected: String,
        /// What came out.
        actual: String,
    },
    /// The graph refers to a tensor before it is computed.
    #[error("tensor `{tensor}` is used before it is computed")]
    Order {
        /// The tensor's name.
        tensor: String,
    },
}

/// What is wrong with the operands of an op, before it is known which node has it.
#[derive(Debug)]
pub(super) struct Fault(pub String);

/// `Err` of a [`Fault`] with a formatted message.
macro_rules! fault {
    ($($arg:tt)*) => { Err($crate::interp::error::Fault(format!($($arg)*))) };
}
pub(super) use fault;
