//! Runs the cases that `make_cases.py` writes through the ONNX importer and any backend.
//!
//! Included by the tests of each crate that can run graphs. The cases lie in the folder that the environment variable
//! `BERTHA_ONNX_CASES` names, or in `target/onnx-cases`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use bertha_graph::{DType, Model, TensorData};
use bertha_import::npz::read_npz;
use bertha_import::onnx::{self, ExternalFiles, ImportOptions, proto::TensorProto};
use prost::Message;
use serde::Deserialize;

/// Outputs of a model by name.
pub(crate) type Outputs = Vec<(String, TensorData)>;

/// What runs a model: named inputs to named outputs.
pub(crate) type Backend<'a> = &'a dyn Fn(&Model, &[(&str, TensorData)]) -> Result<Outputs, String>;

/// A [`Backend`] that is a plain function.
#[allow(dead_code)] // not every test that includes this file names it
pub(crate) type Run = fn(&Model, &[(&str, TensorData)]) -> Result<Outputs, String>;

/// One operator case of the onnx package.
#[derive(Deserialize)]
struct ConformanceCase {
    name: String,
    model: PathBuf,
    rtol: f64,
    atol: f64,
    /// By how much integers may differ: quantised results lie one step apart where two ways to round meet.
    #[serde(default)]
    steps: u64,
    /// Why the case needs a type that is not supported.
    skip: Option<String>,
    sets: Vec<TensorFiles>,
}

#[derive(Deserialize)]
struct TensorFiles {
    inputs: Vec<PathBuf>,
    outputs: Vec<PathBuf>,
}

/// One run of a whole model by ONNX Runtime.
#[derive(Deserialize)]
struct ModelCase {
    name: String,
    model: PathBuf,
    inputs: PathBuf,
    outputs: PathBuf,
    /// The largest difference, relative to the largest expected value.
    #[serde(default = "rounding")]
    tolerance: f64,
    /// The largest root of the mean square of the differences, relative to that of the expected values.
    #[serde(default = "rounding")]
    rms: f64,
}

/// What sums in another order may be off by.
fn rounding() -> f64 {
    1e-5
}

/// What came of a set of cases.
#[derive(Default)]
pub(crate) struct Report {
    /// Number of cases that gave the expected answer.
    pub(crate) passed: usize,
    /// Names of cases that did not, and what happened.
    pub(crate) failed: Vec<(String, String)>,
    /// Names of cases that need unsupported types, and which.
    pub(crate) skipped: Vec<(String, String)>,
}

impl Report {
    /// The table: skipped and failed cases one by one, then the sums.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut lines = |kind: &str, cases: &[(String, String)]| {
            for (name, why) in cases {
                let _ = writeln!(text, "{kind} {name:<60} {why}");
            }
        };
        lines("skip", &self.skipped);
        lines("FAIL", &self.failed);
        let (passed, failed, skipped) = (self.passed, self.failed.len(), self.skipped.len());
        let _ = writeln!(text, "{passed} passed, {failed} failed, {skipped} skipped");
        text
    }

    fn count(&mut self, name: String, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(why) => self.failed.push((name, why)),
        }
    }
}

/// The folder with the cases, or `None` with a printed note.
pub(crate) fn cases(list: &str) -> Option<PathBuf> {
    let folder = match std::env::var_os("BERTHA_ONNX_CASES") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/onnx-cases"),
    };
    if folder.join(list).is_file() {
        return Some(folder);
    }
    println!(
        "skipped: there is no {}; `python tests/onnx/make_cases.py {}` writes it",
        folder.join(list).display(),
        folder.display()
    );
    None
}

/// The lists of runs of whole models by ONNX Runtime: the Conformer, which is kept beside this file, and what
/// `make_cases.py` has written, exports as they are and as ONNX Runtime rewrites them.
pub(crate) fn model_lists() -> Vec<(PathBuf, &'static str)> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/onnx/conformer");
    let written = ["models.json", "optimized.json"].into_iter().filter_map(|list| Some((cases(list)?, list)));
    std::iter::once((kept, "models.json")).chain(written).collect()
}

/// Runs the operator cases. Those of unsupported types must be refused by the importer with a message.
pub(crate) fn run_conformance(folder: &Path, cases: &str, backend: Backend) -> Report {
    let cases: Vec<ConformanceCase> = list(&folder.join(cases));
    let mut report = Report::default();
    for case in cases {
        let imported = onnx::import(folder.join(&case.model), &ImportOptions::default());
        match (imported, case.skip) {
            (Err(_), Some(reason)) => report.skipped.push((case.name, reason)),
            (Ok(_), Some(reason)) => {
                report.failed.push((case.name, format!("was imported, although {reason}")));
            }
            (Err(error), None) => report.failed.push((case.name, error.to_string())),
            (Ok(model), None) => {
                let tolerance = Tolerance::PerElement { rtol: case.rtol, atol: case.atol, steps: case.steps };
                let outcome = case.sets.iter().try_for_each(|set| {
                    let inputs = set.inputs.iter().map(|file| read_tensor(&folder.join(file)));
                    let outputs = set.outputs.iter().map(|file| read_tensor(&folder.join(file)));
                    compare(&model, backend, inputs.collect(), outputs.collect(), tolerance)
                });
                report.count(case.name, outcome);
            }
        }
    }
    report
}

/// Runs the model cases, whose outputs must agree to the relative error that each says, 1e-5 where it says nothing.
pub(crate) fn run_models(folder: &Path, cases: &str, backend: Backend) -> Report {
    let cases: Vec<ModelCase> = list(&folder.join(cases));
    let mut report = Report::default();
    for case in cases {
        let outcome = onnx::import(folder.join(&case.model), &ImportOptions::default())
            .map_err(|error| error.to_string())
            .and_then(|model| {
                let inputs = read_arrays(&folder.join(&case.inputs));
                let outputs = read_arrays(&folder.join(&case.outputs));
                compare(
                    &model,
                    backend,
                    inputs,
                    outputs,
                    Tolerance::Relative { largest: case.tolerance, rms: case.rms },
                )
            });
        report.count(case.name, outcome);
    }
    report
}

fn list<T: for<'de> Deserialize<'de>>(path: &Path) -> Vec<T> {
    let text = std::fs::read(path).expect("the list of cases can be read");
    serde_json::from_slice(&text).expect("the list of cases is JSON")
}

fn read_tensor(path: &Path) -> (String, TensorData) {
    let bytes = std::fs::read(path).expect("the tensor of a case can be read");
    let proto = TensorProto::decode(bytes.as_slice()).expect("the tensor of a case is one");
    let data = ExternalFiles::none(path).tensor(&proto).expect("the tensor of a case is of a known type");
    (proto.name, data)
}

fn read_arrays(path: &Path) -> Outputs {
    read_npz(path).expect("the arrays of a case can be read").into_iter().collect()
}

/// How far an answer may be from the expected one.
#[derive(Clone, Copy)]
pub(crate) enum Tolerance {
    /// Each element within `atol + rtol * |expected|`, as NumPy's `allclose` has it.
    PerElement {
        /// Relative part.
        rtol: f64,
        /// Absolute part.
        atol: f64,
        /// What integers may differ by.
        steps: u64,
    },
    /// The largest difference relative to the largest expected value, and the root mean square of the differences
    /// relative to that of the expected values.
    Relative {
        /// Of the largest difference.
        largest: f64,
        /// Of all differences.
        rms: f64,
    },
}

fn compare(
    model: &Model,
    backend: Backend,
    inputs: Outputs,
    expected: Outputs,
    tolerance: Tolerance,
) -> Result<(), String> {
    let inputs: Vec<(&str, TensorData)> =
        inputs.iter().map(|(name, data)| (name.as_str(), data.clone())).collect();
    let outputs = backend(model, &inputs)?;
    if outputs.len() != expected.len() {
        return Err(format!("{} outputs instead of {}", outputs.len(), expected.len()));
    }
    for (name, expected) in expected {
        let found = outputs.iter().find(|(output, _)| *output == name);
        let (_, found) = found.ok_or_else(|| format!("no output `{name}`"))?;
        difference(found, &expected, tolerance).map_err(|why| format!("output `{name}`: {why}"))?;
    }
    Ok(())
}

/// Whether two tensors are the same within the tolerance; NaN equals NaN.
pub(crate) fn difference(
    found: &TensorData,
    expected: &TensorData,
    tolerance: Tolerance,
) -> Result<(), String> {
    if found.ty() != expected.ty() {
        return Err(format!("{} instead of {}", found.ty(), expected.ty()));
    }
    if let (Some(found), Some(expected)) = (found.to_i64(), expected.to_i64()) {
        let steps = match tolerance {
            Tolerance::PerElement { steps, .. } => steps,
            Tolerance::Relative { .. } => 0,
        };
        return match found.iter().zip(&expected).position(|(a, b)| a.abs_diff(*b) > steps) {
            None => Ok(()),
            Some(at) => Err(format!("element {at} is {} instead of {}", found[at], expected[at])),
        };
    }
    // bf16 answers may be two steps apart: the onnx package's own runner allows the same.
    let least_rtol = if expected.dtype() == DType::BF16 { 1.0 / 64.0 } else { 0.0 };
    let (found, expected) = (found.to_f64(), expected.to_f64());
    let largest =
        expected.iter().filter(|value| value.is_finite()).fold(0f64, |max, value| max.max(value.abs()));
    for (at, (a, b)) in found.iter().zip(&expected).enumerate() {
        let allowed = match tolerance {
            Tolerance::PerElement { rtol, atol, .. } => atol + rtol.max(least_rtol) * b.abs(),
            Tolerance::Relative { largest: relative, .. } => relative * largest,
        };
        let equal = a == b || (a.is_nan() && b.is_nan());
        let near = (a - b).abs() <= allowed; // false for NaN
        if !equal && !near {
            return Err(format!("element {at} is {a} instead of {b} (allowed: {allowed:e})"));
        }
    }
    if let Tolerance::Relative { rms, .. } = tolerance {
        let finite = || found.iter().zip(&expected).filter(|(a, b)| a.is_finite() && b.is_finite());
        let differences: f64 = finite().map(|(a, b)| (a - b) * (a - b)).sum();
        let values: f64 = finite().map(|(_, b)| b * b).sum();
        let found = (differences / values.max(f64::MIN_POSITIVE)).sqrt();
        if found > rms {
            return Err(format!("the root mean square of the differences is {found:e} (allowed: {rms:e})"));
        }
    }
    Ok(())
}
