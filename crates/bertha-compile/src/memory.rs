//! Which buffers share memory.
//!
//! A buffer lives from the step that writes it to the last step that reads it. Buffers whose lives do not overlap
//! may share a slot. Sizes are polynomials over the batch's dimensions, so the assignment is made once, when a plan
//! is made, and a slot's size for a given batch is the largest of its buffers' sizes.

use bertha_graph::{Bindings, Dim, Factor};

/// A buffer to place.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Its size in bytes.
    pub size: Dim,
    /// The step that writes it first.
    pub first: usize,
    /// The last step that reads or writes it; at least `first`.
    pub last: usize,
}

/// Where the buffers lie.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryPlan {
    /// The slot of each buffer, in the order they were given.
    pub slot_of: Vec<usize>,
    /// For each slot, the distinct sizes of its buffers; it must hold the largest.
    pub slots: Vec<Vec<Dim>>,
}

impl MemoryPlan {
    /// Bytes that all slots take together under `bindings`; slots whose size is unknown count as nothing.
    pub fn total_bytes(&self, bindings: &Bindings) -> i64 {
        self.slots
            .iter()
            .map(|sizes| sizes.iter().filter_map(|size| size.eval(bindings).ok()).max().unwrap_or(0))
            .sum()
    }
}

/// Those of some distinct sizes that are the largest for some batch, as far as coefficients tell: a size that another one
/// reaches or exceeds whatever the symbols stand for is left out.
pub fn largest_sizes(sizes: &[Dim]) -> Vec<&Dim> {
    let is_reached = |size: &Dim| sizes.iter().any(|other| other != size && is_at_least(other, size));
    sizes.iter().filter(|size| !is_reached(size)).collect()
}

/// Whether `a` is never less than `b`: no coefficient of their difference is negative, and it has no quotients, which may
/// be.
fn is_at_least(a: &Dim, b: &Dim) -> bool {
    let difference = a - b;
    let mut terms = difference.terms();
    terms.all(|(factors, coefficient)| {
        coefficient >= 0 && factors.iter().all(|factor| matches!(factor, Factor::Symbol(_)))
    })
}

/// A batch by whose sizes buffers are compared: the assignment is right for every batch, and tight for ones like it.
const TYPICAL: i64 = 128;

/// Assigns slots greedily in order of first use: the free slot that wastes least, growing one only when none is
/// large enough, else a new one.
pub fn plan(buffers: &[Buffer]) -> MemoryPlan {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|index| buffers[*index].first);
    let mut plan = MemoryPlan { slot_of: vec![0; buffers.len()], slots: Vec::new() };
    let mut state: Vec<Slot> = Vec::new();
    for index in order {
        let buffer = &buffers[index];
        let size = typical_size(&buffer.size);
        let free = state.iter().enumerate().filter(|(_, slot)| slot.free_after < buffer.first);
        // Waste when it fits, growth when it does not; growing counts double, because waste can be used later.
        let best = free.min_by_key(|(_, slot)| {
            if slot.size >= size { slot.size - size } else { (size - slot.size).saturating_mul(2) }
        });
        let chosen = match best.map(|(chosen, _)| chosen) {
            Some(chosen) => chosen,
            None => {
                state.push(Slot { size: 0, free_after: 0 });
                plan.slots.push(Vec::new());
                state.len() - 1
            }
        };
        state[chosen].size = state[chosen].size.max(size);
        state[chosen].free_after = buffer.last;
        if !plan.slots[chosen].contains(&buffer.size) {
            plan.slots[chosen].push(buffer.size.clone());
        }
        plan.slot_of[index] = chosen;
    }
    plan
}

struct Slot {
    size: i64,
    free_after: usize,
}

fn typical_size(size: &Dim) -> i64 {
    let bindings: Bindings = size.symbols().into_iter().map(|name| (name, TYPICAL)).collect();
    size.eval(&bindings).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(size: &str, first: usize, last: usize) -> Buffer {
        Buffer { size: size.parse().unwrap(), first, last }
    }

    #[test]
    fn live_buffers_never_share() {
        // A small deterministic generator is enough: the property must hold for any set of intervals.
        let mut seed = 1u64;
        let mut next = |bound: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % bound
        };
        for _ in 0..200 {
            let buffers: Vec<Buffer> = (0..1 + next(30))
                .map(|_| {
                    let first = next(40) as usize;
                    buffer(&format!("{}*tokens + {}", next(5), next(900)), first, first + next(10) as usize)
                })
                .collect();
            let plan = plan(&buffers);
            for (i, a) in buffers.iter().enumerate() {
                for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                    let overlap = a.first <= b.last && b.first <= a.last;
                    assert!(!(overlap && plan.slot_of[i] == plan.slot_of[j]), "{a:?} and {b:?} share a slot");
                }
                assert!(plan.slots[plan.slot_of[i]].contains(&a.size));
            }
        }
    }

    #[test]
    fn a_chain_needs_two_slots() {
        let chain: Vec<_> = (0..10).map(|i| buffer("4*tokens", i, i + 1)).collect();
        let plan = plan(&chain);
        assert_eq!(plan.slots.len(), 2);
        let bindings = Bindings::from([("tokens".into(), 10)]);
        assert_eq!(plan.total_bytes(&bindings), 80);
    }

    #[test]
    fn sizes_that_are_never_the_largest_are_left_out() {
        let largest = |sizes: &[&str]| -> Vec<String> {
            let sizes: Vec<Dim> = sizes.iter().map(|size| size.parse().unwrap()).collect();
            largest_sizes(&sizes).into_iter().map(ToString::to_string).collect()
        };
        assert_eq!(largest(&["1536*tokens", "4608*tokens", "4*tokens"]), ["4608*tokens"]);
        assert_eq!(
            largest(&["6*batch + 8*tokens", "8*tokens", "7*batch"]),
            ["6*batch + 8*tokens", "7*batch"]
        );
        assert_eq!(largest(&["8*tokens", "4*tokens + 8"]), ["8*tokens", "4*tokens + 8"]);
        assert_eq!(largest(&["64", "8*tokens", "512"]), ["8*tokens", "512"]);
        // For a seq of 1 the quotient is -1.
        let halves = ["4*floor((seq - 3)/2) + 8", "8"];
        assert_eq!(largest(&halves).len(), 2);
    }
}
