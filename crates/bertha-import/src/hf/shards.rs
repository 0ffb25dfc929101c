//! The index of a checkpoint in several files (`model.safetensors.index.json`, `pytorch_model.bin.index.json`):
//! `{"metadata": {...}, "weight_map": {"tensor": "shard file", ...}}`.

use std::collections::HashSet;
use std::fmt;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use crate::error::{ImportError, Result};
use crate::file_io::map_file;

/// Which shard each tensor is said to be in.
#[derive(Debug)]
pub(super) struct ShardIndex {
    /// Tensor name and shard file name, in the order of the index.
    pub(super) weight_map: Vec<(String, String)>,
    /// The shard file names, each once, in order of first use.
    pub(super) shards: Vec<String>,
}

impl ShardIndex {
    /// Reads an index and checks that every shard is a plain file name.
    ///
    /// # Errors
    /// [`ImportError::Io`]; [`ImportError::Shards`] for damaged JSON or a tensor listed twice;
    /// [`ImportError::UnsafeLocation`] for a shard outside the folder.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let wrong = |reason: String| ImportError::Shards { path: path.to_owned(), reason };
        let file: IndexFile = serde_json::from_slice(&map_file(path)?)
            .map_err(|error| wrong(format!("not a readable index of shards: {error}")))?;
        let weight_map = file.weight_map.0;
        if weight_map.is_empty() {
            return Err(wrong("the index lists no tensor".into()));
        }
        let (mut names, mut known, mut shards) = (HashSet::new(), HashSet::new(), Vec::new());
        for (tensor, shard) in &weight_map {
            if !names.insert(tensor) {
                return Err(wrong(format!("the index lists tensor `{tensor}` twice")));
            }
            if known.insert(shard) {
                check_plain(path, shard)?;
                shards.push(shard.clone());
            }
        }
        Ok(Self { weight_map, shards })
    }
}

/// A shard lies beside its index: its name must be one plain component on every system.
fn check_plain(path: &Path, shard: &str) -> Result<()> {
    let mut components = Path::new(shard).components();
    let plain = matches!((components.next(), components.next()), (Some(Component::Normal(name)), None) if name == shard);
    if plain && !shard.contains(['/', '\\', ':', '\0']) {
        return Ok(());
    }
    Err(ImportError::UnsafeLocation {
        path: path.to_owned(),
        owner: String::new(),
        location: shard.to_owned(),
        reason: "a shard must be a file beside its index",
    })
}

#[derive(Deserialize)]
struct IndexFile {
    weight_map: Pairs,
}

/// A JSON object with its order and its duplicates, which a map type would hide.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensor names and shard file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}
