//! The passes on a Conformer speech encoder, from both exporters of PyTorch.

use std::path::Path;

use bertha_compile::optimize;
use bertha_graph::interp::{Interpreter, Precision};
use bertha_graph::{Activation, Graph, Op, SplitMix64, TensorData};
use bertha_import::onnx::{ImportOptions, import};

fn count(graph: &Graph, of: impl Fn(&Op) -> bool) -> usize {
    graph.nodes().iter().filter(|node| of(&node.op)).count()
}

fn conformer(file: &str) -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../../tests/onnx/conformer/conformer_{file}.onnx"));
    import(&path, &ImportOptions::default()).unwrap().graph
}

#[test]
fn norms_products_swish_and_attention_are_found() {
    for file in ["legacy16", "legacy17", "dynamo18"] {
        let (graph, log) = optimize(&conformer(file)).unwrap();
        // Five in the block and one at the end; nothing of a decomposed one is left.
        assert_eq!(count(&graph, |op| matches!(op, Op::LayerNorm { .. })), 6, "{file}");
        assert_eq!(count(&graph, |op| matches!(op, Op::Reduce { .. })), 0, "{file}");
        let swish = |op: &Op| matches!(op, Op::Linear { activation: Activation::Silu, .. });
        assert_eq!(count(&graph, swish), 2, "{file}");
        // Subsampling, q, k, v, positions, result, and two for each half of the feed-forward.
        assert_eq!(count(&graph, |op| matches!(op, Op::Linear { .. })), 10, "{file}");
        assert_eq!(count(&graph, |op| matches!(op, Op::Conv(_))), 5, "{file}");
        let attentions = count(&graph, |op| matches!(op, Op::Attention(_)));
        let softmaxes = count(&graph, |op| matches!(op, Op::Softmax { .. }));
        // Also where reshapes compute their sizes, so that lengths are symbols of their own.
        assert_eq!((attentions, softmaxes), (1, 0), "{file}: {log}");
    }
}

#[test]
fn fused_attention_hides_what_the_parts_hid_and_all_of_it() {
    for file in ["legacy16", "dynamo18"] {
        check_hidden(&conformer(file));
    }
}

fn check_hidden(before: &Graph) {
    let (after, _) = optimize(before).unwrap();
    let (batch, frames) = (3, 24);
    let mut random = SplitMix64::new(1);
    let speech: Vec<f32> = (0..batch * frames * 80).map(|_| random.unit() as f32 - 0.5).collect();
    // The last one is empty: none of its keys is seen.
    let inputs = [
        ("speech", TensorData::from_vec(vec![batch, frames, 80], speech).unwrap()),
        ("speech_lengths", TensorData::vector(vec![24i32, 9, 0])),
    ];
    // The scale of the positions' scores becomes a constant in f32.
    let run = |graph: &Graph| Interpreter::new(graph, Precision::F64).run_f64(&inputs).unwrap();
    for ((name, want), (_, got)) in run(before).iter().zip(run(&after)) {
        assert_eq!(want.values.len(), got.values.len(), "{name}");
        for (want, got) in want.values.iter().zip(&got.values) {
            assert!(want.is_finite() && (want - got).abs() < 1e-6, "{name}: {got}, expected {want}");
        }
    }
}
