//! The worked example: the layer norms of a speech encoder, each in nine parts, become one plugin node each.

mod support;

use bertha_surgeon::{Model, rewrite, summary};
use support::{ops, pattern_file, repository};

#[test]
fn a_conformers_layer_norms_become_plugin_nodes() {
    let mut model = Model::open(repository("tests/onnx/conformer/conformer_legacy16.onnx")).unwrap();
    let before = summary(&model);
    let report = rewrite(&mut model, &pattern_file("layer-norm.pattern")[0]).unwrap();
    assert_eq!(report.matches.len(), 6);
    assert!(report.near_misses.is_empty(), "{:?}", report.near_misses);
    let norms = model.graph.nodes.iter().filter(|node| node.op() == "bertha.plugins::LayerNorm");
    assert_eq!(norms.count(), 6);
    // Nine nodes and two Constant nodes for each become one.
    assert_eq!(model.graph.nodes.len(), before.nodes - 6 * 10);
    assert!(["Pow", "Sqrt", "ReduceMean"].iter().all(|op| !ops(&model).contains(&(*op).to_owned())));
    assert_eq!(summary(&model).parameters.tensors, before.parameters.tensors);
}
