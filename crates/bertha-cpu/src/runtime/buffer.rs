//! Memory for intermediate tensors.

/// One cache line; vectors of it are aligned for every kernel.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes aligned to 64, which only ever grow.
#[derive(Default)]
pub(crate) struct AlignedBuffer {
    lines: Vec<Line>,
}

impl AlignedBuffer {
    /// Makes room for `bytes`; what was there is lost only when it grows. `None` when there is no such memory.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Option<()> {
        let lines = bytes.div_ceil(64);
        if lines > self.lines.len() {
            self.lines = Vec::new();
            self.lines = bytemuck::allocation::try_zeroed_vec(lines).ok()?;
        }
        Some(())
    }

    /// Bytes that there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.lines.len() * 64
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.lines)
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}
