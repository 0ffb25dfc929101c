//! Read-only view of a zip archive held in memory (usually a mapping). Entries stored without compression are handed
//! out as slices of it; deflated ones are unpacked under a size budget.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use zip::{CompressionMethod, ZipArchive};

use crate::error::{ImportError, Result};

/// Deflate packs at most about 1 : 1032, so a few megabytes could ask for gigabytes. Weights barely shrink; an archive
/// that unpacks to more than this many times its own size, beyond [`UNPACK_FLOOR`], is refused.
const UNPACK_RATIO: u64 = 16;
/// Unpacking below this many bytes is never refused.
const UNPACK_FLOOR: u64 = 256 << 20;

/// An opened archive.
pub(crate) struct Archive {
    path: PathBuf,
    format: &'static str,
    bytes: Bytes,
    zip: ZipArchive<Cursor<Bytes>>,
    index: HashMap<String, usize>,
    names: Vec<String>,
    /// Bytes that may still be unpacked.
    budget: u64,
}

impl Archive {
    /// Reads the central directory of `bytes`. `format` is what the caller is looking for, used in messages.
    ///
    /// # Errors
    /// [`ImportError::Format`] for a damaged archive, two entries of one name, or names that are not UTF-8.
    pub(crate) fn open(path: &Path, format: &'static str, bytes: Bytes) -> Result<Self> {
        let wrong = |reason: String| ImportError::format(path, format, reason);
        let zip = ZipArchive::new(Cursor::new(bytes.clone()))
            .map_err(|error| wrong(format!("damaged zip container: {error}")))?;
        if zip.has_duplicate_names() {
            return Err(wrong("the zip container has two entries of one name".into()));
        }
        let mut names = Vec::with_capacity(zip.len());
        for raw in zip.file_names_raw() {
            let name = std::str::from_utf8(raw).map_err(|_| {
                wrong(format!("zip entry name is not UTF-8: `{}`", String::from_utf8_lossy(raw)))
            })?;
            names.push(name.to_owned());
        }
        let index = names.iter().cloned().enumerate().map(|(number, name)| (name, number)).collect();
        let budget = (bytes.len() as u64).saturating_mul(UNPACK_RATIO).max(UNPACK_FLOOR);
        Ok(Self { path: path.to_owned(), format, bytes, zip, index, names, budget })
    }

    /// Names in the order of the central directory, folders included.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The bytes of one entry. A stored entry is a slice of the archive: its checksum is verified only when `verify` is
    /// set, because that reads every page (and PyTorch can be told to write none).
    ///
    /// # Errors
    /// [`ImportError::Format`] when the entry is missing, damaged, encrypted, packed with another method, or too large.
    pub(crate) fn read(&mut self, name: &str, verify: bool) -> Result<Bytes> {
        let wrong = |reason: String| {
            ImportError::format(&self.path, self.format, format!("zip entry `{name}`: {reason}"))
        };
        let number = *self.index.get(name).ok_or_else(|| wrong("missing".into()))?;
        let mut entry = self.zip.by_index(number).map_err(|error| wrong(error.to_string()))?;
        match entry.compression() {
            CompressionMethod::Stored => {
                if entry.size() != entry.compressed_size() {
                    return Err(wrong(format!(
                        "stored in {} bytes but declared as {} bytes",
                        entry.compressed_size(),
                        entry.size()
                    )));
                }
                let start = entry.data_start().ok_or_else(|| wrong("no data offset".into()))?;
                let range = start
                    .checked_add(entry.size())
                    .filter(|&end| end <= self.bytes.len() as u64)
                    .map(|end| start as usize..end as usize)
                    .ok_or_else(|| wrong("reaches past the end of the file".into()))?;
                if verify {
                    std::io::copy(&mut entry, &mut std::io::sink())
                        .map_err(|error| wrong(error.to_string()))?;
                }
                Ok(self.bytes.slice(range))
            }
            CompressionMethod::Deflated => {
                let size = entry.size();
                if size > self.budget {
                    return Err(wrong(format!(
                        "unpacks to {size} bytes, more than a file of this size may ask for"
                    )));
                }
                self.budget -= size;
                let mut unpacked = Vec::new();
                // One byte past the declared size is enough to see that the declaration was wrong. The capacity grows
                // with what really arrives, not with what is declared.
                entry
                    .by_ref()
                    .take(size + 1)
                    .read_to_end(&mut unpacked)
                    .map_err(|error| wrong(error.to_string()))?;
                if unpacked.len() as u64 != size {
                    return Err(wrong(format!("does not unpack to the {size} bytes it declares")));
                }
                Ok(Bytes::from(unpacked))
            }
            other => Err(wrong(format!("packed with method {other}, which is not supported"))),
        }
    }
}
