//! From the graph that an importer gives to the graph that runs.
//!
//! [`optimize`] runs the portable passes in the order of [`passes::portable`]: each proposes [`Patch`]es, the driver
//! verifies and applies them, and the [`Log`] says which nodes of the source became what. [`memory`] plans the
//! buffers of whatever a target lowers the result to.

pub mod cost;
mod describe;
mod driver;
mod log;
pub mod memory;
mod model;
pub mod passes;
mod patch;
mod pattern;
mod precision;
mod ragged;
mod tactics;
mod uses;

pub use describe::describe_step;
pub use driver::{CompileError, Pass, optimize, optimize_with};
pub use log::{Event, Log, NearMiss};
pub use model::{Options, optimize_model, optimize_model_with};
pub use patch::{Findings, NewNode, Patch, Value};
pub use precision::{Precision, UnknownPrecision};
pub use tactics::{StepTactics, Tactic, TacticTable};
pub use uses::Uses;
