//! Writing.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use bertha_graph::TensorData;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::header;
use crate::error::{ImportError, Result};
use crate::file_io::write_atomically;

/// Bytes of an entry beyond which it needs the 64-bit zip format.
const ZIP64_FROM: usize = u32::MAX as usize;
/// Entries start at a multiple of this; with the header's own padding the elements do too.
const ENTRY_ALIGNMENT: u16 = 64;

/// Writes one array, replacing the file atomically.
///
/// # Errors
/// [`ImportError::Io`].
pub fn write_npy(path: impl AsRef<Path>, tensor: &TensorData) -> Result<()> {
    write_atomically(path.as_ref(), |writer| {
        writer.write_all(&header::format(tensor.dtype(), tensor.shape()))?;
        writer.write_all(tensor.bytes())
    })
}

/// Writes arrays to an archive in the given order, replacing the file atomically. The entries are stored without
/// compression and carry no time, so the same arrays give the same bytes.
///
/// # Errors
/// [`ImportError::Io`]; [`ImportError::Tensor`] when a name occurs twice.
pub fn write_npz<'t>(
    path: impl AsRef<Path>,
    arrays: impl IntoIterator<Item = (&'t str, &'t TensorData)>,
) -> Result<()> {
    let path = path.as_ref();
    let arrays: Vec<_> = arrays.into_iter().collect();
    let mut seen = HashSet::new();
    if let Some((name, _)) = arrays.iter().find(|(name, _)| !seen.insert(*name)) {
        return Err(ImportError::tensor(path, *name, "the name is taken already"));
    }
    write_atomically(path, |writer| {
        let mut zip = ZipWriter::new(writer);
        for (name, tensor) in arrays {
            let header = header::format(tensor.dtype(), tensor.shape());
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Stored)
                .large_file(header.len() + tensor.bytes().len() >= ZIP64_FROM)
                .last_modified_time(zip::DateTime::default())
                .with_alignment(ENTRY_ALIGNMENT);
            zip.start_file(format!("{name}.npy"), options)?;
            zip.write_all(&header)?;
            zip.write_all(tensor.bytes())?;
        }
        zip.finish()?;
        Ok(())
    })
}
