//! The numbered examples over tokens and tensors run.

mod support;

#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../../../examples/03_engine_file.rs"]
mod engine_file;
#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../../../examples/04_ragged_batches.rs"]
mod ragged_batches;

use support::{batch, engine, folder, run_ragged};

#[test]
fn an_engine_file_answers_like_its_model() {
    let work = tempfile::tempdir().unwrap();
    engine_file::build_and_compare(&folder("bert_encoder"), &work.path().join("model.bertha")).unwrap();
}

#[test]
fn ragged_batches_give_each_sequence_its_rows() {
    let sequences: [&[u32]; 3] = [&[2, 41, 17, 3], &[2, 3], &[2, 9, 3]];
    for name in ["bert_encoder", "bert_sequence_classification"] {
        let found = ragged_batches::run(&folder(name), &sequences).unwrap();
        let engine = engine(name);
        for (sequence, ids) in found.iter().zip(sequences) {
            let alone = run_ragged(&mut engine.session(1).unwrap(), &batch(&engine, &[ids]), &[]).unwrap();
            assert_eq!(sequence.tokens, ids.len());
            assert!(!sequence.first.is_empty());
            let expected = alone[0].1.as_slice::<f32>().unwrap();
            assert_eq!(sequence.first, expected[..sequence.first.len()], "{name}");
        }
        assert_eq!(found.len(), sequences.len());
    }
}
