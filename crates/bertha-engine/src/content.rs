//! The small plain types that a file is described with.

use serde::{Deserialize, Serialize};

use crate::name::SectionKind;

/// Section `meta`: who built the file and what the model is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The program that built the file, with its version, such as `bertha 0.1.0`.
    pub producer: String,
    /// Facts about the model. The container keeps them as they are.
    pub model: serde_json::Value,
}

/// One section of a file, as listed by `inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SectionInfo {
    /// Its name, such as `weights` or `plan:cpu`.
    pub name: String,
    /// Where it begins, in bytes from the start of the file: a multiple of [`crate::ALIGNMENT`].
    pub offset: u64,
    /// Its length in bytes, without padding.
    pub length: u64,
    /// The checksum of its pieces' checksums: equal contents have equal ones.
    pub checksum: u64,
}

impl SectionInfo {
    /// What the section is.
    #[must_use]
    pub fn kind(&self) -> SectionKind<'_> {
        SectionKind::of(&self.name)
    }
}
