//! Bertha compiles BERT-family encoders and runs them at the limit of the machine.
//!
//! ```no_run
//! use bertha::{Engine, RaggedBatch};
//!
//! # fn main() -> Result<(), bertha::Error> {
//! let engine = Engine::open("path/to/model")?; // a checkpoint folder, an .onnx file or a .bertha engine
//! let mut session = engine.session(0)?; // one worker for each core
//! let mut batch = RaggedBatch::new();
//! batch.push(engine.info(), &[101, 7592, 102], None)?;
//! session.run_ragged(&batch, &[], |output| println!("{}: {:?}", output.name, output.shape))?;
//! # Ok(())
//! # }
//! ```
//!
//! Text goes in and answers come out through the `bertha-text` crate; this one speaks tensors and tokens.

mod batch;
pub mod bench;
pub mod compare;
mod engine;
mod error;
mod open;
mod sections;
mod session;

pub use batch::RaggedBatch;
pub use bertha_cpu::{OutputRef, StepTime, TensorRef, isa};
pub use bertha_engine as engine_file;
pub use bertha_graph as graph;
pub use bertha_graph::{DType, Interface, Model, ModelInfo, PositionIds, Task, TensorData, output};
pub use bertha_import as import;
pub use engine::{Engine, Options};
pub use error::Error;
pub use open::is_engine_file;
pub use session::Session;
