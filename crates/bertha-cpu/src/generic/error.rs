//! Errors of the generic kernels.

/// Why an op cannot run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExecuteError {
    /// Operands or results do not fit the op, or what operands hold is out of range.
    #[error("{op}: {what}")]
    Operands {
        /// The op's mnemonic.
        op: &'static str,
        /// Which operand, what is wrong, what was expected.
        what: String,
    },
    /// The op, or this dtype of it, has no generic kernel.
    #[error("{op}: there is no generic CPU kernel for {what}")]
    Unsupported {
        /// The op's mnemonic.
        op: &'static str,
        /// What of it.
        what: String,
    },
}

/// What is wrong, before it is known with which op. Made only when a run fails: the text is allocated.
#[derive(Debug)]
pub(super) enum Fault {
    Operands(String),
    Unsupported(String),
}

impl Fault {
    pub(super) fn of(self, op: &'static str) -> ExecuteError {
        match self {
            Fault::Operands(what) => ExecuteError::Operands { op, what },
            Fault::Unsupported(what) => ExecuteError::Unsupported { op, what },
        }
    }
}

pub(super) type Outcome<T = ()> = Result<T, Fault>;

/// `Err` of [`Fault::Operands`] with a formatted message.
macro_rules! fault {
    ($($arg:tt)*) => { Err($crate::generic::error::Fault::Operands(format!($($arg)*))) };
}
pub(super) use fault;
