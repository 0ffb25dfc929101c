//! Checksums: XXH3, 64 bits, seed 0, over pieces of at most [`CHUNK`] bytes.
//!
//! XXH3 runs at the speed of memory, so checking weights costs about what reading them costs, and 64 bits make an
//! undetected random change a matter of 2^-64. It protects against damage, not against an adversary: a hostile file
//! can carry matching checksums, which is why the structure is validated all the same.

use twox_hash::XxHash3_64;

use crate::layout::CHUNK;

/// The checksum of one piece.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// The checksums of a whole section, a piece at a time.
pub(crate) fn digests_of(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(CHUNK).map(checksum).collect()
}

/// Makes the checksums of a section that is written in arbitrary slices.
pub(crate) struct ChunkHasher {
    hasher: XxHash3_64,
    in_chunk: usize,
    digests: Vec<u64>,
}

impl ChunkHasher {
    pub(crate) fn new() -> Self {
        Self { hasher: XxHash3_64::new(), in_chunk: 0, digests: Vec::new() }
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        use std::hash::Hasher as _;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.in_chunk));
            self.hasher.write(now);
            self.in_chunk += now.len();
            bytes = later;
            if self.in_chunk == CHUNK {
                self.close_chunk();
            }
        }
    }

    pub(crate) fn finish(mut self) -> Vec<u64> {
        if self.in_chunk > 0 {
            self.close_chunk();
        }
        self.digests
    }

    fn close_chunk(&mut self) {
        use std::hash::Hasher as _;
        self.digests.push(self.hasher.finish());
        self.hasher = XxHash3_64::new();
        self.in_chunk = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_any_size_give_the_digests_of_the_whole() {
        let data: Vec<u8> = (0..2 * CHUNK + 12_345).map(|i| (i * 31 % 251) as u8).collect();
        for step in [1000, CHUNK - 1, CHUNK, CHUNK + 1, data.len()] {
            let mut hasher = ChunkHasher::new();
            data.chunks(step).for_each(|slice| hasher.update(slice));
            assert_eq!(hasher.finish(), digests_of(&data), "slices of {step} bytes");
        }
        assert!(ChunkHasher::new().finish().is_empty());
    }
}
