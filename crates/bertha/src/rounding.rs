//! What a precision below f32 changes in a model's answers, measured when it is compiled.

use std::sync::Arc;

use bertha_cpu::CpuModel;
use bertha_graph::ragged;
use serde::{Deserialize, Serialize};

use crate::bench::random_workload;
use crate::compare::difference;
use crate::engine::Engine;
use crate::error::Error;
use crate::session::Session;

/// Lengths of the sequences that the error is measured on.
const LENGTHS: [usize; 4] = [5, 64, 17, 40];

/// The difference between a model's outputs and those of the same graph in f32, on sequences of random tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundingError {
    /// The output with the largest relative error.
    pub output: String,
    /// The norm of its difference over the norm of its value in f32.
    pub relative: f64,
    /// The largest difference of two of its elements.
    pub max_abs: f64,
    /// The lengths of the sequences.
    pub lengths: Vec<usize>,
}

/// Runs random sequences through `engine` and through its graph in f32; `None` where the model takes other inputs than
/// token ids.
pub(crate) fn measure(engine: &Engine) -> Result<Option<RoundingError>, Error> {
    let most = engine.info().max_tokens.unwrap_or(usize::MAX);
    let lengths: Vec<usize> = LENGTHS.iter().map(|length| *length.min(&most)).collect();
    let takes_tokens = engine.graph().find(ragged::INPUT_IDS).is_some();
    let Some(workload) = takes_tokens.then(|| random_workload(engine, &lengths, 7)).and_then(Result::ok)
    else {
        return Ok(None);
    };
    let inputs = workload.inputs(engine)?;
    let inputs: Vec<_> = inputs.iter().map(|(name, data)| (name.as_str(), data)).collect();
    let rounded = engine.session(1)?.run_as_given(&inputs, &[])?;
    let exact = Arc::new(CpuModel::new(engine.graph().clone(), engine.cpu().isa())?);
    let exact = exact.session(1).map_err(|source| Error::Threads { threads: 1, source })?;
    let exact = Session::new(Arc::new(engine.info().clone()), exact, None).run_as_given(&inputs, &[])?;
    let differences = rounded
        .iter()
        .zip(&exact)
        .map(|((name, ours), (_, theirs))| difference(name, ours, theirs.shape(), &theirs.to_f64()));
    let largest = differences.max_by(|a, b| a.relative.total_cmp(&b.relative));
    Ok(largest.map(|largest| RoundingError {
        output: largest.name,
        relative: largest.relative,
        max_abs: largest.max_abs,
        lengths,
    }))
}
