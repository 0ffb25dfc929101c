//! What the tensors of a padded graph stand for.

use bertha_graph::interp::Value;
use bertha_graph::{Dim, TensorData, TensorId};

use super::distance::{Bias, Distance};
use super::index::Affine;

/// Whether rows are tokens or sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Per {
    Token,
    Sequence,
}

/// A tensor with one row for each token (`[batch, seq, ..]`) or sequence (`[batch, ..]`), and its ragged form
/// (`[tokens, ..]` or `[batch, ..]`). Rows of pads may hold anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rows {
    /// The tensor of the ragged graph.
    pub(super) tensor: TensorId,
    /// How many dimensions of the padded tensor come before those of a row.
    pub(super) lead: usize,
    pub(super) per: Per,
}

/// A function of the attention mask, element by element: what stands at batch `b` and key `k` is decided by whether
/// `attention_mask[b, k]` is 0 or 1. Along other dimensions it is constant.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mask {
    /// The dimension that is the batch.
    pub(super) batch: usize,
    /// The dimension that is the sequence; the same as `batch` where the two are flattened into one.
    pub(super) key: usize,
    /// A scalar for a hidden key, then one for a visible key.
    pub(super) at: [Value; 2],
}

impl Mask {
    /// The numbers for a hidden and a visible key; `Bool` gives 0 and 1.
    pub(super) fn numbers(&self) -> Option<[f64; 2]> {
        let [hidden, visible] = &self.at;
        Some([*hidden.to_f64().first()?, *visible.to_f64().first()?])
    }
}

/// Steps from token ids to positions that count tokens other than the pad token, which is how RoBERTa numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterPad {
    /// Whether the token is the pad token.
    IsPad,
    /// Whether it is not, as a truth value or as 0 and 1.
    IsToken,
    /// How many tokens there are up to here.
    Count,
    /// The same, but 0 at pads.
    CountOfTokens,
    /// The position: `pad_id` at pads, elsewhere `pad_id + 1` and up.
    Position,
}

/// What is known of a tensor of the padded graph.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Meaning {
    Rows(Rows),
    /// The same for every token and sequence: this, broadcast to the tensor's shape.
    Same(TensorData),
    /// A sum of multiples of indices: columns of the batch, rows, places in the flattened batch.
    Index(Affine),
    /// For each place the coordinates of an element, side by side along the last dimension.
    Coordinates(Vec<Affine>),
    Mask(Mask),
    AfterPad {
        pad_id: i64,
        step: AfterPad,
    },
    /// A function of the distance between query and key.
    Distance(Distance),
    /// What is added to scores by distance and head, with the mask or without.
    Bias(Bias),
    /// The rows of tokens, with zeros at pads.
    Masked(Rows),
    /// The sum of the rows of each sequence's tokens, given these rows.
    Sum(Rows),
    /// The number of tokens of each sequence, at least 1.
    Count,
}

/// Why a graph stays padded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Why {
    /// The node where it was seen.
    pub(super) node: String,
    pub(super) what: String,
}

/// Dimensions other than 1 with their places.
pub(super) fn proper(dims: &[Dim]) -> Vec<(usize, &Dim)> {
    dims.iter().enumerate().filter(|(_, dim)| dim.as_const() != Some(1)).collect()
}

/// Where the dimension `axis` of a tensor is after a reshape that only adds or removes dimensions of 1.
pub(super) fn moved_axis(from: &[Dim], to: &[Dim], axis: usize) -> Option<usize> {
    let (from, to) = (proper(from), proper(to));
    if from.len() != to.len() || from.iter().zip(&to).any(|((_, a), (_, b))| a != b) {
        return None;
    }
    let place = from.iter().position(|(old, _)| *old == axis)?;
    to.get(place).map(|(new, _)| *new)
}
