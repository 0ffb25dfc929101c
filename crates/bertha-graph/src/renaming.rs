//! Equality of types up to the names of data-dependent symbols.

use std::collections::HashMap;
use std::sync::Arc;

use crate::dim::Dim;
use crate::shape::TensorType;

/// What the data-dependent symbols of one graph are called in another.
#[derive(Debug, Default)]
pub(crate) struct Renaming {
    names: HashMap<Arc<str>, Arc<str>>,
    taken: HashMap<Arc<str>, Arc<str>>,
}

impl Renaming {
    /// Whether `a`, with its symbols renamed, is `b`. Symbols met for the first time are matched where a dimension is
    /// one symbol in both.
    pub(crate) fn matches(&mut self, a: &TensorType, b: &TensorType) -> bool {
        a.dtype == b.dtype
            && a.shape.rank() == b.shape.rank()
            && a.shape.dims().iter().zip(b.shape.dims()).all(|(a, b)| self.matches_dim(a, b))
    }

    fn matches_dim(&mut self, a: &Dim, b: &Dim) -> bool {
        if let (Some(from), Some(to)) = (data_dependent(a), data_dependent(b)) {
            let same = |known: Option<&Arc<str>>, other: &Arc<str>| known.is_none_or(|known| known == other);
            if !same(self.names.get(from), to) || !same(self.taken.get(to), from) {
                return false;
            }
            self.names.insert(from.clone(), to.clone());
            self.taken.insert(to.clone(), from.clone());
            return true;
        }
        a.is_const() && a == b || self.apply(a) == *b
    }

    /// `dim` with its symbols renamed, as far as they have been matched.
    pub(crate) fn apply(&self, dim: &Dim) -> Dim {
        match dim.is_const() || self.names.is_empty() {
            true => dim.clone(),
            false => dim.replace(|name| self.names.get(name).map(|to| Dim::symbol(to))),
        }
    }

    /// The symbols that have another name in the other graph, with that name.
    pub(crate) fn changed(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.names.iter().filter(|(from, to)| from != to)
    }
}

fn data_dependent(dim: &Dim) -> Option<&Arc<str>> {
    dim.as_symbol().filter(|name| name.starts_with('?'))
}
