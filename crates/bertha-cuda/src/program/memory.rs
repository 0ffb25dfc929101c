//! Where the tensors of a run lie: slots, shared by those that are never alive together.

use bertha_compile::memory::{self, Buffer};
use bertha_graph::{Bindings, Dim};

use crate::kernels::{Rows, Setting};

/// Slots start at multiples of this: what tensor maps and vector loads need, and a little more.
const ALIGNMENT: usize = 1024;

/// The sizes of all slots as functions of a batch's capacity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arena {
    /// For each slot, the sizes of its tensors in bytes, over `tokens` and `batch`; it must hold the largest.
    slots: Vec<Vec<Dim>>,
}

impl Arena {
    /// Assigns slots to buffers; also gives the slot of each.
    pub(crate) fn plan(buffers: &[Buffer]) -> (Self, Vec<usize>) {
        let plan = memory::plan(buffers);
        (Arena { slots: plan.slots }, plan.slot_of)
    }

    /// Offset of each slot for a batch of this capacity, and the bytes of all together.
    pub fn offsets(&self, setting: &Setting) -> (Vec<usize>, usize) {
        let bindings = bindings(setting);
        let mut end = 0usize;
        let mut offsets = Vec::with_capacity(self.slots.len());
        for sizes in &self.slots {
            offsets.push(end);
            let size = sizes.iter().filter_map(|size| size.eval(&bindings).ok()).max().unwrap_or(0);
            end = end.saturating_add(usize::try_from(size).unwrap_or(0).next_multiple_of(ALIGNMENT));
        }
        (offsets, end)
    }
}

/// The symbols of a ragged graph as the rows that are allocated.
fn bindings(setting: &Setting) -> Bindings {
    let rows = |rows| i64::try_from(setting.allocated(rows)).unwrap_or(i64::MAX);
    Bindings::from([("tokens".into(), rows(Rows::Tokens)), ("batch".into(), rows(Rows::Sequences))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;

    #[test]
    fn slots_follow_one_another_and_hold_whole_tiles() {
        let buffer = |size: &str, first, last| Buffer { size: size.parse().unwrap(), first, last };
        let (arena, slot_of) =
            Arena::plan(&[buffer("1536*tokens", 0, 1), buffer("6144*tokens", 1, 2), buffer("8*batch", 2, 3)]);
        let setting = Setting { tokens: 96, ..Setting::typical(Arch::Sm90a) };
        let (offsets, total) = arena.offsets(&setting);
        assert_eq!(offsets[slot_of[0]], 0);
        assert_eq!(offsets[slot_of[1]], 128 * 1536);
        // The third may use the first's slot, which is free again.
        assert_eq!(total, 128 * (1536 + 6144));
        assert!(offsets.iter().all(|offset| offset % ALIGNMENT == 0));
    }
}
