//! A restricted pickle machine.
//!
//! A pickle is a program for a stack machine that can name any Python function and have it called. This one can build
//! numbers, strings, tuples, lists, dictionaries and descriptions of tensors, and nothing else: a global name outside
//! [`Global`] is an error that names it, at the moment it is named, whether or not it would have been called.
//!
//! Every value is a node of one [`Heap`], referred to by number. Nothing is nested in memory, so deep or cyclic pickles
//! cost no recursion, neither while reading nor when dropped, and each byte of the pickle can make at most one node.
//!
//! Opcodes: Python's `pickletools` documents all of them (protocols 0 to 5).

mod globals;
mod heap;
mod machine;
mod opcodes;
mod reader;
mod rebuild;

pub(super) use globals::ElementType;
pub(super) use heap::{Heap, Object, Ref, StorageKey, TensorView};
pub(super) use machine::{Dialect, run};
pub(super) use reader::Reader;
pub(super) use rebuild::key_list;

/// Longest pickle that is read. The pickle of a checkpoint holds names and shapes, not weights: a hundred thousand
/// tensors take about 20 MB.
pub(super) const MAX_PICKLE_BYTES: usize = 64 << 20;

/// Most values one pickle may make, and most entries it may copy from one container to another. A tensor takes about
/// 25 values.
const MAX_VALUES: usize = 8 << 20;
/// Most tensors one pickle may describe; they are the largest values.
const MAX_TENSORS: usize = 1 << 20;
/// Most dimensions a tensor may have.
const MAX_RANK: usize = 16;
/// Longest key of a storage; PyTorch writes a number.
const MAX_KEY_BYTES: usize = 256;

/// Why a pickle was refused. Offsets count bytes from the start of that pickle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// The pickle names a function or class that weights have no need of.
    #[error(
        "refuses to run `{global}` (offset {offset}): a checkpoint of weights needs no such thing, and calling it \
         could run any program; if you trust the file, load it in Python and save only the tensors"
    )]
    ForbiddenGlobal {
        /// Module and name, dotted.
        global: String,
        /// Where it is named.
        offset: usize,
    },
    /// The pickle ends in the middle.
    #[error("the pickle is cut off at offset {offset}")]
    Truncated {
        /// Where more bytes were expected.
        offset: usize,
    },
    /// An opcode that is unknown or that weights have no need of.
    #[error("opcode {opcode:#04x} at offset {offset} is not supported")]
    Opcode {
        /// The opcode byte.
        opcode: u8,
        /// Where it stands.
        offset: usize,
    },
    /// The pickle does something that makes no sense or passes a limit.
    #[error("{reason} (offset {offset})")]
    Invalid {
        /// What is wrong.
        reason: String,
        /// Where.
        offset: usize,
    },
}

/// Shortens text of the file's making for a message.
pub(super) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 120;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

impl PickleError {
    fn invalid(offset: usize, reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into(), offset }
    }
}

#[cfg(test)]
mod tests;
