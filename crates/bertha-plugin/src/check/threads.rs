//! Threads for tests: as many as wanted, made for each run.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Parallel;

/// This many threads.
pub(super) struct Threads(pub(super) usize);

// SAFETY: the counter gives each number to one thread, and the scope ends when all threads have.
unsafe impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&mut self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= tasks {
                    return;
                }
                task(index);
            }
        };
        std::thread::scope(|scope| {
            // The scope passes a panic of any of them on.
            for _ in 1..self.0.min(tasks) {
                scope.spawn(work);
            }
            work();
        });
    }
}
