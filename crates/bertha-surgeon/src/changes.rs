//! What an operation did.

use serde::Serialize;

/// What an operation changed, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// One line for each change.
    pub changes: Vec<String>,
    /// What the caller should know besides.
    pub notes: Vec<String>,
}

impl Changes {
    pub(crate) fn change(&mut self, line: impl Into<String>) {
        self.changes.push(line.into());
    }

    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }
}
