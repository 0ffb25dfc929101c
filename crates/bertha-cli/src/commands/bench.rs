//! `bertha bench`.

use std::time::Instant;

use bertha::Session;
use bertha::bench::{Workload, random_workload};
use serde::Serialize;

use super::profile::{self, Profile};
use super::{Failure, bench_lengths};
use crate::args::BenchArgs;
use crate::{output, progress};

/// What `--json` prints. Times are milliseconds of one run of one batch, inputs given, outputs in the session.
#[derive(Serialize)]
struct Report {
    model: String,
    device: &'static str,
    isa: &'static str,
    precision: bertha::Precision,
    threads: usize,
    batches: usize,
    sequences: usize,
    tokens: usize,
    runs: usize,
    latency_ms: Latency,
    sequences_per_second: f64,
    tokens_per_second: f64,
    gflop_per_batch: f64,
    gflop_per_second: f64,
    memory_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
}

#[derive(Serialize)]
pub(super) struct Latency {
    pub(super) min: f64,
    pub(super) mean: f64,
    pub(super) median: f64,
    pub(super) p90: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
}

pub(crate) fn run(args: BenchArgs) -> Result<(), Failure> {
    if [args.batch, args.seq, args.runs, args.sequences, args.sessions].contains(&0) {
        let why = "--batch, --seq, --runs, --sequences and --sessions must be at least 1";
        return Err(Failure::Usage(why.into()));
    }
    if args.fusions {
        return super::fusions::run(&args);
    }
    let batches = bench_lengths::batches(&args)?;
    let engine = args.run.open(&args.model)?;
    let mut session = engine.session(args.run.threads())?;
    let workloads: Result<Vec<Workload>, _> = batches
        .iter()
        .enumerate()
        .map(|(seed, lengths)| random_workload(&engine, lengths, seed as u64))
        .collect();
    let workloads = workloads?;
    for _ in 0..args.warmup {
        run_all(&mut session, &workloads)?;
    }
    if engine.gpu().is_some() {
        return super::bench_gpu::run(&args, &engine, &mut session, &workloads, &batches);
    }
    if args.sessions > 1 {
        let why = "--sessions is for GPUs: a session on the CPU has all of its threads at work by itself";
        return Err(Failure::Usage(why.into()));
    }
    let seconds = measure(&mut session, &workloads, &args)?;
    let per_pass: f64 = seconds.iter().sum::<f64>() / (seconds.len() / workloads.len()) as f64;
    let sequences: usize = batches.iter().map(Vec::len).sum();
    let tokens: usize = batches.iter().flatten().sum();
    let flops: f64 = workloads.iter().map(Workload::flops).sum();
    let profile = args.profile.then(|| profile::measure(&mut session, &workloads[0])).transpose()?;
    let report = Report {
        model: args.model.display().to_string(),
        device: "cpu",
        isa: engine.cpu().isa().tier().name(),
        precision: engine.precision(),
        threads: session.threads(),
        batches: batches.len(),
        sequences,
        tokens,
        runs: seconds.len(),
        latency_ms: latency(seconds),
        sequences_per_second: sequences as f64 / per_pass,
        tokens_per_second: tokens as f64 / per_pass,
        gflop_per_batch: flops / 1e9 / batches.len() as f64,
        gflop_per_second: flops / 1e9 / per_pass,
        memory_bytes: session.memory_bytes(),
        profile,
    };
    if args.json { output::json(&report) } else { print(&report) }
}

fn run_all(session: &mut Session, workloads: &[Workload]) -> Result<(), Failure> {
    workloads.iter().try_for_each(|workload| workload.run(session)).map_err(Failure::from)
}

/// Seconds of each run, batch after batch, for whole passes over all batches.
fn measure(session: &mut Session, workloads: &[Workload], args: &BenchArgs) -> Result<Vec<f64>, Failure> {
    let bar = progress::bar(args.runs as u64, "measuring");
    let mut seconds = Vec::new();
    let start = Instant::now();
    while bar.position() < args.runs as u64 || start.elapsed().as_secs_f64() < args.seconds {
        for workload in workloads {
            let start = Instant::now();
            workload.run(session)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(seconds)
}

pub(super) fn latency(mut seconds: Vec<f64>) -> Latency {
    seconds.sort_by(f64::total_cmp);
    let count = seconds.len();
    // The smallest value that at least this share of the runs did not exceed.
    let percentile = |share: f64| {
        let index = ((share * count as f64).ceil() as usize).clamp(1, count) - 1;
        seconds[index] * 1e3
    };
    Latency {
        min: percentile(0.0),
        mean: seconds.iter().sum::<f64>() / count as f64 * 1e3,
        median: percentile(0.5),
        p90: percentile(0.9),
        p95: percentile(0.95),
        p99: percentile(0.99),
    }
}

fn print(report: &Report) -> Result<(), Failure> {
    let l = &report.latency_ms;
    output::line(format!(
        "{} on {} ({}, {}, {}): {}, {}, {}",
        report.model,
        report.device,
        report.isa,
        report.precision,
        output::count(report.threads, "thread", "threads"),
        output::count(report.batches, "batch", "batches"),
        output::count(report.sequences, "sequence", "sequences"),
        output::count(report.tokens, "token", "tokens"),
    ))?;
    let mut table = output::table(&["latency ms", "min", "mean", "median", "p90", "p95", "p99"]);
    let cells = [l.min, l.mean, l.median, l.p90, l.p95, l.p99].map(|ms| format!("{ms:.3}"));
    table.add_row(std::iter::once(output::count(report.runs, "run", "runs")).chain(cells));
    output::print_table(table, 1..7)?;
    output::line(format!(
        "{:.1} sequences/s   {:.0} tokens/s   {:.1} GFLOP/s   {} of memory besides the weights",
        report.sequences_per_second,
        report.tokens_per_second,
        report.gflop_per_second,
        output::bytes(report.memory_bytes as u64)
    ))?;
    report.profile.as_ref().map_or(Ok(()), profile::print)
}
