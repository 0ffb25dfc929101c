//! `bertha surgeon`.

pub(crate) mod args;
mod patterns;
mod show;

use std::path::{Path, PathBuf};

use bertha_surgeon::{
    Changes, FoldOptions, Model, Replacement, Role, clean, declare_type, extract, fold, parse_literal,
    remove, rename_node, rename_tensor, replace, set_length, set_shapes,
};
use serde::Serialize;

use super::Failure;
use crate::output;
use args::{Operation, RenameArgs, ReplaceArgs, ShapeArgs, SurgeonArgs, Target, failure};

pub(crate) fn run(args: SurgeonArgs) -> Result<(), Failure> {
    match args.operation {
        Operation::Summary(args) => show::summary(&args.model, args.json),
        Operation::List(args) => show::list(&args.model, &args.nodes.selection(), args.json),
        Operation::Extract(args) => change(&args.model, &args.target, |model| {
            for (tensor, ty) in &args.types {
                declare_type(model, tensor, ty).map_err(failure)?;
            }
            extract(model, &args.inputs, &args.outputs).map_err(failure)
        }),
        Operation::Fold(args) => change(&args.model, &args.target, |model| {
            let options = FoldOptions { max_bytes: args.max_bytes, ..FoldOptions::default() };
            fold(model, &options).map_err(failure)
        }),
        Operation::Clean(args) => change(&args.model, &args.target, |model| Ok(clean(model))),
        Operation::Shape(args) => change(&args.model, &args.target, |model| shape(model, &args)),
        Operation::Rename(args) => change(&args.model, &args.target, |model| rename(model, &args)),
        Operation::Remove(args) => {
            let nodes = args.nodes.selection();
            change(&args.model, &args.target, |model| remove(model, &nodes, args.via).map_err(failure))
        }
        Operation::Replace(args) => replace_nodes(args),
        Operation::Match(args) => patterns::find(&args),
        Operation::Rewrite(args) => patterns::replace(&args),
    }
}

fn shape(model: &mut Model, args: &ShapeArgs) -> Result<Changes, Failure> {
    let mut changes = Changes::default();
    if !args.shapes.is_empty() {
        changes = set_shapes(model, &args.shapes).map_err(failure)?;
    }
    for (name, length) in &args.lengths {
        append(&mut changes, set_length(model, name, length).map_err(failure)?);
    }
    Ok(changes)
}

fn rename(model: &mut Model, args: &RenameArgs) -> Result<Changes, Failure> {
    let mut changes = Changes::default();
    for (role, pairs) in
        [(Role::Tensor, &args.tensors), (Role::Input, &args.inputs), (Role::Output, &args.outputs)]
    {
        for (old, new) in pairs {
            append(&mut changes, rename_tensor(model, role, old, new).map_err(failure)?);
        }
    }
    for (old, new) in &args.nodes {
        append(&mut changes, rename_node(model, old, new).map_err(failure)?);
    }
    Ok(changes)
}

fn replace_nodes(args: ReplaceArgs) -> Result<(), Failure> {
    let mut replacement = Replacement {
        version: args.opset_version,
        clear_attributes: args.clear,
        drop_attributes: args.dropped,
        ..Replacement::default()
    };
    if let Some(op) = args.op {
        let (domain, op_type) = op.rsplit_once("::").unwrap_or(("", &op));
        if op_type.is_empty() {
            return Err(Failure::Usage(format!("`{op}` names no op")));
        }
        replacement.domain = Some(domain.to_owned());
        replacement.op_type = Some(op_type.to_owned());
    }
    for (name, value) in &args.attributes {
        let literal = parse_literal(&format!("attribute {name}"), value);
        let literal = literal.map_err(|error| Failure::Usage(error.to_string()))?;
        replacement.attributes.push(literal.attribute(name).map_err(Failure::Usage)?);
    }
    let nodes = args.nodes.selection();
    change(&args.model, &args.target, |model| replace(model, &nodes, &replacement).map_err(failure))
}

fn append(changes: &mut Changes, more: Changes) {
    changes.changes.extend(more.changes);
    changes.notes.extend(more.notes);
}

/// A model in numbers, before or after an operation.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Size {
    nodes: usize,
    constants: usize,
    bytes: u64,
}

pub(crate) fn size(model: &Model) -> Size {
    let summary = bertha_surgeon::summary(model);
    Size {
        nodes: summary.nodes + summary.inner_nodes,
        constants: summary.parameters.tensors,
        bytes: model.encoded_len(),
    }
}

#[derive(Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    changes: Changes,
    before: Size,
    after: Size,
    output: Option<&'a Path>,
}

/// Opens, changes, writes, and says what changed.
fn change(
    path: &Path,
    target: &Target,
    operation: impl FnOnce(&mut Model) -> Result<Changes, Failure>,
) -> Result<(), Failure> {
    let output = check_target(path, target)?;
    let mut model = open(path)?;
    let before = size(&model);
    let changes = operation(&mut model)?;
    let after = size(&model);
    if let Some(output) = &output {
        model.save(output).map_err(failure)?;
    }
    if target.json {
        return output::json(&Outcome { changes, before, after, output: output.as_deref() });
    }
    show::changes(&changes)?;
    show::sizes(before, after, output.as_deref())
}

pub(crate) fn open(path: &Path) -> Result<Model, Failure> {
    Model::open(path).map_err(failure)
}

/// Where to write; `None` for a dry run. The model itself is only written over when that was asked for.
pub(crate) fn check_target(path: &Path, target: &Target) -> Result<Option<PathBuf>, Failure> {
    if target.dry_run {
        return Ok(None);
    }
    if target.in_place {
        return Ok(Some(path.to_owned()));
    }
    let Some(output) = &target.output else {
        return Err(Failure::Usage("say where to write: -o OUT.onnx, --in-place, or --dry-run".into()));
    };
    let same = |a: &Path, b: &Path| match (std::fs::canonicalize(a), std::fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    if same(path, output) {
        return Err(Failure::Usage(format!(
            "{} is the model itself; --in-place writes over it, another name after -o leaves it as it is",
            output.display()
        )));
    }
    Ok(Some(output.clone()))
}
