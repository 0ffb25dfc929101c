//! The CPU runtime: graphs become programs, sessions run them.

mod attention;
mod buffer;
mod conv;
mod dims;
mod encoder;
mod error;
mod execute;
mod lower;
mod model;
mod packed;
mod program;
mod session;
mod tactics;
mod workspace;

pub use error::{LowerError, RunError};
pub use model::{CpuModel, SlotPlan};
pub use packed::{PackedEntry, PackedStore, PackedWeight};
pub use session::{CpuSession, OutputRef, StepTime};
