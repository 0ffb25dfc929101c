//! Bertha's intermediate representation.
//!
//! A [`Graph`] holds typed tensors and the nodes that compute them. Operations are one closed enum, [`Op`];
//! dimensions are polynomials over named symbols, [`Dim`], so one graph serves every batch and length. The rules
//! in [`rules`] infer the type of every result, [`Graph::verify`] checks a graph from scratch, [`text`] prints and
//! parses it, and [`Graph::specialize`] makes of it the graph for one choice of input sizes.

mod bind;
mod builder;
mod conv;
mod dim;
mod dtype;
mod error;
mod graph;
pub mod interp;
mod model;
mod op;
pub mod plugin;
mod random;
mod renaming;
pub mod rules;
mod shape;
mod specialize;
mod statements;
mod tensor;
pub mod text;
mod verify;

#[cfg(test)]
mod tests;

pub use builder::{Attention, GraphBuilder, Shuffle, Weight};
pub use conv::ConvAxis;
pub use dim::{Bindings, Dim, Factor, Quotient, is_symbol_name};
pub use dtype::{DType, Element};
pub use error::{GraphError, RuleError};
pub use graph::{Graph, Node, NodeId, Origin, Tensor, TensorId};
pub use model::{Interface, Model, ModelInfo, Pooling, PositionIds, Task, output, ragged};
pub use op::*;
pub use random::SplitMix64;
pub use shape::{Shape, TensorType};
pub use tensor::{TensorData, TensorError, byte_count};
