//! The one error type of this crate: what went wrong, in which file, at which tensor or node.

use std::io;
use std::path::{Path, PathBuf};

use bertha_graph::GraphError;

use crate::hf::torch_bin::PickleError;
use crate::onnx::UnsupportedNode;

/// Result of everything that reads or writes model files.
pub type Result<T, E = ImportError> = std::result::Result<T, E>;

/// Why a model file could not be read or written.
///
/// Every message names the file first; messages about one tensor name the tensor too. New importers add variants
/// here rather than a second error type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The operating system refused an action on a file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb phrase: "open the file".
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },

    /// The bytes are not what the format asks for.
    #[error("{}: not a readable {format} file: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that was expected: "ONNX", "safetensors", "PyTorch", "npz", "npy".
        format: &'static str,
        /// What is wrong and where.
        reason: String,
    },

    /// One tensor of an otherwise readable file is wrong.
    #[error("{}: tensor `{tensor}`: {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// What is wrong.
        reason: String,
    },

    /// The file is valid but uses something that is not supported.
    #[error("{}: {what} is not supported: {hint}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The thing, naming the tensor or entry it belongs to.
        what: String,
        /// What the user can do about it.
        hint: String,
    },

    /// A tensor that is needed is not there.
    #[error("{}: there is no tensor `{tensor}`{}", path.display(), nearest_note(nearest))]
    MissingTensor {
        /// The file or checkpoint folder that was searched.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
        /// The most similar name that is there, if any comes close.
        nearest: Option<String>,
    },

    /// A file refers to another file by a name that must not be followed.
    #[error("{}: refuses the file name `{location}`{}: {reason}", path.display(), owner_note(owner))]
    UnsafeLocation {
        /// The file holding the reference.
        path: PathBuf,
        /// What refers to it ("tensor `x`"), empty when the whole file does.
        owner: String,
        /// The name as written.
        location: String,
        /// Why it is refused.
        reason: &'static str,
    },

    /// A node of an ONNX file does not fit its op or its operands.
    #[error("{}: node `{node}` ({op_type}): {reason}", path.display())]
    Node {
        /// The ONNX file.
        path: PathBuf,
        /// The node's name, made from its op and position when it has none.
        node: String,
        /// Its op.
        op_type: String,
        /// What is wrong.
        reason: String,
    },

    /// An ONNX file uses ops that cannot be imported.
    #[error("{}: {}", path.display(), unsupported_list(nodes))]
    UnsupportedNodes {
        /// The ONNX file.
        path: PathBuf,
        /// All such nodes, in the order of the file.
        nodes: Vec<UnsupportedNode>,
    },

    /// A model cannot be written as ONNX.
    #[error("cannot export {what}: {reason}")]
    Export {
        /// The node, input, output or option.
        what: String,
        /// Why not.
        reason: String,
    },

    /// A sharded checkpoint does not fit together.
    #[error("{}: {reason}", path.display())]
    Shards {
        /// The index file.
        path: PathBuf,
        /// Which shard or tensor is wrong, and how.
        reason: String,
    },

    /// A field of a configuration file is missing, of the wrong kind, or asks for something that is not supported.
    #[error("{}: `{field}`: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field, with dots between the levels.
        field: String,
        /// What was expected, and what is there.
        reason: String,
    },

    /// A checkpoint has tensors that no part of the model uses: it is another model than the configuration says.
    #[error("{}: {} that the model does not use: {}; {hint}", path.display(), count_note(tensors), list_note(tensors))]
    ExtraTensors {
        /// The weight file.
        path: PathBuf,
        /// Their names, sorted.
        tensors: Vec<String>,
        /// What the user can do about it.
        hint: String,
    },

    /// The parts are there but do not make a graph.
    #[error("{}: {source}", path.display())]
    Graph {
        /// The model's file or folder.
        path: PathBuf,
        /// Which node, and what was expected.
        source: Box<GraphError>,
    },

    /// A pickle in a PyTorch file is malformed or asks for something it must not have.
    #[error("{}: {entry}: {source}", path.display())]
    Pickle {
        /// The PyTorch file.
        path: PathBuf,
        /// The part of the file: the zip entry or, in the old format, which of its pickles.
        entry: String,
        /// What is wrong, with the offset inside that part.
        source: PickleError,
    },
}

impl ImportError {
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }

    pub(crate) fn format(path: &Path, format: &'static str, reason: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), format, reason: reason.into() }
    }

    pub(crate) fn tensor(path: &Path, tensor: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Tensor { path: path.to_owned(), tensor: tensor.into(), reason: reason.into() }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.into(), hint: hint.into() }
    }

    pub(crate) fn config(path: &Path, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { path: path.to_owned(), field: field.into(), reason: reason.into() }
    }

    pub(crate) fn missing_tensor<'a>(
        path: &Path,
        tensor: &str,
        names: impl Iterator<Item = &'a str>,
    ) -> Self {
        Self::MissingTensor {
            path: path.to_owned(),
            tensor: tensor.to_owned(),
            nearest: nearest_name(tensor, names),
        }
    }
}

/// One line for each node.
fn unsupported_list(nodes: &[UnsupportedNode]) -> String {
    let mut list = format!("{} nodes are not supported:", nodes.len());
    for UnsupportedNode { name, op_type, domain, reason } in nodes {
        let domain = if domain.is_empty() { String::new() } else { format!("{domain}.") };
        list.push_str(&format!("\n  node `{name}` ({domain}{op_type}): {reason}"));
    }
    list
}

fn nearest_note(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(" (the nearest name is `{name}`)")).unwrap_or_default()
}

/// How many names of a long list are printed.
const LISTED: usize = 20;

fn count_note(names: &[String]) -> String {
    if names.len() == 1 { "1 tensor".into() } else { format!("{} tensors", names.len()) }
}

fn list_note(names: &[String]) -> String {
    let mut list = names.iter().take(LISTED).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > LISTED {
        list.push_str(&format!(" and {} more", names.len() - LISTED));
    }
    list
}

fn owner_note(owner: &str) -> String {
    if owner.is_empty() { String::new() } else { format!(" of {owner}") }
}

/// The name sharing the longest dotted tail with `wanted`: checkpoints mostly differ by a prefix such as `bert.`.
fn nearest_name<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let tail = |name: &str| {
        wanted.rsplit('.').zip(name.rsplit('.')).take_while(|(left, right)| left == right).count()
    };
    let mut best = (0, None);
    for name in names {
        let shared = tail(name);
        // One shared part (`weight`) says nothing unless the wanted name has only that part.
        if shared > best.0 && (shared > 1 || !wanted.contains('.')) {
            best = (shared, Some(name.to_owned()));
        }
    }
    best.1
}
