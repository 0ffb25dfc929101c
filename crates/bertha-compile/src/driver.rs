//! Runs passes over a graph.

use bertha_graph::{Graph, GraphError};

use crate::log::{Event, Log};
use crate::passes;
use crate::patch::{Findings, apply, sources_of, without_overlaps};
use crate::uses::Uses;

/// A rewriting rule over whole graphs. It proposes; the driver applies.
pub trait Pass: Sync {
    /// Short name, as the log and `--stop-after` have it.
    fn name(&self) -> &'static str;

    /// What it does, in one line for people.
    fn summary(&self) -> &'static str;

    /// Looks at the graph as it stands and proposes patches.
    fn find(&self, graph: &Graph, uses: &Uses) -> Findings;
}

/// Why a graph could not be compiled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompileError {
    /// A pass proposed something that is not a graph: a fault of ours.
    #[error("pass {pass}: {source}; this is a bug in Bertha, `--stop-after` finds a way around it")]
    Pass {
        /// The pass.
        pass: &'static str,
        /// What is wrong with its patch.
        source: Box<GraphError>,
    },
    /// A pass was to be left out that does not exist.
    #[error("there is no pass {name}; the passes are {}", known.join(", "))]
    UnknownPass {
        /// What was asked for.
        name: String,
        /// The passes there are.
        known: Vec<&'static str>,
    },
    /// The graph was wrong before any pass.
    #[error(transparent)]
    Graph(Box<GraphError>),
}

impl From<GraphError> for CompileError {
    fn from(error: GraphError) -> Self {
        CompileError::Graph(Box::new(error))
    }
}

/// Rounds after which a pass that still finds something is taken to go in circles.
const MAX_ROUNDS: usize = 1000;

/// Runs all portable passes.
///
/// # Errors
/// When the graph is no graph, or a pass is at fault.
pub fn optimize(graph: &Graph) -> Result<(Graph, Log), CompileError> {
    optimize_with(graph, passes::portable())
}

/// Runs the given passes in order, each until it finds nothing more.
///
/// # Errors
/// As [`optimize`].
pub fn optimize_with(graph: &Graph, passes: &[&dyn Pass]) -> Result<(Graph, Log), CompileError> {
    let mut run = Run { log: Log::default(), left: usize::MAX, without: &[] };
    let graph = run.passes(graph, passes)?;
    Ok((graph, run.log))
}

/// Passes under way.
pub(crate) struct Run<'a> {
    pub(crate) log: Log,
    /// Patches that may still be applied.
    pub(crate) left: usize,
    /// Names of passes that are left out.
    pub(crate) without: &'a [String],
}

impl Run<'_> {
    pub(crate) fn leaves_out(&self, pass: &str) -> bool {
        self.without.iter().any(|name| name == pass)
    }

    /// Applies passes in order, each until it finds nothing more or no patch is left.
    pub(crate) fn passes(&mut self, graph: &Graph, passes: &[&dyn Pass]) -> Result<Graph, CompileError> {
        let mut graph = apply(graph, &[])?;
        for pass in passes {
            if self.leaves_out(pass.name()) {
                continue;
            }
            let failed = |source| CompileError::Pass { pass: pass.name(), source: Box::new(source) };
            for _ in 0..MAX_ROUNDS {
                let findings = pass.find(&graph, &Uses::of(&graph));
                let mut patches = without_overlaps(findings.patches);
                patches.truncate(self.left);
                if patches.is_empty() {
                    self.log.near_misses.extend(findings.near_misses);
                    self.log.settled.extend(findings.settled);
                    break;
                }
                self.left -= patches.len();
                for patch in &patches {
                    let sources = sources_of(&graph, &patch.removes);
                    self.log.events.push(Event { pass: pass.name(), sources, what: patch.what.clone() });
                }
                graph = apply(&graph, &patches).map_err(failed)?;
            }
        }
        Ok(graph)
    }
}
