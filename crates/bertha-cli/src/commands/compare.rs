//! `bertha compare`.

use std::path::{Path, PathBuf};

use bertha::bench::random_workload;
use bertha::compare::{self, Difference};
use bertha::import::npz::read_npz;
use bertha::import::onnx;
use bertha::{Engine, Options, TensorData};
use serde::Serialize;

use super::onnxruntime::OnnxRuntime;
use super::{Failure, open_with};
use crate::args::{Against, CompareArgs};
use crate::output;
use crate::progress::Spinner;

type Named = Vec<(String, TensorData)>;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    against: String,
    tolerance: f64,
    equal: bool,
    /// Every output, or with `--layers` every tensor up to the first that differs.
    tensors: Vec<Difference>,
}

pub(crate) fn run(args: CompareArgs) -> Result<(), Failure> {
    if args.batch == 0 || args.seq == 0 {
        return Err(Failure::Usage("--batch and --seq must be at least 1".into()));
    }
    let (tensors, against) = match &args.against {
        Against::Reference => (against_reference(&args)?, "reference".into()),
        Against::Onnxruntime => (against_onnxruntime(&args)?, "onnxruntime".into()),
        Against::Answers(path) => (against_answers(&args, path)?, path.display().to_string()),
    };
    let equal = tensors.iter().all(|tensor| tensor.is_within(args.tolerance));
    let differ = format!("the answers differ from those of {against}");
    let report = Report { against, tolerance: args.tolerance, equal, tensors };
    if args.json {
        output::json(&report)?;
    } else {
        print(&report, args.layers)?;
    }
    if equal { Ok(()) } else { Err(Failure::Differs(differ)) }
}

fn against_reference(args: &CompareArgs) -> Result<Vec<Difference>, Failure> {
    // Layer by layer, both sides must have the same tensors: the compiler leaves the graph alone then.
    let options = Options { optimize: !args.layers, ..args.run.plugins.options()? };
    let engine = open_with(&args.model, &options)?;
    // Layer by layer, the CPU runs: it alone can hand out every tensor.
    let engine = if args.layers { engine } else { args.run.place(engine)? };
    let inputs = graph_inputs(args, &engine)?;
    let _spinner = Spinner::new("running the reference interpreter");
    let names: Vec<(&str, &TensorData)> = inputs.iter().map(|(name, data)| (name.as_str(), data)).collect();
    let threads = args.run.threads();
    Ok(if args.layers {
        compare::layers(&engine, threads, &names, args.tolerance)?
    } else {
        compare::outputs(&engine, threads, &names)?
    })
}

/// Inputs in the form that the graph itself takes.
fn graph_inputs(args: &CompareArgs, engine: &Engine) -> Result<Named, Failure> {
    match &args.inputs {
        Some(path) => Ok(compare::graph_inputs(engine, read_npz(path)?.into_iter().collect())?),
        None => Ok(random_workload(engine, &random_lengths(args), 1)?.inputs(engine)?),
    }
}

/// Lengths of a random batch: the longest first, then shorter ones, so that padding is tried too.
fn random_lengths(args: &CompareArgs) -> Vec<usize> {
    (0..args.batch).map(|row| (args.seq - args.seq * row / (args.batch + 1)).max(1)).collect()
}

fn against_onnxruntime(args: &CompareArgs) -> Result<Vec<Difference>, Failure> {
    let folder =
        tempfile::tempdir().map_err(|error| Failure::Other(format!("no temporary folder: {error}")))?;
    let model = as_onnx(&args.model, folder.path())?;
    // Both sides run the ONNX file; a checkpoint's own ragged graph is checked against it through its outputs.
    let exported = open_with(&model, &Options { optimize: false, ..args.run.plugins.options()? })?;
    let inputs: Named = match &args.inputs {
        Some(path) => read_npz(path)?.into_iter().collect(),
        None => random_workload(&exported, &random_lengths(args), 1)?.inputs(&exported)?,
    };
    let names: Vec<(&str, &TensorData)> = inputs.iter().map(|(name, data)| (name.as_str(), data)).collect();
    let _spinner = Spinner::new("running ONNX Runtime");
    let watched = if args.layers {
        let path = folder.path().join("layers.onnx");
        onnx::write_with_all_outputs(&model, &path)?;
        path
    } else {
        model.clone()
    };
    let theirs = OnnxRuntime::open(args.library.as_deref(), &watched)?.run(&names)?;
    let engine = if args.layers { exported } else { args.run.open(&args.model)? };
    let threads = args.run.threads();
    let ours = if args.layers {
        compare::all_tensors(&engine, threads, &names)?
    } else {
        engine.session(threads)?.run(&names, &[])?
    };
    Ok(compare::pairs(&ours, &theirs, mask(&inputs), args.layers.then_some(args.tolerance)))
}

/// The outputs that a file holds, such as one that `bertha run` wrote, against those that its inputs have here.
fn against_answers(args: &CompareArgs, path: &Path) -> Result<Vec<Difference>, Failure> {
    let Some(inputs) = &args.inputs else {
        let message = "the answers of a file need the --inputs that they belong to";
        return Err(Failure::Usage(message.into()));
    };
    if args.layers {
        let message = "--layers compares with reference or onnxruntime: a file holds outputs";
        return Err(Failure::Usage(message.into()));
    }
    let inputs: Named = read_npz(inputs)?.into_iter().collect();
    let theirs: Named = read_npz(path)?.into_iter().collect();
    let names: Vec<(&str, &TensorData)> = inputs.iter().map(|(name, data)| (name.as_str(), data)).collect();
    let wanted: Vec<&str> = theirs.iter().map(|(name, _)| name.as_str()).collect();
    let engine = args.run.open(&args.model)?;
    let ours = engine.session(args.run.threads())?.run(&names, &wanted)?;
    Ok(compare::pairs(&ours, &theirs, mask(&inputs), None))
}

/// Which positions are no padding, where the inputs say it.
fn mask(inputs: &Named) -> Option<&TensorData> {
    inputs.iter().find(|(name, _)| name == "attention_mask").map(|(_, data)| data)
}

/// The model as an ONNX file: itself, or a checkpoint exported to `folder`.
fn as_onnx(model: &Path, folder: &Path) -> Result<PathBuf, Failure> {
    if model.extension().is_some_and(|ending| ending == "onnx") {
        return Ok(model.to_owned());
    }
    if !model.is_dir() {
        return Err(Failure::Usage(
            "--against onnxruntime takes an .onnx file or a checkpoint folder, which it exports first".into(),
        ));
    }
    let path = folder.join("model.onnx");
    super::export::write(model, &onnx::ExportOptions::default(), &path)?;
    Ok(path)
}

fn print(report: &Report, layers: bool) -> Result<(), Failure> {
    let first = report.tensors.iter().find(|tensor| !tensor.is_within(report.tolerance));
    if layers && let Some(first) = first {
        output::line(format!("first tensor that differs: {}", first.name))?;
    }
    let shown = if layers { report.tensors.len().saturating_sub(LAYERS_SHOWN) } else { 0 };
    if shown > 0 {
        output::line(format!("({shown} tensors before these are equal)"))?;
    }
    let mut table = output::table(&["tensor", "shape", "max abs error", "rel error", ""]);
    for tensor in &report.tensors[shown..] {
        table.add_row([
            tensor.name.clone(),
            format!("{:?}", tensor.shape),
            format!("{:.3e}", tensor.max_abs),
            format!("{:.3e}", tensor.relative),
            if tensor.is_within(report.tolerance) { "equal".into() } else { tensor.problem() },
        ]);
    }
    output::print_table(table, [2, 3])
}

/// Tensors before the first difference that are listed.
const LAYERS_SHOWN: usize = 12;
