//! What a kernel call needs besides its operands: the tier, the threads, the scratch.

use std::io;

use super::gemm::{PackedB, PackedDesc};
use super::views::RowsMut;
use crate::distance::Distance;
use crate::isa::{Caches, Isa};
use crate::memory::Memory;
use crate::pool::{Disjoint, Pool};

/// f32 per cache line.
pub(crate) const LINE: usize = 16;

/// Bytes of a result from which on it goes past the caches also where cores share one: beside its operands it would not
/// stay there.
const STREAM_ANYWAY: usize = 2 << 20;

/// f32 memory aligned to cache lines, all zeros at first.
#[derive(Default)]
pub struct AlignedBuf(Memory);

impl AlignedBuf {
    /// `len` zeros.
    ///
    /// # Panics
    /// When there is no such memory.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let mut buf = Self::default();
        buf.reserve(len).expect("memory for the buffer");
        buf
    }

    /// Makes room for at least `len` values; what was there is lost when it grows. `None` when there is no such memory.
    #[must_use]
    pub fn reserve(&mut self, len: usize) -> Option<()> {
        self.0.reserve(len.checked_mul(size_of::<f32>())?)
    }
}

impl Clone for AlignedBuf {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedBuf").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A packed operand that will be read soon, known by its place alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upcoming {
    /// The address of its first panel.
    first: usize,
    /// f32 per panel.
    panel: usize,
    panels: usize,
}

impl Upcoming {
    /// Where the panel is, for fetching alone, that worker `worker` of `threads` reads first where every item has all rows.
    pub(crate) fn first_panel(&self, worker: usize, threads: usize) -> *const f32 {
        let panel = self.panels * worker / threads;
        std::ptr::without_provenance(self.first + panel * self.panel * size_of::<f32>())
    }
}

/// Tier, threads and scratch of a session. Every kernel takes it first.
///
/// Scratch grows when a kernel first needs more of it and is kept, so a session that has run its largest shape (or
/// called [`Context::reserve`] with what the kernels' `scratch_len` functions say) allocates no more.
#[derive(Debug)]
pub struct Context {
    pub(crate) isa: Isa,
    pub(crate) pool: Pool,
    pub(crate) caches: Caches,
    distance: Distance,
    /// What the next product's B will be followed by.
    upcoming: Option<Upcoming>,
    /// One buffer per worker.
    pub(crate) scratch: Vec<AlignedBuf>,
    /// A left operand rounded for a product of a smaller type, for all workers.
    pub(crate) rounded: AlignedBuf,
}

impl Context {
    /// A context on `isa` with `threads` workers, the caller included.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(isa: Isa, threads: usize) -> io::Result<Self> {
        let pool = Pool::new(threads)?;
        let scratch = vec![AlignedBuf::default(); pool.threads()];
        let distance = Distance::new(pool.threads());
        let (caches, rounded) = (Caches::detect(), AlignedBuf::default());
        Ok(Self { isa, pool, caches, distance, upcoming: None, scratch, rounded })
    }

    /// The tier its kernels run on.
    #[must_use]
    pub const fn isa(&self) -> Isa {
        self.isa
    }

    /// Workers, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Bytes of scratch held, all workers together.
    #[must_use]
    pub fn scratch_bytes(&self) -> usize {
        self.scratch.iter().chain([&self.rounded]).map(|buf| size_of_val(&**buf)).sum()
    }

    /// Finds out how far apart the workers' cores are, which may change while a program runs; does nothing when it did so
    /// a moment ago. Before it is called, they count as far. No result depends on it, only where results are put.
    pub fn measure_distance(&mut self) {
        self.distance.measure(&mut self.pool);
    }

    /// Says which packed operand the product after the next one multiplies with: while the next one ends, every worker fetches
    /// what it will read of that first. Holds for one product; nothing depends on it but time.
    pub fn expect(&mut self, operand: &PackedB<'_>) {
        let PackedDesc { nr, .. } = *operand.desc();
        let panel = operand.desc().words() * nr;
        self.upcoming =
            Some(Upcoming { first: operand.data().as_ptr().addr(), panel, panels: operand.desc().panels() });
    }

    /// What [`Context::expect`] was told, once.
    pub(crate) fn upcoming(&mut self) -> Option<Upcoming> {
        self.upcoming.take()
    }

    /// Whether results should go past the caches, into rows `stride` apart from the start of `data` on, where every row
    /// starts at a cache line ([`Simd::stream_ptr`](super::simd::Simd::stream_ptr)): where workers run on cores that do not
    /// share a third-level cache, or where the results would not stay there.
    ///
    /// A session writes the same buffers again with every layer, and both cores have read them meanwhile. Before a core
    /// writes such a line it has to take it back from the other, and a core takes back one line at a time: 7 ns each where
    /// two cores share a cache, 29 ns where they do not. A line that is written past the caches costs 3 to 5 ns either way,
    /// and little more to read than one from a core far away, but much more than one from a shared cache.
    pub(crate) fn streams<T>(&self, data: &[T], stride: usize) -> bool {
        let line = LINE * size_of::<f32>();
        let aligned =
            data.as_ptr().addr().is_multiple_of(line) && (stride * size_of::<T>()).is_multiple_of(line);
        let apart = self.distance.is_far() || size_of_val(data) >= STREAM_ANYWAY;
        self.threads() > 1 && aligned && apart
    }

    /// Makes room for `len` f32 of scratch per worker ahead of time.
    ///
    /// # Panics
    /// When there is no such memory.
    pub fn reserve(&mut self, len: usize) {
        for buf in &mut self.scratch {
            buf.reserve(len).expect("memory for a kernel's scratch");
        }
    }

    /// Runs `f(first row, rows)` over blocks of rows of `out` on all workers; on the caller alone where the whole is too
    /// small to share.
    pub(crate) fn for_row_blocks<F>(&mut self, out: RowsMut<'_>, f: F)
    where
        F: Fn(usize, RowsMut<'_>) + Sync,
    {
        /// Fewer values than this are not worth a part of their own.
        const MIN_PART: usize = 2 << 10;
        out.check();
        let RowsMut { data, rows, cols, stride } = out;
        if rows == 0 || cols == 0 {
            return;
        }
        let parts = (rows * cols / MIN_PART).clamp(1, 4 * self.threads()).min(rows);
        let data = Disjoint::new(data);
        self.pool.run(parts, |part| {
            let (first, end) = (rows * part.index / parts, rows * (part.index + 1) / parts);
            let rows = end - first;
            // SAFETY: the parts' row ranges are disjoint, and rows do not overlap.
            let block = unsafe { data.slice(first * stride, (rows - 1) * stride + cols) };
            f(first, RowsMut { data: block, rows, cols, stride });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_never_shrink() {
        let mut buf = AlignedBuf::new(5);
        assert_eq!(buf.as_ptr() as usize % 64, 0);
        assert_eq!(&buf[..], [0.0; 5]);
        buf.reserve(100).unwrap();
        assert_eq!(buf.len(), 100);
        buf[4] = 3.0;
        buf.reserve(7).unwrap();
        assert_eq!((buf.len(), buf[4]), (100, 3.0));
        assert!(buf.reserve(usize::MAX).is_none() && buf.reserve(usize::MAX / 8).is_none());
        buf.reserve(9).unwrap();
        assert!(buf.len() >= 9);
        assert!(AlignedBuf::default().is_empty());
    }
}
