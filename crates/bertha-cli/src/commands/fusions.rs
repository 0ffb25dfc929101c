//! `bertha bench --fusions`: what the compiler's passes are worth.

use std::time::Instant;

use bertha::bench::{Workload, random_workload};
use bertha::{Engine, Options, Session};
use serde::Serialize;

use super::Failure;
use super::profile::median;
use crate::args::{BenchArgs, Device};
use crate::{output, progress};

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    model: String,
    threads: usize,
    batch: usize,
    seq: usize,
    /// Nodes of the graph with all passes.
    nodes: usize,
    variants: Vec<Variant>,
}

/// A compilation with something left out.
#[derive(Serialize)]
struct Variant {
    /// The pass that was left out, or `none of them` for the graph as imported.
    without: String,
    nodes: usize,
    /// Median of one run with all passes, taken in turns with this variant's.
    all_ms: f64,
    ms: f64,
    /// `ms / all_ms`.
    ratio: f64,
}

/// An engine ready to run one batch.
struct Runner {
    session: Session,
    workload: Workload,
    nodes: usize,
}

impl Runner {
    fn new(engine: &Engine, args: &BenchArgs) -> Result<Self, Failure> {
        let workload = random_workload(engine, &vec![args.seq; args.batch], 0)?;
        let nodes = engine.graph().nodes().len();
        Ok(Runner { session: engine.session(args.run.threads())?, workload, nodes })
    }

    fn seconds(&mut self) -> Result<f64, Failure> {
        let start = Instant::now();
        self.workload.run(&mut self.session)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

pub(super) fn run(args: &BenchArgs) -> Result<(), Failure> {
    if args.run.device != Device::Cpu {
        return Err(Failure::Usage("--fusions measures on the CPU: leave --device out".into()));
    }
    let options = args.run.plugins.options()?;
    let model = super::import(&args.model, &options.plugins)?;
    let engine = Engine::compile(model.clone(), &options)?;
    let fired = engine.log().counts();
    let mut all = Runner::new(&engine, args)?;
    let imported = ("none of them".to_owned(), Options { optimize: false, ..options.clone() });
    let each = fired.iter().map(|(pass, _)| {
        let without = vec![(*pass).to_owned()];
        (format!("all but {pass}"), Options { without, ..options.clone() })
    });
    let bar = progress::bar(fired.len() as u64 + 1, "measuring");
    let mut variants = Vec::new();
    for (without, options) in std::iter::once(imported).chain(each) {
        let mut variant = Runner::new(&Engine::compile(model.clone(), &options)?, args)?;
        let (all_ms, ms) = in_turns(&mut all, &mut variant, args)?;
        variants.push(Variant { without, nodes: variant.nodes, all_ms, ms, ratio: ms / all_ms });
        bar.inc(1);
    }
    bar.finish_and_clear();
    let report = Report {
        model: args.model.display().to_string(),
        threads: all.session.threads(),
        batch: args.batch,
        seq: args.seq,
        nodes: all.nodes,
        variants,
    };
    if args.json { output::json(&report) } else { print(&report) }
}

/// Median milliseconds of both, run after run in turns, so that whatever else the machine does meets both.
fn in_turns(all: &mut Runner, variant: &mut Runner, args: &BenchArgs) -> Result<(f64, f64), Failure> {
    for _ in 0..args.warmup {
        all.seconds()?;
        variant.seconds()?;
    }
    let mut seconds = (Vec::new(), Vec::new());
    let start = Instant::now();
    while seconds.0.len() < args.runs || start.elapsed().as_secs_f64() < args.seconds {
        seconds.0.push(all.seconds()?);
        seconds.1.push(variant.seconds()?);
    }
    Ok((median(seconds.0.into_iter()) * 1e3, median(seconds.1.into_iter()) * 1e3))
}

fn print(report: &Report) -> Result<(), Failure> {
    output::line(format!(
        "{}: {} of {}, {}; all passes leave {}",
        report.model,
        output::count(report.batch, "sequence", "sequences"),
        output::count(report.seq, "token", "tokens"),
        output::count(report.threads, "thread", "threads"),
        output::count(report.nodes, "node", "nodes"),
    ))?;
    let mut table =
        output::table(&["passes", "nodes", "ms", "ms with all", "slower by", "share of the gain"]);
    // Passes build on each other, so the shares need not sum to the whole.
    let gain = report.variants.first().map_or(0.0, |none| none.ratio - 1.0);
    for variant in &report.variants {
        table.add_row([
            variant.without.clone(),
            variant.nodes.to_string(),
            format!("{:.3}", variant.ms),
            format!("{:.3}", variant.all_ms),
            format!("{:+.1} %", (variant.ratio - 1.0) * 100.0),
            if gain > 0.0 { format!("{:.0} %", (variant.ratio - 1.0) / gain * 100.0) } else { "-".into() },
        ]);
    }
    output::print_table(table, 1..6)
}
