//! Reading a model file.

use std::fmt;
use std::path::{Path, PathBuf};

use bertha_graph::TensorData;
use bytes::Bytes;
use prost::Message;

use super::FORMAT;
use super::external::ExternalFiles;
use super::limits;
use super::proto::{GraphProto, ModelProto, TensorProto};
use crate::error::{ImportError, Result};
use crate::file_io::{look_alike, map_file};

/// Largest message protobuf allows; bigger models keep their weights in external files.
pub(super) const MAX_MODEL_BYTES: usize = i32::MAX as usize;

/// An opened model.
pub struct OnnxFile {
    path: PathBuf,
    bytes: Bytes,
    /// The model as stored. [`OnnxFile::open`] has made sure that it has a graph.
    pub model: ModelProto,
    /// Where its external tensors are.
    pub externals: ExternalFiles,
}

impl OnnxFile {
    /// Maps and decodes a model. Raw tensor data stay in the mapping; external files are opened when a tensor in them is
    /// asked for. Messages nested about a hundred deep are refused, and files of so many tiny messages that they would take far more
    /// memory than their size.
    ///
    /// # Errors
    /// [`ImportError::Io`]; [`ImportError::Format`] when the file is not an ONNX model or is too large for one.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = map_file(path)?;
        let model = decode(path, bytes.clone())?;
        Ok(Self { path: path.to_owned(), bytes, model, externals: ExternalFiles::beside(path) })
    }

    /// Decodes a model already in memory, which can have no external files; `path` only names it in messages.
    ///
    /// # Errors
    /// As [`OnnxFile::open`].
    pub fn from_bytes(path: impl AsRef<Path>, bytes: Bytes) -> Result<Self> {
        let path = path.as_ref();
        let model = decode(path, bytes.clone())?;
        Ok(Self { path: path.to_owned(), bytes, model, externals: ExternalFiles::none(path) })
    }

    /// The file, as given when opening.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file as it is stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The graph.
    ///
    /// # Errors
    /// [`ImportError::Format`] when it has been taken out of [`OnnxFile::model`].
    pub fn graph(&self) -> Result<&GraphProto> {
        self.model.graph.as_ref().ok_or_else(|| no_graph(&self.path))
    }

    /// The elements of a tensor of this model: see [`ExternalFiles::tensor`].
    ///
    /// # Errors
    /// As [`ExternalFiles::tensor`].
    pub fn tensor(&self, tensor: &TensorProto) -> Result<TensorData> {
        self.externals.tensor(tensor)
    }
}

/// Short: a whole model printed field by field is of no use in a message.
impl fmt::Debug for OnnxFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.model.graph.as_ref().map_or(0, |graph| graph.node.len());
        f.debug_struct("OnnxFile").field("path", &self.path).field("nodes", &nodes).finish_non_exhaustive()
    }
}

fn no_graph(path: &Path) -> ImportError {
    ImportError::format(path, FORMAT, "it has no graph")
}

fn decode(path: &Path, bytes: Bytes) -> Result<ModelProto> {
    let wrong = |reason: String| ImportError::format(path, FORMAT, reason);
    if bytes.len() > MAX_MODEL_BYTES {
        return Err(wrong(format!(
            "it has {} bytes, more than the 2 GiB a protobuf message may have",
            bytes.len()
        )));
    }
    if let Some(kind) = look_alike(&bytes) {
        return Err(wrong(kind.into()));
    }
    limits::check(&bytes).map_err(|reason| wrong(format!("it is damaged or of another format: {reason}")))?;
    let model = ModelProto::decode(bytes)
        .map_err(|error| wrong(format!("it is damaged or of another format ({error})")))?;
    // Protobuf accepts much by skipping what it does not know, so look for what every model has.
    if model.graph.is_none() {
        return Err(no_graph(path));
    }
    if model.ir_version < 1 {
        return Err(wrong(format!("it has the IR version {}", model.ir_version)));
    }
    Ok(model)
}
