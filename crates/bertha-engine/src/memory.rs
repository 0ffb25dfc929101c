//! Where the bytes of a file lie while it is read: a mapping, or a buffer aligned like one.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::Fault;
use crate::layout::ALIGNMENT;

/// The bytes of a file, shared with every slice of them that was handed out.
pub(crate) struct FileBytes {
    bytes: Bytes,
    mapping: Option<Arc<Mapping>>,
}

/// A mapping as the owner of bytes.
struct Mapping(Mmap);

/// What [`Bytes`] keep of a mapping.
struct Owner(Arc<Mapping>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.0
    }
}

impl FileBytes {
    /// Takes the pages that `range` touches out of the process's resident memory, where the bytes are mapped. They stay in
    /// the system's page cache and come back when they are read.
    pub(crate) fn forget(&self, range: Range<usize>) {
        /// The largest page of a system that maps files in base pages.
        const PAGE: usize = 64 << 10;
        let (start, end) =
            (range.start / PAGE * PAGE, range.end.next_multiple_of(PAGE).min(self.bytes.len()));
        #[cfg(unix)]
        if let (Some(mapping), true) = (&self.mapping, start < end) {
            // SAFETY: the mapping is of a file and never written, so what is read after this is what was read before:
            // the file's contents. Advice that the system declines changes nothing.
            let _ = unsafe {
                mapping.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
            };
        }
    }

    /// Takes the whole mapping out of resident memory, and lets single pages come back from now on. Where the page cache
    /// holds a file in large pages, Linux would map 2 MiB around every byte that is read.
    pub(crate) fn release(&self) {
        // Advice: a system that declines keeps more in memory, and nothing else depends on it.
        #[cfg(target_os = "linux")]
        if let Some(mapping) = &self.mapping {
            let _ = mapping.0.advise(memmap2::Advice::NoHugePage);
        }
        self.forget(0..self.bytes.len());
    }
}

impl Deref for FileBytes {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl From<Bytes> for FileBytes {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, mapping: None }
    }
}

/// Maps a file. The bytes live as long as any slice of them.
pub(crate) fn map(path: &Path) -> Result<FileBytes, Fault> {
    let io = |action| move |error| Fault::Io { action, error };
    // Asked before opening, because opening a pipe waits for its other end.
    let metadata = std::fs::metadata(path).map_err(io("open the file"))?;
    if !metadata.is_file() {
        return Err(Fault::NotAFile);
    }
    let file = File::open(path).map_err(io("open the file"))?;
    let length = file.metadata().map_err(io("read the file's length"))?.len();
    if usize::try_from(length).is_err() {
        return Err(Fault::TooLarge { length });
    }
    if length == 0 {
        return Ok(Bytes::new().into());
    }
    // SAFETY: The mapping is read-only and private to `Bytes`. It is sound as long as no one changes or truncates the
    // file in place while it is mapped. `EngineWriter` never does: it writes a new file and renames it, which leaves
    // mappings of the old one intact. `EngineFile::open` passes this condition on to its callers.
    let mapping = unsafe { Mmap::map(&file) }.map_err(io("map the file"))?;
    let mapping = Arc::new(Mapping(mapping));
    Ok(FileBytes { bytes: Bytes::from_owner(Owner(mapping.clone())), mapping: Some(mapping) })
}

/// `bytes`, moved to an aligned buffer unless they are aligned already.
pub(crate) fn aligned(bytes: Bytes) -> Bytes {
    if bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
        return bytes;
    }
    let mut blocks = vec![Block([0; ALIGNMENT]); bytes.len().div_ceil(ALIGNMENT)];
    let length = bytes.len();
    bytemuck::cast_slice_mut::<Block, u8>(&mut blocks)[..length].copy_from_slice(&bytes);
    Bytes::from_owner(AlignedBuffer { blocks, length })
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(256))]
struct Block([u8; ALIGNMENT]);

struct AlignedBuffer {
    blocks: Vec<Block>,
    length: usize,
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.blocks)[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_misalignment_is_repaired_and_aligned_bytes_stay_in_place() {
        let data = Bytes::from((0..2000_u32).map(|i| i as u8).collect::<Vec<_>>());
        for start in 0..ALIGNMENT {
            let slice = data.slice(start..1500);
            let moved = aligned(slice.clone());
            assert_eq!(moved, slice);
            assert_eq!(moved.as_ptr().addr() % ALIGNMENT, 0);
            assert_eq!(aligned(moved.clone()).as_ptr(), moved.as_ptr());
        }
        assert!(aligned(Bytes::new()).is_empty());
    }
}
