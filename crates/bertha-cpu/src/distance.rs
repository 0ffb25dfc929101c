//! How far apart the cores of a pool's workers are: whether they share a third-level cache.
//!
//! A virtual machine's cores may do so now and not a minute later, and nothing but time tells: a line that one core wrote
//! reaches another in about 35 ns within a cache, in 80 to 200 ns otherwise.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::pool::{Part, Pool};

/// How long a measurement holds: long beside what it takes (some 10 us), short beside how often cores move.
const HOLDS: Duration = Duration::from_millis(20);
/// A round trip of a line between cores that are far apart takes at least this long.
const FAR: Duration = Duration::from_nanos(150);
/// Round trips that are timed together, so that looking at the clock weighs little.
const TRIPS: u32 = 4;
/// Timings, of which the shortest counts: interrupts only ever add.
const TIMINGS: u32 = 5;
/// Looks at a line before the other worker is held to be elsewhere.
const PATIENCE: u32 = 2_000;

/// What is known of the distance from a pool's caller to its helpers.
#[derive(Debug)]
pub(crate) struct Distance {
    /// Whether helper `i + 1` is far; those that were never met count as far.
    far: Vec<bool>,
    /// Which helper is measured next.
    next: usize,
    measured: Option<Instant>,
}

impl Distance {
    pub(crate) fn new(threads: usize) -> Self {
        Self { far: vec![true; threads.saturating_sub(1)], next: 0, measured: None }
    }

    /// Whether any helper is far.
    pub(crate) fn is_far(&self) -> bool {
        self.far.contains(&true)
    }

    /// Measures the way to one helper, the next each time, or to all of them at first, unless that was done a moment ago.
    pub(crate) fn measure(&mut self, pool: &mut Pool) {
        let helpers = self.far.len();
        if helpers == 0 || self.measured.is_some_and(|at| at.elapsed() < HOLDS) {
            return;
        }
        let count = if self.measured.is_some() { 1 } else { helpers };
        for _ in 0..count {
            if let Some(trip) = round_trip(pool, self.next + 1) {
                self.far[self.next] = trip >= FAR;
            }
            self.next = (self.next + 1) % helpers;
        }
        self.measured = Some(Instant::now());
    }
}

/// The line that goes to and fro: even when it is the caller's turn.
#[repr(align(128))]
struct Ball(AtomicU32);

impl Ball {
    /// The game is over, or never began.
    const GONE: u32 = u32::MAX;
    /// The helper is not here yet.
    const NOBODY: u32 = u32::MAX - 1;

    /// Waits until the ball is `turn`; false when it takes too long.
    fn comes(&self, turn: u32) -> bool {
        for _ in 0..PATIENCE {
            if self.0.load(Ordering::Acquire) == turn {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// The caller's side: the shortest time of a round trip, `None` where the helper does not come or goes away.
    fn serve(&self) -> Option<Duration> {
        let mut shortest = self.comes(0).then_some(Duration::MAX)?;
        let mut turn = 0;
        for _ in 0..TIMINGS {
            let start = Instant::now();
            for _ in 0..TRIPS {
                self.0.store(turn + 1, Ordering::Release);
                turn += 2;
                if !self.comes(turn) {
                    return None;
                }
            }
            shortest = shortest.min(start.elapsed() / TRIPS);
        }
        Some(shortest)
    }

    /// The helper's side. It waits longer than the caller, but not for good: others may have taken the caller's part.
    fn answer(&self) {
        if self.0.compare_exchange(Self::NOBODY, 0, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        let mut looks = 0;
        while looks < 4 * PATIENCE {
            match self.0.load(Ordering::Acquire) {
                Self::GONE => return,
                turn if turn % 2 == 1 => {
                    // The caller may have left meanwhile.
                    let _ = self.0.compare_exchange(turn, turn + 1, Ordering::AcqRel, Ordering::Acquire);
                    looks = 0;
                }
                _ => {
                    std::hint::spin_loop();
                    looks += 1;
                }
            }
        }
    }
}

/// How long a line takes from the caller to a helper and back; `None` where the helper is busy elsewhere.
fn round_trip(pool: &mut Pool, helper: usize) -> Option<Duration> {
    let ball = Ball(AtomicU32::new(Ball::NOBODY));
    let result = std::sync::OnceLock::new();
    pool.run(pool.threads(), |part: Part| {
        if part.worker == 0 && result.get().is_none() {
            let trip = ball.serve();
            ball.0.store(Ball::GONE, Ordering::Release);
            let _ = result.set(trip);
        } else if part.worker == helper {
            ball.answer();
        }
    });
    result.into_inner().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_meet_or_are_given_up() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads).expect("threads");
            let mut distance = Distance::new(pool.threads());
            assert_eq!(distance.is_far(), threads > 1, "helpers that were never met count as far");
            for _ in 0..50 {
                distance.measured = None;
                distance.measure(&mut pool);
            }
            assert_eq!(distance.measured.is_some(), threads > 1);
            for helper in 1..threads {
                // A line needs some time between two cores, however near they are.
                assert!(round_trip(&mut pool, helper).is_none_or(|trip| trip > Duration::from_nanos(5)));
            }
        }
    }
}
