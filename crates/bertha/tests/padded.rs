//! Padded tensors at the boundary: padding goes out, answers come back into their cells.

mod support;

use bertha::{DType, PositionIds, TensorData};
use support::*;

/// The padding token of a fixture's family.
fn pad_id(engine: &bertha::Engine) -> i64 {
    match engine.info().position_ids {
        PositionIds::AfterPad { pad_id } => i64::from(pad_id),
        PositionIds::Absolute | PositionIds::None => 0,
    }
}

/// The sentences as `[batch, columns]` ids and mask, each starting in the column that `first` says.
fn padded(pad: i64, first: impl Fn(usize) -> usize, columns: usize) -> (Vec<Vec<i64>>, Vec<Vec<i64>>) {
    let mut ids = vec![vec![pad; columns]; SENTENCES.len()];
    let mut mask = vec![vec![0i64; columns]; SENTENCES.len()];
    for (row, sentence) in SENTENCES.iter().enumerate() {
        for (at, id) in sentence.iter().enumerate() {
            ids[row][first(sentence.len()) + at] = i64::from(*id);
            mask[row][first(sentence.len()) + at] = 1;
        }
    }
    (ids, mask)
}

/// Each cell of `padded` that the mask keeps has the bits of the ragged row, and the others are zero.
fn assert_scattered(padded: &TensorData, ragged: &TensorData, mask: &[Vec<i64>]) {
    let columns = mask[0].len();
    let width = padded.len() / (mask.len() * columns);
    let cells = padded.as_slice::<f32>().unwrap();
    let mut token = 0;
    for (index, keep) in mask.iter().flatten().enumerate() {
        let cell = &cells[index * width..(index + 1) * width];
        if *keep == 0 {
            assert!(cell.iter().all(|value| *value == 0.0));
        } else {
            assert_eq!(cell.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), row(ragged, token));
            token += 1;
        }
    }
}

#[test]
fn padding_changes_no_bit_of_any_family() {
    for name in all_fixtures() {
        let engine = engine(&name);
        let mut session = engine.session(2).unwrap();
        let batch = batch(&engine, &SENTENCES);
        let ragged = run_ragged(&mut session, &batch, &[]).unwrap();
        let (ids, mask) = padded(pad_id(&engine), |_| 0, 9);
        let inputs = [("attention_mask", matrix(&mask)), ("input_ids", matrix(&ids))];
        let dense = run(&mut session, &inputs).unwrap();
        assert_eq!(dense.len(), ragged.len(), "{name}");
        for ((output, dense), (other, ragged)) in dense.iter().zip(&ragged) {
            assert_eq!(output, other);
            if is_per_token(ragged, batch.tokens()) {
                assert_eq!(dense.shape()[..2], [SENTENCES.len(), 9], "{name}");
                assert_eq!(dense.shape()[2..], ragged.shape()[1..], "{name}");
                assert_scattered(dense, ragged, &mask);
            } else {
                assert_eq!(dense, ragged, "{name}");
            }
        }
    }
}

#[test]
fn padding_on_the_left_moves_absolute_positions_and_no_others() {
    for name in FAMILIES {
        let engine = engine(name);
        let mut session = engine.session(1).unwrap();
        let (ids, mask) = padded(pad_id(&engine), |length| 9 - length, 9);
        let inputs = [("input_ids", matrix(&ids)), ("attention_mask", matrix(&mask))];
        let dense = run(&mut session, &inputs).unwrap();

        // What the padded model's tokens are, one after another.
        let mut given = engine_inputs(&engine, &ids, &mask);
        let as_given = run(&mut session, &given).unwrap();
        assert_scattered(&dense[0].1, &as_given[0].1, &mask);

        let plain = run_ragged(&mut session, &batch(&engine, &SENTENCES), &[]).unwrap();
        let unmoved = matches!(engine.info().position_ids, PositionIds::AfterPad { .. } | PositionIds::None);
        assert_eq!(as_given[0].1 == plain[0].1, unmoved, "{name}");

        // Positions of the caller's own are taken as they are.
        let own: Vec<Vec<i64>> = mask
            .iter()
            .map(|row| {
                row.iter()
                    .scan(first_position(&engine) - 1, |at, keep| {
                        *at += keep;
                        Some(*at)
                    })
                    .collect()
            })
            .collect();
        let clamped: Vec<Vec<i64>> =
            own.iter().map(|row| row.iter().map(|at| *at.max(&0)).collect()).collect();
        let inputs = [
            ("input_ids", matrix(&ids)),
            ("attention_mask", matrix(&mask)),
            ("position_ids", matrix(&clamped)),
        ];
        assert_scattered(&run(&mut session, &inputs).unwrap()[0].1, &plain[0].1, &mask);
        given.clear();
    }
}

fn first_position(engine: &bertha::Engine) -> i64 {
    match engine.info().position_ids {
        PositionIds::AfterPad { pad_id } => i64::from(pad_id) + 1,
        PositionIds::Absolute | PositionIds::None => 0,
    }
}

/// The kept cells as the ragged graph's own inputs, with the positions that the padded model gives them.
fn engine_inputs(
    engine: &bertha::Engine,
    ids: &[Vec<i64>],
    mask: &[Vec<i64>],
) -> Vec<(&'static str, TensorData)> {
    let (mut tokens, mut positions, mut offsets) = (Vec::new(), Vec::new(), vec![0i32]);
    for (ids, mask) in ids.iter().zip(mask) {
        let mut next = first_position(engine) as i32;
        for (column, (id, keep)) in ids.iter().zip(mask).enumerate() {
            let position = match engine.info().position_ids {
                PositionIds::AfterPad { pad_id } if *id == i64::from(pad_id) => pad_id as i32,
                PositionIds::AfterPad { .. } => next,
                PositionIds::Absolute | PositionIds::None => column as i32,
            };
            next += i32::from(*id != pad_id(engine));
            if *keep != 0 {
                tokens.push(*id as i32);
                positions.push(position);
            }
        }
        offsets.push(tokens.len() as i32);
    }
    let count = tokens.len();
    let all = [
        ("input_ids", TensorData::vector(tokens)),
        ("token_type_ids", TensorData::vector(vec![0i32; count])),
        ("position_ids", TensorData::vector(positions)),
        ("cu_seqlens", TensorData::vector(offsets)),
    ];
    let takes = |name: &str| engine.graph().inputs().iter().any(|id| engine.graph().tensor(*id).name == name);
    all.into_iter().filter(|(name, _)| takes(name)).collect()
}

#[test]
fn a_hole_in_the_mask_is_no_token() {
    for name in FAMILIES {
        let engine = engine(name);
        let mut session = engine.session(1).unwrap();
        let ids = vec![vec![2i64, 41, 17, 8, 98, 3], vec![2, 9, 9, 9, 9, 3]];
        let mask = vec![vec![1i64, 0, 1, 1, 0, 1], vec![0, 1, 1, 0, 1, 1]];
        let inputs = [("input_ids", matrix(&ids)), ("attention_mask", matrix(&mask))];
        let dense = run(&mut session, &inputs).unwrap();
        let expected = run(&mut session, &engine_inputs(&engine, &ids, &mask)).unwrap();
        assert_scattered(&dense[0].1, &expected[0].1, &mask);
    }
}

#[test]
fn rows_without_tokens_disturb_nobody() {
    for name in all_fixtures() {
        let engine = engine(&name);
        let mut session = engine.session(2).unwrap();
        let ids = vec![vec![7i64; 3], vec![2, 9, 3], vec![7; 3]];
        let mask = vec![vec![0i64; 3], vec![1; 3], vec![0; 3]];
        let inputs = [("input_ids", matrix(&ids)), ("attention_mask", matrix(&mask))];
        let outputs = run(&mut session, &inputs).unwrap();
        let alone = run_ragged(&mut session, &batch(&engine, &[&[2, 9, 3]]), &[]).unwrap();
        for ((output, data), (_, alone)) in outputs.iter().zip(&alone) {
            assert_eq!(data.shape()[0], 3, "{name} {output}");
            let finite = data.as_slice::<f32>().unwrap().iter().all(|value| value.is_finite());
            assert!(finite, "{name} {output}: an empty row gives {data:?}");
            let one = rows(alone, 0..alone.shape()[0]);
            assert_eq!(row(data, 1), one, "{name} {output}");
        }
    }
}

#[test]
fn batches_of_nothing_give_outputs_of_nothing() {
    let engine = engine("bert_encoder");
    let mut session = engine.session(1).unwrap();
    for shape in [[0usize, 5], [0, 0], [2, 0]] {
        let ids = TensorData::from_vec(shape.to_vec(), vec![2i64; shape[0] * shape[1]]).unwrap();
        let outputs = run(&mut session, &[("input_ids", ids)]).unwrap();
        assert_eq!(outputs[0].1.shape()[..2], shape);
    }
    let outputs = run_ragged(&mut session, &bertha::RaggedBatch::default(), &[]).unwrap();
    assert_eq!(outputs[0].1.shape()[0], 0);
}

#[test]
fn any_integer_type_will_do() {
    let engine = engine("bert_encoder");
    let mut session = engine.session(1).unwrap();
    let (ids, mask) = padded(0, |_| 0, 9);
    let expected =
        run(&mut session, &[("input_ids", matrix(&ids)), ("attention_mask", matrix(&mask))]).unwrap();
    let small = |rows: &[Vec<i64>]| {
        matrix(&rows.iter().map(|row| row.iter().map(|v| *v as i32).collect()).collect::<Vec<Vec<i32>>>())
    };
    let bytes = |rows: &[Vec<i64>]| {
        matrix(&rows.iter().map(|row| row.iter().map(|v| *v as u8).collect()).collect::<Vec<Vec<u8>>>())
    };
    let bools: Vec<bool> = mask.iter().flatten().map(|keep| *keep != 0).collect();
    let bools = TensorData::from_bools(vec![mask.len(), 9], &bools).unwrap();
    for (ids, mask) in [
        (small(&ids), small(&mask)),
        (matrix(&ids), small(&mask)),
        (small(&ids), bools),
        (bytes(&ids), bytes(&mask)),
    ] {
        assert_eq!(run(&mut session, &[("input_ids", ids), ("attention_mask", mask)]).unwrap(), expected);
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let engine = engine("bert_encoder");
    let mut session = engine.session(1).unwrap();
    let ids = || matrix(&[vec![2i64, 9, 3]]);
    let mut fails = |inputs: &[(&str, TensorData)], what: &[&str]| {
        assert_names(run(&mut session, inputs), what);
    };
    fails(&[], &["input_ids", "missing"]);
    fails(&[("ids", ids())], &["`ids`", "input_ids", "attention_mask"]);
    fails(&[("input_ids", TensorData::vector(vec![2i64, 3]))], &["input_ids", "[batch, seq]", "[2]"]);
    fails(&[("input_ids", matrix(&[vec![2f32, 3.0]]))], &["input_ids", "integers", DType::F32.name()]);
    fails(&[("input_ids", matrix(&[vec![2i64, 1 << 40]]))], &["input_ids", "1099511627776"]);
    fails(
        &[("input_ids", ids()), ("attention_mask", matrix(&[vec![1i64, 1]]))],
        &["attention_mask", "[1, 3]", "[1, 2]"],
    );
    fails(
        &[("input_ids", ids()), ("token_type_ids", matrix(&[vec![0i64], vec![0], vec![0]]))],
        &["token_type_ids", "[1, 3]", "[3, 1]"],
    );
    fails(&[("input_ids", ids()), ("position_ids", matrix(&[vec![0f32; 3]]))], &["position_ids", "integers"]);
    fails(&[("input_ids", matrix(&[vec![2i64; 25]]))], &["sequence 0", "25 tokens", "24"]);
    fails(&[("input_ids", matrix(&[vec![2i64, 99, 3]]))], &["99"]);
    fails(&[("input_ids", matrix(&[vec![2i64, -1, 3]]))], &["-1"]);
    fails(&[("input_ids", ids()), ("position_ids", matrix(&[vec![0i64, 24, 1]]))], &["24"]);
    fails(&[("input_ids", ids()), ("token_type_ids", matrix(&[vec![0i64, 2, 0]]))], &["2"]);
    // And the session still runs.
    assert!(run(&mut session, &[("input_ids", ids())]).is_ok());
}
