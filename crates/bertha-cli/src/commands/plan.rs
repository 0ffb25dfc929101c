//! What `bertha build -vv` and `--log` show of the plan: steps, kernels with their alternatives, memory.

use std::path::Path;
use std::time::Duration;

use bertha::bench::random_workload;
use bertha::{Engine, Log, SlotPlan, TacticTable};
use serde::Serialize;

use super::Failure;
use crate::output;

/// Tokens of the sequence for which kernels are timed, where the model takes so many.
const TIMED_TOKENS: usize = 128;
/// What the timing of kernels that are not chosen may take.
const TIMING_BUDGET: Duration = Duration::from_millis(1200);
/// Tensors that the line of a slot names.
const NAMED_TENSORS: usize = 3;

/// How a model runs.
#[derive(Serialize)]
pub(super) struct Plan {
    /// The steps on the CPU, in order; none for a graph that is planned for each input shape.
    steps: Option<Vec<PlannedStep>>,
    /// For each target, the kernels that could run its steps.
    pub(super) kernels: Vec<TacticTable>,
    /// Why the CPU's are not among them.
    not_timed: Option<String>,
    /// The slots of a run's memory on the CPU.
    memory: Option<Vec<SlotPlan>>,
}

#[derive(Serialize)]
struct PlannedStep {
    node: String,
    kernel: &'static str,
}

/// What `--log` writes.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    log: &'a Log,
    #[serde(flatten)]
    plan: &'a Plan,
}

/// The plan of an engine; times its kernels on this CPU.
pub(super) fn plan_of(engine: &Engine) -> Result<Plan, Failure> {
    let steps = engine
        .cpu()
        .steps()
        .map(|steps| steps.into_iter().map(|(node, kernel)| PlannedStep { node, kernel }).collect());
    let tokens = engine.info().max_tokens.map_or(TIMED_TOKENS, |most| most.min(TIMED_TOKENS));
    let (mut kernels, mut not_timed) = (Vec::new(), None);
    match random_workload(engine, &[tokens], 0) {
        Ok(workload) => kernels.push(workload.tactics(engine, &mut engine.session(0)?, TIMING_BUDGET)?),
        Err(why) => not_timed = Some(why.to_string()),
    }
    Ok(Plan { steps, kernels, not_timed, memory: engine.cpu().memory_plan() })
}

/// Writes log and plan as JSON.
pub(super) fn write(path: &Path, engine: &Engine, plan: &Plan) -> Result<(), Failure> {
    let failed = |error: String| Failure::Other(format!("cannot write {}: {error}", path.display()));
    let written = Written { log: engine.log(), plan };
    let text = serde_json::to_string_pretty(&written).map_err(|error| failed(error.to_string()))?;
    std::fs::write(path, text).map_err(|error| failed(error.to_string()))
}

/// Prints the steps in order, the kernels that could run them, and the memory of a run.
pub(super) fn print(plan: &Plan) -> Result<(), Failure> {
    match &plan.steps {
        Some(steps) => {
            output::line(format!("steps ({}):", steps.len()))?;
            let mut table = output::table(&[]);
            for PlannedStep { node, kernel } in steps {
                table.add_row([format!("  {kernel}"), node.clone()]);
            }
            output::print_table(table, [])?;
        }
        None => {
            output::line("steps: planned for each input shape, since the graph computes shapes of its own")?;
        }
    }
    for table in &plan.kernels {
        output::line(table.to_string().trim_end())?;
    }
    if let Some(why) = &plan.not_timed {
        output::line(format!("kernels: not timed, {why}"))?;
    }
    plan.memory.as_deref().map_or(Ok(()), print_memory)
}

fn print_memory(slots: &[SlotPlan]) -> Result<(), Failure> {
    output::line(format!(
        "memory of a run, in {} that tensors share:",
        output::count(slots.len(), "slot", "slots")
    ))?;
    let mut table = output::table(&["  slot", "bytes", "tensors"]);
    for (index, slot) in slots.iter().enumerate() {
        let (named, more) = slot.tensors.split_at(slot.tensors.len().min(NAMED_TENSORS));
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        table.add_row([format!("  {index}"), slot.bytes.clone(), format!("{}{more}", named.join(", "))]);
    }
    output::print_table(table, [])
}
