//! Dimensions in the form that a run evaluates: symbols by index, no names, no allocation.

use std::sync::Arc;

use bertha_graph::{Dim, Factor};

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
    /// Anything else: the terms, each a coefficient and the factors of its product.
    Polynomial(Vec<(i64, Vec<CompiledFactor>)>),
}

/// A [`Factor`] over [`Symbols`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CompiledFactor {
    Symbol(usize),
    Quotient { dividend: CompiledDim, divisor: i64 },
}

impl CompiledFactor {
    fn new(factor: &Factor, symbols: &mut Symbols) -> Self {
        match factor {
            Factor::Symbol(name) => CompiledFactor::Symbol(symbols.index(name)),
            Factor::Quotient(quotient) => CompiledFactor::Quotient {
                dividend: CompiledDim::new(quotient.dividend(), symbols),
                divisor: quotient.divisor(),
            },
        }
    }

    fn eval(&self, values: &[Option<i64>]) -> Option<i64> {
        match self {
            CompiledFactor::Symbol(index) => values[*index],
            // The dividend of a quotient is never negative.
            CompiledFactor::Quotient { dividend, divisor } => {
                i64::try_from(dividend.eval(values)?).ok()?.checked_div(*divisor)
            }
        }
    }
}

impl CompiledDim {
    pub(crate) fn new(dim: &Dim, symbols: &mut Symbols) -> Self {
        if let Some(value) = dim.as_const() {
            return CompiledDim::Const(usize::try_from(value).unwrap_or(0));
        }
        if let Some(name) = dim.as_symbol() {
            return CompiledDim::Symbol(symbols.index(name));
        }
        let term = |(factors, coefficient): (&[Factor], i64)| {
            (coefficient, factors.iter().map(|factor| CompiledFactor::new(factor, symbols)).collect())
        };
        CompiledDim::Polynomial(dim.terms().map(term).collect())
    }

    /// Symbol and number, for `symbol + number`.
    pub(crate) fn as_offset_symbol(&self) -> Option<(usize, i64)> {
        let CompiledDim::Polynomial(terms) = self else { return None };
        match terms.as_slice() {
            [(offset, none), (1, one)] | [(1, one), (offset, none)] if none.is_empty() => {
                match one.as_slice() {
                    [CompiledFactor::Symbol(symbol)] => Some((*symbol, *offset)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The value, or `None` while a symbol has none or the result is negative.
    pub(crate) fn eval(&self, values: &[Option<i64>]) -> Option<usize> {
        match self {
            CompiledDim::Const(value) => Some(*value),
            CompiledDim::Symbol(index) => usize::try_from(values[*index]?).ok(),
            CompiledDim::Polynomial(terms) => {
                let mut sum = 0i64;
                for (coefficient, factors) in terms {
                    let mut product = *coefficient;
                    for factor in factors {
                        product = product.saturating_mul(factor.eval(values)?);
                    }
                    sum = sum.saturating_add(product);
                }
                usize::try_from(sum).ok()
            }
        }
    }
}
