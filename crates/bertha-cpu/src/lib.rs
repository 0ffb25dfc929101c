//! Bertha on CPUs: kernels per instruction-set tier, the thread pool, and the plan that runs on them.

mod distance;
pub mod generic;
pub mod isa;
pub mod kernels;
mod memory;
pub mod pool;
mod runtime;

pub use generic::{TensorMut, TensorRef};
pub use memory::Memory;
pub use runtime::{
    CpuModel, CpuSession, LowerError, OutputRef, PackedEntry, PackedStore, PackedWeight, RunError, SlotPlan,
    StepTime,
};
