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
