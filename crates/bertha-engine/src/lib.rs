//! The engine file: one `.bertha` file that holds a compiled encoder.
//!
//! This crate is the container alone. It knows sections, alignment, checksums and versions; what a graph, a plan or a
//! packed weight means is for the crates that write and read them. The byte layout is in `docs/engine-format.md`.
//!
//! Reading maps the file, so opening costs the same for a small model and a large one, and every tensor is handed out
//! as [`bytes::Bytes`] that shares the mapping: no copies, no lifetimes.
//!
//! **Integrity.** [`EngineFile::open`] validates the structure and the checksums of everything but the big blobs.
//! Blobs (`weights`, `packed:*`, unknown large sections) are checked piece by piece when they are first handed out, so
//! no byte leaves this crate before its checksum matched. [`EngineFile::verify`] checks the whole file at once.
//!
//! ```
//! use bertha_engine::{EngineWriter, Metadata, PlanHeader};
//!
//! # fn main() -> Result<(), bertha_engine::EngineError> {
//! let mut writer = EngineWriter::in_memory();
//! writer.metadata(&Metadata { producer: "bertha 0.1.0".into(), model: serde_json::json!({"family": "bert"}) })?;
//! writer.graph("graph text")?;
//! let mut weights = writer.begin_weights()?;
//! weights.tensor("bias", "f32", &[2], &[0, 0, 128, 63, 0, 0, 0, 64])?;
//! weights.finish()?;
//! let header = PlanHeader {
//!     target: "cpu".into(),
//!     producer: "bertha 0.1.0".into(),
//!     plan_format: 1,
//!     requirements: vec!["avx2".into()],
//! };
//! writer.plan(&header, b"steps")?;
//! let engine = writer.finish()?;
//!
//! assert_eq!(engine.tensor("bias")?.len(), 8);
//! assert_eq!(&engine.plan("cpu")?.payload[..], b"steps");
//! # Ok(())
//! # }
//! ```

mod checksum;
mod compat;
mod content;
mod error;
mod index;
mod layout;
mod memory;
mod name;
mod plan;
mod reader;
mod section;
mod section_writer;
mod sections;
#[doc(hidden)]
pub mod testing;
mod writer;

pub use compat::{Host, Mismatch};
pub use content::{Metadata, SectionInfo};
pub use error::{EngineError, Fault};
pub use index::{TensorEntry, dtype_size};
pub use layout::{ALIGNMENT, CHUNK, FORMAT_VERSION, MAGIC, OLDEST_FORMAT_VERSION};
pub use name::SectionKind;
pub use plan::{Plan, PlanHeader};
pub use reader::EngineFile;
pub use section_writer::{SectionWriter, WeightsWriter};
pub use writer::EngineWriter;

/// What every fallible function of this crate returns.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;
