//! Files beside a model that hold the elements of its tensors.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::FORMAT;
use super::proto::TensorProto;
use crate::error::{ImportError, Result};
use crate::file_io::map_file;

/// The external files of one model, each mapped once when first needed.
///
/// A location must be a relative path without `..`, and what it leads to, symbolic links followed, must lie under the
/// model's folder. A model file that is a link itself (as in a download cache that links to content-addressed files)
/// may have its data beside the link's target.
#[derive(Debug)]
pub struct ExternalFiles {
    model: PathBuf,
    /// Folder that locations are relative to; `None` when the model did not come from a file.
    folder: Option<PathBuf>,
    mapped: Mutex<HashMap<PathBuf, Bytes>>,
}

impl ExternalFiles {
    /// The files of the model at `model`.
    pub fn beside(model: &Path) -> Self {
        let folder = match model.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Self { model: model.to_owned(), folder: Some(folder), mapped: Mutex::default() }
    }

    /// No files: for a model made or held in memory. `model` only names it in messages.
    pub fn none(model: &Path) -> Self {
        Self { model: model.to_owned(), folder: None, mapped: Mutex::default() }
    }

    /// The model file, for messages.
    pub(super) fn model(&self) -> &Path {
        &self.model
    }

    /// The bytes of a tensor stored externally. `expected` is how many the shape calls for, where that is known.
    ///
    /// # Errors
    /// [`ImportError::UnsafeLocation`]; [`ImportError::Io`] for a missing file; [`ImportError::Tensor`] for a range that
    /// is malformed, of the wrong length or outside the file.
    pub(super) fn bytes(&self, tensor: &TensorProto, expected: Option<usize>) -> Result<Bytes> {
        let wrong = |reason: String| ImportError::tensor(&self.model, &tensor.name, reason);
        let entry = |key: &str| {
            tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
        };
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => match text.parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(wrong(format!("its external data have the {key} `{}`", text.escape_debug()))),
            },
        };
        let location = entry("location").unwrap_or_default();
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?;
        let file = self.map(&tensor.name, location)?;
        if let (Some(length), Some(expected)) = (length, expected)
            && length != expected
        {
            return Err(wrong(format!(
                "its shape {:?} takes {expected} bytes but its external data have length {length}",
                tensor.dims
            )));
        }
        let length = length.or(expected).unwrap_or(file.len().saturating_sub(offset));
        let end = offset.checked_add(length).filter(|&end| end <= file.len());
        let end = end.ok_or_else(|| {
            wrong(format!(
                "{length} bytes at offset {offset} reach past the end of `{location}` ({} bytes)",
                file.len()
            ))
        })?;
        Ok(file.slice(offset..end))
    }

    /// The real path of the file that holds an external tensor, links followed.
    ///
    /// # Errors
    /// [`ImportError::UnsafeLocation`] when it is outside of the model's folder; [`ImportError::Io`] when it is missing.
    pub fn locate(&self, tensor: &TensorProto) -> Result<PathBuf> {
        let location = tensor.external_data.iter().find(|entry| entry.key == "location");
        self.resolve(&tensor.name, location.map_or("", |entry| &entry.value))
    }

    fn map(&self, tensor: &str, location: &str) -> Result<Bytes> {
        let path = self.resolve(tensor, location)?;
        // A panic while the lock was held cannot leave the map half changed.
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = mapped.get(&path) {
            return Ok(bytes.clone());
        }
        let bytes = map_file(&path)?;
        mapped.insert(path, bytes.clone());
        Ok(bytes)
    }

    /// The real path of a location, after all checks.
    fn resolve(&self, tensor: &str, location: &str) -> Result<PathBuf> {
        let refused = |reason: &'static str| ImportError::UnsafeLocation {
            path: self.model.clone(),
            owner: format!("tensor `{tensor}`"),
            location: location.to_owned(),
            reason,
        };
        let Some(folder) = &self.folder else {
            return Err(ImportError::format(
                &self.model,
                FORMAT,
                format!(
                    "tensor `{tensor}` is in the external file `{location}`, but the model is not a file itself"
                ),
            ));
        };
        if location.is_empty() {
            return Err(refused("external data need a file name"));
        }
        let plain = |component| matches!(component, Component::Normal(_) | Component::CurDir);
        if !Path::new(location).components().all(plain) {
            return Err(refused("it must be relative to the model's folder and stay in it"));
        }
        let joined = folder.join(location);
        let real = fs::canonicalize(&joined)
            .map_err(|error| ImportError::io(&joined, "open the model's external data", error))?;
        let inside = |root: &Path| fs::canonicalize(root).is_ok_and(|root| real.starts_with(root));
        let beside_target = || {
            let target = fs::canonicalize(&self.model).ok();
            target.as_deref().and_then(Path::parent).is_some_and(inside)
        };
        if inside(folder) || beside_target() {
            Ok(real)
        } else {
            Err(refused("it is a link that leaves the model's folder"))
        }
    }
}
