//! `bertha selftest`.

use bertha::Precision;
use bertha::cuda::driver::Device;
use bertha::cuda::selftest::{CaseResult, cases, plugin_cases, run_case};
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
    let bar = progress::bar((cases.len() * precisions.len()) as u64, "testing");
    let mut results = Vec::new();
    for precision in precisions {
        for case in &cases {
            results.push(run_case(&device, case, precision));
            bar.inc(1);
        }
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
