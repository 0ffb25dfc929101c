//! A thread pool for microsecond forks.
//!
//! A run splits `parts` evenly into one contiguous range per worker (the caller is worker 0). A worker takes items
//! from the front of its own range and, when that is empty, steals from the back of the others', so neighbouring
//! items stay on one core and a late or slow core costs at most one item. Helpers spin briefly between runs, then
//! park. The caller never waits for a helper that has not joined: when no items are left it closes the gate, and
//! waits only for those inside. A run allocates nothing, and a pool of one thread synchronises nothing.
//!
//! [`Pool::run`] takes `&mut self`: a pool serves one run at a time, and several sessions either own one each or
//! share one under a lock.

use std::any::Any;
use std::cell::UnsafeCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a helper spins for the next run before it parks. Longer than the gap between two operators of a session,
/// shorter than what a parked core would be missed for.
const SPIN_BEFORE_PARK: Duration = Duration::from_micros(200);
/// Spin-loop hints between two looks at the clock.
const SPINS_PER_LOOK: u32 = 64;
/// How often the caller looks for the last helper before it starts to give its own time slice away.
const SPINS_BEFORE_YIELD: u32 = 4096;

/// One item of a run and who computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which item, `0..parts`.
    pub index: usize,
    /// Which worker, `0..threads`. Two parts with one worker index never run at the same time.
    pub worker: usize,
}

/// The work of a run: a type-erased `&F`, `F: Fn(Part) + Sync`.
#[derive(Clone, Copy)]
struct Job {
    data: *const (),
    call: unsafe fn(*const (), Part),
}

/// Items `lo..hi` still to do, in one word: `lo` in the upper half, `hi` in the lower. On its own cache line.
#[repr(align(128))]
struct Range(AtomicU64);

impl Range {
    const fn pack(lo: u32, hi: u32) -> u64 {
        ((lo as u64) << 32) | hi as u64
    }

    fn set(&self, lo: usize, hi: usize) {
        self.0.store(Self::pack(lo as u32, hi as u32), Ordering::Relaxed);
    }

    /// Takes the first item.
    fn take_front(&self) -> Option<usize> {
        self.take(|lo, hi| (lo + 1, hi, lo))
    }

    /// Takes the last item.
    fn take_back(&self) -> Option<usize> {
        self.take(|lo, hi| (lo, hi - 1, hi - 1))
    }

    fn take(&self, cut: impl Fn(u32, u32) -> (u32, u32, u32)) -> Option<usize> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (lo, hi) = ((word >> 32) as u32, word as u32);
            if lo >= hi {
                return None;
            }
            let (lo, hi, item) = cut(lo, hi);
            match self.0.compare_exchange_weak(word, Self::pack(lo, hi), Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Some(item as usize),
                Err(now) => word = now,
            }
        }
    }
}

/// The gate's word: the run's number in the upper half, whether it may be joined, and how many helpers are inside.
mod gate {
    pub(super) const OPEN: u64 = 1 << 31;
    pub(super) const INSIDE: u64 = OPEN - 1;

    pub(super) const fn run(word: u64) -> u64 {
        word >> 32
    }
}

struct Shared {
    gate: AtomicU64,
    /// Written by the caller while the gate is closed and nobody is inside; read by helpers that are inside.
    job: UnsafeCell<Option<Job>>,
    ranges: Box<[Range]>,
    /// Whether helper `i + 1` has parked or is about to.
    parked: Box<[AtomicBool]>,
    shutdown: AtomicBool,
    /// The first panic of a run's helpers.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only field that is not Sync by itself; the gate orders its accesses (see the field), and what
// it points to is a `&F` with `F: Sync` that outlives every helper's stay inside the gate.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Shared {}

impl Shared {
    /// Does items until none is left anywhere.
    fn work(&self, job: Job, worker: usize) {
        // SAFETY: whoever calls `work` is the caller or inside the gate, so the job's closure is alive.
        let call = |index| unsafe { (job.call)(job.data, Part { index, worker }) };
        while let Some(index) = self.ranges[worker].take_front() {
            call(index);
        }
        let workers = self.ranges.len();
        for victim in (1..workers).map(|step| (worker + step) % workers) {
            while let Some(index) = self.ranges[victim].take_back() {
                call(index);
            }
        }
    }

    /// Enters the gate if it is open for a run after `last`; returns the run's number.
    fn join(&self, last: u64) -> Option<u64> {
        let mut word = self.gate.load(Ordering::Acquire);
        while word & gate::OPEN != 0 && gate::run(word) != last {
            match self.gate.compare_exchange_weak(word, word + 1, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(gate::run(word)),
                Err(now) => word = now,
            }
        }
        None
    }

    /// A helper's life.
    fn serve(&self, worker: usize) {
        let mut last = 0;
        loop {
            let Some(run) = self.wait(worker, last) else { return };
            last = run;
            // SAFETY: we are inside the gate, so the caller does not write the job.
            if let Some(job) = unsafe { *self.job.get() }
                && let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.work(job, worker)))
            {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
            self.gate.fetch_sub(1, Ordering::Release);
        }
    }

    /// Spins, then parks, until a run can be joined (its number) or the pool shuts down.
    fn wait(&self, worker: usize, last: u64) -> Option<u64> {
        loop {
            let start = Instant::now();
            while start.elapsed() < SPIN_BEFORE_PARK {
                for _ in 0..SPINS_PER_LOOK {
                    if let Some(run) = self.join(last) {
                        return Some(run);
                    }
                    std::hint::spin_loop();
                }
                if self.shutdown.load(Ordering::Acquire) {
                    return None;
                }
            }
            let parked = &self.parked[worker - 1];
            // SeqCst here and in `wake`: either this helper sees the open gate, or the caller sees it parked.
            parked.store(true, Ordering::SeqCst);
            while parked.load(Ordering::SeqCst) {
                let word = self.gate.load(Ordering::SeqCst);
                let joinable = word & gate::OPEN != 0 && gate::run(word) != last;
                if joinable || self.shutdown.load(Ordering::SeqCst) {
                    parked.store(false, Ordering::SeqCst);
                } else {
                    thread::park();
                }
            }
        }
    }
}

/// A pool of `threads` workers, the calling thread among them. See the module's comment.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    unpark: Vec<Thread>,
    run: u64,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `threads` workers (0 counts as 1): `threads - 1` new threads and the caller of [`Pool::run`].
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(threads: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            ranges: (0..threads).map(|_| Range(AtomicU64::new(0))).collect(),
            parked: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            shutdown: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Self { shared, helpers: Vec::new(), unpark: Vec::new(), run: 0 };
        for worker in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let name = format!("bertha-cpu-{worker}");
            let helper = thread::Builder::new().name(name).spawn(move || shared.serve(worker))?;
            pool.unpark.push(helper.thread().clone());
            pool.helpers.push(helper);
        }
        Ok(pool)
    }

    /// Workers, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.ranges.len()
    }

    /// Calls `f` once for every item in `0..parts`, spread over the workers, and returns when all are done.
    ///
    /// # Panics
    /// When `f` panics: the other items are still done or dropped in an orderly way, and the pool stays usable.
    pub fn run<F: Fn(Part) + Sync>(&mut self, parts: usize, f: F) {
        let threads = self.threads();
        if threads == 1 || parts <= 1 {
            for index in 0..parts {
                f(Part { index, worker: 0 });
            }
            return;
        }
        assert!(parts <= u32::MAX as usize, "a run has at most 2^32 parts");
        for (worker, range) in self.shared.ranges.iter().enumerate() {
            range.set(parts * worker / threads, parts * (worker + 1) / threads);
        }

        /// Calls the closure behind `data`.
        ///
        /// # Safety
        /// `data` must be a live `&F`.
        unsafe fn call<F: Fn(Part) + Sync>(data: *const (), part: Part) {
            // SAFETY: this function's contract.
            unsafe { (*data.cast::<F>())(part) }
        }
        let job = Job { data: (&raw const f).cast(), call: call::<F> };
        // SAFETY: the gate is closed and nobody is inside: `run` ended the previous run that way.
        unsafe { *self.shared.job.get() = Some(job) };
        self.wake(parts);
        let mine = catch_unwind(AssertUnwindSafe(|| self.shared.work(job, 0)));
        self.finish();
        let theirs = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = mine.err().or(theirs) {
            resume_unwind(payload);
        }
    }

    /// Like [`Pool::run`], with a state of its own for every worker.
    ///
    /// # Panics
    /// When there are fewer states than workers, or when `f` panics.
    pub fn run_with<T: Send, F: Fn(Part, &mut T) + Sync>(&mut self, parts: usize, states: &mut [T], f: F) {
        assert!(states.len() >= self.threads(), "one state per worker");
        let states = Disjoint::new(states);
        self.run(parts, |part| {
            // SAFETY: parts of one worker never run at the same time, so its state is borrowed once.
            let state = unsafe { &mut states.slice(part.worker, 1)[0] };
            f(part, state);
        });
    }

    /// Opens the gate for a new run and wakes the parked helpers it has work for.
    fn wake(&mut self, parts: usize) {
        self.run = (self.run + 1) & u64::from(u32::MAX);
        if self.run == 0 {
            self.run = 1; // 0 is what a helper starts from.
        }
        self.shared.gate.store((self.run << 32) | gate::OPEN, Ordering::SeqCst);
        for (parked, thread) in self.shared.parked.iter().zip(&self.unpark).take(parts - 1) {
            if parked.load(Ordering::SeqCst) && parked.swap(false, Ordering::SeqCst) {
                thread.unpark();
            }
        }
    }

    /// Closes the gate and waits for the helpers inside.
    fn finish(&self) {
        let mut word = self.shared.gate.fetch_and(!gate::OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while word & gate::INSIDE != 0 {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD {
                std::hint::spin_loop()
            } else {
                thread::yield_now()
            }
            word = self.shared.gate.load(Ordering::Acquire);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        for (parked, thread) in self.shared.parked.iter().zip(&self.unpark) {
            parked.store(false, Ordering::SeqCst);
            thread.unpark();
        }
        for helper in self.helpers.drain(..) {
            // A helper catches every panic of a run, so it has none of its own to report.
            let _ = helper.join();
        }
    }
}

/// A mutable slice whose disjoint pieces several workers write at the same time.
pub(crate) struct Disjoint<'a, T> {
    data: *mut T,
    len: usize,
    borrow: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out `&mut [T]` pieces, and its unsafe methods' callers keep them disjoint.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { data: slice.as_mut_ptr(), len: slice.len(), borrow: std::marker::PhantomData }
    }

    /// The piece `start..start + len`.
    ///
    /// # Safety
    /// No two pieces alive at the same time may overlap.
    ///
    /// # Panics
    /// When the piece leaves the slice.
    #[allow(clippy::mut_from_ref)] // That is its purpose; see the safety contract.
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "piece outside the slice");
        // SAFETY: within the slice by the check above, not aliased by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }

    /// A pointer to place `index`, for writes that form no slice (strided tiles).
    ///
    /// # Panics
    /// When `index` is past the end.
    pub(crate) fn place(&self, index: usize) -> *mut T {
        assert!(index <= self.len, "place outside the slice");
        self.data.wrapping_add(index)
    }
}

/// Kernels of plugins share the session's threads.
// SAFETY: `Pool::run` calls its function once for each part, and returns when all calls have ended.
unsafe impl bertha_graph::plugin::Parallel for Pool {
    fn threads(&self) -> usize {
        Pool::threads(self)
    }

    fn run(&mut self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        Pool::run(self, tasks, |part| task(part.index));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn pool(threads: usize) -> Pool {
        Pool::new(threads).expect("threads for the test")
    }

    #[test]
    fn every_part_runs_exactly_once() {
        for threads in [1, 2, 3, 8] {
            let mut pool = pool(threads);
            for parts in [0, 1, 2, 3, 7, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                pool.run(parts, |part| {
                    assert!(part.worker < threads);
                    counts[part.index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|c| c.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {parts} parts"
                );
            }
        }
    }

    #[test]
    fn many_short_runs_lose_nothing() {
        let mut pool = pool(4);
        let total = AtomicUsize::new(0);
        for round in 0..20_000 {
            pool.run(1 + round % 9, |_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        }
        let expected: usize = (0..20_000).map(|round| 1 + round % 9).sum();
        assert_eq!(total.into_inner(), expected);
    }

    #[test]
    fn helpers_wake_after_parking() {
        let mut pool = pool(2);
        for _ in 0..5 {
            thread::sleep(SPIN_BEFORE_PARK * 20);
            let both = std::sync::Barrier::new(2);
            pool.run(2, |_| {
                both.wait(); // Only two threads at the same time get past this.
            });
        }
    }

    #[test]
    fn a_worker_has_its_state_alone() {
        let mut pool = pool(3);
        let mut sums = [0_usize; 3];
        pool.run_with(1000, &mut sums, |part, sum| *sum += part.index);
        assert_eq!(sums.iter().sum::<usize>(), 1000 * 999 / 2);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let mut pool = pool(3);
        for bad in [0, 50, 99] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, |part| assert_ne!(part.index, bad, "planned"));
            }));
            assert!(result.is_err());
            let done = AtomicUsize::new(0);
            pool.run(100, |_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 100);
        }
    }

    #[test]
    fn a_pool_can_move_to_another_thread() {
        let mut pool = pool(2);
        let total = thread::spawn(move || {
            let total = AtomicUsize::new(0);
            pool.run(10, |part| {
                total.fetch_add(part.index, Ordering::Relaxed);
            });
            total.into_inner()
        })
        .join()
        .expect("no panic");
        assert_eq!(total, 45);
    }
}
