//! The container before PyTorch 1.6: five pickles in a row (magic number, protocol version, system information, the
//! object, the list of storage keys), then the storages: for each key its length in elements and its elements,
//! always little-endian.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::pickle::{self, Dialect, Heap, Object, Reader, Ref, StorageKey};
use super::storage::Storages;
use super::{Contents, FORMAT, flatten};
use crate::error::{ImportError, Result};
use crate::file_io::look_alike;

/// First pickle of every such file.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// Second pickle.
const PROTOCOL: i128 = 1001;

pub(super) fn read(path: &Path, bytes: Bytes) -> Result<Contents> {
    let wrong = |reason: String| ImportError::format(path, FORMAT, reason);
    let mut reader = Reader::new(&bytes);
    let part = |entry: &'static str| {
        move |source| ImportError::Pickle {
            path: path.to_owned(),
            entry: format!("pickle of {entry}"),
            source,
        }
    };

    let not_torch = || {
        wrong(
            look_alike(&bytes)
                .unwrap_or("it is neither a zip archive nor starts with PyTorch's magic number")
                .into(),
        )
    };
    match pickle::run(&mut reader, Dialect::Plain) {
        Ok((heap, root)) if matches!(heap.get(root), Object::Int(MAGIC)) => {}
        // A file cut off within the magic number, or another pickle, is not told apart from any other file.
        _ => return Err(not_torch()),
    }
    let (heap, root) = pickle::run(&mut reader, Dialect::Plain).map_err(part("the protocol version"))?;
    if !matches!(heap.get(root), Object::Int(PROTOCOL)) {
        return Err(wrong(format!("a protocol version other than {PROTOCOL}")));
    }
    let (heap, root) = pickle::run(&mut reader, Dialect::Plain).map_err(part("the system information"))?;
    little_endian(&heap, root).map_err(wrong)?;

    let (heap, root) = pickle::run(&mut reader, Dialect::Legacy).map_err(part("the tensors"))?;
    let leaves = flatten::flatten(&heap, root).map_err(wrong)?;
    let (heap, root) = pickle::run(&mut reader, Dialect::Plain).map_err(part("the storage keys"))?;
    let keys = pickle::key_list(&heap, root).map_err(wrong)?;

    let described = described(path, &leaves)?;
    let storages = read_storages(&bytes, reader.position(), &keys, &described).map_err(wrong)?;
    Ok(Contents { storages, leaves })
}

/// The data are little-endian in any case, but files of big-endian machines were written with errors in several
/// versions, so they are refused.
fn little_endian(heap: &Heap, root: Ref) -> Result<(), String> {
    let Object::Dict(entries) = heap.get(root) else {
        return Err("the system information is not a dictionary".into());
    };
    let entry = entries
        .iter()
        .find(|(key, _)| matches!(heap.get(*key), Object::Str(text) if text == "little_endian"));
    match entry.map(|(_, value)| heap.get(*value)) {
        Some(Object::Bool(true)) => Ok(()),
        Some(_) => Err("it was written on a big-endian machine, in the old format; save it again".into()),
        None => Err("the system information does not tell the byte order".into()),
    }
}

/// What the pickle says about each storage.
fn described(path: &Path, leaves: &flatten::Leaves) -> Result<HashMap<String, Arc<StorageKey>>> {
    let mut described: HashMap<String, Arc<StorageKey>> = HashMap::new();
    for (name, view) in &leaves.tensors {
        let known = described.entry(view.storage.key.clone()).or_insert_with(|| view.storage.clone());
        if (known.element, known.len) != (view.storage.element, view.storage.len) {
            let reason = format!("storage `{}` is described in two different ways", view.storage.key);
            return Err(ImportError::tensor(path, name, reason));
        }
    }
    Ok(described)
}

fn read_storages(
    bytes: &Bytes,
    start: usize,
    keys: &[String],
    described: &HashMap<String, Arc<StorageKey>>,
) -> Result<Storages, String> {
    let mut storages = Storages::new(false);
    let mut seen = HashSet::new();
    let mut position = start;
    for key in keys {
        if !seen.insert(key) {
            return Err(format!("storage `{key}` is listed twice"));
        }
        // A storage that no tensor uses has no known element size, so what follows it cannot be found.
        let storage = described.get(key).ok_or_else(|| format!("no tensor uses storage `{key}`"))?;
        let cut = || format!("storage `{key}` is cut off at the end of the file");
        let (length, _) = bytes.get(position..).and_then(<[u8]>::split_first_chunk).ok_or_else(cut)?;
        let length = i64::from_le_bytes(*length);
        if usize::try_from(length) != Ok(storage.len) {
            return Err(format!(
                "storage `{key}` should have {} elements but has {length}, at byte {position}",
                storage.len
            ));
        }
        position += 8;
        let size = storage.len.checked_mul(storage.element.size());
        let end = size.and_then(|size| position.checked_add(size)).filter(|&end| end <= bytes.len());
        let end = end.ok_or_else(cut)?;
        storages.add(storage, bytes.slice(position..end))?;
        position = end;
    }
    if position != bytes.len() {
        return Err(format!("{} bytes after the last storage", bytes.len() - position));
    }
    Ok(storages)
}
