//! The network of `examples/01_build_bert.rs` gives the importers' logits from every kind of file.

#[allow(dead_code, unreachable_pub)]
#[path = "../../../examples/01_build_bert.rs"]
mod example;

use std::path::{Path, PathBuf};

use bertha_graph::interp::{Interpreter, Precision};
use bertha_graph::{Graph, TensorData};
use bertha_import::{hf, npz, onnx};
use example::{Config, Weights, build};

/// The same operations in f64, in the same order.
const SAME: f64 = 1e-12;
/// An ONNX file has GELU's square root of 2 and the like as constants in f32.
const F32_CONSTANTS: f64 = 1e-7;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bertha-import/tests/fixtures/hf/bert_pretraining")
}

fn logits(graph: &Graph, inputs: &[(&str, TensorData)]) -> Vec<f64> {
    let outputs = Interpreter::new(graph, Precision::F64).run_f64(inputs).unwrap();
    outputs.into_iter().find(|(name, _)| name == "logits" || name == "o0").unwrap().1.values
}

#[track_caller]
fn assert_close(ours: &[f64], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0f64, |max, v| max.max(v.abs()));
    assert!(largest > 0.1, "the logits say nothing");
    let error = ours.iter().zip(theirs).fold(0f64, |max, (a, b)| max.max((a - b).abs()));
    assert!(error < tolerance * largest, "{error:e}");
}

/// One sequence, as a ragged graph takes it.
fn ragged(ids: &[i32]) -> Vec<(&'static str, TensorData)> {
    let length = ids.len() as i32;
    vec![
        ("input_ids", TensorData::vector(ids.to_vec())),
        ("token_type_ids", TensorData::vector(vec![0i32; ids.len()])),
        ("position_ids", TensorData::vector((0..length).collect())),
        ("cu_seqlens", TensorData::vector(vec![0, length])),
    ]
}

const IDS: [i32; 6] = [2, 41, 17, 8, 98, 3];

#[test]
fn from_each_kind_of_file() {
    let config = Config { layers: 2, heads: 2, epsilon: 3e-5 };
    let imported = hf::import(fixture(), &hf::ImportOptions::default()).unwrap();
    let theirs = logits(&imported.graph, &ragged(&IDS));

    let folder = tempfile::tempdir().unwrap();
    let safetensors = hf::SafetensorsFile::open(fixture().join("model.safetensors")).unwrap();
    let arrays: Vec<_> = safetensors.names().map(|name| (name, safetensors.tensor(name).unwrap())).collect();
    let as_npz = folder.path().join("weights.npz");
    npz::write_npz(&as_npz, arrays.iter().map(|(name, data)| (*name, data))).unwrap();
    let as_onnx = folder.path().join("model.onnx");
    let exported = onnx::export(&imported, &onnx::ExportOptions::default()).unwrap();
    let externals = onnx::ExternalFiles::none(&as_onnx);
    onnx::write_onnx(&exported, &externals, &as_onnx, onnx::ExternalData::WhenNeeded).unwrap();

    for file in [fixture(), fixture().join("model.safetensors"), as_npz, as_onnx] {
        let graph = build(&config, &Weights::open(&file).unwrap()).unwrap();
        assert_close(&logits(&graph, &ragged(&IDS)), &theirs, SAME);
    }
}

#[test]
fn from_the_initializers_that_pytorch_exports() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/onnx/bert_eager_legacy17.onnx");
    if !file.exists() {
        println!("skipped: there is no {}", file.display());
        return;
    }
    let dense = onnx::import(&file, &onnx::ImportOptions::default()).unwrap();
    let ids: Vec<i64> = IDS.iter().map(|id| i64::from(*id)).collect();
    let row = |values: Vec<i64>| TensorData::from_vec(vec![1, values.len()], values).unwrap();
    let inputs = [
        ("input_ids", row(ids)),
        ("attention_mask", row(vec![1; IDS.len()])),
        ("token_type_ids", row(vec![0; IDS.len()])),
    ];
    let theirs = logits(&dense.graph, &inputs);
    let config = Config { layers: 2, heads: 4, epsilon: 1e-12 };
    let graph = build(&config, &Weights::open(&file).unwrap()).unwrap();
    assert_close(&logits(&graph, &ragged(&IDS)), &theirs, F32_CONSTANTS);
}
