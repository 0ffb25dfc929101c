//! Whether this card, with this driver, gives the right answers: small models of every shape that has a kernel of its own,
//! against the reference interpreter in f64.
//!
//! All memory is filled with NaN before each run, so that an element that nobody writes, and one that nobody should
//! read, are found.

mod cases;

use std::sync::Arc;

use bertha_compile::{Precision, optimize_model};
use bertha_graph::interp::{Interpreter, Precision as Evaluate};
use bertha_graph::{Model, SplitMix64, TensorData};

use crate::arch::Arch;
use crate::driver::{CudaError, Device};
use crate::model::CudaModel;
use crate::plan::{CudaPlan, PlanError};
use crate::session::{RaggedInputs, RunError};

pub use cases::{Case, cases};

/// What came of one case.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// The case.
    pub name: String,
    /// The precision it ran in.
    pub precision: Precision,
    /// The largest relative error of an output: the norm of the difference over the norm of the reference; for outputs of
    /// heads, half of it.
    pub error: f64,
    /// What is allowed.
    pub bound: f64,
    /// What went wrong, when it did not run.
    pub failure: Option<String>,
}

impl CaseResult {
    /// Whether the answers are right.
    pub fn passed(&self) -> bool {
        // Written so that NaN fails.
        self.failure.is_none() && self.error <= self.bound
    }
}

/// Why a case did not run.
#[derive(Debug, thiserror::Error)]
enum CaseError {
    #[error(transparent)]
    Graph(#[from] bertha_graph::GraphError),
    #[error(transparent)]
    Compile(#[from] bertha_compile::CompileError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Cuda(#[from] CudaError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("the reference interpreter: {0}")]
    Reference(#[from] bertha_graph::interp::EvalError),
    #[error(transparent)]
    Tensor(#[from] bertha_graph::TensorError),
    #[error("output {name} has shape {ours:?}, the reference {theirs:?}")]
    Shape { name: String, ours: Vec<usize>, theirs: Vec<usize> },
}

/// The relative error that a precision may have on these small models.
pub fn bound(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-5,
        Precision::F16 => 2e-3,
        Precision::Bf16 => 1.6e-2,
    }
}

/// Runs one case on a card; never fails itself.
pub fn run_case(device: &Device, case: &Case, precision: Precision) -> CaseResult {
    let name = case.name.clone();
    let bound = bound(precision);
    match largest_error(device, case, precision) {
        Ok(error) => CaseResult { name, precision, error, bound, failure: None },
        Err(error) => {
            CaseResult { name, precision, error: f64::NAN, bound, failure: Some(error.to_string()) }
        }
    }
}

fn largest_error(device: &Device, case: &Case, precision: Precision) -> Result<f64, CaseError> {
    let (model, _) = optimize_model(&case.config.build(case.seed)?)?;
    let batches: Vec<[usize; 3]> = case.batches.iter().map(|lengths| sizes(lengths)).collect();
    let plan =
        CudaPlan::build_for(&model.graph, Arch::of(device)?, precision, device.multiprocessors, &batches)?;
    let cuda = Arc::new(CudaModel::new(device.clone(), Arc::new(plan))?);
    let mut session = cuda.session()?;
    let mut worst = 0f64;
    for lengths in &case.batches {
        let batch = Batch::random(&model, lengths, case.seed);
        // Twice: the second run replays a graph over memory that the first one has used.
        for _ in 0..2 {
            session.poison()?;
            let mut outputs = Vec::new();
            session.run(&batch.inputs(), &[], |output| {
                outputs.push((output.name.to_owned(), output.shape.to_vec(), output.bytes.to_vec()));
            })?;
            worst = larger(worst, compare(&model, &batch, &outputs)?);
        }
    }
    Ok(worst)
}

/// Tokens, sequences, and the longest.
fn sizes(lengths: &[usize]) -> [usize; 3] {
    [lengths.iter().sum(), lengths.len(), lengths.iter().copied().max().unwrap_or(0)]
}

/// The larger one, or NaN if either is.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

type Outputs = [(String, Vec<usize>, Vec<u8>)];

fn compare(model: &Model, batch: &Batch, outputs: &Outputs) -> Result<f64, CaseError> {
    let reference = Interpreter::new(&model.graph, Evaluate::F64).run_f64(&batch.tensors(model)?)?;
    let mut worst = 0f64;
    for ((name, shape, bytes), (_, theirs)) in outputs.iter().zip(&reference) {
        if *shape != theirs.shape {
            let (ours, theirs) = (shape.clone(), theirs.shape.clone());
            return Err(CaseError::Shape { name: name.clone(), ours, theirs });
        }
        let (mut difference, mut norm) = (0f64, 0f64);
        for (ours, theirs) in bytes.chunks_exact(4).zip(&theirs.values) {
            let ours = f64::from(f32::from_le_bytes([ours[0], ours[1], ours[2], ours[3]]));
            difference += (ours - theirs) * (ours - theirs);
            norm += theirs * theirs;
        }
        let error = if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() };
        worst = larger(worst, error / allowance(name));
    }
    Ok(worst)
}

/// How much more error an output may have than the last hidden state: the few values of a head are sums in which the
/// rounding of a hidden state stays and much of its size cancels.
fn allowance(output: &str) -> f64 {
    if output == bertha_graph::output::LAST_HIDDEN_STATE { 1.0 } else { 2.0 }
}

/// A batch of random tokens.
#[derive(Clone, Debug)]
pub struct Batch {
    ids: Vec<i32>,
    types: Vec<i32>,
    positions: Vec<i32>,
    cu_seqlens: Vec<i32>,
}

impl Batch {
    /// Random tokens in sequences of these lengths.
    pub fn random(model: &Model, lengths: &[usize], seed: u64) -> Self {
        let mut random = SplitMix64::new(seed ^ 0x5eed);
        let vocabulary = vocabulary(model);
        let mut batch =
            Batch { ids: Vec::new(), types: Vec::new(), positions: Vec::new(), cu_seqlens: vec![0] };
        for length in lengths {
            for position in 0..*length {
                batch.ids.push(random.below(vocabulary) as i32);
                batch.types.push(random.below(2) as i32);
                batch.positions.push(position as i32);
            }
            batch.cu_seqlens.push(batch.ids.len() as i32);
        }
        batch
    }

    /// As a session takes it.
    pub fn inputs(&self) -> RaggedInputs<'_> {
        RaggedInputs {
            input_ids: &self.ids,
            token_type_ids: &self.types,
            position_ids: &self.positions,
            cu_seqlens: &self.cu_seqlens,
        }
    }

    fn tensors(&self, model: &Model) -> Result<Vec<(&'static str, TensorData)>, CaseError> {
        let inputs = crate::program::Input::ALL.into_iter();
        let taken = inputs.filter(|input| model.graph.find(input.name()).is_some());
        Ok(taken.map(|input| (input.name(), TensorData::vector(self.inputs().get(input).to_vec()))).collect())
    }
}

fn vocabulary(model: &Model) -> usize {
    let tables = model.graph.nodes().iter().filter_map(|node| match node.op {
        bertha_graph::Op::EmbeddingSum => node.inputs.get(1).copied().flatten(),
        _ => None,
    });
    let rows = tables.filter_map(|table| model.graph.tensor(table).ty.shape.dims().first()?.as_const());
    rows.min().and_then(|rows| usize::try_from(rows).ok()).unwrap_or(1)
}
