//! Which nodes of a match can go.

use std::collections::{BTreeSet, HashSet};

use super::{Matcher, State};
use crate::pattern::NewValue;

impl Matcher<'_, '_, '_, '_> {
    /// The nodes that go when the match is replaced: all but those whose results something else still needs and may.
    ///
    /// # Errors
    /// The node whose result is needed elsewhere although no condition says that it may be, and by whom.
    pub(super) fn removable(&self, state: &State) -> Result<BTreeSet<usize>, (String, String)> {
        let mut removed = state.nodes.clone();
        let bound = |variable: &String| state.tensors.get(variable).map(String::as_str);
        let replaced: HashSet<&str> = match self.pattern.replacement.is_empty() {
            // Nothing is replaced: the last statement's results count as such.
            true => self
                .pattern
                .statements
                .last()
                .into_iter()
                .flat_map(|statement| &statement.targets)
                .filter_map(|target| bound(&target.name))
                .collect(),
            false => self
                .pattern
                .replacement
                .iter()
                .flat_map(|node| &node.targets)
                .filter_map(|target| bound(&target.name))
                .collect(),
        };
        // What the new nodes read of the match has to stay. A name that no statement defines may stand for a result of the
        // match too: in `Add(r, r)` both operands are one tensor.
        let wanted: HashSet<&str> = self
            .pattern
            .replacement
            .iter()
            .flat_map(|node| match &node.value {
                NewValue::Tensor(tensor) => std::slice::from_ref(tensor),
                NewValue::Call { operands, .. } => operands,
            })
            .filter_map(|operand| bound(&operand.name))
            .filter(|tensor| !replaced.contains(tensor))
            .collect();
        let shared: HashSet<&str> = self
            .pattern
            .statements
            .iter()
            .flat_map(|statement| &statement.targets)
            .filter(|target| self.pattern.may_be_shared(&target.name))
            .filter_map(|target| bound(&target.name))
            .chain(wanted.iter().copied())
            .collect();
        // A node that stays keeps those it reads from, so this goes on until nothing changes.
        loop {
            let mut keeps = None;
            for at in &removed {
                for tensor in &self.scope.graph.nodes[*at].outputs {
                    if tensor.is_empty() || replaced.contains(tensor.as_str()) {
                        continue;
                    }
                    let Some(reader) = self.outside_reader(tensor, &removed, &wanted) else { continue };
                    if !shared.contains(tensor.as_str()) {
                        let why = format!("its result `{tensor}` is also needed by {reader}");
                        return Err((self.node_name(*at), why));
                    }
                    keeps = Some(*at);
                }
            }
            match keeps {
                Some(at) => removed.remove(&at),
                None => return Ok(removed),
            };
        }
    }

    fn outside_reader(
        &self,
        tensor: &str,
        removed: &BTreeSet<usize>,
        wanted: &HashSet<&str>,
    ) -> Option<String> {
        if wanted.contains(tensor) {
            return Some("what takes the place of the match".into());
        }
        if self.scope.uses.is_output(tensor) {
            return Some("the output of the graph".into());
        }
        let reader = self.scope.uses.readers(tensor).iter().find(|reader| !removed.contains(reader))?;
        let node = self.scope.graph.nodes.get(*reader)?;
        Some(format!("node `{}` ({})", self.node_name(*reader), node.op()))
    }
}
