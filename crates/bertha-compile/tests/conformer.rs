//! The passes on a Conformer speech encoder, from both exporters of PyTorch.

use std::path::Path;

use bertha_compile::optimize;
use bertha_graph::{Activation, Graph, Op};
use bertha_import::onnx::{ImportOptions, import};

fn count(graph: &Graph, of: impl Fn(&Op) -> bool) -> usize {
    graph.nodes().iter().filter(|node| of(&node.op)).count()
}

#[test]
fn norms_products_and_swish_are_found_and_attention_says_why_it_is_not() {
    for file in ["legacy16", "legacy17", "dynamo18"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../../tests/onnx/conformer/conformer_{file}.onnx"));
        let model = import(&path, &ImportOptions::default()).unwrap();
        let (graph, log) = optimize(&model.graph).unwrap();
        // Five in the block and one at the end; nothing of a decomposed one is left.
        assert_eq!(count(&graph, |op| matches!(op, Op::LayerNorm { .. })), 6, "{file}");
        assert_eq!(count(&graph, |op| matches!(op, Op::Reduce { .. })), 0, "{file}");
        let swish = |op: &Op| matches!(op, Op::Linear { activation: Activation::Silu, .. });
        assert_eq!(count(&graph, swish), 2, "{file}");
        // Subsampling, q, k, v, positions, result, and two for each half of the feed-forward.
        assert_eq!(count(&graph, |op| matches!(op, Op::Linear { .. })), 10, "{file}");
        assert_eq!(count(&graph, |op| matches!(op, Op::Conv(_))), 5, "{file}");
        let miss = log.near_misses.iter().find(|miss| miss.pass == "attention");
        assert!(miss.is_some_and(|miss| miss.why.contains("after the softmax")), "{file}: {log}");
    }
}
