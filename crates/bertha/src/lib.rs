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
//! A network of your own runs the same way; [`graph::GraphBuilder`] describes it:
//!
//! ```
//! use bertha::graph::{GraphBuilder, shape};
//! use bertha::{DType, Engine, Options, TensorData};
//!
//! let mut b = GraphBuilder::new("classes");
//! let x = b.input("logits", DType::F32, shape!["batch", 3])?;
//! let y = b.softmax(x, -1)?;
//! b.output("probabilities", y)?;
//!
//! let engine = Engine::from_graph(b.finish()?, &Options::default())?;
//! let mut session = engine.session(1)?;
//! let logits = TensorData::from_vec(vec![2, 3], vec![0f32, 0.0, 0.0, 9.0, 0.0, 0.0])?;
//! let outputs = session.run(&[("logits", &logits)], &[])?;
//!
//! let (name, probabilities) = &outputs[0];
//! assert_eq!((name.as_str(), probabilities.shape()), ("probabilities", &[2, 3][..]));
//! assert!((probabilities.as_slice::<f32>()?[0] - 1.0 / 3.0).abs() < 1e-6);
//! # Ok::<(), bertha::Error>(())
//! ```
//!
//! Text goes in and answers come out through the `bertha-text` crate; this one speaks tensors and tokens.

mod batch;
pub mod bench;
pub mod compare;
mod engine;
mod error;
mod gpu;
mod open;
mod plugins;
mod rounding;
mod sections;
mod session;

pub use batch::RaggedBatch;
pub use bertha_compile::passes::names as pass_names;
pub use bertha_compile::{Log, Precision, StepTactics, Tactic, TacticTable, UnknownPrecision};
pub use bertha_cpu::pool::Pool;
pub use bertha_cpu::{OutputRef, SlotPlan, StepTime, TensorRef, isa};
pub use bertha_cuda as cuda;
pub use bertha_engine as engine_file;
pub use bertha_graph as graph;
pub use bertha_graph::{DType, Interface, Model, ModelInfo, PositionIds, Task, TensorData, output};
pub use bertha_import as import;
pub use bertha_plugin as plugin;
pub use engine::{Engine, Options};
pub use error::Error;
pub use open::{import_model, is_engine_file};
pub use plugins::{LibraryRecord, PluginRecord, plugin_records};
pub use rounding::RoundingError;
pub use session::Session;
