//! `pytorch_model.bin` and other files written by `torch.save`, read without running what they contain.
//!
//! Both containers are read: the zip archive of PyTorch 1.6 and later, and the row of pickles before it. The pickle in
//! them is a program; a restricted machine executes the part of it that makes tensors and refuses the rest by name (see
//! [`PickleError::ForbiddenGlobal`]).
//!
//! The tensors are named by their path through dictionaries, lists and tuples, joined with dots: the `state_dict`
//! `{"encoder.weight": t}` gives `encoder.weight`, a training checkpoint `{"model": {"w": t}, "epoch": 3}` gives
//! `model.w`. Values that are no tensors (`epoch`) are left out; [`TorchFile::other_entries`] names them.
//!
//! Contiguous tensors share the file's mapping. Strided ones are copied into row-major order when asked for; a view
//! that would need more memory than its storage has (an expanded one) is refused, so a small file cannot ask for a
//! large allocation.

mod flatten;
mod legacy;
mod pickle;
mod storage;
mod zip_container;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bertha_graph::TensorData;
use bytes::Bytes;

pub use self::pickle::PickleError;
use self::pickle::TensorView;
use self::storage::Storages;
use crate::error::{ImportError, Result};
use crate::file_io::map_file;

/// Name of the format in messages.
const FORMAT: &str = "PyTorch";

/// An opened file of tensors.
#[derive(Debug)]
pub struct TorchFile {
    path: PathBuf,
    storages: Storages,
    tensors: Vec<(String, TensorView)>,
    index: HashMap<String, usize>,
    others: Vec<String>,
}

impl TorchFile {
    /// Maps and reads a file. The pickle is executed and every tensor is checked against its storage; the weights
    /// themselves are not touched yet.
    ///
    /// # Errors
    /// [`ImportError::Io`], [`ImportError::Format`] for a damaged or foreign container, [`ImportError::Pickle`] for a
    /// pickle that is malformed or asks for more than tensors, [`ImportError::Tensor`] for a tensor that does not fit
    /// its storage.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(path, map_file(path)?)
    }

    /// Reads a file already in memory; `path` only names it in messages.
    ///
    /// # Errors
    /// As [`TorchFile::open`].
    pub fn from_bytes(path: impl AsRef<Path>, bytes: Bytes) -> Result<Self> {
        let path = path.as_ref();
        let contents = if bytes.starts_with(b"PK") {
            zip_container::read(path, bytes)?
        } else {
            legacy::read(path, bytes)?
        };
        for (name, view) in &contents.leaves.tensors {
            let checked = contents.storages.check(view);
            checked.map_err(|reason| ImportError::tensor(path, name, reason))?;
        }
        let names = contents.leaves.tensors.iter().map(|(name, _)| name.clone());
        let index = names.enumerate().map(|(number, name)| (name, number)).collect();
        Ok(Self {
            path: path.to_owned(),
            storages: contents.storages,
            tensors: contents.leaves.tensors,
            index,
            others: contents.leaves.others,
        })
    }

    /// The file, as given when opening.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors in the order of the file.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }

    /// Names of the entries that are not tensors.
    pub fn other_entries(&self) -> &[String] {
        &self.others
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// One tensor, row-major. Shares the file's bytes when it is contiguous and aligned; otherwise it is copied.
    ///
    /// # Errors
    /// [`ImportError::MissingTensor`]; [`ImportError::Tensor`] for an expanded view.
    pub fn tensor(&self, name: &str) -> Result<TensorData> {
        let entry = self.index.get(name).and_then(|&number| self.tensors.get(number));
        let (_, view) = entry.ok_or_else(|| ImportError::missing_tensor(&self.path, name, self.names()))?;
        self.storages.tensor(view).map_err(|reason| ImportError::tensor(&self.path, name, reason))
    }
}

/// What either container holds.
struct Contents {
    storages: Storages,
    leaves: flatten::Leaves,
}
