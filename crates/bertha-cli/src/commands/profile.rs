//! `bertha bench --profile`: where the time of a run goes.

use std::time::Instant;

use bertha::Session;
use bertha::bench::Workload;
use serde::Serialize;

use super::Failure;
use crate::output;

/// Runs whose medians make the profile.
const PROFILED_RUNS: usize = 20;

/// Where the time of a run goes. Times are medians over the profiled runs.
#[derive(Serialize)]
pub(crate) struct Profile {
    /// A whole run, each step timed.
    ms: f64,
    /// The share of it that the steps take.
    accounted: f64,
    /// The multiply-add rate of the threads together in the model's precision, measured beside the runs.
    peak_gflop_per_second: f64,
    /// Kernels, the largest share first.
    kernels: Vec<KernelTime>,
    /// Steps, in order.
    operations: Vec<Operation>,
}

#[derive(Serialize)]
struct KernelTime {
    kernel: &'static str,
    steps: usize,
    #[serde(flatten)]
    time: Time,
}

#[derive(Serialize)]
struct Operation {
    node: String,
    kernel: &'static str,
    #[serde(flatten)]
    time: Time,
}

/// A part of a run.
#[derive(Serialize)]
struct Time {
    ms: f64,
    /// Of the run.
    share: f64,
    /// 0 for what multiplies nothing.
    gflop_per_second: f64,
    /// Of the multiply-add rate.
    peak_share: f64,
}

impl Time {
    fn new(seconds: f64, flops: f64, run: f64, peak: f64) -> Self {
        let rate = flops / 1e9 / seconds.max(1e-9);
        Time { ms: seconds * 1e3, share: seconds / run, gflop_per_second: rate, peak_share: rate / peak }
    }

    fn cells(&self) -> [String; 4] {
        let product = |text: String| if self.gflop_per_second > 0.0 { text } else { "-".into() };
        [
            format!("{:.3}", self.ms),
            format!("{:.1} %", self.share * 100.0),
            product(format!("{:.1}", self.gflop_per_second)),
            product(format!("{:.1} %", self.peak_share * 100.0)),
        ]
    }
}

pub(super) fn measure(session: &mut Session, workload: &Workload) -> Result<Profile, Failure> {
    let (mut runs, mut whole) = (Vec::new(), Vec::new());
    let mut peak = session.peak_gflops();
    for _ in 0..PROFILED_RUNS {
        let start = Instant::now();
        runs.push(workload.profile(session)?);
        whole.push(start.elapsed().as_secs_f64());
    }
    peak = peak.max(session.peak_gflops());
    let accounted = median(
        runs.iter().zip(&whole).map(|(run, whole)| run.iter().map(|step| step.seconds).sum::<f64>() / whole),
    );
    let run = median(whole.into_iter());
    let mut operations = Vec::new();
    // Seconds, operations and steps of each kernel.
    let mut kernels: Vec<(&'static str, f64, f64, usize)> = Vec::new();
    for (index, step) in runs[0].iter().enumerate() {
        let seconds = median(runs.iter().map(|steps| steps[index].seconds));
        let flops = workload.node_flops(&step.node);
        let (kernel, node) = (step.kernel, step.node.clone());
        operations.push(Operation { node, kernel, time: Time::new(seconds, flops, run, peak) });
        match kernels.iter_mut().find(|(name, ..)| *name == kernel) {
            Some((_, all_seconds, all_flops, steps)) => {
                *all_seconds += seconds;
                *all_flops += flops;
                *steps += 1;
            }
            None => kernels.push((kernel, seconds, flops, 1)),
        }
    }
    kernels.sort_by(|a, b| b.1.total_cmp(&a.1));
    let kernels = kernels.into_iter().map(|(kernel, seconds, flops, steps)| KernelTime {
        kernel,
        steps,
        time: Time::new(seconds, flops, run, peak),
    });
    Ok(Profile {
        ms: run * 1e3,
        accounted,
        peak_gflop_per_second: peak,
        kernels: kernels.collect(),
        operations,
    })
}

pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(super) fn print(profile: &Profile) -> Result<(), Failure> {
    output::line("")?;
    let mut table = output::table(&["ms", "share", "GFLOP/s", "of peak", "kernel", "steps"]);
    for KernelTime { kernel, steps, time } in &profile.kernels {
        let what = [(*kernel).to_owned(), steps.to_string()];
        table.add_row(time.cells().into_iter().chain(what));
    }
    output::print_table(table, 0..4)?;
    output::line(format!(
        "{:.1} % of {:.3} ms accounted for; the peak is {:.1} GFLOP/s",
        profile.accounted * 100.0,
        profile.ms,
        profile.peak_gflop_per_second
    ))?;
    output::line("")?;
    let mut table = output::table(&["ms", "share", "GFLOP/s", "of peak", "kernel", "node"]);
    for Operation { node, kernel, time } in &profile.operations {
        table.add_row(time.cells().into_iter().chain([(*kernel).to_owned(), node.clone()]));
    }
    output::print_table(table, 0..4)
}
