//! How far a match has come.

use std::collections::{BTreeMap, BTreeSet};

use bertha_import::onnx::proto::AttributeProto;

/// What is bound so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Names of tensors, by variable.
    pub(crate) tensors: BTreeMap<String, String>,
    /// Values of attributes, by variable.
    pub(crate) attributes: BTreeMap<String, AttributeProto>,
    /// Nodes that take part.
    pub(crate) nodes: BTreeSet<usize>,
    /// The nodes of statements, where they are nodes.
    pub(crate) statements: BTreeMap<usize, usize>,
}

/// Why a match failed: the attempt that came farthest.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// How many nodes fitted.
    pub(crate) fitted: usize,
    /// The node where it ended.
    pub(crate) node: String,
    /// The condition that failed there.
    pub(crate) why: String,
}
