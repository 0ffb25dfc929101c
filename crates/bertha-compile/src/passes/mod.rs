//! The passes, one file each, and the order in which they run.

mod activations;
mod attention;
mod attention_heads;
mod common_subexpressions;
mod embedding_layer_norm;
mod embedding_sum;
mod expansions;
mod fold_constants;
mod fold_shapes;
mod identities;
mod inline_if;
mod l2_normalize;
mod layer_norm;
mod linear_activation;
mod linear_residual;
mod matmul_linear;
mod packed_qkv;
mod pick;
mod pooled_rows;
mod residual_layer_norm;
mod transposes;

use crate::driver::Pass;

/// The portable passes in order. Each line says why it stands where it does.
pub fn portable() -> &'static [&'static dyn Pass] {
    &[
        // First what is known without running, so that operands of later patterns are constants.
        &fold_constants::FoldConstants,
        // Conditions are known now; what the branches compute from constants is folded in turn.
        &inline_if::InlineIf,
        &fold_constants::FoldConstants,
        &fold_shapes::FoldShapes,
        // Needs constant shapes and axes; opens chains that the patterns below look for.
        &identities::Identities,
        &transposes::Transposes,
        &pick::Pick,
        // Exporters write a deviation from the mean twice; the patterns below compare tensors by identity.
        &common_subexpressions::CommonSubexpressions,
        // Before linears: its scale and shift look like a bias.
        &layer_norm::LayerNorm,
        &activations::Activations,
        // The passes below look for linears.
        &matmul_linear::MatMulLinear,
        // Before the residual: the activation comes first in a linear's epilogue.
        &linear_activation::LinearActivation,
        &linear_residual::LinearResidual,
        &attention::Attention,
        // The keys are transposed once more by the pass before; what cancels goes, so that heads are seen.
        &transposes::Transposes,
        &identities::Identities,
        &fold_shapes::FoldShapes,
        &attention_heads::AttentionHeads,
        // Needs attentions: they broadcast their masks.
        &expansions::Expansions,
        // Needs the norm as it is before it is expanded.
        &l2_normalize::L2Normalize,
        // Masks made for each attention, and weights transposed for linears, are equal often.
        &fold_constants::FoldConstants,
        &common_subexpressions::CommonSubexpressions,
    ]
}

/// The passes over ragged graphs, from a checkpoint or from a padded graph, after the portable ones.
pub fn ragged() -> &'static [&'static dyn Pass] {
    &[
        // Ids of ragged graphs are i32; what converted those of the padded graph changes nothing now.
        &identities::Identities,
        // Needs ids of one shape, which padded graphs do not have.
        &embedding_sum::EmbeddingSum,
        // Needs the sum.
        &embedding_layer_norm::EmbeddingLayerNorm,
        &packed_qkv::PackedQkv,
        &pooled_rows::PooledRows,
        // Last: equal constants of all passes become one.
        &common_subexpressions::CommonSubexpressions,
    ]
}

/// What looks at the graph that runs, padded or ragged, after all other passes.
pub fn closing() -> &'static [&'static dyn Pass] {
    &[&residual_layer_norm::ResidualLayerNorm]
}

/// Names of all passes, each once, in the order of their first turn; the rewriting of padded graphs to ragged ones too.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    let order = portable().iter().map(|pass| pass.name()).chain([crate::ragged::NAME]);
    for name in order.chain(ragged().iter().chain(closing()).map(|pass| pass.name())) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
