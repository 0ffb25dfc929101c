//! Writing a model file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::external::ExternalFiles;
use super::file::MAX_MODEL_BYTES;
use super::proto::{
    AttributeProto, DataLocation, GraphProto, ModelProto, NodeProto, SparseTensorProto,
    StringStringEntryProto, TensorProto,
};
use crate::error::{ImportError, Result};
use crate::file_io::write_atomically;

/// Which initializers [`write_onnx`] puts into a data file (`NAME.data`, beside the model `NAME`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalData {
    /// None, unless the model would pass protobuf's limit of 2 GiB; then those of at least 1 KiB.
    WhenNeeded,
    /// Those of at least so many bytes.
    AtLeast(usize),
}

/// What [`ExternalData::WhenNeeded`] moves out when it must.
const SMALL_BYTES: usize = 1024;
/// Offsets of large tensors are multiples of this, so that readers can map them one by one; it is the granularity of
/// mappings on Windows and a multiple of every page size in use.
const LARGE_ALIGNMENT: usize = 64 << 10;
/// Tensors of at least this size are large.
const LARGE_BYTES: usize = 1 << 20;
/// Offsets of other tensors are multiples of this, enough for any element.
const SMALL_ALIGNMENT: usize = 64;

/// Writes a model, replacing the file atomically. Tensors that `model` has in external files are read through
/// `externals` (the [`OnnxFile::externals`](super::OnnxFile::externals) it came with) and stored anew, so that the
/// result does not depend on the old files; it may replace them.
///
/// With a data file, that is replaced first and the model second, each atomically: a crash in between leaves an old
/// model with new data.
///
/// # Errors
/// [`ImportError::Io`]; [`ImportError::Unsupported`] when the model passes 2 GiB even with its initializers moved out;
/// the errors of reading external tensors.
pub fn write_onnx(
    model: &ModelProto,
    externals: &ExternalFiles,
    path: impl AsRef<Path>,
    external_data: ExternalData,
) -> Result<()> {
    let path = path.as_ref();
    let mut model = model.clone(); // raw data are shared
    for_each_tensor(&mut model, &mut |tensor, _| internalise(tensor, externals))?;
    let least = match external_data {
        ExternalData::AtLeast(least) => Some(least),
        ExternalData::WhenNeeded if model.encoded_len() > MAX_MODEL_BYTES => Some(SMALL_BYTES),
        ExternalData::WhenNeeded => None,
    };
    let mut data = None;
    if let Some(least) = least {
        let file = data.insert(DataFile::new(path)?);
        for_each_tensor(&mut model, &mut |tensor, role| match role {
            Role::Initializer => file.move_out(tensor, externals, least),
            Role::Other => Ok(()),
        })?;
    }
    let length = model.encoded_len();
    if length > MAX_MODEL_BYTES {
        return Err(ImportError::unsupported(
            path,
            format!("a model of {length} bytes without its external data"),
            "a protobuf message may have 2 GiB; turn large Constant nodes into initializers, which can be external",
        ));
    }
    data.map_or(Ok(()), DataFile::write)?;
    write_atomically(path, |writer| writer.write_all(&model.encode_to_vec()))
}

/// Writes bytes that are a model already, replacing the file atomically.
///
/// # Errors
/// [`ImportError::Io`].
pub fn write_file<'c>(path: impl AsRef<Path>, chunks: impl IntoIterator<Item = &'c [u8]>) -> Result<()> {
    write_atomically(path.as_ref(), |writer| chunks.into_iter().try_for_each(|chunk| writer.write_all(chunk)))
}

/// Takes a tensor's external data into the message.
fn internalise(tensor: &mut TensorProto, externals: &ExternalFiles) -> Result<()> {
    if tensor.data_location != DataLocation::External as i32 {
        return Ok(());
    }
    // Types that cannot be tensors here (4-bit integers, ...) are passed through by the length they declare.
    let raw = match super::dtype_of(tensor.data_type) {
        Ok(_) => externals.tensor(tensor)?.bytes().clone(),
        Err(_) => externals.bytes(tensor, None)?,
    };
    tensor.raw_data = raw;
    tensor.external_data.clear();
    tensor.data_location = DataLocation::Default as i32;
    Ok(())
}

/// A data file in the making.
struct DataFile {
    path: PathBuf,
    /// Its name, as tensors refer to it.
    location: String,
    parts: Vec<(usize, Bytes)>,
    end: usize,
}

impl DataFile {
    fn new(model: &Path) -> Result<Self> {
        let name = model.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| {
            let reason = "external data need a model file name that is text";
            ImportError::io(model, "write the file", io::Error::new(io::ErrorKind::InvalidInput, reason))
        })?;
        let location = format!("{name}.data");
        Ok(Self { path: model.with_file_name(&location), location, parts: Vec::new(), end: 0 })
    }

    fn move_out(&mut self, tensor: &mut TensorProto, externals: &ExternalFiles, least: usize) -> Result<()> {
        let raw = if !tensor.raw_data.is_empty() {
            tensor.raw_data.clone()
        } else if super::dtype_of(tensor.data_type).is_ok() {
            externals.tensor(tensor)?.bytes().clone()
        } else {
            return Ok(()); // strings and such cannot be external
        };
        if raw.is_empty() || raw.len() < least {
            return Ok(());
        }
        let alignment = if raw.len() >= LARGE_BYTES { LARGE_ALIGNMENT } else { SMALL_ALIGNMENT };
        let offset = self.end.next_multiple_of(alignment);
        self.end = offset + raw.len();
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
        *tensor = TensorProto {
            dims: std::mem::take(&mut tensor.dims),
            name: std::mem::take(&mut tensor.name),
            doc_string: std::mem::take(&mut tensor.doc_string),
            metadata_props: std::mem::take(&mut tensor.metadata_props),
            data_type: tensor.data_type,
            data_location: DataLocation::External as i32,
            external_data: vec![
                entry("location", self.location.clone()),
                entry("offset", offset.to_string()),
                entry("length", raw.len().to_string()),
            ],
            ..TensorProto::default()
        };
        self.parts.push((offset, raw));
        Ok(())
    }

    fn write(self) -> Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        write_atomically(&self.path, |writer| {
            let mut position = 0;
            for (offset, bytes) in &self.parts {
                io::copy(&mut io::Read::take(io::repeat(0), (offset - position) as u64), writer)?;
                writer.write_all(bytes)?;
                position = offset + bytes.len();
            }
            Ok(())
        })
    }
}

/// What a tensor is in its model.
#[derive(Clone, Copy)]
enum Role {
    /// A named constant of a graph.
    Initializer,
    /// A part of an attribute or of a sparse tensor.
    Other,
}

type Visitor<'v> = dyn FnMut(&mut TensorProto, Role) -> Result<()> + 'v;

/// Visits every tensor of a model, those of inner graphs, functions and training parts included.
fn for_each_tensor(model: &mut ModelProto, visit: &mut Visitor<'_>) -> Result<()> {
    model.graph.iter_mut().try_for_each(|graph| in_graph(graph, visit))?;
    for function in &mut model.functions {
        function.attribute_proto.iter_mut().try_for_each(|attribute| in_attribute(attribute, visit))?;
        function.node.iter_mut().try_for_each(|node| in_node(node, visit))?;
    }
    for training in &mut model.training_info {
        let graphs = training.initialization.iter_mut().chain(&mut training.algorithm);
        graphs.into_iter().try_for_each(|graph| in_graph(graph, visit))?;
    }
    Ok(())
}

fn in_graph(graph: &mut GraphProto, visit: &mut Visitor<'_>) -> Result<()> {
    graph.initializer.iter_mut().try_for_each(|tensor| visit(tensor, Role::Initializer))?;
    graph.sparse_initializer.iter_mut().try_for_each(|sparse| in_sparse(sparse, visit))?;
    graph.node.iter_mut().try_for_each(|node| in_node(node, visit))
}

fn in_node(node: &mut NodeProto, visit: &mut Visitor<'_>) -> Result<()> {
    node.attribute.iter_mut().try_for_each(|attribute| in_attribute(attribute, visit))
}

fn in_attribute(attribute: &mut AttributeProto, visit: &mut Visitor<'_>) -> Result<()> {
    attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(|tensor| visit(tensor, Role::Other))?;
    attribute.sparse_tensor.iter_mut().try_for_each(|sparse| in_sparse(sparse, visit))?;
    attribute.sparse_tensors.iter_mut().try_for_each(|sparse| in_sparse(sparse, visit))?;
    attribute.g.iter_mut().try_for_each(|graph| in_graph(graph, visit))?;
    attribute.graphs.iter_mut().try_for_each(|graph| in_graph(graph, visit))
}

fn in_sparse(sparse: &mut SparseTensorProto, visit: &mut Visitor<'_>) -> Result<()> {
    sparse.values.iter_mut().chain(&mut sparse.indices).try_for_each(|tensor| visit(tensor, Role::Other))
}
