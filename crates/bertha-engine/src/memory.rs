//! Where the bytes of a file lie while it is read: a mapping, or a buffer aligned like one.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::Fault;
use crate::layout::ALIGNMENT;

/// Maps a file. The bytes live as long as any slice of them.
pub(crate) fn map(path: &Path) -> Result<Bytes, Fault> {
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
        return Ok(Bytes::new());
    }
    // SAFETY: The mapping is read-only and private to `Bytes`. It is sound as long as no one changes or truncates the
    // file in place while it is mapped. `EngineWriter` never does: it writes a new file and renames it, which leaves
    // mappings of the old one intact. `EngineFile::open` passes this condition on to its callers.
    let mapping = unsafe { Mmap::map(&file) }.map_err(io("map the file"))?;
    Ok(Bytes::from_owner(mapping))
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
