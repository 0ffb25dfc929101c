//! Errors of lowering and running.

use bertha_compile::Precision;
use bertha_graph::{DType, GraphError};

use crate::isa::Tier;

/// Why a graph cannot be lowered to CPU steps.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LowerError {
    /// More outputs than a program keeps track of.
    #[error("the graph has {count} outputs; at most 64 are supported")]
    TooManyOutputs {
        /// How many there are.
        count: usize,
    },
    /// A precision without kernels on this CPU or tier.
    #[error(
        "there are no {precision} kernels for {isa} on this CPU: {needs}; build with --precision f32, or run on a CPU \
         that has them"
    )]
    Precision {
        /// The precision asked for.
        precision: Precision,
        /// The tier in use.
        isa: Tier,
        /// What the kernels need.
        needs: &'static str,
    },
    /// The graph is not sound for these inputs.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// Packed weights from an engine do not fit the graph.
    #[error("packed weight `{weight}`: {why}; rebuild the engine with `bertha build`")]
    Packed {
        /// The weight's name.
        weight: String,
        /// What does not fit.
        why: String,
    },
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RunError {
    /// An input was not given.
    #[error("input `{name}` is missing; the model takes {expected}")]
    MissingInput {
        /// The input.
        name: String,
        /// All inputs with their types.
        expected: String,
    },
    /// A name that is no input.
    #[error("`{name}` is not an input; the model takes {expected}")]
    UnknownInput {
        /// What was given.
        name: String,
        /// All inputs with their types.
        expected: String,
    },
    /// A name that is no output.
    #[error("`{name}` is not an output; the model gives {expected}")]
    UnknownOutput {
        /// What was asked for.
        name: String,
        /// All outputs.
        expected: String,
    },
    /// Wrong element type.
    #[error("input `{name}` is {actual}, but the model takes {expected}")]
    InputDType {
        /// The input.
        name: String,
        /// What the model takes.
        expected: DType,
        /// What was given.
        actual: DType,
    },
    /// Wrong shape.
    #[error("input `{name}` has the shape {actual:?}, but the model takes {expected}: {why}")]
    InputShape {
        /// The input.
        name: String,
        /// What the model takes.
        expected: String,
        /// What was given.
        actual: Vec<usize>,
        /// Which dimension does not fit.
        why: String,
    },
    /// A value in an input that the model cannot take.
    #[error("input `{name}`: {why}")]
    InputValue {
        /// The input.
        name: String,
        /// Which value, where, and what is allowed.
        why: String,
    },
    /// A node refused its operands.
    #[error("node `{node}`: {why}")]
    Node {
        /// The node.
        node: String,
        /// What it refused.
        why: String,
    },
    /// The graph cannot be lowered for these inputs.
    #[error(transparent)]
    Lower(#[from] LowerError),
}
