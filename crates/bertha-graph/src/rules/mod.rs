//! Shape rules: what an op makes of the types of its operands.
//!
//! One rule serves every stage. On symbolic operands it gives symbolic results; on concrete ones, concrete
//! results. Dimensions that depend on data become fresh symbols, named `?0`, `?1`, ...

use crate::dim::Dim;
use crate::error::RuleError;
use crate::op::Op;
use crate::shape::TensorType;
use crate::tensor::TensorData;

/// What is known of a tensor before anything runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Element type and shape.
    pub ty: TensorType,
    /// The elements as functions of dimensions, for small integer tensors where they are known.
    pub value: Option<Vec<Dim>>,
    /// The contents, when the tensor is a constant.
    pub constant: Option<TensorData>,
}

impl Fact {
    /// A tensor of which only the type is known.
    pub fn of(ty: TensorType) -> Self {
        Fact { ty, value: None, constant: None }
    }
}

/// Source of symbols for dimensions that depend on data.
#[derive(Debug)]
pub struct FreshSymbols {
    next: usize,
}

impl FreshSymbols {
    /// Symbols from `?first` on.
    pub fn starting_at(first: usize) -> Self {
        FreshSymbols { next: first }
    }

    /// How many symbols have been made in all.
    pub fn count(&self) -> usize {
        self.next
    }

    /// A symbol that no other dimension has.
    pub fn fresh(&mut self) -> Dim {
        self.next += 1;
        Dim::symbol(&format!("?{}", self.next - 1))
    }
}

/// Integer tensors up to this many elements have their contents tracked as [`Fact::value`].
const TRACKED_ELEMENTS: usize = 64;

/// The tracked contents of a constant: integers, and few of them.
pub fn constant_value(data: &TensorData) -> Option<Vec<Dim>> {
    if data.len() > TRACKED_ELEMENTS {
        return None;
    }
    Some(data.to_i64()?.into_iter().map(Dim::from).collect())
}

/// Types (and, where they follow from shapes, contents) of the results of `op`, in order, the optional ones
/// included. An error says what was expected.
pub fn infer(op: &Op, inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Result<Vec<Fact>, RuleError> {
    let _ = (inputs, symbols);
    Err(RuleError(format!("no rule for {}", op.mnemonic())))
}
