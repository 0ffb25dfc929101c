//! `bertha selftest`.

use bertha::compare::pairs;
use bertha::cuda::driver::Device;
use bertha::cuda::selftest::{CaseResult, bound, cases, dense_cases, plugin_cases, run_case, run_dense_case};
use bertha::graph::TensorError;
use bertha::{Engine, Precision, TensorData};
use bertha_text::tasks::fill_mask::{Fill, FillMask};
use serde::Serialize;

use super::Failure;
use crate::args::SelftestArgs;
use crate::{output, progress};

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    device: String,
    passed: usize,
    failed: usize,
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Case {
    name: String,
    precision: Precision,
    passed: bool,
    relative_error: Option<f64>,
    bound: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

pub(crate) fn run(args: SelftestArgs) -> Result<(), Failure> {
    let crate::args::SelftestTarget::Cuda = args.target;
    let device = Device::get(args.gpu).map_err(|error| Failure::Model(error.into()))?;
    let mut plugins = bertha::plugin::PluginSet::new();
    for library in &args.plugins {
        bertha::plugin::load(library, &mut plugins).map_err(bertha::Error::from)?;
    }
    let of_plugins = plugin_cases(&plugins);
    if !args.plugins.is_empty() && of_plugins.is_empty() {
        return Err(Failure::Usage("--plugin: no plugin there is a layer norm with CUDA source".into()));
    }
    let cases: Vec<_> = cases(args.quick).into_iter().chain(of_plugins).collect();
    let precisions = match args.precision {
        Some(precision) => vec![precision],
        None => Precision::ALL.to_vec(),
    };
    let dense = dense_cases().map_err(|error| Failure::Other(error.to_string()))?;
    let bar = progress::bar(((cases.len() + dense.len() + DEMO.len()) * precisions.len()) as u64, "testing");
    let mut results = Vec::new();
    for precision in precisions {
        for case in &cases {
            results.push(run_case(&device, case, precision));
            bar.inc(1);
        }
        for case in &dense {
            results.push(run_dense_case(&device, case, precision));
            bar.inc(1);
        }
        if cfg!(feature = "demo-model") {
            for (name, compare) in DEMO {
                results.push(on_demo_model(name, compare(args.gpu, precision), precision));
            }
        }
        bar.inc(DEMO.len() as u64);
    }
    bar.finish_and_clear();
    let failed = results.iter().filter(|result| !result.passed()).count();
    let report = Report {
        device: device.name.clone(),
        passed: results.len() - failed,
        failed,
        cases: results.iter().map(describe).collect(),
    };
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(Failure::Differs(format!("{failed} of {} cases failed", results.len())))
    }
}

/// Answers of the demo model on a card against those on the processor: the relative error, and what else differs.
type Comparison = fn(usize, Precision) -> Result<(f64, Option<String>), Failure>;

const DEMO: [(&str, Comparison); 2] = [
    ("demo model, ten best fills", compare_fills),
    ("demo model from ONNX, answers at padded positions too", compare_padded),
];

fn on_demo_model(
    name: &str,
    compared: Result<(f64, Option<String>), Failure>,
    precision: Precision,
) -> CaseResult {
    let (name, bound) = (name.to_owned(), 2.0 * bound(precision));
    let (error, failure) = compared.unwrap_or_else(|error| (f64::NAN, Some(error.to_string())));
    CaseResult { name, precision, error, bound, failure }
}

/// Texts whose masks the demo model fills.
const TEXTS: [&str; 3] =
    ["Paris is the [MASK] of France.", "The man worked as a [MASK].", "She [MASK] the door and went [MASK]."];

/// The error of the scores, and whether fills come in the same order (in bf16, whether the best ones are the same).
fn compare_fills(gpu: usize, precision: Precision) -> Result<(f64, Option<String>), Failure> {
    let engine = crate::demo::engine()?;
    let fills = |engine: &Engine| -> Result<Vec<Fill>, Failure> {
        let answers = FillMask::new(engine, 1)?.fill(&TEXTS, 10)?;
        Ok(answers.into_iter().flatten().flatten().collect())
    };
    let theirs = fills(&engine)?;
    let ours = fills(&engine.on_gpu(gpu, Some(precision))?)?;
    let (mut difference, mut norm) = (0.0, 0.0);
    for fill in &theirs {
        let same = |other: &&Fill| other.token == fill.token && other.sequence == fill.sequence;
        let score = ours.iter().find(same).map_or(0.0, |other| other.score);
        difference += (score - fill.score).powi(2);
        norm += fill.score.powi(2);
    }
    let every = if precision == Precision::Bf16 { 10 } else { 1 };
    let tokens = |fills: &[Fill]| fills.iter().step_by(every).map(|fill| fill.token).collect::<Vec<_>>();
    let differs = (tokens(&ours) != tokens(&theirs)).then(|| "other fills than on the processor".to_owned());
    Ok(((difference / norm).sqrt(), differs))
}

/// The error of the outputs of batches that have padding, each twice.
fn compare_padded(gpu: usize, precision: Precision) -> Result<(f64, Option<String>), Failure> {
    let engine = crate::demo::exported()?;
    if engine.padded_graph().is_none() {
        return Ok((f64::NAN, Some("the export did not become ragged".into())));
    }
    let mut theirs = engine.session(1)?;
    let mut ours = engine.on_gpu(gpu, Some(precision))?.session(1)?;
    let mut worst = 0f64;
    for shape in [[2, 6], [3, 40], [2, 6], [3, 40]] {
        let given = padded_batch(shape).map_err(bertha::Error::from)?;
        let given: Vec<(&str, &TensorData)> = given.iter().map(|(name, data)| (*name, data)).collect();
        let (ours, theirs) = (ours.run(&given, &[])?, theirs.run(&given, &[])?);
        for difference in pairs(&ours, &theirs, None, None) {
            if let Some(mismatch) = difference.mismatch {
                return Ok((f64::NAN, Some(mismatch)));
            }
            worst = worst.max(difference.relative);
        }
    }
    Ok((worst, None))
}

/// Some tokens, each sequence a third shorter than the one before.
fn padded_batch([batch, seq]: [usize; 2]) -> Result<[(&'static str, TensorData); 3], TensorError> {
    let values = |value: fn(usize, usize) -> i64| {
        TensorData::from_vec(vec![batch, seq], (0..batch * seq).map(|cell| value(cell, seq)).collect())
    };
    Ok([
        ("input_ids", values(|cell, _| (cell * 7 % 100 + 1) as i64)?),
        ("attention_mask", values(|cell, seq| i64::from(cell % seq < seq - cell / seq * seq / 3))?),
        ("token_type_ids", values(|_, _| 0)?),
    ])
}

fn describe(result: &CaseResult) -> Case {
    Case {
        name: result.name.clone(),
        precision: result.precision,
        passed: result.passed(),
        // JSON has no NaN.
        relative_error: result.error.is_finite().then_some(result.error),
        bound: result.bound,
        failure: result.failure.clone(),
    }
}

fn print(report: &Report) -> Result<(), Failure> {
    let mut table = output::table(&["model", "precision", "relative error", "allowed", ""]);
    for case in &report.cases {
        let error = case.relative_error.map_or("-".into(), |error| format!("{error:.2e}"));
        let verdict = match (&case.failure, case.passed) {
            (Some(failure), _) => failure.clone(),
            (None, true) => "right".into(),
            (None, false) => "WRONG".into(),
        };
        table.add_row([
            case.name.clone(),
            case.precision.to_string(),
            error,
            format!("{:.1e}", case.bound),
            verdict,
        ]);
    }
    output::print_table(table, 2..4)?;
    output::line(format!("{}: {} right, {} wrong", report.device, report.passed, report.failed))
}

#[cfg(all(test, feature = "demo-model"))]
mod tests {
    use super::*;

    #[test]
    fn the_demo_models_export_takes_the_padded_batch_in_its_padded_form() {
        let engine = crate::demo::exported().unwrap();
        assert!(engine.padded_graph().is_some());
        let given = padded_batch([3, 12]).unwrap();
        let zeros = given[1].1.to_f64().into_iter().filter(|keep| *keep == 0.0).count();
        assert_eq!(zeros, 4 + 8);
        let given: Vec<(&str, &TensorData)> = given.iter().map(|(name, data)| (*name, data)).collect();
        for (name, data) in engine.session(1).unwrap().run(&given, &[]).unwrap() {
            assert_eq!(data.shape()[..2], [3, 12]);
            // What the padded graph says of padding is no zero.
            assert!(data.to_f64().into_iter().all(|value| value.is_finite() && value != 0.0), "{name}");
        }
    }
}
