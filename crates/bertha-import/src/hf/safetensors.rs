//! `.safetensors` files: a length, a JSON header, then the tensors' bytes back to back.
//!
//! Layout: <https://huggingface.co/docs/safetensors>. Tensors share the file's mapping; only one that does not start at
//! a multiple of its element size (older writers did not pad the header) is copied when asked for.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use bertha_graph::{DType, TensorData};
use bytes::Bytes;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::{ImportError, Result};
use crate::file_io::{look_alike, map_file, write_atomically};

/// Name of the format in messages.
const FORMAT: &str = "safetensors";
/// Longest header that is read, as in the reference implementation.
const MAX_HEADER_BYTES: usize = 100_000_000;
/// Bytes of the header's length.
const PREFIX_BYTES: usize = 8;

/// An opened safetensors file.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    metadata: Metadata,
    /// In the order of their data.
    names: Vec<String>,
    /// Everything after the header.
    data: Bytes,
}

impl SafetensorsFile {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// [`ImportError::Io`], or [`ImportError::Format`] when the header is damaged or does not cover the data exactly.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(path, map_file(path)?)
    }

    /// Reads a file already in memory; `path` only names it in messages.
    ///
    /// # Errors
    /// As [`SafetensorsFile::open`].
    pub fn from_bytes(path: impl AsRef<Path>, bytes: Bytes) -> Result<Self> {
        let path = path.as_ref();
        let (metadata, data) = split(&bytes).map_err(|reason| {
            // The first bytes are a length, so they can look like anything; only a file that fails is judged by them.
            ImportError::format(path, FORMAT, look_alike(&bytes).map_or(reason, str::to_owned))
        })?;
        let names = metadata.offset_keys();
        Ok(Self { path: path.to_owned(), metadata, names, data })
    }

    /// The file, as given when opening.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors in the order of their data.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// The free-form strings of the header (`__metadata__`), for instance `format: pt`.
    pub fn metadata(&self) -> Option<&HashMap<String, String>> {
        self.metadata.metadata().as_ref()
    }

    /// One tensor, sharing the file's bytes.
    ///
    /// # Errors
    /// [`ImportError::MissingTensor`]; [`ImportError::Unsupported`] for element types without a [`DType`].
    pub fn tensor(&self, name: &str) -> Result<TensorData> {
        let info = self.metadata.info(name);
        let info = info.ok_or_else(|| ImportError::missing_tensor(&self.path, name, self.names()))?;
        let dtype = from_safetensors(info.dtype).ok_or_else(|| {
            ImportError::unsupported(
                &self.path,
                format!("tensor `{name}` of type {}", info.dtype),
                "store it as F64, F32, F16, BF16, an integer of 8 to 64 bits, or BOOL",
            )
        })?;
        let (start, end) = info.data_offsets;
        let wrong = |reason: String| ImportError::tensor(&self.path, name, reason);
        if start > end || end > self.data.len() {
            return Err(wrong(format!("its data at {start}..{end} lies outside the file")));
        }
        TensorData::from_bytes(dtype, info.shape.clone(), self.data.slice(start..end))
            .map_err(|error| wrong(error.to_string()))
    }
}

/// Checks the header and separates it from the data. The header's parser is the reference implementation's; its file
/// reader is not used because it adds sizes without checking for overflow.
fn split(bytes: &Bytes) -> Result<(Metadata, Bytes), String> {
    let Some((length, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(format!(
            "it has {} bytes, fewer than the {PREFIX_BYTES} of the header's length",
            bytes.len()
        ));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().filter(|&length| length <= MAX_HEADER_BYTES);
    let header = header.ok_or_else(|| format!("it declares a header of {length} bytes"))?;
    let header = rest.get(..header).ok_or_else(|| {
        format!("it declares a header of {length} bytes but has only {} after it", rest.len())
    })?;
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(|error| format!("damaged header: {error}"))?;
    let data = bytes.slice(PREFIX_BYTES + header.len()..);
    if metadata.data_len() != data.len() {
        return Err(format!(
            "its header describes {} bytes of tensors but {} follow (was the download cut off?)",
            metadata.data_len(),
            data.len()
        ));
    }
    Ok((metadata, data))
}

/// Writes tensors to a safetensors file, replacing it atomically. Tensors are stored in the given order, each aligned
/// to its element size when tensors of larger elements come first; `metadata` goes to `__metadata__`.
///
/// # Errors
/// [`ImportError::Io`]; [`ImportError::Tensor`] when a name occurs twice.
pub fn write_safetensors<'t>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (&'t str, &'t TensorData)>,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let path = path.as_ref();
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    // Larger elements first: then every tensor starts at a multiple of its element size without gaps, which the format
    // does not allow.
    tensors.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().size()));
    let mut infos = Vec::with_capacity(tensors.len());
    let mut seen = std::collections::HashSet::new();
    let mut end = 0usize;
    for (name, tensor) in &tensors {
        if !seen.insert(*name) || *name == "__metadata__" {
            return Err(ImportError::tensor(path, *name, "the name is taken already"));
        }
        let start = end;
        end = start.saturating_add(tensor.bytes().len());
        let dtype = to_safetensors(tensor.dtype());
        let shape = tensor.shape().to_vec();
        infos.push(((*name).to_owned(), TensorInfo { dtype, shape, data_offsets: (start, end) }));
    }
    let failed = |reason: String| ImportError::io(path, "write the file", std::io::Error::other(reason));
    let header = Metadata::new(metadata, infos).map_err(|error| failed(error.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|error| failed(error.to_string()))?;
    // Spaces after the header bring the data to a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    write_atomically(path, |writer| {
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(&header)?;
        tensors.iter().try_for_each(|(_, tensor)| writer.write_all(tensor.bytes()))
    })
}

fn from_safetensors(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        _ => return None, // 8-bit floats and smaller, complex numbers
    })
}

fn to_safetensors(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}
