//! Whole models: the passes, and what they change about how a model is called.

use bertha_graph::{Interface, Model, ModelInfo, PositionIds, ragged};

use crate::driver::{CompileError, optimize_with};
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
    let (mut graph, mut log) = optimize_with(&model.graph, passes::portable())?;
    let mut info = model.info.clone();
    if info.interface == Interface::Dense {
        match crate::ragged::rewrite(&graph)? {
            Ok(rewritten) => {
                let what = format!(
                    "padded graph of {} nodes becomes a ragged one of {}",
                    graph.nodes().len(),
                    rewritten.graph.nodes().len()
                );
                log.events.push(Event { pass: crate::ragged::NAME, sources: Vec::new(), what });
                describe(&mut info, rewritten.position_ids, rewritten.max_tokens);
                graph = rewritten.graph;
            }
            Err(why) => log.near_misses.push(why),
        }
    }
    if info.interface == Interface::Ragged {
        let (optimized, more) = optimize_with(&graph, passes::ragged())?;
        log.events.extend(more.events);
        log.near_misses.extend(more.near_misses);
        graph = without_unread_input(&optimized, ragged::TOKEN_TYPE_IDS)?;
        info.token_types = graph.find(ragged::TOKEN_TYPE_IDS).is_some();
    }
    Ok((Model { graph, info, tokenizer: model.tokenizer.clone() }, log))
}

fn describe(info: &mut ModelInfo, position_ids: PositionIds, max_tokens: Option<usize>) {
    info.interface = Interface::Ragged;
    info.position_ids = position_ids;
    info.max_tokens = match (info.max_tokens, max_tokens) {
        (Some(told), Some(rows)) => Some(told.min(rows)),
        (told, rows) => told.or(rows),
    };
}
