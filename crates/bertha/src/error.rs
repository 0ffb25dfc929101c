//! The one error type of the facade.

use std::path::PathBuf;

use bertha_compile::CompileError;
use bertha_cpu::{LowerError, RunError};
use bertha_engine::EngineError;
use bertha_graph::{GraphError, TensorError};
use bertha_import::ImportError;

/// Why a model could not be opened, built or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path leads to nothing that is a model.
    #[error("{}: {why}; a model is an .onnx file, a folder with a config.json, or a .bertha engine", path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        why: String,
    },
    /// The source model could not be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The graph could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The graph is not sound.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The graph could not be lowered for this machine.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The engine file could not be read or written.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What an engine file holds does not fit together.
    #[error("{}: {why}; rebuild it with `bertha build`", path.display())]
    EngineContent {
        /// The engine file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// An engine file needs plugins that are not loaded, or other builds of them.
    #[error("{}: {}", path.display(), problems.join("; "))]
    Plugins {
        /// The engine file.
        path: PathBuf,
        /// One sentence for each plugin.
        problems: Vec<String>,
    },
    /// A plugin's library could not be loaded.
    #[error(transparent)]
    PluginLibrary(#[from] bertha_plugin::LoadError),
    /// A run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// An input does not fit the model.
    #[error("input `{name}`: {why}")]
    Input {
        /// The input.
        name: String,
        /// What does not fit.
        why: String,
    },
    /// A sequence is longer than the model takes.
    #[error("sequence {sequence} has {tokens} tokens, but the model takes at most {max}; truncate it")]
    TooLong {
        /// Its number in the batch, from 0.
        sequence: usize,
        /// Its length.
        tokens: usize,
        /// The longest length allowed.
        max: usize,
    },
    /// The reference interpreter refused.
    #[error("reference interpreter: {0}")]
    Reference(#[from] bertha_graph::interp::EvalError),
    /// Bytes do not make a tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The instruction set that was asked for is not to be had.
    #[error(transparent)]
    Isa(#[from] bertha_cpu::isa::IsaError),
    /// The operating system refused a thread.
    #[error("cannot start {threads} threads: {source}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is no plan for the GPU.
    #[error(transparent)]
    Plan(#[from] bertha_cuda::PlanError),
    /// There is no plan for the GPU of a model's padded form.
    #[error(
        "a batch whose mask has zeros runs in the padded form of this model, which the GPU cannot: {source}; give batches \
         without zeros in the mask, or use `Session::run_ragged`"
    )]
    PaddedPlan {
        /// Why there is none.
        source: bertha_cuda::PlanError,
    },
    /// The GPU or its driver refused.
    #[error(transparent)]
    Cuda(#[from] bertha_cuda::driver::CudaError),
    /// A run on the GPU failed.
    #[error(transparent)]
    GpuRun(#[from] bertha_cuda::RunError),
    /// The model answers other questions than the one asked.
    #[error("{0}")]
    WrongTask(String),
}
