//! Which outputs need which steps.

use super::{OutputPlan, Step};

/// Sets each step's `needed_by`, following what steps read from the outputs back. Aliases share a slot but not an index,
/// so `same` says which tensors are views of which.
pub(super) fn mark_needed(
    steps: &mut [Step],
    outputs: &[OutputPlan],
    tensors: usize,
    same: &[(usize, usize)],
) {
    let mut of_tensor = vec![0u64; tensors];
    for (index, output) in outputs.iter().enumerate() {
        of_tensor[output.tensor] |= 1 << index;
    }
    // A view is made after what it is a view of, so going backwards each view has all its bits before they move on.
    let mut views = same.to_vec();
    views.sort_by_key(|(_, view)| std::cmp::Reverse(*view));
    let spread = |of_tensor: &mut Vec<u64>| {
        for (source, view) in &views {
            of_tensor[*source] |= of_tensor[*view];
        }
    };
    for step in steps.iter_mut().rev() {
        spread(&mut of_tensor);
        let mut bits = 0;
        step.step.writes(|tensor| bits |= of_tensor[tensor]);
        step.needed_by = bits;
        step.step.reads(|tensor| of_tensor[tensor] |= bits);
    }
}
