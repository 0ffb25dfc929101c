//! Dimensions in the form that a run evaluates: symbols by index, no names, no allocation.

use std::sync::Arc;

use bertha_graph::{Bindings, Dim};

/// The symbols of a program. A run has one value for each, or none yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Symbols {
    names: Vec<Arc<str>>,
}

impl Symbols {
    /// The index of `name`, made when it is new.
    pub(crate) fn index(&mut self, name: &Arc<str>) -> usize {
        self.names.iter().position(|n| n == name).unwrap_or_else(|| {
            self.names.push(name.clone());
            self.names.len() - 1
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn name(&self, index: usize) -> &str {
        &self.names[index]
    }
}

/// A [`Dim`] over [`Symbols`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CompiledDim {
    /// A number.
    Const(usize),
    /// A lone symbol.
    Symbol(usize),
    /// Anything else: the polynomial, and the indices of its symbols.
    Polynomial(Dim, Vec<(Arc<str>, usize)>),
}

impl CompiledDim {
    pub(crate) fn new(dim: &Dim, symbols: &mut Symbols) -> Self {
        if let Some(value) = dim.as_const() {
            return CompiledDim::Const(usize::try_from(value).unwrap_or(0));
        }
        if let Some(name) = dim.as_symbol() {
            return CompiledDim::Symbol(symbols.index(name));
        }
        let names = dim.symbols().into_iter().map(|name| {
            let index = symbols.index(&name);
            (name, index)
        });
        CompiledDim::Polynomial(dim.clone(), names.collect())
    }

    /// The value, or `None` while a symbol has none or the result is negative.
    pub(crate) fn eval(&self, values: &[Option<i64>]) -> Option<usize> {
        match self {
            CompiledDim::Const(value) => Some(*value),
            CompiledDim::Symbol(index) => usize::try_from(values[*index]?).ok(),
            CompiledDim::Polynomial(dim, names) => {
                // Rare (products of symbols in dense graphs): a map for each evaluation is good enough.
                let mut bindings = Bindings::new();
                for (name, index) in names {
                    bindings.insert(name.clone(), values[*index]?);
                }
                usize::try_from(dim.eval(&bindings).ok()?).ok()
            }
        }
    }
}
