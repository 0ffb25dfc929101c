//! Whether this card, with this driver, gives the right answers: small models of every shape that has a kernel of its own,
//! against the reference interpreter in f64.
//!
//! All memory is filled with NaN before each run, so that an element that nobody writes, and one that nobody should
//! read, are found.

mod cases;
mod dense;

use std::sync::Arc;

use bertha_compile::{Precision, optimize, optimize_model};
use bertha_graph::interp::{F64Tensor, Interpreter, Precision as Evaluate};
use bertha_graph::{Model, SplitMix64, TensorData};

use crate::arch::Arch;
use crate::driver::{CudaError, Device};
use crate::model::CudaModel;
use crate::plan::{CudaPlan, PlanError};
use crate::session::{RaggedInputs, RunError};

pub use cases::{Case, cases, plugin_cases};
pub use dense::{DenseCase, dense_cases};

/// What came of one case.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// The case.
    pub name: String,
    /// The precision it ran in.
    pub precision: Precision,
    /// The relative error of the output that comes nearest to its bound, or goes furthest beyond it: the norm of the
    /// difference over the norm of the reference.
    pub error: f64,
    /// What that output may have: [`bound`] of the precision, and twice that for outputs of heads, whose few values are
    /// sums in which the rounding of a hidden state stays and much of its size cancels.
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
    #[error("there are outputs {ours:?}, of the reference {theirs:?}")]
    Outputs { ours: Vec<String>, theirs: Vec<String> },
}

/// The relative error that the last hidden state of these small models may have in a precision.
pub fn bound(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-5,
        Precision::F16 => 2e-3,
        Precision::Bf16 => 1.6e-2,
    }
}

/// Runs one case on a card; never fails itself.
pub fn run_case(device: &Device, case: &Case, precision: Precision) -> CaseResult {
    result_of(case.name.clone(), precision, largest_error(device, case, precision))
}

/// Runs one dense graph on a card; never fails itself.
pub fn run_dense_case(device: &Device, case: &DenseCase, precision: Precision) -> CaseResult {
    result_of(case.name.clone(), precision, largest_dense_error(device, case, precision))
}

fn result_of(name: String, precision: Precision, worst: Result<Deviation, CaseError>) -> CaseResult {
    match worst {
        Ok(Deviation { error, bound }) => CaseResult { name, precision, error, bound, failure: None },
        Err(error) => {
            let (bound, failure) = (bound(precision), Some(error.to_string()));
            CaseResult { name, precision, error: f64::NAN, bound, failure }
        }
    }
}

/// An output's relative error, and what it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Deviation {
    error: f64,
    bound: f64,
}

impl Deviation {
    /// The one with more of its bound; NaN is the most.
    fn worse(self, other: Self) -> Self {
        let part = |deviation: Self| deviation.error / deviation.bound;
        if part(self).is_nan() || part(self) >= part(other) { self } else { other }
    }
}

fn largest_error(device: &Device, case: &Case, precision: Precision) -> Result<Deviation, CaseError> {
    let (model, _) = optimize_model(&case.config.build(case.seed)?)?;
    let batches: Vec<[usize; 3]> = case.batches.iter().map(|lengths| sizes(lengths)).collect();
    let plan =
        CudaPlan::build_for(&model.graph, Arch::of(device)?, precision, device.multiprocessors, &batches)?;
    let cuda = Arc::new(CudaModel::new(device.clone(), Arc::new(plan))?);
    let mut session = cuda.session()?;
    let mut worst = Deviation { error: 0.0, bound: bound(precision) };
    for lengths in &case.batches {
        let batch = Batch::random(&model, lengths, case.seed);
        // Twice: the second run replays a graph over memory that the first one has used.
        for _ in 0..2 {
            session.poison()?;
            let mut outputs = Vec::new();
            session.run(&batch.inputs(), &[], |output| {
                outputs.push((output.name.to_owned(), output.shape.to_vec(), output.bytes.to_vec()));
            })?;
            let reference = Interpreter::new(&model.graph, Evaluate::F64).run_f64(&batch.tensors(&model)?)?;
            worst = worst.worse(compare(&outputs, &reference, bound(precision))?);
        }
    }
    Ok(worst)
}

fn largest_dense_error(
    device: &Device,
    case: &DenseCase,
    precision: Precision,
) -> Result<Deviation, CaseError> {
    let (graph, _) = optimize(&case.graph)?;
    let plan = CudaPlan::build(&graph, Arch::of(device)?, precision, Some(device.multiprocessors))?;
    let cuda = Arc::new(CudaModel::new(device.clone(), Arc::new(plan))?);
    let mut session = cuda.dense_session()?;
    let mut worst = Deviation { error: 0.0, bound: bound(precision) };
    // Twice: when a shape comes again, a graph is replayed over memory that others have used.
    for shape in case.shapes.iter().chain(&case.shapes) {
        let inputs = case.inputs(*shape, shape.iter().sum::<usize>() as u64)?;
        let given: Vec<(&str, &TensorData)> = inputs.iter().map(|(name, data)| (*name, data)).collect();
        session.poison()?;
        let mut outputs = Vec::new();
        session.run(&given, &[], |output| {
            outputs.push((output.name.to_owned(), output.shape.to_vec(), output.bytes.to_vec()));
        })?;
        let reference = Interpreter::new(&graph, Evaluate::F64).run_f64(&inputs)?;
        worst = worst.worse(compare(&outputs, &reference, bound(precision))?);
    }
    Ok(worst)
}

/// Tokens, sequences, and the longest.
fn sizes(lengths: &[usize]) -> [usize; 3] {
    [lengths.iter().sum(), lengths.len(), lengths.iter().copied().max().unwrap_or(0)]
}

type Outputs = [(String, Vec<usize>, Vec<u8>)];

fn compare(outputs: &Outputs, reference: &[(String, F64Tensor)], bound: f64) -> Result<Deviation, CaseError> {
    let ours: Vec<String> = outputs.iter().map(|(name, ..)| name.clone()).collect();
    let theirs: Vec<String> = reference.iter().map(|(name, _)| name.clone()).collect();
    if ours != theirs {
        return Err(CaseError::Outputs { ours, theirs });
    }
    let mut worst = Deviation { error: 0.0, bound };
    for ((name, shape, bytes), (_, theirs)) in outputs.iter().zip(reference) {
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
        worst = worst.worse(Deviation { error, bound: bound_of(name, bound) });
    }
    Ok(worst)
}

/// The bound of an output, given that of the last hidden state.
fn bound_of(output: &str, bound: f64) -> f64 {
    if output == bertha_graph::output::LAST_HIDDEN_STATE { bound } else { 2.0 * bound }
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
        bertha_graph::Op::EmbeddingSum | bertha_graph::Op::EmbeddingLayerNorm { .. } => {
            node.inputs.get(1).copied().flatten()
        }
        _ => None,
    });
    let rows = tables.filter_map(|table| model.graph.tensor(table).ty.shape.dims().first()?.as_const());
    rows.min().and_then(|rows| usize::try_from(rows).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(name: &str, values: &[f32]) -> (String, Vec<usize>, Vec<u8>) {
        (name.into(), vec![values.len()], values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn theirs(name: &str, values: &[f64]) -> (String, F64Tensor) {
        (name.into(), F64Tensor { shape: vec![values.len()], values: values.to_vec() })
    }

    #[test]
    fn the_error_is_the_true_one_and_heads_have_a_bound_of_their_own() {
        let hidden = bertha_graph::output::LAST_HIDDEN_STATE;
        let reference = [theirs(hidden, &[1.0, 0.0]), theirs("logits", &[1.0, 0.0])];
        let of = |of_hidden: f32, of_logits: f32| {
            let outputs = [ours(hidden, &[1.0, of_hidden]), ours("logits", &[1.0, of_logits])];
            compare(&outputs, &reference, 0.25).unwrap()
        };
        assert_eq!(of(0.125, 0.1875), Deviation { error: 0.125, bound: 0.25 });
        assert_eq!(of(0.125, 0.375), Deviation { error: 0.375, bound: 0.5 });
        assert!(of(0.125, f32::NAN).error.is_nan() && of(f32::NAN, 0.125).error.is_nan());
    }

    #[test]
    fn outputs_that_are_missing_or_of_another_name_are_a_failure() {
        let outputs = [ours("logits", &[1.0])];
        for reference in
            [vec![theirs("scores", &[1.0])], vec![theirs("logits", &[1.0]), theirs("more", &[1.0])]]
        {
            assert!(matches!(compare(&outputs, &reference, 1.0), Err(CaseError::Outputs { .. })));
        }
    }

    #[test]
    fn dense_graphs_have_ordinary_answers() {
        for case in dense_cases().unwrap() {
            let (graph, _) = optimize(&case.graph).unwrap();
            for shape in &case.shapes {
                let inputs = case.inputs(*shape, 1).unwrap();
                for (name, values) in Interpreter::new(&graph, Evaluate::F64).run_f64(&inputs).unwrap() {
                    assert!(values.values.iter().all(|value| value.is_finite()), "{name} for {shape:?}");
                }
            }
        }
    }
}
