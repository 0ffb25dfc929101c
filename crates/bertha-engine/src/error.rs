//! What can be wrong with an engine file, each in one sentence.

use std::io;

/// An engine file could not be read or written: which file, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {fault}")]
pub struct EngineError {
    /// The path of the file, or `engine in memory`.
    pub file: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with an engine file. Offsets and lengths are in bytes; offsets count from the start of the file
/// unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The operating system refused to open, map, write or rename the file.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was being done, to follow "cannot".
        action: &'static str,
        /// What the operating system said.
        error: io::Error,
    },
    /// The path names a folder, a pipe or a device.
    #[error("is not a regular file; give the path of a .bertha file")]
    NotAFile,
    /// The file does not begin with the magic bytes.
    #[error("is not a Bertha engine file; build one with `bertha build MODEL -o FILE.bertha`")]
    NotAnEngine,
    /// The file was written by a newer program.
    #[error(
        "is written in engine format {found}, newer than format {newest} that this program reads; update bertha, \
         or rebuild the file with `bertha build`"
    )]
    TooNew {
        /// The version in the file.
        found: u32,
        /// The newest version this crate reads.
        newest: u32,
    },
    /// The file was written by a program older than this crate still reads.
    #[error(
        "is written in engine format {found}, older than format {oldest}, the oldest that this program reads; \
         rebuild it with `bertha build`"
    )]
    TooOld {
        /// The version in the file.
        found: u32,
        /// The oldest version this crate reads.
        oldest: u32,
    },
    /// The file is shorter than its header says.
    #[error(
        "is truncated: it has {actual} bytes and should have {expected}; copy it again or rebuild it with \
         `bertha build`"
    )]
    Truncated {
        /// The length the file should have.
        expected: u64,
        /// The length it has.
        actual: u64,
    },
    /// The file is longer than its header says.
    #[error(
        "has {actual} bytes and should have {expected}: something was appended; copy it again or rebuild it with \
         `bertha build`"
    )]
    TooLong {
        /// The length the file should have.
        expected: u64,
        /// The length it has.
        actual: u64,
    },
    /// The bytes of the header do not match its checksum.
    #[error(
        "is damaged in its header (offset 0): the checksum does not match; rebuild it with `bertha build`"
    )]
    DamagedHeader,
    /// The bytes of the section table do not match their checksum.
    #[error(
        "is damaged in its section table (offset {offset}): the checksum does not match; rebuild it with \
         `bertha build`"
    )]
    DamagedTable {
        /// Where the table begins.
        offset: u64,
    },
    /// Some bytes of a section do not match their checksum.
    #[error(
        "is damaged in section `{section}`, within {length} bytes at offset {offset}: the checksum does not match; \
         rebuild it with `bertha build`"
    )]
    DamagedSection {
        /// The section.
        section: String,
        /// Where the piece that does not match begins.
        offset: u64,
        /// The length of that piece.
        length: u64,
    },
    /// The checksums match, but the header or the table contradicts itself: the file was not written by Bertha.
    #[error("has an invalid {part} at offset {offset}: {reason}; rebuild it with `bertha build`")]
    InvalidTable {
        /// `header`, `section table` or `padding`.
        part: &'static str,
        /// Where.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The checksums match, but what a section holds makes no sense to the container.
    #[error("has an invalid section `{section}` (offset {offset}): {reason}; rebuild it with `bertha build`")]
    InvalidSection {
        /// The section.
        section: String,
        /// Where the section begins.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The weights index describes a tensor that cannot be.
    #[error(
        "has an invalid tensor `{tensor}` in section `weights.index`: {reason}; rebuild it with `bertha build`"
    )]
    InvalidTensor {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A section that was asked for is not in the file.
    #[error("has no section `{section}`; rebuild it with `bertha build`")]
    MissingSection {
        /// The section asked for.
        section: String,
    },
    /// A tensor that was asked for is not in the file.
    #[error("has no tensor `{tensor}` in section `weights`; rebuild it with `bertha build`")]
    MissingTensor {
        /// The tensor asked for.
        tensor: String,
    },
    /// A range that was asked for lies outside its section, as when a plan and its packed weights do not belong
    /// together.
    #[error(
        "has no bytes {start}..{end} in section `{section}`, which is {length} bytes long; rebuild it with \
         `bertha build`"
    )]
    OutOfRange {
        /// The section.
        section: String,
        /// First byte asked for, from the start of the section.
        start: u64,
        /// End of the range asked for.
        end: u64,
        /// Length of the section.
        length: u64,
    },
    /// The file does not fit into the address space of this machine.
    #[error("is {length} bytes long, more than this machine can address; use a 64-bit machine")]
    TooLarge {
        /// Length of the file.
        length: u64,
    },
    /// Tensors are stored little-endian and mapped as they are.
    #[error("holds little-endian tensors, and this machine is big-endian; use a little-endian machine")]
    BigEndianHost,
    /// Writing: a section, target or tensor name that the format cannot hold.
    #[error("cannot hold the name `{name}`: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// Writing: a section or tensor of this name has been written already.
    #[error("holds `{name}` already; give each section and each tensor a name of its own")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// Writing: a tensor whose bytes do not fit its dtype and shape.
    #[error("cannot hold tensor `{tensor}`: {reason}")]
    BadTensor {
        /// The tensor.
        tensor: String,
        /// What does not fit.
        reason: String,
    },
    /// Writing: a section was begun and not finished, because an error or an early return came between.
    #[error("is incomplete: section `{section}` was begun and not finished")]
    Unfinished {
        /// The section.
        section: String,
    },
}

impl Fault {
    /// The error for this fault in `file`.
    pub(crate) fn in_file(self, file: &str) -> EngineError {
        EngineError { file: file.to_owned(), fault: self }
    }
}
