//! What the surgeon prints.

use std::path::Path;

use bertha_surgeon::{Changes, NodeLine, Selection, Summary};

use super::{Failure, Size, open};
use crate::output;

pub(super) fn summary(path: &Path, json: bool) -> Result<(), Failure> {
    let model = open(path)?;
    let summary = bertha_surgeon::summary(&model);
    if json {
        return output::json(&summary);
    }
    let mut table = output::table(&[]);
    table.add_row(["model", &path.display().to_string()]);
    table.add_row(["format", &format!("IR version {}", summary.ir_version)]);
    if !summary.producer.is_empty() {
        table.add_row(["producer", &summary.producer]);
    }
    let opsets: Vec<_> =
        summary.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
    table.add_row(["operator sets", &opsets.join(", ")]);
    let inner = match summary.inner_nodes {
        0 => String::new(),
        count => format!(" and {count} in inner graphs"),
    };
    table.add_row(["nodes", &format!("{}{inner}", summary.nodes)]);
    table.add_row(["parameters", &parameters(&summary)]);
    if !summary.functions.is_empty() {
        table.add_row(["functions", &summary.functions.join(", ")]);
    }
    output::print_table(table, [])?;
    for (title, ports) in [("inputs", &summary.inputs), ("outputs", &summary.outputs)] {
        output::line(format!("\n{title}:"))?;
        let mut table = output::table(&[]);
        for port in ports {
            table.add_row([format!("  {}", port.name), port.ty.clone()]);
        }
        output::print_table(table, [])?;
    }
    output::line("\nops:")?;
    let mut table = output::table(&[]);
    for entry in &summary.ops {
        table.add_row([format!("  {}", entry.op), entry.count.to_string()]);
    }
    output::print_table(table, [1])
}

fn parameters(summary: &Summary) -> String {
    let parameters = &summary.parameters;
    let types: Vec<_> = parameters.types.iter().map(|(ty, count)| format!("{count} {ty}")).collect();
    let types = if types.is_empty() { String::new() } else { format!(" ({})", types.join(", ")) };
    let external = match parameters.external {
        0 => String::new(),
        count => format!(", {count} in other files"),
    };
    let tensors = output::count(parameters.tensors, "tensor", "tensors");
    format!(
        "{tensors}, {} elements, {}{types}{external}",
        parameters.elements,
        output::bytes(parameters.bytes)
    )
}

pub(super) fn list(path: &Path, nodes: &Selection, json: bool) -> Result<(), Failure> {
    let model = open(path)?;
    let lines = bertha_surgeon::list(&model, nodes);
    if json {
        return output::json(&lines);
    }
    let mut table = output::table(&["position", "op", "name", "inputs", "outputs", "attributes"]);
    for line in &lines {
        table.add_row([
            line.position.to_string(),
            line.op.clone(),
            format!("{}{}", line.within, line.name),
            line.inputs.join(", "),
            outputs(line),
            line.attributes
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(" "),
        ]);
    }
    output::print_table(table, [0])?;
    output::line(output::count(lines.len(), "node", "nodes"))
}

/// Names of the outputs, with their types where the file says them.
fn outputs(line: &NodeLine) -> String {
    let outputs = line.outputs.iter().zip(&line.types).map(|(name, ty)| match ty.as_str() {
        "?" => name.clone(),
        ty => format!("{name}: {ty}"),
    });
    outputs.collect::<Vec<_>>().join(", ")
}

/// Changes that are printed one by one.
const SHOWN: usize = 20;

pub(super) fn changes(changes: &Changes) -> Result<(), Failure> {
    if changes.changes.is_empty() {
        output::line("nothing changed")?;
    }
    changes.changes.iter().take(SHOWN).try_for_each(output::line)?;
    if changes.changes.len() > SHOWN {
        output::line(format!("and {} more (--json lists them all)", changes.changes.len() - SHOWN))?;
    }
    for note in &changes.notes {
        eprintln!("note: {note}");
    }
    Ok(())
}

pub(super) fn sizes(before: Size, after: Size, output: Option<&Path>) -> Result<(), Failure> {
    let mut table = output::table(&["", "before", "after"]);
    table.add_row(["nodes".to_owned(), before.nodes.to_string(), after.nodes.to_string()]);
    table.add_row(["constants".to_owned(), before.constants.to_string(), after.constants.to_string()]);
    table.add_row(["file".to_owned(), output::bytes(before.bytes), output::bytes(after.bytes)]);
    output::line("")?;
    output::print_table(table, [1, 2])?;
    match output {
        Some(path) => output::line(format!("\nwrote {}", path.display())),
        None => output::line("\nwrote nothing: this was a dry run"),
    }
}
