//! What a step computes, in a few words.

use bertha_graph::{Activation, Graph, Node, Op, PoolKind, TensorId, WeightLayout};

/// The op of `node`, its sizes, and what is fused into it: `linear 768x2304 + bias`, `attention 12x64`. Nodes of every target
/// are told in the same words.
pub fn describe_step(graph: &Graph, node: &Node) -> String {
    let input = |index: usize| node.inputs.get(index).copied().flatten();
    let has = |index: usize, what: &'static str| input(index).map_or("", |_| what);
    match &node.op {
        Op::Linear { layout, activation } => {
            let [first, second] = input(1).map(|weight| matrix(graph, weight)).unwrap_or_default();
            let (k, n) = match layout {
                WeightLayout::InOut => (first, second),
                WeightLayout::OutIn => (second, first),
            };
            let activation = match activation {
                Activation::None => "",
                Activation::Relu => " + relu",
                Activation::Tanh => " + tanh",
                Activation::GeluErf => " + gelu",
                Activation::GeluTanh => " + gelu (tanh)",
                Activation::Silu => " + silu",
            };
            format!("linear {k}x{n}{}{activation}{}", has(2, " + bias"), has(3, " + residual"))
        }
        Op::RaggedAttention { heads, .. } => {
            let head_dim = result_width(graph, node).map_or(0, |width| width / (*heads).max(1));
            format!("attention {heads}x{head_dim}{}", has(4, " + relative bias"))
        }
        Op::Attention(attrs) => {
            // `[batch, heads, seq, head_dim]`, or `[batch, seq, hidden]` with the heads told.
            let dims = input(0).map(|q| graph.tensor(q).ty.shape.dims()).unwrap_or_default();
            let number = |at: usize| dims.get(at).and_then(|dim| usize::try_from(dim.as_const()?).ok());
            let (heads, head_dim) = match attrs.q_heads {
                0 => (number(1).unwrap_or(0), number(3).unwrap_or(0)),
                heads => (heads, number(2).unwrap_or(0) / heads),
            };
            format!("padded attention {heads}x{head_dim}{}", has(3, " + mask"))
        }
        Op::EmbeddingSum => embeddings(graph, node, node.inputs.len() / 2),
        Op::EmbeddingLayerNorm { .. } => {
            format!("{} + layer norm", embeddings(graph, node, node.inputs.len().saturating_sub(2) / 2))
        }
        Op::LayerNorm { .. } => {
            format!("layer norm {}", result_width(graph, node).map_or_else(String::new, |n| n.to_string()))
        }
        Op::Pool(kind) => {
            let kind = match kind {
                PoolKind::Cls => "first token",
                PoolKind::Mean => "mean",
                PoolKind::Max => "max",
                PoolKind::MeanSqrtLen => "sum over square root",
                PoolKind::WeightedMean => "weighted mean",
                PoolKind::LastToken => "last token",
            };
            format!("pool, {kind}")
        }
        op => {
            let result = node.outputs.iter().flatten().next().map(|id| &graph.tensor(*id).ty);
            result.map_or_else(
                || op.mnemonic().to_owned(),
                |ty| format!("{} {}{}", op.mnemonic(), ty.dtype, ty.shape),
            )
        }
    }
}

fn embeddings(graph: &Graph, node: &Node, tables: usize) -> String {
    let width = result_width(graph, node).map_or_else(String::new, |width| format!(" of {width}"));
    format!("embedding from {tables} table{}{width}", if tables == 1 { "" } else { "s" })
}

/// Both dimensions of a matrix, for people.
fn matrix(graph: &Graph, tensor: TensorId) -> [String; 2] {
    match graph.tensor(tensor).ty.shape.dims() {
        [rows, cols] => [rows.to_string(), cols.to_string()],
        _ => Default::default(),
    }
}

/// The last dimension of a node's result.
fn result_width(graph: &Graph, node: &Node) -> Option<usize> {
    let result = node.outputs.iter().flatten().next()?;
    usize::try_from(graph.tensor(*result).ty.shape.dims().last()?.as_const()?).ok()
}

#[cfg(test)]
mod tests {
    use bertha_graph::text;

    use super::*;

    #[test]
    fn steps_are_told_by_sizes_and_what_is_fused() {
        let source = "
graph steps {
  input %ids: i32[tokens]
  input %cu_seqlens: i32[batch + 1]
  input %q: f32[batch, 2, seq, 4]
  input %mask: f32[batch, 1, 1, seq]
  const %table: f32[2, 4] = [1, 2, 3, 4, 5, 6, 7, 8]
  const %row: f32[4] = [1, 2, 3, 4]
  const %w: f32[2, 4] = [1, 2, 3, 4, 5, 6, 7, 8]
  const %wide: f32[4, 6] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]
  const %two: f32[2] = [1, 2]
  %x = embedding_layer_norm(%ids, %table, %ids, %table, %row, %row) {epsilon: 1e-5}
  %y = linear(%x, %w, %two) {layout: out_in, activation: gelu_erf}
  %qkv = linear(%x, %wide) {layout: in_out, activation: none}
  %a = ragged_attention(%qkv, _, _, %cu_seqlens) {heads: 2, scale: 0.5, relative: none}
  %p = pool(%y, %cu_seqlens) {kind: mean}
  %t = tanh(%y)
  %d = attention(%q, %q, %q, %mask) {q_heads: 0, kv_heads: 0, scale: none, is_causal: false, softcap: 0.0, scores_mode: 0, softmax_precision: none}
  output d = %d
}";
        let graph = text::parse(source, &mut |name, _| panic!("{name} is not in the text")).unwrap();
        let steps: Vec<String> = graph.nodes().iter().map(|node| describe_step(&graph, node)).collect();
        let expected = [
            "embedding from 2 tables of 4 + layer norm",
            "linear 4x2 + bias + gelu",
            "linear 4x6",
            "attention 2x1",
            "pool, mean",
            "tanh f32[tokens, 2]",
            "padded attention 2x4 + mask",
        ];
        assert_eq!(steps, expected);
    }
}
