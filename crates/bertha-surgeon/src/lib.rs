//! Surgery on ONNX files, on the level of their messages: the file need not be one that Bertha can run.
//!
//! [`Model::open`] takes a file apart, the operations change it, and [`Model::save`] puts it together again. What an operation
//! does not touch is written as it was read, byte for byte: unknown operators and domains, fields of later versions of the
//! format, inner graphs, functions, the place of external data.
//!
//! - [`summary`] and [`list`] say what is there.
//! - [`extract`], [`remove`], [`replace`], [`rename_tensor`], [`rename_node`], [`set_shapes`], [`set_length`], [`fold`] and
//!   [`clean`] change it.
//! - [`parse_patterns`] reads patterns from text ([`pattern`]), [`find_pattern`] finds one, [`rewrite`] replaces it.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use bertha_import::onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
//! # use prost::Message;
//! # let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
//! #     op_type: op.into(),
//! #     input: inputs.iter().map(|name| (*name).into()).collect(),
//! #     output: vec![output.into()],
//! #     ..Default::default()
//! # };
//! # let value = |name: &str| ValueInfoProto { name: name.into(), ..Default::default() };
//! # let graph = GraphProto {
//! #     node: vec![node("Sigmoid", &["x"], "s"), node("Mul", &["s", "x"], "y")],
//! #     input: vec![value("x")],
//! #     output: vec![value("y")],
//! #     ..Default::default()
//! # };
//! # let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 24 }];
//! # let bytes = ModelProto { ir_version: 10, graph: Some(graph), opset_import, ..Default::default() }.encode_to_vec();
//! use bertha_surgeon::{Model, parse_patterns, rewrite};
//!
//! let mut model = Model::from_bytes("model.onnx", bytes.into())?;
//! for pattern in parse_patterns("swish", "y = Mul(x, Sigmoid(x)) replace y = Swish(x)")? {
//!     assert_eq!(rewrite(&mut model, &pattern)?.matches.len(), 1);
//! }
//! assert_eq!(model.graph.nodes.len(), 1);
//! assert_eq!(model.graph.nodes[0].op_type, "Swish");
//! # Ok(())
//! # }
//! ```

mod changes;
mod clean;
mod error;
mod extract;
mod fold;
mod graph;
mod literal;
mod matcher;
mod model;
mod names;
mod node;
mod ops;
pub mod pattern;
mod remove;
mod rename;
mod replace;
mod rewrite;
mod select;
mod shapes;
mod summary;
mod tensor;
pub mod testing;
mod types;
mod uses;
mod wire;

pub use changes::Changes;
pub use clean::clean;
pub use error::{PatternError, Result, SurgeryError};
pub use extract::extract;
pub use fold::{FoldOptions, fold};
pub use graph::{Annotation, Graph, SparseTensor};
pub use literal::Literal;
pub use model::{Function, Model};
pub use names::node_name;
pub use node::{Attribute, Node};
pub use pattern::{Pattern, parse_literal, parse_patterns};
pub use remove::remove;
pub use rename::{Role, rename_node, rename_tensor};
pub use replace::{Replacement, replace};
pub use rewrite::{Match, Miss, Report, find_pattern, rewrite};
pub use select::Selection;
pub use shapes::{Length, set_length, set_shapes};
pub use summary::{NodeLine, OpCount, Parameters, Port, Summary, list, summary};
pub use tensor::{Tensor, Value};
pub use types::{declare_type, describe as describe_type};
