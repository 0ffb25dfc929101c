//! One section of an open file, and which of its pieces are known to be intact.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::checksum::checksum;
use crate::content::SectionInfo;
use crate::error::Fault;
use crate::layout::{CHUNK, Entry};

/// A pass over fewer pieces than this is not worth a second thread.
const CHUNKS_PER_THREAD: usize = 32;

/// More threads than this do not read memory faster.
const MAX_THREADS: usize = 4;

pub(crate) struct Section {
    pub(crate) info: SectionInfo,
    chunks: Vec<Chunk>,
}

struct Chunk {
    digest: u64,
    /// Set once the bytes were found to match the digest.
    intact: AtomicBool,
}

/// A piece that was not checked yet: its number, its bytes and its digest.
type Unchecked<'a> = (usize, &'a [u8], &'a Chunk);

impl Section {
    pub(crate) fn new(entry: Entry) -> Self {
        let Entry { name, offset, length, digests } = entry;
        let all_digests: Vec<u8> = digests.iter().flat_map(|digest| digest.to_le_bytes()).collect();
        let info = SectionInfo { name, offset, length, checksum: checksum(&all_digests) };
        let chunks =
            digests.into_iter().map(|digest| Chunk { digest, intact: AtomicBool::new(false) }).collect();
        Self { info, chunks }
    }

    /// Checks the pieces that hold the bytes `range` of the section, unless that was done before. `file` is the whole
    /// file; `forget` is told each range of it that was read.
    pub(crate) fn verify(
        &self,
        file: &[u8],
        range: &Range<u64>,
        forget: impl Fn(Range<usize>) + Sync,
    ) -> Result<(), Fault> {
        if range.is_empty() {
            return Ok(());
        }
        let place = self.place(&(0..self.info.length))?;
        let bytes = file.get(place.clone()).unwrap_or_default();
        let first = (range.start / CHUNK as u64) as usize;
        let end = range.end.div_ceil(CHUNK as u64) as usize;
        let numbered = bytes.chunks(CHUNK).zip(&self.chunks).enumerate().skip(first).take(end - first);
        let work: Vec<Unchecked<'_>> = numbered
            .map(|(number, (bytes, chunk))| (number, bytes, chunk))
            .filter(|(_, _, chunk)| !chunk.intact.load(Ordering::Relaxed))
            .collect();
        let forget = |number: usize, length: usize| {
            let start = place.start + number * CHUNK;
            forget(start..start + length);
        };
        match first_damaged_of(&work, &forget) {
            None => Ok(()),
            Some(piece) => Err(self.damaged(piece)),
        }
    }

    fn damaged(&self, (number, length): (usize, usize)) -> Fault {
        Fault::DamagedSection {
            section: self.info.name.clone(),
            offset: self.info.offset + (number * CHUNK) as u64,
            length: length as u64,
        }
    }

    /// Copies the whole section to `target`, which has its length, and checks the copy. `file` is the whole file;
    /// `forget` is told each range of it that was read.
    pub(crate) fn copy(
        &self,
        file: &[u8],
        target: &mut [u8],
        forget: impl Fn(Range<usize>) + Sync,
    ) -> Result<(), Fault> {
        let place = self.place(&(0..self.info.length))?;
        let bytes = file.get(place.clone()).unwrap_or_default();
        let pieces = bytes.chunks(CHUNK).zip(target.chunks_mut(CHUNK)).zip(&self.chunks).enumerate();
        let mut work: Vec<_> =
            pieces.map(|(number, ((from, to), chunk))| (number, from, to, chunk)).collect();
        let copy = |pieces: &mut [(usize, &[u8], &mut [u8], &Chunk)]| {
            pieces.iter_mut().find_map(|(number, from, to, chunk)| {
                to.copy_from_slice(from);
                let start = place.start + *number * CHUNK;
                forget(start..start + from.len());
                (checksum(to) != chunk.digest).then_some((*number, from.len()))
            })
        };
        let share = work.len().div_ceil(threads_for(work.len())).max(1);
        let damaged = thread::scope(|scope| {
            let mut shares = work.chunks_mut(share);
            let own = shares.next();
            let others: Vec<_> = shares.map(|share| scope.spawn(|| copy(share))).collect();
            let own = own.and_then(copy);
            others.into_iter().fold(own, |found, other| {
                let other = other.join().unwrap_or_else(|panic| resume_unwind(panic));
                found.or(other)
            })
        });
        damaged.map_or(Ok(()), |piece| Err(self.damaged(piece)))
    }

    /// Where the bytes `range` of the section lie in the file: within the section, and thus within the file.
    pub(crate) fn place(&self, range: &Range<u64>) -> Result<Range<usize>, Fault> {
        let SectionInfo { name, offset, length, .. } = &self.info;
        if range.start > range.end || range.end > *length {
            let Range { start, end } = *range;
            return Err(Fault::OutOfRange { section: name.clone(), start, end, length: *length });
        }
        // Both fit into `usize`, since the whole file is in memory.
        Ok((offset + range.start) as usize..(offset + range.end) as usize)
    }

    /// The fault of a section whose bytes are intact but make no sense.
    pub(crate) fn invalid(&self, reason: String) -> Fault {
        Fault::InvalidSection { section: self.info.name.clone(), offset: self.info.offset, reason }
    }
}

/// Threads for a pass over so many pieces.
fn threads_for(pieces: usize) -> usize {
    if pieces <= CHUNKS_PER_THREAD {
        return 1;
    }
    // Asked only now, because the question is not free: it reads the limits of the process's control group.
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    threads.min(pieces.div_ceil(CHUNKS_PER_THREAD))
}

/// Checks pieces, on several threads if there are many: number and length of the first that is damaged.
fn first_damaged_of(
    work: &[Unchecked<'_>],
    forget: &(impl Fn(usize, usize) + Sync),
) -> Option<(usize, usize)> {
    let share = work.len().div_ceil(threads_for(work.len())).max(1);
    let (own, others) = work.split_at(work.len().min(share));
    thread::scope(|scope| {
        let others: Vec<_> =
            others.chunks(share).map(|share| scope.spawn(move || first_damaged(share, forget))).collect();
        let own = first_damaged(own, forget);
        others.into_iter().fold(own, |found, other| {
            let other = other.join().unwrap_or_else(|panic| resume_unwind(panic));
            found.or(other)
        })
    })
}

fn first_damaged(work: &[Unchecked<'_>], forget: &impl Fn(usize, usize)) -> Option<(usize, usize)> {
    work.iter().find_map(|&(number, bytes, chunk)| {
        let intact = checksum(bytes) == chunk.digest;
        forget(number, bytes.len());
        // Relaxed: the flag guards no other memory, and checking a piece twice is harmless.
        chunk.intact.store(intact, Ordering::Relaxed);
        (!intact).then_some((number, bytes.len()))
    })
}
