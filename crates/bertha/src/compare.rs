//! The same inputs through two runtimes, and how far the answers are apart.

use std::sync::Arc;

use bertha_cpu::{CpuModel, PackedStore};
use bertha_graph::interp::{Interpreter, Precision};
use bertha_graph::{Graph, Interface, TensorData, TensorId, ragged};
use serde::Serialize;

use crate::batch::Padded;
use crate::engine::Engine;
use crate::error::Error;

/// How far two tensors of one name are apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The tensor.
    pub name: String,
    /// Its shape here.
    pub shape: Vec<usize>,
    /// The largest absolute difference of two elements.
    pub max_abs: f64,
    /// The norm of the difference over the norm of the other side's tensor.
    pub relative: f64,
    /// Set when the two cannot be compared: another shape, or missing on one side.
    pub mismatch: Option<String>,
}

impl Difference {
    /// Whether the two are equal but for a relative error of `tolerance`. NaN on one side only is never equal.
    pub fn is_within(&self, tolerance: f64) -> bool {
        self.mismatch.is_none() && self.relative <= tolerance
    }

    /// What is wrong, in words.
    pub fn problem(&self) -> String {
        self.mismatch.clone().unwrap_or_else(|| "differs".into())
    }
}

/// Compares element by element. Equal infinities and NaN on both sides count as equal.
pub fn difference(name: &str, ours: &TensorData, shape: &[usize], theirs: &[f64]) -> Difference {
    let mut found = Difference {
        name: name.to_owned(),
        shape: ours.shape().to_vec(),
        max_abs: 0.0,
        relative: 0.0,
        mismatch: None,
    };
    if ours.shape() != shape {
        found.mismatch = Some(format!("shape {:?} against {shape:?}", ours.shape()));
        return found;
    }
    let (mut error, mut norm) = (0.0f64, 0.0f64);
    for (a, b) in ours.to_f64().into_iter().zip(theirs) {
        let same = a == *b || (a.is_nan() && b.is_nan());
        let distance = if same { 0.0 } else { (a - b).abs() };
        if distance.is_nan() || distance.is_infinite() {
            found.mismatch = Some(format!("{a} against {b}"));
        }
        found.max_abs = found.max_abs.max(distance);
        error += distance * distance;
        norm += if b.is_finite() { b * b } else { 0.0 };
    }
    found.relative = if error == 0.0 { 0.0 } else { (error / norm).sqrt() };
    found
}

/// Named tensors as the engine's graph itself takes them: for an encoder from a checkpoint, padded `[batch, seq]`
/// tensors become a ragged batch.
pub fn graph_inputs(
    engine: &Engine,
    given: Vec<(String, TensorData)>,
) -> Result<Vec<(String, TensorData)>, Error> {
    let is_ragged = given.iter().any(|(name, _)| name == ragged::CU_SEQLENS);
    if engine.info().interface == Interface::Dense || is_ragged {
        return Ok(given);
    }
    let named: Vec<(&str, &TensorData)> = given.iter().map(|(name, data)| (name.as_str(), data)).collect();
    let padded = Padded::from_tensors(engine.info(), &named)?;
    padded.batch.to_tensors(engine.graph())
}

/// Every output here against the reference interpreter in f64, on inputs in the graph's own form.
pub fn outputs(
    engine: &Engine,
    threads: usize,
    inputs: &[(&str, &TensorData)],
) -> Result<Vec<Difference>, Error> {
    let ours = engine.session(threads)?.run(inputs, &[])?;
    let owned: Vec<(&str, TensorData)> = inputs.iter().map(|(name, data)| (*name, (*data).clone())).collect();
    let theirs = Interpreter::new(engine.graph(), Precision::F64).run_f64(&owned)?;
    Ok(ours
        .iter()
        .zip(&theirs)
        .map(|((name, ours), (_, theirs))| difference(name, ours, &theirs.shape, &theirs.values))
        .collect())
}

/// Every float tensor that a node computes against the reference interpreter in f64, in the order in which they are
/// computed, up to the first whose relative error exceeds `tolerance`.
pub fn layers(
    engine: &Engine,
    threads: usize,
    inputs: &[(&str, &TensorData)],
    tolerance: f64,
) -> Result<Vec<Difference>, Error> {
    let ours = all_tensors(engine, threads, inputs)?;
    let owned: Vec<(&str, TensorData)> = inputs.iter().map(|(name, data)| (*name, (*data).clone())).collect();
    let mut theirs = std::collections::HashMap::new();
    Interpreter::new(engine.graph(), Precision::F64).run_with(&owned, |name, value| {
        theirs.insert(name.to_owned(), value.to_f64_tensor());
    })?;
    let mut differences = Vec::new();
    for (name, data) in &ours {
        let Some(theirs) = theirs.get(name) else { continue };
        let found = difference(name, data, &theirs.shape, &theirs.values);
        let equal = found.is_within(tolerance);
        differences.push(found);
        if !equal {
            break;
        }
    }
    Ok(differences)
}

/// Outputs that one program keeps track of.
const OUTPUTS_AT_ONCE: usize = 64;

/// Every tensor that a node computes, in order: the graph is run with its inner tensors as outputs.
pub fn all_tensors(
    engine: &Engine,
    threads: usize,
    inputs: &[(&str, &TensorData)],
) -> Result<Vec<(String, TensorData)>, Error> {
    let graph = engine.graph();
    let computed: Vec<TensorId> =
        graph.nodes().iter().flat_map(|node| node.outputs.iter().flatten().copied()).collect();
    let mut tensors = Vec::with_capacity(computed.len());
    for group in computed.chunks(OUTPUTS_AT_ONCE) {
        let mut watched: Graph = graph.clone();
        let name = |id: &TensorId| (graph.tensor(*id).name.clone(), *id);
        watched.set_outputs(group.iter().map(name).collect())?;
        let isa = engine.cpu().isa();
        let store = PackedStore::with_precision(isa, engine.precision())?;
        let model = Arc::new(CpuModel::with_packed(watched, isa, store)?);
        let mut session = crate::Session::new(
            Arc::new(engine.info().clone()),
            model.session(threads.max(1)).map_err(|source| Error::Threads { threads, source })?,
            None,
        );
        tensors.extend(session.run_as_given(inputs, &[])?);
    }
    Ok(tensors)
}

/// Pairs two sides by name, in our order. `mask` (`[batch, seq]`, 0 is padding) leaves padded positions out of tensors
/// that begin with `[batch, seq]`. With `stop_at`, ends with the first pair whose relative error exceeds it.
pub fn pairs(
    ours: &[(String, TensorData)],
    theirs: &[(String, TensorData)],
    mask: Option<&TensorData>,
    stop_at: Option<f64>,
) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (name, data) in ours {
        let Some((_, other)) = theirs.iter().find(|(other, _)| other == name) else {
            if stop_at.is_none() {
                let mismatch = Some("missing on the other side".into());
                let shape = data.shape().to_vec();
                differences.push(Difference {
                    name: name.clone(),
                    shape,
                    max_abs: 0.0,
                    relative: 0.0,
                    mismatch,
                });
            }
            continue;
        };
        let (mut a, mut b) = (data.clone(), other.to_f64());
        if let Some(mask) =
            mask.filter(|mask| data.shape().starts_with(mask.shape()) && data.shape() == other.shape())
        {
            b = without_padding(&b, mask);
            let kept = without_padding(&data.to_f64(), mask);
            a = TensorData::from_vec(data.shape().to_vec(), kept).unwrap_or(a);
        }
        let found = difference(name, &a, other.shape(), &b);
        let stop = stop_at.is_some_and(|tolerance| !found.is_within(tolerance));
        differences.push(found);
        if stop {
            break;
        }
    }
    differences
}

/// The values with 0 where the mask is 0.
fn without_padding(values: &[f64], mask: &TensorData) -> Vec<f64> {
    let width = values.len().checked_div(mask.len()).unwrap_or(0).max(1);
    let mask = mask.to_f64();
    values
        .iter()
        .enumerate()
        .map(
            |(index, value)| {
                if mask.get(index / width).is_some_and(|keep| *keep != 0.0) { *value } else { 0.0 }
            },
        )
        .collect()
}
