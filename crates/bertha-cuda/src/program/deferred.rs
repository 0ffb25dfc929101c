//! Which layer norms need no kernel of their own.
//!
//! The kernel that makes the rows stores them as they are before the norm, with statistics of each row, and the layers
//! that read them apply the norm to what they compute (`kernels/row_stats.cuh`). As the input of a product that is
//!
//! ```text
//! sum_k W[n,k] ((x[k] - mean) scale gamma[k] + beta[k]) + b[n] = scale * sum_k V[n,k] x[k] + (b[n] + sum_k W[n,k] beta[k])
//! ```
//!
//! with V the rows of `gamma W` less their mean, so that the mean of `x` drops out; V and the new bias are made with the
//! plan ([`WeightForm::Centred`](super::WeightForm::Centred), [`WeightForm::BiasOfNorm`](super::WeightForm::BiasOfNorm)).
//! As a residual, `(x - mean) scale gamma` is added and `beta` is part of the bias.
//!
//! Rounded to 16 bits, `x` and `V` take the places of the normalised rows and `W`: about as many roundings as before, and
//! one less for residuals. Where the mean of rows is far larger than their spread, rounding `x` costs most of the accuracy
//! with or without deferral, and deferral 1.4 times as much; a test of `plan/weights.rs` has the bounds.

use std::collections::{HashMap, HashSet};

use bertha_compile::Uses;
use bertha_graph::{Activation, Dim, Graph, Node, NodeId, Op, Origin, TensorId};

use super::Storage;
use super::lower::operand;
use crate::arch::Arch;
use crate::kernels::gemm;

/// Norms whose readers apply them, by their results.
#[derive(Clone, Debug, Default)]
pub(super) struct Deferred {
    norms: HashMap<TensorId, NormOperands>,
    sources: HashSet<TensorId>,
}

/// What a norm is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormOperands {
    /// The rows before it; its own result where the node that makes the rows normalises them too.
    pub rows: TensorId,
    /// Its scale.
    pub gamma: TensorId,
    /// Its shift.
    pub beta: TensorId,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Scales of a norm beyond which its product with weights might leave the range of f16, and under which it might leave
/// the range in which f16 is precise.
const SCALES: std::ops::RangeInclusive<f32> = 0.015_625..=64.0;

/// What a layer reads of a norm's result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Input,
    Residual,
}

impl Deferred {
    /// The norms of `graph` that the products of `arch` take in.
    pub(super) fn find(graph: &Graph, uses: &Uses, storage: Storage, arch: Arch) -> Self {
        let mut found = Deferred::default();
        if !gemm::takes_norms(arch, storage) {
            return found;
        }
        // A layer applies one norm.
        let mut taken: HashMap<NodeId, TensorId> = HashMap::new();
        for node in graph.nodes() {
            let [Some(y)] = node.outputs.as_slice() else { continue };
            let Some(norm) = deferrable_norm(graph, node, *y) else { continue };
            if !makes_stats(graph, norm.rows) || uses.is_output(*y) {
                continue;
            }
            let readers = uses.readers(*y);
            let is_read_by_layers = readers
                .iter()
                .all(|reader| role(graph, graph.node(*reader), *y).is_some() && !taken.contains_key(reader));
            if readers.is_empty() || !is_read_by_layers {
                continue;
            }
            taken.extend(readers.iter().map(|reader| (*reader, *y)));
            found.norms.insert(*y, norm);
            found.sources.insert(norm.rows);
        }
        found
    }

    /// The norm that the readers of `id` apply.
    pub(super) fn norm(&self, id: TensorId) -> Option<&NormOperands> {
        self.norms.get(&id)
    }

    /// Whether whoever makes `id` stores statistics of its rows.
    pub(super) fn wants_stats(&self, id: TensorId) -> bool {
        self.sources.contains(&id)
    }
}

/// The norm that makes `y`, over the last dimension of rows of tokens, of whole chunks, with ordinary parameters.
fn deferrable_norm(graph: &Graph, node: &Node, y: TensorId) -> Option<NormOperands> {
    let (rows, parameters, epsilon) = match node.op {
        Op::LayerNorm { axis: -1 | 1, epsilon } => (operand(node, 0)?, 1, epsilon),
        Op::EmbeddingLayerNorm { epsilon } => (y, node.inputs.len().checked_sub(2)?, epsilon),
        _ => return None,
    };
    let (gamma, beta) = (operand(node, parameters)?, operand(node, parameters + 1)?);
    let [tokens, width] = graph.tensor(y).ty.shape.dims() else { return None };
    let width = usize::try_from(width.as_const()?).ok()?;
    let parameter = |id: TensorId| {
        let data = graph.tensor(id).constant();
        data.filter(|data| data.shape() == [width] && data.dtype().is_float())
    };
    let largest = parameter(gamma)?.to_f64().into_iter().map(f64::abs).fold(0.0, f64::max) as f32;
    parameter(beta)?;
    let fits = *tokens == Dim::symbol("tokens") && gemm::takes_norms_of(width) && SCALES.contains(&largest);
    fits.then_some(NormOperands { rows, gamma, beta, epsilon })
}

/// Whether the kernel that makes `x` can store statistics of its rows.
fn makes_stats(graph: &Graph, x: TensorId) -> bool {
    let Origin::Node { node, .. } = graph.tensor(x).origin else { return false };
    let node = graph.node(node);
    node.outputs.len() == 1
        && (matches!(node.op, Op::EmbeddingSum | Op::EmbeddingLayerNorm { .. })
            || layer(graph, node).is_some())
}

/// What `node` reads of the norm `y`, if it is a layer whose kernel can apply the norm.
fn role(graph: &Graph, node: &Node, y: TensorId) -> Option<Role> {
    let activation = layer(graph, node)?;
    let places: Vec<usize> =
        (0..node.inputs.len()).filter(|index| operand(node, *index) == Some(y)).collect();
    match places.as_slice() {
        [0] => Some(Role::Input),
        [3] if activation == Activation::None => Some(Role::Residual),
        _ => None,
    }
}

/// The activation of a layer that the products of Hopper run.
fn layer(graph: &Graph, node: &Node) -> Option<Activation> {
    let activation = match node.op {
        Op::Linear { activation, .. } => activation,
        Op::MatMul => Activation::None,
        _ => return None,
    };
    let weight = operand(node, 1).and_then(|id| graph.tensor(id).constant())?;
    let is_matrix = weight.shape().len() == 2 && weight.shape().iter().all(|size| gemm::takes_size(*size));
    is_matrix.then_some(activation)
}

#[cfg(test)]
mod tests;
