//! The weights of a checkpoint folder, whichever way they are stored.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bertha_graph::TensorData;

use super::safetensors::SafetensorsFile;
use super::shards::ShardIndex;
use super::torch_bin::TorchFile;
use crate::error::{ImportError, Result};

/// What a folder may hold, in order of preference: safetensors before PyTorch, since it is faster to open and its
/// tensors are aligned; one file before shards.
const CANDIDATES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Named weights from one file or several.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<WeightFile>,
    /// Tensor name to number of its file.
    index: HashMap<String, usize>,
    names: Vec<String>,
}

/// One file of weights.
#[derive(Debug)]
enum WeightFile {
    Safetensors(SafetensorsFile),
    Torch(TorchFile),
}

impl Checkpoint {
    /// Opens the weights in a folder (the first that exists of `model.safetensors`, `model.safetensors.index.json`,
    /// `pytorch_model.bin`, `pytorch_model.bin.index.json`) or in a file of one of these kinds: a name ending in
    /// `.safetensors`, `.json` (an index of shards), or anything else for PyTorch.
    ///
    /// # Errors
    /// [`ImportError::Shards`] when no weights are found, a shard is missing or lacks a tensor the index promises, or
    /// two shards have a tensor of one name; otherwise the errors of [`SafetensorsFile::open`] and [`TorchFile::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Self::open_file(path);
        }
        match CANDIDATES.iter().map(|name| path.join(name)).find(|candidate| candidate.exists()) {
            Some(file) => Self::open_file(&file),
            None => Err(ImportError::Shards {
                path: path.to_owned(),
                reason: format!("the folder has no weights; looked for {}", CANDIDATES.join(", ")),
            }),
        }
    }

    fn open_file(path: &Path) -> Result<Self> {
        if path.extension().is_some_and(|extension| extension == "json") {
            return Self::open_shards(path);
        }
        let mut checkpoint = Self::empty(path);
        checkpoint.add(WeightFile::open(path)?)?;
        Ok(checkpoint)
    }

    fn open_shards(path: &Path) -> Result<Self> {
        let wrong = |reason: String| ImportError::Shards { path: path.to_owned(), reason };
        let index = ShardIndex::open(path)?;
        let mut checkpoint = Self::empty(path);
        let mut numbers = HashMap::new();
        for (number, shard) in index.shards.iter().enumerate() {
            let file = path.with_file_name(shard);
            if !file.exists() {
                return Err(wrong(format!("shard `{shard}` is missing")));
            }
            checkpoint.add(WeightFile::open(&file)?)?;
            numbers.insert(shard, number);
        }
        for (tensor, shard) in &index.weight_map {
            if checkpoint.index.get(tensor) != numbers.get(shard) {
                return Err(wrong(format!(
                    "tensor `{tensor}` should be in shard `{shard}`, which does not have it"
                )));
            }
        }
        Ok(checkpoint)
    }

    fn empty(path: &Path) -> Self {
        Self { path: path.to_owned(), files: Vec::new(), index: HashMap::new(), names: Vec::new() }
    }

    fn add(&mut self, file: WeightFile) -> Result<()> {
        let number = self.files.len();
        for name in file.names() {
            if let Some(other) = self.index.insert(name.to_owned(), number) {
                let first = self.files.get(other).map(|file| file.path().display().to_string());
                return Err(ImportError::Shards {
                    path: self.path.clone(),
                    reason: format!(
                        "tensor `{name}` is in two shards, {} and {}",
                        first.unwrap_or_default(),
                        file.path().display()
                    ),
                });
            }
            self.names.push(name.to_owned());
        }
        self.files.push(file);
        Ok(())
    }

    /// The weight file or index that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, file by file.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// One tensor, sharing its file's bytes where the layout allows.
    ///
    /// # Errors
    /// [`ImportError::MissingTensor`] with the nearest name there is; the errors of [`SafetensorsFile::tensor`] and
    /// [`TorchFile::tensor`].
    pub fn tensor(&self, name: &str) -> Result<TensorData> {
        match self.index.get(name).and_then(|&number| self.files.get(number)) {
            Some(WeightFile::Safetensors(file)) => file.tensor(name),
            Some(WeightFile::Torch(file)) => file.tensor(name),
            None => Err(ImportError::missing_tensor(&self.path, name, self.names())),
        }
    }
}

impl WeightFile {
    fn open(path: &Path) -> Result<Self> {
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            SafetensorsFile::open(path).map(Self::Safetensors)
        } else {
            TorchFile::open(path).map(Self::Torch)
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Safetensors(file) => file.path(),
            Self::Torch(file) => file.path(),
        }
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Safetensors(file) => Box::new(file.names()),
            Self::Torch(file) => Box::new(file.names()),
        }
    }
}
