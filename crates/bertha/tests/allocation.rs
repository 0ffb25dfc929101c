//! Once warm, a run allocates nothing.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use support::*;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counting over all threads.
struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test, so that nothing else allocates meanwhile.
#[test]
fn a_warm_ragged_run_allocates_nothing() {
    for name in all_fixtures() {
        for threads in [1, 2] {
            let engine = engine(&name);
            let mut session = engine.session(threads).unwrap();
            let large = batch(&engine, &SENTENCES);
            let small = batch(&engine, &SENTENCES[..2]);
            let mut values = 0;
            for _ in 0..3 {
                session.run_ragged(&large, &[], |output| values += output.bytes.len()).unwrap();
            }
            // On a busy machine a worker's thread may still be about to start, which allocates.
            std::thread::sleep(std::time::Duration::from_millis(50));
            session.run_ragged(&large, &[], |output| values += output.bytes.len()).unwrap();
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            for batch in [&large, &small, &large] {
                session.run_ragged(batch, &[], |output| values += output.bytes.len()).unwrap();
            }
            let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
            assert_eq!(allocations, 0, "{name} with {threads} threads");
            assert!(values > 0);
        }
    }
}
