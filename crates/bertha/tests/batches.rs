//! Ragged batches through the facade: company changes nothing, wrong ones are refused by name.

mod support;

use bertha::{RaggedBatch, TensorData};
use support::*;

#[test]
fn a_sentence_has_the_same_bits_alone_and_in_any_batch() {
    for name in all_fixtures() {
        let engine = engine(&name);
        let (mut one, mut many) = (engine.session(1).unwrap(), engine.session(3).unwrap());
        let together = batch(&engine, &SENTENCES);
        let outputs = run_ragged(&mut many, &together, &[]).unwrap();
        for (index, sentence) in SENTENCES.iter().enumerate() {
            let alone = run_ragged(&mut one, &batch(&engine, &[sentence]), &[]).unwrap();
            for ((output, all), (_, alone)) in outputs.iter().zip(&alone) {
                let range = match is_per_token(all, together.tokens()) {
                    true => together.rows(index),
                    false => index..index + 1,
                };
                assert_eq!(rows(all, range), rows(alone, 0..alone.shape()[0]), "{name} {output} {index}");
            }
        }
    }
}

#[test]
fn wanted_outputs_come_in_the_models_order_and_as_they_were() {
    let engine = engine("bert_encoder");
    let mut session = engine.session(1).unwrap();
    let batch = batch(&engine, &SENTENCES);
    let all = run_ragged(&mut session, &batch, &[]).unwrap();
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["last_hidden_state", "pooler_output"]);
    for (index, name) in names.iter().enumerate() {
        assert_eq!(run_ragged(&mut session, &batch, &[name]).unwrap(), all[index..=index]);
    }
    let reversed: Vec<&str> = names.iter().rev().copied().collect();
    assert_eq!(run_ragged(&mut session, &batch, &reversed).unwrap(), all);
    assert_names(
        run_ragged(&mut session, &batch, &["logits"]),
        &["logits", "last_hidden_state", "pooler_output"],
    );
}

#[test]
fn sessions_of_one_engine_run_at_the_same_time() {
    let engine = engine("mpnet_encoder");
    let batch = batch(&engine, &SENTENCES);
    let expected = run_ragged(&mut engine.session(1).unwrap(), &batch, &[]).unwrap();
    std::thread::scope(|scope| {
        for threads in [1, 2, 3, 1] {
            let (engine, batch, expected) = (&engine, &batch, &expected);
            scope.spawn(move || {
                let mut session = engine.session(threads).unwrap();
                for _ in 0..20 {
                    assert_eq!(run_ragged(&mut session, batch, &[]).unwrap(), *expected);
                }
            });
        }
    });
}

#[test]
fn a_refused_sequence_leaves_the_batch_as_it_was() {
    let engine = engine("roberta_masked_lm");
    let info = engine.info();
    let mut given = batch(&engine, &SENTENCES);
    let before = given.clone();
    assert_names(given.push(info, &[2; 25], None), &["sequence 4", "25", "24"]);
    assert_names(given.push(info, &[2, u32::MAX], None), &["input_ids", "4294967295"]);
    assert_names(given.push(info, &[2, 3], Some(&[0])), &["token_type_ids", "1", "2"]);
    assert_names(given.push(info, &[2, 3], Some(&[0, u32::MAX])), &["token_type_ids", "4294967295"]);
    assert_eq!(given, before);
    assert_eq!((given.len(), given.tokens()), (4, 18));
    given.clear();
    assert_eq!(given, RaggedBatch::new());
    assert!(given.is_empty());
}

#[test]
fn ids_and_offsets_that_lead_nowhere_are_named() {
    let engine = engine("bert_encoder");
    let mut session = engine.session(2).unwrap();
    let good = || {
        vec![
            ("input_ids", TensorData::vector(vec![2i32, 9, 3, 5])),
            ("token_type_ids", TensorData::vector(vec![0i32; 4])),
            ("position_ids", TensorData::vector(vec![0i32, 1, 2, 0])),
            ("cu_seqlens", TensorData::vector(vec![0i32, 3, 4])),
        ]
    };
    let with = |name: &str, data: TensorData| {
        let mut inputs = good();
        inputs.iter_mut().find(|(other, _)| *other == name).unwrap().1 = data;
        inputs
    };
    assert!(run(&mut session, &good()).is_ok());
    let ints = |values: &[i32]| TensorData::vector(values.to_vec());
    for (name, data, what) in [
        ("input_ids", ints(&[2, 99, 3, 5]), &["input_ids", "99"][..]),
        ("input_ids", ints(&[2, -7, 3, 5]), &["input_ids", "-7"]),
        ("token_type_ids", ints(&[0, 0, 2, 0]), &["token_type_ids", "2"]),
        ("position_ids", ints(&[0, 1, 2, 24]), &["position_ids", "24"]),
        ("cu_seqlens", ints(&[0, 3, 5]), &["cu_seqlens", "5", "4"]),
        ("cu_seqlens", ints(&[1, 3, 4]), &["cu_seqlens"]),
        ("cu_seqlens", ints(&[0, 3, 2, 4]), &["cu_seqlens"]),
        ("cu_seqlens", ints(&[0, -1, 4]), &["cu_seqlens"]),
        ("cu_seqlens", ints(&[]), &["cu_seqlens"]),
        ("cu_seqlens", TensorData::vector(vec![0i64, 3, 4]), &["cu_seqlens", "i64", "i32"]),
        ("position_ids", ints(&[0, 1, 2]), &["position_ids", "4"]),
        (
            "input_ids",
            TensorData::from_vec(vec![2, 2], vec![2i32, 9, 3, 5]).unwrap(),
            &["input_ids", "[2, 2]"],
        ),
    ] {
        assert_names(run(&mut session, &with(name, data)), what);
    }
    let mut missing = good();
    missing.remove(1);
    assert_names(run(&mut session, &missing), &["token_type_ids", "missing"]);
    let mut unknown = good();
    unknown.push(("head_mask", ints(&[1])));
    assert_names(run(&mut session, &unknown), &["head_mask", "cu_seqlens"]);
    assert!(run(&mut session, &good()).is_ok());
}
