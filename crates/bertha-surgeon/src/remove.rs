//! Taking nodes out.

use crate::changes::Changes;
use crate::clean;
use crate::error::{Result, SurgeryError};
use crate::model::Model;
use crate::names::node_name;
use crate::rename::rename_visible;
use crate::select::Selection;
use crate::uses::{Uses, redirect, sort};

/// Takes nodes out: whoever read the first output of one reads its input number `via` instead. A node whose result is an
/// output of the model hands the output's name on; where that cannot be, it becomes an Identity. What then nobody needs goes
/// too.
///
/// # Errors
/// [`SurgeryError::Request`] when a node has no such input, or when another output than the first is read.
pub fn remove(model: &mut Model, nodes: &Selection, via: usize) -> Result<Changes> {
    let mut changes = Changes::default();
    let chosen = nodes.find(&model.graph)?;
    let domains = model.used_domains();
    // From the end, so that positions stay right while nodes go.
    let mut loose = Vec::new();
    for at in chosen.into_iter().rev() {
        loose.extend(model.graph.nodes[at].inputs.iter().cloned());
        remove_one(model, at, via, &mut changes)?;
    }
    changes.changes.reverse();
    clean::sweep(&mut model.graph, loose);
    model.drop_emptied_opsets(&domains);
    sort(&mut model.graph)?;
    Ok(changes)
}

fn remove_one(model: &mut Model, at: usize, via: usize, changes: &mut Changes) -> Result<()> {
    let node = &model.graph.nodes[at];
    let name = node_name(node, at);
    let op = node.op();
    let input = match node.inputs.get(via) {
        Some(input) if !input.is_empty() => input.clone(),
        _ => {
            let inputs = node.inputs.len();
            return Err(SurgeryError::request(format!(
                "node `{name}` ({op}) has {inputs} inputs, so its result cannot become input number {via}"
            )));
        }
    };
    let uses = Uses::new(&model.graph)?;
    let mut outputs = node.outputs.iter();
    let Some(output) = outputs.next().filter(|output| !output.is_empty()).cloned() else {
        return Err(SurgeryError::request(format!("node `{name}` ({op}) has no first output")));
    };
    let read =
        |output: &String| !output.is_empty() && (!uses.readers(output).is_empty() || uses.is_output(output));
    if let Some(other) = outputs.find(|output| read(output)) {
        return Err(SurgeryError::request(format!(
            "node `{name}` ({op}) cannot be taken out: its further output `{other}` is read"
        )));
    }
    if !uses.is_output(&output) {
        model.graph.nodes.remove(at);
        redirect(&mut model.graph, &output, &input);
        model.graph.value_infos.retain(|value| value.name() != output);
    } else if uses.producer(&input).is_some() && !uses.is_output(&input) {
        model.graph.nodes.remove(at);
        redirect(&mut model.graph, &output, &input);
        model.graph.value_infos.retain(|value| value.name() != input);
        rename_visible(&mut model.graph, &input, &output);
    } else {
        let node = &mut model.graph.nodes[at];
        node.inputs = vec![input.clone()];
        node.outputs.truncate(1);
        node.attributes.clear();
        node.overload.clear();
        "Identity".clone_into(&mut node.op_type);
        node.domain.clear();
        changes.change(format!(
            "node `{name}` ({op}) is now an Identity: its result is an output of the model, and `{input}` cannot be \
             renamed to it"
        ));
        return Ok(());
    }
    changes.change(format!("took out node `{name}` ({op}): `{output}` is now `{input}`"));
    Ok(())
}
