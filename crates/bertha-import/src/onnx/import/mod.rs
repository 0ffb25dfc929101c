//! From an ONNX file to a [`Model`].
//!
//! The walk over the nodes is in [`graph`]; each op of ONNX is one row of the table in [`ops`]. Parameters that were
//! attributes in older operator sets become constant operands, functions of the file are written out, and branches
//! become graphs that get what they use of the outer one as inputs.

use std::path::Path;

use bertha_graph::plugin::PluginSet;
use bertha_graph::{Model, Task};

use super::proto::ModelProto;
use super::{ExternalFiles, OnnxFile};
use crate::error::{ImportError, Result};

mod context;
pub(super) mod dtypes;
mod functions;
mod graph;
mod info;
mod inputs;
mod ops;
mod opsets;
mod plugins;
mod subgraph;
mod support;

pub use opsets::domain;

/// What the reader of an ONNX model may be told.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// What the head answers; guessed from the configuration beside the file or from the outputs when absent.
    pub task: Option<Task>,
    /// Whether `tokenizer.json`, `config.json` and the like are looked for beside the file.
    pub companions: bool,
    /// Plugins; a node whose domain and op type one of them answers to becomes it, also where the op is built in or a
    /// function of the file has its name.
    pub plugins: PluginSet,
}

impl Default for ImportOptions {
    fn default() -> Self {
        ImportOptions { task: None, companions: true, plugins: PluginSet::new() }
    }
}

/// A node of an ONNX file that cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// Its name, made from the op and the position when it has none; nodes of branches and functions are named after
    /// the node around them.
    pub name: String,
    /// The op.
    pub op_type: String,
    /// The op's domain; empty for the default one.
    pub domain: String,
    /// Why not.
    pub reason: String,
}

/// Reads an ONNX file, with external data and the files that describe the model beside it.
///
/// # Errors
/// A file that is damaged, or that uses something that is not supported: all such nodes are listed in one
/// [`ImportError::UnsupportedNodes`](crate::ImportError::UnsupportedNodes).
pub fn import(path: impl AsRef<Path>, options: &ImportOptions) -> Result<Model> {
    let path = path.as_ref();
    let file = OnnxFile::open(path)?;
    import_with(&file.model, &file.externals, path, options)
}

/// [`import`] for a model that is in memory. `path` is where it came from or would lie: external data and the files
/// that describe the model are looked for beside it, and messages name it.
///
/// # Errors
/// As [`import`].
pub fn import_model(model: &ModelProto, path: impl AsRef<Path>, options: &ImportOptions) -> Result<Model> {
    let path = path.as_ref();
    import_with(model, &ExternalFiles::beside(path), path, options)
}

fn import_with(
    model: &ModelProto,
    externals: &ExternalFiles,
    path: &Path,
    options: &ImportOptions,
) -> Result<Model> {
    support::check(model, &options.plugins, path)?;
    let graph = graph::translate_model(model, path, externals, &options.plugins)?;
    graph
        .verify()
        .map_err(|source| ImportError::Graph { path: path.to_owned(), source: Box::new(source) })?;
    let companions = match path.parent().filter(|_| options.companions) {
        Some(folder) => info::Companions::beside(folder)?,
        None => info::Companions::default(),
    };
    let info = info::describe(&graph, model, &companions, options.task, path);
    Ok(Model { graph, info, tokenizer: companions.tokenizer })
}
