//! Memory for intermediate tensors.

use crate::memory::Memory;

/// Bytes aligned to 64, which only ever grow.
#[derive(Default)]
pub(crate) struct AlignedBuffer {
    memory: Memory,
}

impl AlignedBuffer {
    /// Makes room for `bytes`; what was there is lost only when it grows. `None` when there is no such memory.
    #[must_use]
    pub(crate) fn reserve(&mut self, bytes: usize) -> Option<()> {
        self.memory.reserve(bytes.checked_next_multiple_of(64)?)
    }

    /// Bytes that there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.memory.len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}
