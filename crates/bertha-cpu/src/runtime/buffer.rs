//! Memory for intermediate tensors.

use crate::memory::Memory;

/// Bytes aligned to 64, which only ever grow.
#[derive(Default)]
pub(crate) struct AlignedBuffer {
    memory: Memory,
}

impl AlignedBuffer {
    /// Makes room for `bytes`; what was there is lost only when it grows. `None` when there is no such memory.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Option<()> {
        if bytes > self.memory.len() {
            // The old memory goes first: both together may be more than there is.
            self.memory = Memory::default();
            self.memory = Memory::zeroed(bytes.next_multiple_of(64))?;
        }
        Some(())
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
