use super::*;
use crate::op::{Activation, AttentionAttrs, PoolKind, RelativeBuckets, WeightLayout};

#[test]
fn embedding_sum_adds_tables() {
    let ids = || t("i32[tokens]");
    assert_eq!(types(Op::EmbeddingSum, &[ids(), t("f32[30522, 384]")]), "f32[tokens, 384]");
    assert_eq!(types(Op::EmbeddingSum, &[ids(), t("f32[9, 4]"), ids(), t("f32[2, 4]")]), "f32[tokens, 4]");
    refused(Op::EmbeddingSum, &[ids(), t("f32[9, 4]"), ids()], &["pairs"]);
    refused(Op::EmbeddingSum, &[ids(), t("f32[9, 4]"), ids(), t("f32[9, 5]")], &["rows of 4"]);
    refused(Op::EmbeddingSum, &[ids(), t("f32[9, 4]"), t("i32[3, 3]"), t("f32[9, 4]")], &["[tokens]"]);
    refused(Op::EmbeddingSum, &[t("f32[tokens]"), t("f32[9, 4]")], &["i64 or i32"]);
    refused(Op::EmbeddingSum, &[ids(), t("f32[9]")], &["table [rows, hidden]"]);
}

#[test]
fn embedding_layer_norm_takes_pairs_then_gamma_and_beta() {
    let op = || Op::EmbeddingLayerNorm { epsilon: 1e-12 };
    let (ids, table) = (|| t("i32[tokens]"), || t("f32[9, 4]"));
    let row = || t("f32[4]");
    assert_eq!(types(op(), &[ids(), table(), row(), row()]), "f32[tokens, 4]");
    assert_eq!(types(op(), &[ids(), table(), ids(), table(), row(), row()]), "f32[tokens, 4]");
    refused(op(), &[ids(), table(), row()], &["pairs"]);
    refused(op(), &[row(), row()], &["missing"]);
    refused(op(), &[ids(), table(), row(), t("f32[5]")], &["beta [hidden]"]);
    refused(op(), &[ids(), table(), t("f32[1, 4]"), row()], &["gamma [hidden]"]);
    refused(op(), &[ids(), table(), row(), t("f16[4]")], &["f32 as input 1"]);
}

#[test]
fn linear_reads_its_layout() {
    let op = |layout| Op::Linear { layout, activation: Activation::None };
    let x = || t("f32[tokens, 4]");
    assert_eq!(types(op(WeightLayout::OutIn), &[x(), t("f32[7, 4]"), t("f32[7]")]), "f32[tokens, 7]");
    assert_eq!(
        types(op(WeightLayout::InOut), &[x(), t("f32[4, 7]"), None, t("f32[tokens, 7]")]),
        "f32[tokens, 7]"
    );
    refused(op(WeightLayout::OutIn), &[x(), t("f32[4, 7]")], &["[out, in] with in = 4", "f32[4, 7]"]);
    refused(op(WeightLayout::OutIn), &[x(), t("f32[7, 4]"), t("f32[4]")], &["[7]", "input 2 `bias`"]);
    refused(op(WeightLayout::OutIn), &[x(), t("f32[7, 4]"), None, x()], &["[tokens, 7]", "residual"]);
    refused(op(WeightLayout::OutIn), &[x(), t("f32[4]")], &["matrix [out, in]"]);
    refused(op(WeightLayout::OutIn), &[t("f32[]"), t("f32[7, 4]")], &["at least one dimension"]);
}

#[test]
fn ragged_attention_checks_heads() {
    let op = |heads, relative| Op::RaggedAttention { heads, scale: 0.125, relative };
    let x = || t("f32[tokens, 12]");
    let cu = || t("i32[batch + 1]");
    assert_eq!(types(op(3, None), &[x(), x(), x(), cu()]), "f32[tokens, 12]");
    let relative = Some(RelativeBuckets { buckets: 32, max_distance: 128 });
    assert_eq!(types(op(3, relative), &[x(), x(), x(), cu(), t("f32[32, 3]")]), "f32[tokens, 12]");
    let packed = || t("f32[tokens, 36]");
    assert_eq!(types(op(3, None), &[packed(), None, None, cu()]), "f32[tokens, 12]");
    refused(op(5, None), &[packed(), None, None, cu()], &["divides into 5 heads"]);
    refused(op(1, None), &[t("f32[tokens, 35]"), None, None, cu()], &["side by side"]);
    refused(op(3, None), &[packed(), packed(), None, cu()], &["input 2 `v`"]);
    refused(op(3, None), &[packed(), None, packed(), cu()], &["input 1 `k`"]);
    refused(op(5, None), &[x(), x(), x(), cu()], &["divides into 5 heads"]);
    refused(op(0, None), &[x(), x(), x(), cu()], &["number of heads"]);
    refused(op(3, None), &[x(), x(), t("f32[tokens, 13]"), cu()], &["shape of q", "input 2 `v`"]);
    refused(op(3, None), &[x(), x(), x(), t("i64[batch]")], &["i32", "cu_seqlens"]);
    refused(op(3, relative), &[x(), x(), x(), cu()], &["relative_bias"]);
    refused(op(3, relative), &[x(), x(), x(), cu(), t("f32[3, 32]")], &["[32, 3]"]);
    refused(op(3, None), &[x(), x(), x(), cu(), t("f32[32, 3]")], &["no table"]);
}

#[test]
fn pool_gives_one_row_for_each_sequence() {
    let op = || Op::Pool(PoolKind::Mean);
    assert_eq!(types(op(), &[t("f32[tokens, 4]"), t("i32[batch + 1]")]), "f32[batch, 4]");
    assert_eq!(types(op(), &[t("f32[tokens, 4]"), t("i32[6]")]), "f32[5, 4]");
    refused(op(), &[t("f32[tokens]"), t("i32[6]")], &["[tokens, hidden]"]);
    refused(op(), &[t("f32[tokens, 4]"), t("i32[0]")], &["at least one offset"]);
    assert_eq!(types(Op::L2Normalize { epsilon: 1e-12 }, &[t("f32[b, 4]")]), "f32[b, 4]");
    refused(Op::L2Normalize { epsilon: 1e-12 }, &[t("f32[]")], &["at least one dimension"]);
}

fn attrs(q_heads: usize, kv_heads: usize) -> Op {
    Op::Attention(AttentionAttrs {
        q_heads,
        kv_heads,
        scale: None,
        is_causal: false,
        softcap: 0.0,
        scores_mode: 0,
        softmax_precision: None,
    })
}

#[test]
fn attention_in_both_layouts() {
    let x = || t("f32[b, s, 12]");
    let present = "f32[b, 3, s, 4]";
    let packed = types(attrs(3, 3), &[x(), x(), x()]);
    assert_eq!(packed, format!("f32[b, s, 12]; {present}; {present}; f32[b, 3, s, s]"));
    let separate = types(attrs(0, 0), &[t("f32[b, 6, s, 4]"), t("f32[b, 3, k, 4]"), t("f32[b, 3, k, 5]")]);
    assert_eq!(separate, "f32[b, 6, s, 5]; f32[b, 3, k, 4]; f32[b, 3, k, 5]; f32[b, 6, s, k]");
    let past = [x(), x(), x(), None, t("f32[b, 3, p, 4]"), t("f32[b, 3, p, 4]")];
    assert!(types(attrs(3, 3), &past).ends_with("f32[b, 3, s, p + s]"));
    refused(attrs(5, 5), &[x(), x(), x()], &["divides into 5 heads"]);
    refused(attrs(0, 0), &[x(), x(), x()], &["number of heads"]);
    refused(attrs(3, 2), &[x(), t("f32[b, s, 8]"), t("f32[b, s, 8]")], &["3 query heads", "2 key heads"]);
    refused(attrs(3, 3), &[x(), x(), x(), t("f32[7, 1, 1, 1, 1]")], &["broadcasts to [b, 3, s, s]"]);
    refused(attrs(3, 3), &[x(), x(), x(), t("i64[s, s]")], &["bool or a float"]);
    refused(attrs(3, 3), &past[..5], &["only given together"]);
    refused(attrs(0, 0), &[t("f32[2]"), t("f32[2]"), t("f32[2]")], &["[batch, heads, seq, head_dim]"]);
}

#[test]
fn rotary_embedding_checks_its_caches() {
    let op = |heads, rotary_dim| Op::RotaryEmbedding { interleaved: false, heads, rotary_dim };
    let cache = || t("f32[512, 4]");
    let x = || t("f32[b, 3, s, 8]");
    assert_eq!(types(op(0, 0), &[x(), cache(), cache(), t("i64[b, s]")]), "f32[b, 3, s, 8]");
    assert_eq!(types(op(3, 0), &[t("f32[b, s, 24]"), t("f32[b, s, 4]"), t("f32[1, s, 4]")]), "f32[b, s, 24]");
    refused(op(0, 0), &[x(), t("f32[512, 5]"), cache(), t("i64[b, s]")], &["4, half"]);
    refused(op(0, 0), &[x(), cache(), cache()], &["3 dimensions", "cos_cache"]);
    refused(op(0, 7), &[x(), cache(), cache(), t("i64[b, s]")], &["rotate 7 of 8"]);
    refused(op(0, usize::MAX), &[x(), cache(), cache(), t("i64[b, s]")], &["cannot rotate"]);
    refused(op(0, 0), &[t("f32[b, s, 24]"), cache(), cache()], &["number of heads"]);
}
