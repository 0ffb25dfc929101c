//! The container of PyTorch 1.6 and later: a zip archive with `NAME/data.pkl`, one entry `NAME/data/KEY` per storage,
//! and `NAME/byteorder`.

use std::path::Path;

use bytes::Bytes;

use super::pickle::{self, Dialect, Reader};
use super::storage::Storages;
use super::{Contents, FORMAT, flatten};
use crate::archive::Archive;
use crate::error::{ImportError, Result};

pub(super) fn read(path: &Path, bytes: Bytes) -> Result<Contents> {
    let mut archive = Archive::open(path, FORMAT, bytes)?;
    let prefix = prefix(path, &archive)?;
    if archive.contains(&format!("{prefix}constants.pkl")) {
        return Err(ImportError::unsupported(
            path,
            "a TorchScript archive",
            "it holds a program; save the model's state_dict() with torch.save instead",
        ));
    }
    let big_endian = big_endian(path, &mut archive, &prefix)?;

    let entry = format!("{prefix}data.pkl");
    // This small entry is read in full anyway; its checksum is not verified because PyTorch can be told to write none.
    let program = archive.read(&entry, false)?;
    let mut reader = Reader::new(&program);
    let (heap, root) = pickle::run(&mut reader, Dialect::Zip).map_err(|source| ImportError::Pickle {
        path: path.to_owned(),
        entry: entry.clone(),
        source,
    })?;
    let wrong = |reason: String| ImportError::format(path, FORMAT, reason);
    let leaves = flatten::flatten(&heap, root).map_err(wrong)?;

    let mut storages = Storages::new(big_endian);
    for (name, view) in &leaves.tensors {
        let at_tensor = |reason: String| ImportError::tensor(path, name, reason);
        if !storages.knows(&view.storage).map_err(at_tensor)? {
            let bytes = archive.read(&format!("{prefix}data/{}", view.storage.key), false)?;
            storages.add(&view.storage, bytes).map_err(at_tensor)?;
        }
    }
    Ok(Contents { storages, leaves })
}

/// The folder in the archive, named after the file that was saved, with its slash.
fn prefix(path: &Path, archive: &Archive) -> Result<String> {
    let mut prefixes = archive.names().iter().filter_map(|name| {
        let prefix = name.strip_suffix("data.pkl")?;
        // One level at most: `archive/data.pkl`.
        let single = prefix.is_empty() || prefix.ends_with('/') && prefix.matches('/').count() == 1;
        single.then(|| prefix.to_owned())
    });
    match (prefixes.next(), prefixes.next()) {
        (Some(prefix), None) => Ok(prefix),
        (None, _) => Err(ImportError::format(path, FORMAT, "a zip archive without a data.pkl")),
        (Some(_), Some(_)) => Err(ImportError::format(path, FORMAT, "a zip archive with two data.pkl")),
    }
}

fn big_endian(path: &Path, archive: &mut Archive, prefix: &str) -> Result<bool> {
    let entry = format!("{prefix}byteorder");
    if !archive.contains(&entry) {
        return Ok(false); // written before PyTorch 2.1, when all files were little-endian in practice
    }
    match archive.read(&entry, false)?.as_ref() {
        b"little" => Ok(false),
        b"big" => Ok(true),
        other => Err(ImportError::format(
            path,
            FORMAT,
            format!("byte order `{}`", pickle::excerpt(&String::from_utf8_lossy(other))),
        )),
    }
}
