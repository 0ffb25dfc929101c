//! Section names and what the container knows about each.

use crate::error::Fault;

pub(crate) const META: &str = "meta";
pub(crate) const GRAPH: &str = "graph";
pub(crate) const WEIGHTS: &str = "weights";
pub(crate) const WEIGHTS_INDEX: &str = "weights.index";
pub(crate) const TOKENIZER: &str = "tokenizer";
pub(crate) const PLAN_PREFIX: &str = "plan:";
pub(crate) const PACKED_PREFIX: &str = "packed:";

/// What a section is, read from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind<'a> {
    /// `meta`: who built the file, and facts about the model (JSON).
    Metadata,
    /// `graph`: the portable graph (UTF-8 text).
    Graph,
    /// `weights`: the tensors of the portable graph (raw, aligned).
    Weights,
    /// `weights.index`: names, dtypes, shapes and places of those tensors (JSON).
    WeightsIndex,
    /// `tokenizer`: opaque bytes.
    Tokenizer,
    /// `plan:TARGET`: what that target runs.
    Plan(&'a str),
    /// `packed:TARGET`: weights laid out for that target (raw).
    Packed(&'a str),
    /// A section this version has no name for. It is kept and listed.
    Other,
}

impl<'a> SectionKind<'a> {
    /// The kind that a section name stands for.
    #[must_use]
    pub fn of(name: &'a str) -> Self {
        match name {
            META => Self::Metadata,
            GRAPH => Self::Graph,
            WEIGHTS => Self::Weights,
            WEIGHTS_INDEX => Self::WeightsIndex,
            TOKENIZER => Self::Tokenizer,
            _ => {
                if let Some(target) = name.strip_prefix(PLAN_PREFIX) {
                    Self::Plan(target)
                } else if let Some(target) = name.strip_prefix(PACKED_PREFIX) {
                    Self::Packed(target)
                } else {
                    Self::Other
                }
            }
        }
    }
}

/// Longest section name, in bytes.
pub(crate) const MAX_NAME: usize = 48;

/// Why `name` cannot name a section, if it cannot.
pub(crate) fn section_name_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("a section name is not empty");
    }
    if name.len() > MAX_NAME {
        return Some("a section name has at most 48 bytes");
    }
    let (plain, target) = match SectionKind::of(name) {
        SectionKind::Plan(target) | SectionKind::Packed(target) => ("", Some(target)),
        _ => (name, None),
    };
    if target.is_some_and(str::is_empty) {
        return Some("a target name is not empty");
    }
    if target.is_some_and(|target| !target.bytes().all(is_target_byte)) {
        return Some("a target name holds only a-z, 0-9, `.`, `_` and `-`");
    }
    if !plain.bytes().all(|byte| is_target_byte(byte) || byte == b':') {
        return Some("a section name holds only a-z, 0-9, `.`, `_`, `-` and `:`");
    }
    None
}

/// The section of a target, such as `plan:cpu`.
pub(crate) fn target_section(prefix: &str, target: &str) -> Result<String, Fault> {
    let name = format!("{prefix}{target}");
    match section_name_problem(&name) {
        None => Ok(name),
        Some(reason) => Err(Fault::InvalidName { name: target.to_owned(), reason }),
    }
}

fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
}
