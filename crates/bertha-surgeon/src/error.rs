//! What can go wrong.

use std::path::PathBuf;

use bertha_import::ImportError;

/// A result of this crate.
pub type Result<T, E = SurgeryError> = std::result::Result<T, E>;

/// Why a model could not be read, changed or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SurgeryError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Import(#[from] ImportError),

    /// The bytes are no ONNX model.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which message.
        reason: String,
    },

    /// The request does not fit the model: an unknown name, a graph that would not be one.
    #[error("{0}")]
    Request(String),

    /// A pattern is not written as patterns are.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl SurgeryError {
    pub(crate) fn request(reason: impl Into<String>) -> Self {
        Self::Request(reason.into())
    }
}

/// A mistake in the text of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}:{line}:{column}: {message}\n{}", marked(source_line, *column))]
pub struct PatternError {
    /// Where the text comes from: a file's name, or what the caller calls it.
    pub origin: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what was expected.
    pub message: String,
    /// The line itself.
    pub source_line: String,
}

/// The part of a line around a column, and a mark under the column.
fn marked(line: &str, column: usize) -> String {
    const SHOWN: usize = 160;
    let length = line.chars().count();
    let column = column.clamp(1, length + 1);
    let start = if length <= SHOWN { 0 } else { (column - 1).saturating_sub(SHOWN / 2) };
    let part: String = line.chars().skip(start).take(SHOWN).collect();
    let front = if start > 0 { "..." } else { "" };
    let back = if length > start + SHOWN { "..." } else { "" };
    let mark = " ".repeat(front.len() + column - 1 - start);
    format!("  {front}{part}{back}\n  {mark}^")
}
