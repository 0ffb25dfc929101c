//! Checkpoints of every family and head against the answers of transformers.

mod support;

use std::path::{Path, PathBuf};

use bertha_graph::Task;
use bertha_import::hf::{self, ImportOptions, SafetensorsFile};
use support::{Checkpoint, errors_of, fixtures};

/// Runs the model in a folder and compares every output that transformers gave.
fn check(folder: &Path) {
    let model = hf::import(folder, &ImportOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let expected = SafetensorsFile::open(folder.join("expected.safetensors")).unwrap();
    let errors = errors_of(&model, &expected);
    assert!(!errors.is_empty());
    for (name, error) in errors {
        assert!(error < 1e-6, "{}: `{name}` is off by {error:e}", folder.display());
    }
}

fn check_all(root: &Path) -> usize {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.safetensors").exists())
        .collect();
    folders.sort();
    folders.iter().for_each(|folder| check(folder));
    folders.len()
}

#[test]
fn every_committed_checkpoint_answers_as_transformers_does() {
    assert!(check_all(&fixtures()) >= 14);
}

/// The whole matrix, written by `generate_hf.py`.
#[test]
fn every_generated_checkpoint_answers_as_transformers_does() {
    match std::env::var_os("BERTHA_HF_FIXTURES") {
        Some(root) => assert!(check_all(Path::new(&root)) > 0),
        None => println!("skipped: BERTHA_HF_FIXTURES names no folder written by tests/generate_hf.py"),
    }
}

#[test]
fn a_transposed_square_weight_changes_the_answer() {
    let name = "encoder.layer.0.attention.self.query.weight";
    let checkpoint = Checkpoint::fixture("bert_encoder");
    let values = checkpoint.data(name).as_slice::<f32>().unwrap().to_vec();
    let width = checkpoint.data(name).shape()[0];
    assert_eq!(checkpoint.data(name).shape(), [width, width]);
    let transposed = (0..width * width).map(|at| values[at % width * width + at / width]).collect();
    let data = bertha_graph::TensorData::from_vec(vec![width, width], transposed).unwrap();
    assert!(checkpoint.error() < 1e-6);
    assert!(checkpoint.weight(name, data).error() > 1e-2);
}

#[test]
fn tasks_labels_and_limits_follow_the_configuration() {
    let info = |checkpoint: Checkpoint| checkpoint.import().unwrap().info;
    let fixture = |name: &str| info(Checkpoint::fixture(name));
    assert_eq!(fixture("bert_encoder").task, Task::Encoder);
    assert_eq!(fixture("bert_pretraining").task, Task::Pretraining);
    assert_eq!(fixture("electra_pretraining").task, Task::ReplacedTokenDetection);
    assert_eq!(fixture("bert_sequence_classification").labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
    assert_eq!(fixture("distilbert_question_answering").max_tokens, Some(24));
    // Two of the 26 rows lie before the first position.
    assert_eq!(fixture("roberta_masked_lm").max_tokens, Some(24));

    let named = Checkpoint::fixture("bert_sequence_classification")
        .set("id2label", serde_json::json!({"1": "neutral", "0": "bad", "2": "good"}))
        .set("problem_type", "multi_label_classification");
    let named = info(named);
    assert_eq!(named.labels, ["bad", "neutral", "good"]);
    assert!(named.multi_label);

    // What old configurations say for a classifier with another number of classes.
    let old = Checkpoint::fixture("bert_sequence_classification")
        .set("id2label", serde_json::json!({"0": "LABEL_0", "1": "LABEL_1"}))
        .set("num_labels", 3);
    assert_eq!(info(old).labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
}

#[test]
fn the_weights_tell_the_head_when_the_configuration_does_not() {
    for name in [
        "bert_encoder",
        "bert_masked_lm_untied",
        "bert_pretraining",
        "bert_sequence_classification",
        "distilbert_question_answering",
        "roberta_sequence_classification",
        "electra_pretraining",
        "mpnet_masked_lm",
        "albert_pretraining",
        "albert_token_classification",
    ] {
        let task = Checkpoint::fixture(name).import().unwrap().info.task;
        let untold = Checkpoint::fixture(name).unset("architectures");
        assert_eq!(untold.import().unwrap().info.task, task, "{name}");
        assert!(untold.error() < 1e-6, "{name}");
    }
    // The oldest configurations do not even name the model type.
    let oldest = Checkpoint::fixture("bert_encoder").unset("architectures").unset("model_type");
    assert!(oldest.error() < 1e-6);
    let with_head = Checkpoint::fixture("electra_pretraining").unset("architectures").unset("model_type");
    assert!(with_head.error() < 1e-6);
}

#[test]
fn the_caller_can_ask_for_the_encoder_of_a_model_with_a_head() {
    let folder = Checkpoint::fixture("bert_pretraining").write();
    let model = hf::import(folder.path(), &ImportOptions { task: Some(Task::Encoder) }).unwrap();
    let outputs: Vec<&str> = model.graph.outputs().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(outputs, ["last_hidden_state", "pooler_output"]);
    assert!(model.graph.find("cls.predictions.bias").is_none());
}

#[test]
fn weights_keep_their_names_and_bytes() {
    let folder = fixtures().join("bert_pretraining");
    let model = hf::import(&folder, &ImportOptions::default()).unwrap();
    let file = SafetensorsFile::open(folder.join("model.safetensors")).unwrap();
    for name in file.names() {
        let id = model.graph.find(name).unwrap_or_else(|| panic!("no tensor `{name}`"));
        assert_eq!(model.graph.tensor(id).constant(), Some(&file.tensor(name).unwrap()), "{name}");
    }
    let nodes: Vec<&str> = model.graph.nodes().iter().map(|node| node.name.as_str()).collect();
    assert!(nodes.contains(&"encoder.layer.0.attention.query"), "{nodes:?}");
}
