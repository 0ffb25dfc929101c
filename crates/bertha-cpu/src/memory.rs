//! Memory for weights, tensors and scratch: aligned to cache lines, and in large pages where it is large.
//!
//! A product of few tokens reads its weights once, from memory. In pages of 4 KiB that is an address translation for
//! every 4 KiB, each a walk through the page tables, twice over in a virtual machine: at 16 tokens it cost a fifth of the
//! time. In pages of 2 MiB it costs nothing. So anything of a large page's size or more asks the operating system for
//! them; where it has none, the memory is as usual.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Bytes of a large page, on x86-64 and on most others.
const LARGE_PAGE: usize = 2 << 20;

/// One cache line; a vector of them is memory that no vector load straddles a line in.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes aligned to 64, zero at first. Two large ones never share a large page.
#[derive(Default)]
pub struct Memory(Kind);

enum Kind {
    Small(Vec<Line>, usize),
    /// The mapping, where the bytes start in it, and how many they are.
    Large(MmapMut, usize, usize),
}

impl Default for Kind {
    fn default() -> Self {
        Kind::Small(Vec::new(), 0)
    }
}

impl Memory {
    /// `len` zero bytes, or `None` when there is no such memory.
    #[must_use]
    pub fn zeroed(len: usize) -> Option<Self> {
        if len < LARGE_PAGE {
            let lines = bytemuck::allocation::try_zeroed_vec(len.div_ceil(size_of::<Line>())).ok()?;
            return Some(Self(Kind::Small(lines, len)));
        }
        // With room to start at a large page's boundary; what is never touched takes no memory.
        let mapping = MmapMut::map_anon(len.checked_add(LARGE_PAGE)?).ok()?;
        // Advice: a system without large pages declines, and nothing but speed depends on them.
        #[cfg(target_os = "linux")]
        let _ = mapping.advise(memmap2::Advice::HugePage);
        let start = mapping.as_ptr().addr().next_multiple_of(LARGE_PAGE) - mapping.as_ptr().addr();
        Some(Self(Kind::Large(mapping, start, len)))
    }

    /// Makes room for at least `len` bytes; what was there is lost when it grows. `None` when there is no such memory: then
    /// it is empty.
    #[must_use]
    pub fn reserve(&mut self, len: usize) -> Option<()> {
        if len > self.len() {
            // The old memory goes first: both together may be more than there is.
            *self = Self::default();
            *self = Self::zeroed(len)?;
        }
        Some(())
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Small(lines, len) => &bytemuck::cast_slice(lines)[..*len],
            Kind::Large(mapping, start, len) => &mapping[*start..][..*len],
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Kind::Small(lines, len) => &mut bytemuck::cast_slice_mut(lines)[..*len],
            Kind::Large(mapping, start, len) => &mut mapping[*start..][..*len],
        }
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_aligned_zero_and_writable_to_the_end() {
        for len in [0, 1, 63, 64, 4096, LARGE_PAGE - 1, LARGE_PAGE, LARGE_PAGE + 1, 3 * LARGE_PAGE + 100] {
            let mut memory = Memory::zeroed(len).unwrap();
            assert_eq!(memory.len(), len);
            assert!(memory.iter().all(|byte| *byte == 0));
            let alignment = if len >= LARGE_PAGE { LARGE_PAGE } else { 64 };
            assert!(len == 0 || memory.as_ptr().addr().is_multiple_of(alignment), "{len}");
            memory.fill(0xa5);
            assert!(memory.iter().all(|byte| *byte == 0xa5));
        }
        assert!(Memory::zeroed(usize::MAX).is_none());
    }
}
