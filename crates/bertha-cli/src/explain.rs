//! Follows one node of the source model to the step that computes it.

use std::collections::BTreeSet;

use bertha::graph::{Graph, Node};
use bertha::{Engine, Model};

use crate::commands::Failure;
use crate::output;

/// What there is to say of a node without a step.
const NO_STEP: &str = "  no step computes it: it was known when the model was compiled, or what runs does not need it \
(without padding there is no mask, and with known shapes nothing computes them)";

/// Names that an error suggests.
const SUGGESTED: usize = 5;

/// Checks that the source model has all the nodes, so that a wrong name is told before a long build.
pub(crate) fn check(source: &Model, names: &[String]) -> Result<(), Failure> {
    names.iter().try_for_each(|name| find(&source.graph, name).map(|_| ()))
}

fn find<'g>(graph: &'g Graph, name: &str) -> Result<&'g Node, Failure> {
    graph.nodes().iter().find(|node| node.name == name).ok_or_else(|| unknown(graph, name))
}

/// Prints what became of `name`, a node of `source`, in the engine compiled from it: patch by patch, then the nodes of
/// the graph that runs and their kernels.
pub(crate) fn print(source: &Model, engine: &Engine, name: &str) -> Result<(), Failure> {
    let node = find(&source.graph, name)?;
    output::line(format!("{name}: {}", describe(&source.graph, node)))?;
    for event in engine.log().explain(name) {
        output::line(format!("  {:<20} {}", event.pass, event.what))?;
    }
    let steps = engine.cpu().steps();
    let holders: Vec<&Node> = engine.graph().nodes().iter().filter(|node| stands_for(node, name)).collect();
    for holder in &holders {
        let kernel = match &steps {
            Some(steps) => steps.iter().find(|(step, _)| *step == holder.name).map(|(_, kernel)| *kernel),
            None => Some("a kernel chosen for each input shape"),
        };
        let by = kernel.map_or_else(String::new, |kernel| format!(", by {kernel}"));
        output::line(format!("  computed in {}: {}{by}", holder.name, describe(engine.graph(), holder)))?;
    }
    if holders.is_empty() {
        output::line(NO_STEP)?;
    }
    Ok(())
}

fn stands_for(node: &Node, name: &str) -> bool {
    node.name == name || node.sources.iter().any(|source| source == name)
}

/// The operation and the type of its first result.
fn describe(graph: &Graph, node: &Node) -> String {
    let ty = node.outputs.iter().flatten().next().map(|id| &graph.tensor(*id).ty);
    let ty = ty.map_or_else(String::new, |ty| format!(" -> {}{}", ty.dtype.name(), ty.shape));
    format!("{}{ty}", node.op.mnemonic())
}

/// An error that lists the names most like the one asked for.
fn unknown(graph: &Graph, name: &str) -> Failure {
    let mut names: Vec<(f64, &str)> = graph
        .nodes()
        .iter()
        .map(|node| (strsim::jaro_winkler(&node.name, name) + bonus(&node.name, name), node.name.as_str()))
        .collect();
    names.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: BTreeSet<&str> = names.iter().take(SUGGESTED).map(|(_, name)| *name).collect();
    let near: Vec<&str> = near.into_iter().collect();
    Failure::Usage(format!(
        "the source model has no node {name}; names like it: {} (`bertha inspect MODEL --text --source` lists all)",
        near.join(", ")
    ))
}

/// A name that holds what was asked for is likely meant.
fn bonus(name: &str, asked: &str) -> f64 {
    if name.to_lowercase().contains(&asked.to_lowercase()) { 1.0 } else { 0.0 }
}
