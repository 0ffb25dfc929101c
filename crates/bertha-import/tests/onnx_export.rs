//! A ragged encoder and its export, imported again, give the same answers: for every operator set, every way of
//! pooling, every activation, and lengths that leave padding.
//!
//! With the environment variable `BERTHA_ONNX_EXPORTS` the exported files are written to that folder together with
//! inputs and expected outputs, for `tests/onnx/check_exports.py` to run through ONNX Runtime.

mod encoder;

use bertha_graph::interp::{Interpreter, Precision};
use bertha_graph::{PoolKind, PositionIds};
use bertha_import::npz::write_npz;
use bertha_import::onnx::{
    self, ExportOptions, ExternalData, ExternalFiles, ImportOptions, proto::ModelProto,
};

use encoder::{Batch, Encoder, Kind, output_kinds};

/// Operator sets at which the form of some op changes.
const OPSETS: [i64; 8] = [11, 12, 13, 14, 17, 18, 20, 23];

fn export(encoder: &Encoder, opset: i64) -> ModelProto {
    onnx::export(&encoder.model, &ExportOptions { opset }).expect("the encoder can be exported")
}

/// Runs the encoder as it is and as exported, and compares what is not padding.
fn check(encoder: &Encoder, opset: i64, batch: &Batch) {
    let exported = export(encoder, opset);
    let options = ImportOptions { companions: false, ..ImportOptions::default() };
    let again = onnx::import_model(&exported, "exported.onnx", &options).expect("the export can be imported");
    let ragged = Interpreter::new(&encoder.model.graph, Precision::F64)
        .run_f64(&batch.ragged(encoder))
        .expect("the encoder runs");
    let dense = Interpreter::new(&again.graph, Precision::F64)
        .run_f64(&batch.padded(encoder))
        .expect("the export runs");
    let kinds = output_kinds(&encoder.model.graph);
    assert_eq!(ragged.len(), dense.len());
    for ((name, expected), kind) in ragged.iter().zip(kinds) {
        let (_, found) = dense.iter().find(|(other, _)| other == name).expect("the outputs keep their names");
        let found = match kind {
            Kind::Tokens => batch.without_padding(&found.shape, &found.values),
            Kind::Batch => found.values.clone(),
        };
        assert_eq!(found.len(), expected.values.len(), "{name}");
        let largest = expected.values.iter().fold(0f64, |max, value| max.max(value.abs()));
        for (a, b) in found.iter().zip(&expected.values) {
            // The graph holds some constants in f32 where the interpreter has them in f64.
            assert!((a - b).abs() <= 1e-6 * largest, "{name}, opset {opset}: {a} instead of {b}");
        }
    }
}

fn batches() -> [Batch; 4] {
    [Batch::new(&[1]), Batch::new(&[6]), Batch::new(&[4, 4]), Batch::new(&[3, 9, 1, 14])]
}

#[test]
fn every_operator_set_gives_the_same_answers() {
    for opset in OPSETS {
        for batch in batches() {
            check(&Encoder::bert(), opset, &batch);
        }
    }
}

#[test]
fn checkpoints_of_every_family_export() {
    let encoders = Encoder::of_every_family();
    assert!(encoders.len() >= 10);
    for (name, encoder) in &encoders {
        println!("{name}");
        for opset in [11, 17, 23] {
            check(encoder, opset, &Batch::new(&[3, 14, 1]));
        }
    }
}

#[test]
fn distances_bias_attention_in_the_same_way() {
    for opset in OPSETS {
        check(&Encoder::with_relative_bias(), opset, &Batch::new(&[5, 40, 2]));
    }
}

#[test]
fn positions_after_the_pad_token_agree_even_with_pad_tokens_inside() {
    let mut batch = Batch::new(&[6, 3]);
    batch.ids[0][2] = encoder::PAD;
    for opset in [11, 17] {
        check(&Encoder::with_positions(PositionIds::AfterPad { pad_id: encoder::PAD as u32 }), opset, &batch);
    }
}

#[test]
fn every_way_of_pooling_agrees() {
    use PoolKind::*;
    // The largest value needs an op that files give but the importer does not read: see `check_exports.py`.
    for pool in [Cls, Mean, MeanSqrtLen, WeightedMean, LastToken] {
        for opset in [11, 13, 18] {
            check(&Encoder::with_pool(pool), opset, &Batch::new(&[3, 9, 1]));
        }
    }
}

#[test]
fn every_activation_and_layout_agrees() {
    for encoder in Encoder::with_each_activation() {
        for opset in [11, 17, 20] {
            check(&encoder, opset, &Batch::new(&[2, 5]));
        }
    }
}

/// A square matrix the wrong way round has the right shape. The encoder's are square and far from symmetric, and stored
/// both ways.
#[test]
fn square_weights_are_not_transposed_twice() {
    let encoder = Encoder::bert();
    assert!(encoder.has_square_weights());
    let exported = export(&encoder, 17);
    let graph = exported.graph.expect("there is a graph");
    let stored = graph.initializer.iter().find(|tensor| tensor.name == encoder::SQUARE_WEIGHT);
    let stored = ExternalFiles::none("memory".as_ref()).tensor(stored.expect("the weight keeps its name"));
    let stored = stored.expect("the weight can be read");
    let original = encoder.weight(encoder::SQUARE_WEIGHT);
    let (stored, original) = (stored.to_f64(), original.to_f64());
    let size = encoder::HIDDEN;
    for row in 0..size {
        for column in 0..size {
            assert_eq!(stored[column * size + row], original[row * size + column]);
        }
    }
}

#[test]
fn a_tied_weight_is_stored_once() {
    let encoder = Encoder::bert();
    let graph = export(&encoder, 17).graph.expect("there is a graph");
    let size = encoder.weight(encoder::WORD_EMBEDDING).bytes().len();
    let of_that_size = graph.initializer.iter().filter(|tensor| tensor.raw_data.len() == size);
    assert_eq!(of_that_size.count(), 1);
    assert!(
        graph.node.iter().any(|node| node.op_type == "Transpose" && node.input[0] == encoder::WORD_EMBEDDING)
    );
}

#[test]
fn what_cannot_be_exported_is_an_error_that_says_why() {
    let encoder = Encoder::bert();
    for opset in [10, 24] {
        let error = onnx::export(&encoder.model, &ExportOptions { opset }).unwrap_err().to_string();
        assert!(error.contains(&format!("operator set {opset}")), "{error}");
    }
    let dense = Encoder::dense();
    let error = onnx::export(&dense.model, &ExportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("ragged"), "{error}");
    let along_tokens = Encoder::with_softmax_along_tokens();
    let error = onnx::export(&along_tokens.model, &ExportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("`over_all`") && error.contains("tokens"), "{error}");
}

/// The files for ONNX's own checker and ONNX Runtime.
#[test]
fn write_files_for_the_outside_witness() {
    let Some(folder) = std::env::var_os("BERTHA_ONNX_EXPORTS").map(std::path::PathBuf::from) else {
        println!("skipped: BERTHA_ONNX_EXPORTS names no folder to write to");
        return;
    };
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let mut encoders = vec![
        ("bert", Encoder::bert()),
        ("relative", Encoder::with_relative_bias()),
        ("after_pad", Encoder::with_positions(PositionIds::AfterPad { pad_id: encoder::PAD as u32 })),
        ("pool_max", Encoder::with_pool(PoolKind::Max)),
        ("pool_mean", Encoder::with_pool(PoolKind::Mean)),
        ("pool_weighted", Encoder::with_pool(PoolKind::WeightedMean)),
        ("pool_last", Encoder::with_pool(PoolKind::LastToken)),
    ];
    let names = ["none", "relu", "tanh", "gelu_erf", "gelu_tanh", "silu"];
    encoders.extend(names.into_iter().zip(Encoder::with_each_activation()));
    let families = Encoder::of_every_family();
    let encoders: Vec<(&str, &Encoder)> = encoders
        .iter()
        .map(|(name, encoder)| (*name, encoder))
        .chain(families.iter().map(|(name, encoder)| (name.as_str(), encoder)))
        .collect();
    for (name, encoder) in encoders {
        for opset in 11..=23 {
            let base = folder.join(format!("{name}_{opset}"));
            let external = if opset == 19 { ExternalData::AtLeast(256) } else { ExternalData::WhenNeeded };
            let files = ExternalFiles::none(&base);
            onnx::write_onnx(&export(encoder, opset), &files, base.with_extension("onnx"), external)
                .expect("the file can be written");
            for (number, batch) in batches().iter().enumerate() {
                let file = |kind: &str| folder.join(format!("{name}_{opset}.{number}.{kind}.npz"));
                let inputs = batch.padded(encoder);
                write_npz(file("inputs"), inputs.iter().map(|(name, data)| (*name, data)))
                    .expect("the inputs can be written");
                let outputs = Interpreter::new(&encoder.model.graph, Precision::Native)
                    .run(&batch.ragged(encoder))
                    .expect("the encoder runs");
                write_npz(file("outputs"), outputs.iter().map(|(name, data)| (name.as_str(), data)))
                    .expect("the outputs can be written");
            }
        }
    }
}
