//! From the value of a pickle to named tensors.

use std::collections::HashSet;

use super::pickle::{Heap, Object, Ref, TensorView};

/// Containers deeper than this are refused; optimiser states have four levels.
const MAX_DEPTH: usize = 16;
/// Most entries that are visited. Dictionaries may be shared, so a small pickle can describe an enormous tree.
const MAX_ENTRIES: usize = 1 << 22;
/// Longest tensor name, the keys on its path included.
const MAX_NAME_BYTES: usize = 1024;

/// The leaves of a checkpoint, by dotted path.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    pub(super) tensors: Vec<(String, TensorView)>,
    /// Paths of the values that are no tensors.
    pub(super) others: Vec<String>,
}

/// Walks dictionaries, lists and tuples from `root`.
///
/// # Errors
/// A reason: no container at the top, a key that is neither text nor an integer, two values of one name, a limit.
pub(super) fn flatten(heap: &Heap, root: Ref) -> Result<Leaves, String> {
    if !matches!(heap.get(root), Object::Dict(_) | Object::List(_) | Object::Tuple(_)) {
        return Err(format!(
            "the file holds {} where a dictionary of tensors is expected (save the model's state_dict())",
            heap.get(root).kind()
        ));
    }
    let mut leaves = Leaves::default();
    let mut seen = HashSet::new();
    let mut visited = 0usize;
    // Entries still to visit, last first.
    let mut pending = vec![(String::new(), root, 0usize)];
    while let Some((name, value, depth)) = pending.pop() {
        let first_child = pending.len();
        let child_name = |key: String| match name.as_str() {
            "" if depth == 0 => key,
            parent => format!("{parent}.{key}"),
        };
        match heap.get(value) {
            Object::Dict(entries) => {
                visited += entries.len();
                limits(visited, depth, &name)?;
                for (key, value) in entries {
                    pending.push((child_name(key_text(heap, *key, &name)?), *value, depth + 1));
                }
            }
            Object::List(items) | Object::Tuple(items) => {
                visited += items.len();
                limits(visited, depth, &name)?;
                for (number, value) in items.iter().enumerate() {
                    pending.push((child_name(number.to_string()), *value, depth + 1));
                }
            }
            Object::Tensor(view) => {
                if !seen.insert(name.clone()) {
                    return Err(format!("two tensors are named `{name}`"));
                }
                leaves.tensors.push((name, TensorView::clone(view)));
            }
            _ => leaves.others.push(name),
        }
        if let Some(children) = pending.get_mut(first_child..) {
            children.reverse();
        }
    }
    Ok(leaves)
}

fn limits(visited: usize, depth: usize, name: &str) -> Result<(), String> {
    if visited > MAX_ENTRIES {
        return Err("the checkpoint has too many entries".into());
    }
    if depth >= MAX_DEPTH {
        return Err(format!("the containers at `{name}` are nested too deeply"));
    }
    Ok(())
}

fn key_text(heap: &Heap, key: Ref, parent: &str) -> Result<String, String> {
    let text = match heap.get(key) {
        Object::Str(text) if text.len().saturating_add(parent.len()) > MAX_NAME_BYTES => {
            return Err(format!("a name in `{parent}` is longer than {MAX_NAME_BYTES} bytes"));
        }
        Object::Str(text) => text.clone(),
        Object::Int(number) => number.to_string(),
        other => return Err(format!("a key in `{parent}` is {}; expected text or an integer", other.kind())),
    };
    Ok(text)
}
