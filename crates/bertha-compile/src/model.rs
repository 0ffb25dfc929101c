//! Whole models: the passes, and what they change about how a model is called.

use bertha_graph::{Interface, Model, ModelInfo, PositionIds, ragged};

use crate::driver::{CompileError, Run};
use crate::log::{Event, Log};
use crate::passes;
use crate::patch::without_unread_input;

/// Runs the portable passes over a model, padded graphs becoming ragged where that is the same function, and describes
/// the result: interface, positions, token types, the longest sequence.
///
/// A padded graph that becomes ragged computes nothing for pads. Whoever serves padded callers puts zeros there, drops
/// the tokens whose attention mask is 0, and takes the positions of the others from the padded tensor, as
/// [`PositionIds`] says. Where it stays padded, the log's near misses say why.
///
/// # Errors
/// When the graph is no graph, or a pass is at fault.
pub fn optimize_model(model: &Model) -> Result<(Model, Log), CompileError> {
    optimize_model_with(model, &Options::default())
}

/// What may be asked of the passes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The number of patches after which no more are applied: by halving it one finds the patch that breaks a model.
    /// The rewriting of a padded graph to a ragged one counts as one.
    pub stop_after: Option<usize>,
    /// Names of passes to leave out ([`passes::names`]), to see what each is worth.
    pub without: Vec<String>,
}

/// [`optimize_model`] with options.
///
/// # Errors
/// As [`optimize_model`].
pub fn optimize_model_with(model: &Model, options: &Options) -> Result<(Model, Log), CompileError> {
    let known = passes::names();
    if let Some(name) = options.without.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(CompileError::UnknownPass { name: name.clone(), known });
    }
    let left = options.stop_after.unwrap_or(usize::MAX);
    let mut run = Run { log: Log::default(), left, without: &options.without };
    let mut graph = run.passes(&model.graph, passes::portable())?;
    let mut info = model.info.clone();
    if info.interface == Interface::Dense && run.left > 0 && !run.leaves_out(crate::ragged::NAME) {
        match crate::ragged::rewrite(&graph)? {
            Ok(rewritten) => {
                let what = format!(
                    "padded graph of {} nodes becomes a ragged one of {}",
                    graph.nodes().len(),
                    rewritten.graph.nodes().len()
                );
                run.log.events.push(Event { pass: crate::ragged::NAME, sources: Vec::new(), what });
                run.left -= 1;
                describe(&mut info, rewritten.position_ids, rewritten.max_tokens);
                graph = rewritten.graph;
            }
            Err(why) => run.log.near_misses.push(why),
        }
    }
    if info.interface == Interface::Ragged {
        let optimized = run.passes(&graph, passes::ragged())?;
        graph = without_unread_input(&optimized, ragged::TOKEN_TYPE_IDS)?;
        info.token_types = graph.find(ragged::TOKEN_TYPE_IDS).is_some();
    }
    let graph = run.passes(&graph, passes::closing())?;
    Ok((Model { graph, info, tokenizer: model.tokenizer.clone() }, run.log))
}

fn describe(info: &mut ModelInfo, position_ids: PositionIds, max_tokens: Option<usize>) {
    info.interface = Interface::Ragged;
    info.position_ids = position_ids;
    info.max_tokens = match (info.max_tokens, max_tokens) {
        (Some(told), Some(rows)) => Some(told.min(rows)),
        (told, rows) => told.or(rows),
    };
}
