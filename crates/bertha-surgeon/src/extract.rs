//! A part of a graph as a model of its own.

use std::collections::HashSet;

use crate::changes::Changes;
use crate::clean;
use crate::error::{Result, SurgeryError};
use crate::model::Model;
use crate::names::{nearest, node_name};
use crate::types::{ancestors, values_of};
use crate::uses::{Uses, reads};

/// Cuts the model down to what computes `outputs` from `inputs`. Without inputs, those of the model that are needed are
/// kept; without outputs, those of the model.
///
/// # Errors
/// [`SurgeryError::Request`] for a name that is not there, an input that the outputs do not depend on, an input of the model
/// that is needed but not named, or a tensor whose type cannot be found.
pub fn extract(model: &mut Model, inputs: &[String], outputs: &[String]) -> Result<Changes> {
    let graph = &model.graph;
    let uses = Uses::new(graph)?;
    for name in inputs.iter().chain(outputs) {
        if !uses.has(name) {
            let near = nearest(name, uses.names());
            return Err(SurgeryError::request(format!("there is no tensor `{name}`{near}")));
        }
    }
    for (names, what) in [(inputs, "input"), (outputs, "output")] {
        if let Some((_, twice)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(SurgeryError::request(format!("`{twice}` is named twice as {what}")));
        }
    }
    let outputs: Vec<String> = match outputs {
        [] => graph.outputs.iter().map(|value| value.name().to_owned()).collect(),
        some => some.to_vec(),
    };
    let cut: HashSet<&str> = inputs.iter().map(String::as_str).collect();
    if let Some(both) = outputs.iter().find(|name| cut.contains(name.as_str())) {
        return Err(SurgeryError::request(format!("`{both}` is named as input and as output")));
    }
    let kept = ancestors(graph, &uses, outputs.iter().map(String::as_str), &cut);
    let mut read: HashSet<&str> = outputs.iter().map(String::as_str).collect();
    read.extend(kept.iter().flat_map(|at| reads(&graph.nodes[*at])));
    if let Some(unread) = inputs.iter().find(|name| !read.contains(name.as_str())) {
        return Err(SurgeryError::request(format!("the outputs do not depend on `{unread}`")));
    }
    let is_constant = |name: &str| graph.initializer(name).is_some();
    let needed: Vec<&str> = graph.inputs.iter().map(|value| value.name()).collect();
    let needed: Vec<&str> =
        needed.into_iter().filter(|name| read.contains(name) && !cut.contains(name)).collect();
    let unnamed: Vec<_> =
        needed.iter().filter(|name| !is_constant(name)).map(|name| format!("`{name}`")).collect();
    if !inputs.is_empty() && !unnamed.is_empty() {
        return Err(SurgeryError::request(format!(
            "the outputs also depend on {}, not through the tensors named as inputs: name it as an input too",
            unnamed.join(", ")
        )));
    }
    if let Some((at, missing)) = undefined(model, &uses, &kept, &cut) {
        return Err(SurgeryError::request(format!(
            "node `{}` reads `{missing}`, which nothing in the file makes",
            node_name(&model.graph.nodes[at], at)
        )));
    }

    let mut new_inputs = inputs.to_vec();
    if inputs.is_empty() {
        new_inputs.extend(needed.iter().map(|name| (*name).to_owned()));
    } else {
        // Constants that old files list as inputs stay so.
        new_inputs.extend(needed.iter().filter(|name| is_constant(name)).map(|name| (*name).to_owned()));
    }
    let input_values = values_of(model, &new_inputs)?;
    let output_values = values_of(model, &outputs)?;
    let before = model.graph.nodes.len();
    let mut at = 0;
    model.graph.nodes.retain(|_| {
        at += 1;
        kept.contains(&(at - 1))
    });
    model.graph.initializers.retain(|tensor| !inputs.iter().any(|name| name == tensor.name()));
    model.graph.inputs = input_values;
    model.graph.outputs = output_values;
    let ends: HashSet<String> = new_inputs.iter().chain(&outputs).cloned().collect();
    model.graph.value_infos.retain(|value| !ends.contains(value.name()));
    let mut changes = clean::take_out(model);
    changes.changes.insert(0, format!("kept {} of {before} nodes", model.graph.nodes.len()));
    Ok(changes)
}

/// A tensor that is read but nowhere made.
fn undefined<'m>(
    model: &'m Model,
    uses: &Uses<'_>,
    kept: &HashSet<usize>,
    cut: &HashSet<&str>,
) -> Option<(usize, &'m str)> {
    let mut kept: Vec<_> = kept.iter().copied().collect();
    kept.sort_unstable();
    kept.into_iter().find_map(|at| {
        let names = reads(&model.graph.nodes[at]).into_iter();
        names.filter(|name| !uses.has(name) && !cut.contains(name)).map(|name| (at, name)).next()
    })
}
