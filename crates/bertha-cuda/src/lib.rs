//! Target and runtime for NVIDIA GPUs. The kernels are CUDA C++ in `kernels/`, specialised by macros.

mod arch;
pub mod driver;
mod elf;
pub mod kernels;
mod model;
pub mod models;
mod nvrtc;
mod plan;
pub mod program;
pub mod selftest;
mod session;
mod tune;

pub use arch::{Arch, UnknownArch};
pub use model::CudaModel;
pub use nvrtc::{Compiled, NVRTC_VARIABLE, Nvrtc, Source};
pub use plan::{
    CudaPlan, PlanError, StoredCubin, StoredPlan, StoredTactic, StoredWeight, parse_target, target_name,
};
pub use program::LowerError;
pub use session::{BatchError, CudaOutput, CudaSession, DenseSession, RaggedInputs, RunError, StepTime};
pub use tune::{CardKey, TimingCache};
