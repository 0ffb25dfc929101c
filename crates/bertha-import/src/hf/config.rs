//! `config.json` and its kin: typed fields, with errors that name file and field.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{ImportError, Result};
use crate::file_io::map_file;

/// A JSON file whose top level is an object.
#[derive(Debug)]
pub(crate) struct Config {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ImportError::Io`], or [`ImportError::Format`] when it is not a JSON object.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        match read_json(path)? {
            Value::Object(fields) => Ok(Config { path: path.to_owned(), fields }),
            other => {
                let reason = format!("expected an object at the top, found {}", kind(&other));
                Err(ImportError::format(path, "JSON", reason))
            }
        }
    }

    /// Reads a file that need not exist.
    pub(crate) fn open_optional(path: &Path) -> Result<Option<Self>> {
        if path.exists() { Self::open(path).map(Some) } else { Ok(None) }
    }

    /// All fields.
    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// A field that is there and not null.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// An error about a field.
    pub(crate) fn wrong(&self, field: &str, reason: impl Into<String>) -> ImportError {
        ImportError::config(&self.path, field, reason)
    }

    fn optional<'v, T>(
        &'v self,
        field: &str,
        expected: &str,
        read: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.wrong(field, format!("expected {expected}, found {}", kind(value)))),
        }
    }

    /// A number of things: a positive integer of at most 32 bits, which must be there.
    pub(crate) fn size(&self, field: &str) -> Result<usize> {
        self.optional_size(field)?
            .ok_or_else(|| self.wrong(field, "the field is missing; the model cannot be built without it"))
    }

    /// A positive integer of at most 32 bits, if it is there.
    pub(crate) fn optional_size(&self, field: &str) -> Result<Option<usize>> {
        self.optional(field, "a positive integer", |value| {
            let number = u32::try_from(value.as_u64()?).ok()?;
            (number > 0).then_some(number as usize)
        })
    }

    /// An id of a token: an integer from 0.
    pub(crate) fn id_or(&self, field: &str, default: u32) -> Result<u32> {
        let read = |value: &Value| u32::try_from(value.as_u64()?).ok();
        Ok(self.optional(field, "an integer from 0", read)?.unwrap_or(default))
    }

    /// A small positive number that is added to variances.
    pub(crate) fn epsilon_or(&self, field: &str, default: f32) -> Result<f32> {
        let read = |value: &Value| value.as_f64().filter(|v| *v > 0.0 && *v < 1.0).map(|v| v as f32);
        Ok(self.optional(field, "a number between 0 and 1", read)?.unwrap_or(default))
    }

    /// A yes or no.
    pub(crate) fn flag_or(&self, field: &str, default: bool) -> Result<bool> {
        Ok(self.optional(field, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A text, if it is there.
    pub(crate) fn text(&self, field: &str) -> Result<Option<&str>> {
        self.optional(field, "a text", Value::as_str)
    }

    /// An object, if it is there.
    pub(crate) fn object(&self, field: &str) -> Result<Option<&Map<String, Value>>> {
        self.optional(field, "an object", Value::as_object)
    }

    /// The first entry of `architectures`.
    pub(crate) fn architecture(&self) -> Result<Option<&str>> {
        let first = self.optional("architectures", "a list of class names", |value| {
            let names = value.as_array()?;
            names.first().map_or(Some(None), |first| first.as_str().map(Some))
        })?;
        Ok(first.flatten())
    }
}

/// Parses a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let bytes = map_file(path)?;
    serde_json::from_slice(&bytes).map_err(|error| ImportError::format(path, "JSON", error.to_string()))
}

/// What a value is, for messages.
pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}
