//! Reading.

use std::path::Path;

use bertha_graph::{TensorData, byte_count};
use bytes::Bytes;

use super::NamedArrays;
use super::header::{self, Header};
use crate::archive::Archive;
use crate::error::{ImportError, Result};
use crate::file_io::map_file;

/// Name of the container in messages.
const NPZ: &str = "npz";
/// Name of the array format in messages.
const NPY: &str = "npy";

/// Reads one array. Shares the file's mapping when it is row-major and little-endian.
///
/// # Errors
/// [`ImportError::Io`]; [`ImportError::Format`] for a damaged header, an element type without a
/// [`DType`](bertha_graph::DType), or data of the wrong length.
pub fn read_npy(path: impl AsRef<Path>) -> Result<TensorData> {
    let path = path.as_ref();
    npy_from_bytes(path, map_file(path)?)
}

/// Reads one array already in memory; `path` only names it in messages.
///
/// # Errors
/// As [`read_npy`].
pub fn npy_from_bytes(path: impl AsRef<Path>, bytes: Bytes) -> Result<TensorData> {
    array(bytes).map_err(|reason| ImportError::format(path.as_ref(), NPY, reason))
}

/// Reads all arrays of an archive, named as in NumPy (without `.npy`), in the order of the archive. Checksums are
/// verified.
///
/// # Errors
/// [`ImportError::Io`]; [`ImportError::Format`] for a damaged archive; [`ImportError::Tensor`] naming the array that is
/// wrong.
pub fn read_npz(path: impl AsRef<Path>) -> Result<NamedArrays> {
    let path = path.as_ref();
    npz_from_bytes(path, map_file(path)?)
}

/// Reads an archive already in memory; `path` only names it in messages.
///
/// # Errors
/// As [`read_npz`].
pub fn npz_from_bytes(path: impl AsRef<Path>, bytes: Bytes) -> Result<NamedArrays> {
    let path = path.as_ref();
    let mut archive = Archive::open(path, NPZ, bytes)?;
    let mut arrays = NamedArrays::with_capacity(archive.names().len());
    let names = archive.names().to_vec();
    for entry in names {
        let name = entry.strip_suffix(".npy").ok_or_else(|| {
            ImportError::format(path, NPZ, format!("zip entry `{entry}` is not an array (no .npy)"))
        })?;
        let bytes = archive.read(&entry, true)?;
        let tensor = array(bytes).map_err(|reason| ImportError::tensor(path, name, reason))?;
        arrays.push((name.to_owned(), tensor));
    }
    Ok(arrays)
}

fn array(bytes: Bytes) -> Result<TensorData, String> {
    let (header, start) = header::parse(&bytes)?;
    let expected = byte_count(header.dtype, &header.shape).map_err(|error| error.to_string())?;
    let data = bytes.slice(start..);
    if data.len() != expected {
        return Err(format!(
            "{} of shape {:?} takes {expected} bytes, but {} follow the header",
            header.dtype,
            header.shape,
            data.len()
        ));
    }
    let data = if header.big_endian && header.dtype.size() > 1 {
        let mut reversed = data.to_vec();
        reversed.chunks_exact_mut(header.dtype.size()).for_each(<[u8]>::reverse);
        Bytes::from(reversed)
    } else {
        data
    };
    let data = if header.fortran_order { row_major(&data, &header) } else { data };
    TensorData::from_bytes(header.dtype, header.shape, data).map_err(|error| error.to_string())
}

/// Reorders column-major elements. `data` has exactly the elements of the shape.
fn row_major(data: &Bytes, header: &Header) -> Bytes {
    if header.shape.iter().filter(|&&length| length != 1).count() < 2 || data.is_empty() {
        return data.clone();
    }
    let size = header.dtype.size();
    let mut strides = Vec::with_capacity(header.shape.len());
    let mut stride = 1usize;
    for &length in &header.shape {
        strides.push(stride);
        stride *= length; // cannot overflow: the product of all is the element count
    }
    let mut packed = Vec::with_capacity(data.len());
    let mut indices = vec![0usize; header.shape.len()];
    let mut position = 0usize;
    for _ in 0..data.len() / size {
        packed.extend_from_slice(&data[position * size..][..size]);
        for ((index, &length), &stride) in indices.iter_mut().zip(&header.shape).zip(&strides).rev() {
            *index += 1;
            if *index < length {
                position += stride;
                break;
            }
            position -= stride * (length - 1);
            *index = 0;
        }
    }
    Bytes::from(packed)
}
