//! `bertha bench` on a card: the card's own time beside the time from end to end, and the time of each kernel.

use std::collections::BTreeMap;
use std::time::Instant;

use bertha::bench::Workload;
use bertha::cuda::{Arch, driver::Device, program::Storage};
use bertha::{Engine, Precision, Session};
use serde::Serialize;

use super::Failure;
use super::bench::{Latency, latency};
use crate::args::BenchArgs;
use crate::{output, progress};

/// What `--json` prints. Device times go from inputs on the card to outputs on the card, the others from inputs in the
/// caller's memory to outputs in the session's.
#[derive(Serialize)]
struct Report {
    model: String,
    device: String,
    plan: String,
    batches: usize,
    sequences: usize,
    tokens: usize,
    runs: usize,
    device_ms: Latency,
    latency_ms: Latency,
    /// From end to end, one batch after another.
    sequences_per_second: f64,
    tokens_per_second: f64,
    /// Of the device time.
    device_sequences_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight: Option<InFlight>,
    gflop_per_batch: f64,
    /// Of the device time.
    tflop_per_second: f64,
    /// What the card's matrix units can do in this precision at its highest clock.
    peak_tflop_per_second: f64,
    weight_bytes: usize,
    memory_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Vec<Kernel>>,
}

/// The same batches by several sessions, each of which hands its results over while the others' batches are at work.
#[derive(Serialize)]
struct InFlight {
    sessions: usize,
    sequences_per_second: f64,
    tokens_per_second: f64,
}

/// All launches of one kernel in a run.
#[derive(Serialize)]
struct Kernel {
    kernel: String,
    step: &'static str,
    launches: usize,
    us: f64,
    share: f64,
    tflop_per_second: f64,
    share_of_peak: f64,
}

/// Runs on the card and prints the report.
pub(super) fn run(
    args: &BenchArgs,
    engine: &Engine,
    session: &mut Session,
    workloads: &[Workload],
    batches: &[Vec<usize>],
) -> Result<(), Failure> {
    let model = engine.gpu().ok_or_else(|| Failure::Other("the engine is on no card".into()))?.clone();
    let bar = progress::bar(args.runs as u64, "measuring");
    let (mut total, mut device) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while bar.position() < args.runs as u64 || start.elapsed().as_secs_f64() < args.seconds {
        for workload in workloads {
            let start = Instant::now();
            workload.run(session)?;
            total.push(start.elapsed().as_secs_f64());
            device.extend(card_seconds(session)?);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let passes = (total.len() / workloads.len()).max(1) as f64;
    let (per_pass, device_per_pass) =
        (total.iter().sum::<f64>() / passes, device.iter().sum::<f64>() / passes);
    let sequences: usize = batches.iter().map(Vec::len).sum();
    let tokens: usize = batches.iter().flatten().sum();
    let flops: f64 = workloads.iter().map(Workload::flops).sum();
    let peak = peak_tflops(model.device(), model.plan().arch(), model.plan().precision());
    let profile = args.profile.then(|| profile(session, &workloads[0], peak)).transpose()?;
    let several = args.sessions > 1;
    let per_pass_in_flight = several.then(|| in_flight(args, engine, workloads)).transpose()?;
    let report = Report {
        model: args.model.display().to_string(),
        device: model.device().name.clone(),
        plan: model.plan().target(),
        batches: batches.len(),
        sequences,
        tokens,
        runs: total.len(),
        device_ms: latency(device),
        latency_ms: latency(total),
        sequences_per_second: sequences as f64 / per_pass,
        tokens_per_second: tokens as f64 / per_pass,
        device_sequences_per_second: sequences as f64 / device_per_pass,
        in_flight: per_pass_in_flight.map(|seconds| InFlight {
            sessions: args.sessions,
            sequences_per_second: sequences as f64 / seconds,
            tokens_per_second: tokens as f64 / seconds,
        }),
        gflop_per_batch: flops / 1e9 / batches.len() as f64,
        tflop_per_second: flops / 1e12 / device_per_pass,
        peak_tflop_per_second: peak,
        weight_bytes: model.weight_bytes(),
        memory_bytes: session.memory_bytes(),
        profile,
    };
    if args.json { output::json(&report) } else { print(&report) }
}

/// Seconds of a pass over all batches with several sessions at work at a time.
fn in_flight(args: &BenchArgs, engine: &Engine, workloads: &[Workload]) -> Result<f64, Failure> {
    let sessions: Result<Vec<Session>, _> =
        (0..args.sessions).map(|_| engine.session(args.run.threads())).collect();
    let mut sessions = sessions?;
    // Every session captures the graphs of all batches first.
    for session in &mut sessions {
        workloads.iter().try_for_each(|workload| workload.run(session))?;
    }
    let (mut runs, mut passes, start) = (0, 0, Instant::now());
    while passes < args.runs || start.elapsed().as_secs_f64() < args.seconds {
        for workload in workloads {
            let session = &mut sessions[runs % args.sessions];
            if runs >= args.sessions {
                Workload::wait(session)?;
            }
            workload.submit(session)?;
            runs += 1;
        }
        passes += 1;
    }
    for session in sessions.iter_mut().take(runs) {
        Workload::wait(session)?;
    }
    Ok(start.elapsed().as_secs_f64() / passes as f64)
}

fn card_seconds(session: &mut Session) -> Result<Option<f64>, Failure> {
    let seconds = match (session.gpu().map(|card| card.device_seconds()), session.dense_gpu()) {
        (Some(seconds), _) => seconds,
        (None, Some(card)) => card.device_seconds(),
        (None, None) => Ok(None),
    };
    seconds.map_err(|error| Failure::Model(error.into()))
}

/// Operations of all multiprocessors at the highest clock.
fn peak_tflops(device: &Device, arch: Arch, precision: Precision) -> f64 {
    let per_clock = arch.flops_per_clock(Storage::of(precision));
    per_clock * device.multiprocessors as f64 * device.clock_khz as f64 * 1e3 / 1e12
}

fn profile(session: &mut Session, workload: &Workload, peak: f64) -> Result<Vec<Kernel>, Failure> {
    let steps = workload.profile_gpu(session)?;
    let total: f64 = steps.iter().map(|step| step.seconds).sum();
    let mut kernels: BTreeMap<String, Kernel> = BTreeMap::new();
    let mut flops: BTreeMap<String, f64> = BTreeMap::new();
    for step in steps {
        *flops.entry(step.kernel.clone()).or_default() += workload.node_flops(&step.node);
        let kernel = kernels.entry(step.kernel.clone()).or_insert_with(|| Kernel {
            kernel: step.kernel.clone(),
            step: step.step,
            launches: 0,
            us: 0.0,
            share: 0.0,
            tflop_per_second: 0.0,
            share_of_peak: 0.0,
        });
        kernel.launches += 1;
        kernel.us += step.seconds * 1e6;
    }
    let mut kernels: Vec<Kernel> = kernels.into_values().collect();
    for kernel in &mut kernels {
        kernel.share = kernel.us * 1e-6 / total;
        kernel.tflop_per_second = flops.get(&kernel.kernel).copied().unwrap_or(0.0) / 1e6 / kernel.us;
        kernel.share_of_peak = kernel.tflop_per_second / peak;
    }
    kernels.sort_by(|a, b| b.us.total_cmp(&a.us));
    Ok(kernels)
}

fn print(report: &Report) -> Result<(), Failure> {
    output::line(format!(
        "{} on {} ({}): {}, {}, {}",
        report.model,
        report.device,
        report.plan,
        output::count(report.batches, "batch", "batches"),
        output::count(report.sequences, "sequence", "sequences"),
        output::count(report.tokens, "token", "tokens"),
    ))?;
    let runs = output::count(report.runs, "run", "runs");
    let mut table = output::table(&[&format!("ms, {runs}"), "min", "mean", "median", "p90", "p95", "p99"]);
    for (name, l) in [("device", &report.device_ms), ("end to end", &report.latency_ms)] {
        let cells = [l.min, l.mean, l.median, l.p90, l.p95, l.p99].map(|ms| format!("{ms:.4}"));
        table.add_row(std::iter::once(name.to_owned()).chain(cells));
    }
    output::print_table(table, 1..7)?;
    output::line(format!(
        "{:.1} sequences/s   {:.0} tokens/s   {:.1} sequences/s on the card   {:.1} TFLOP/s, {:.1} % of {:.0}   {} of weights, {} of memory besides",
        report.sequences_per_second,
        report.tokens_per_second,
        report.device_sequences_per_second,
        report.tflop_per_second,
        report.tflop_per_second / report.peak_tflop_per_second * 100.0,
        report.peak_tflop_per_second,
        output::bytes(report.weight_bytes as u64),
        output::bytes(report.memory_bytes as u64)
    ))?;
    if let Some(several) = &report.in_flight {
        output::line(format!(
            "{:.1} sequences/s   {:.0} tokens/s with {} sessions at work",
            several.sequences_per_second, several.tokens_per_second, several.sessions
        ))?;
    }
    let Some(profile) = &report.profile else { return Ok(()) };
    let mut table = output::table(&["us", "share", "launches", "TFLOP/s", "of peak", "step", "kernel"]);
    for kernel in profile {
        let (rate, share) = match kernel.tflop_per_second > 0.0 {
            true => {
                (format!("{:.1}", kernel.tflop_per_second), format!("{:.1} %", kernel.share_of_peak * 100.0))
            }
            false => ("-".into(), "-".into()),
        };
        table.add_row([
            format!("{:.1}", kernel.us),
            format!("{:.1} %", kernel.share * 100.0),
            kernel.launches.to_string(),
            rate,
            share,
            kernel.step.to_owned(),
            kernel.kernel.clone(),
        ]);
    }
    output::line("")?;
    output::line("Each kernel by itself; in a run they overlap, so the sum is more than the device time.")?;
    output::print_table(table, 0..5)
}
