//! The passes on what the exporters of PyTorch write: same function before and after, and the graph that an expert
//! would write.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bertha_compile::{Options, optimize, optimize_model, optimize_model_with};
use bertha_graph::interp::{F64Tensor, Interpreter, Precision};
use bertha_graph::{Graph, Interface, Model, Op, PositionIds, TensorData, ragged};
use bertha_import::onnx::{ImportOptions, import};

/// The exports, or nothing with a note when they are not beside the checkout.
fn exports() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/onnx");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: no exports in {}", folder.display());
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    paths.sort();
    paths
}

fn name_of(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

fn load_model(path: &Path) -> Model {
    import(path, &ImportOptions { companions: false, ..Default::default() }).unwrap()
}

fn load(path: &Path) -> Graph {
    load_model(path).graph
}

/// Tokens of each sequence of the batch.
const LENGTHS: [usize; 3] = [11, 4, 7];

/// A padded batch: random tokens, lengths from 1 to `seq`, ids of pads that differ from those of tokens.
fn padded_batch(graph: &Graph, seed: u64) -> Vec<(&str, TensorData)> {
    const SHAPE: [usize; 2] = [LENGTHS.len(), 11];
    let mut state = seed;
    let mut next = |bound: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % bound) as i64
    };
    let mut inputs = Vec::new();
    for id in graph.inputs() {
        let tensor = graph.tensor(*id);
        let mut values = Vec::new();
        for length in LENGTHS {
            for column in 0..SHAPE[1] {
                let real = column < length;
                values.push(match tensor.name.as_str() {
                    "input_ids" if real => 2 + next(90),
                    "input_ids" => 1,
                    "attention_mask" => i64::from(real),
                    "token_type_ids" => {
                        if real {
                            next(2)
                        } else {
                            0
                        }
                    }
                    other => panic!("no values for the input {other}"),
                });
            }
        }
        inputs.push((tensor.name.as_str(), TensorData::from_vec(SHAPE.to_vec(), values).unwrap()));
    }
    inputs
}

fn run(graph: &Graph, inputs: &[(&str, TensorData)]) -> Vec<(String, F64Tensor)> {
    Interpreter::new(graph, Precision::F64).run_f64(inputs).unwrap()
}

/// The largest difference, relative to the largest value.
fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

fn count(graph: &Graph, of: impl Fn(&Op) -> bool) -> usize {
    graph.nodes().iter().filter(|node| of(&node.op)).count()
}

#[test]
fn the_function_stays_the_same() {
    for path in exports() {
        let before = load(&path);
        let (after, _) = optimize(&before).unwrap_or_else(|error| panic!("{}: {error}", name_of(&path)));
        let inputs = padded_batch(&before, 7);
        for ((name, expected), (_, found)) in run(&before, &inputs).iter().zip(run(&after, &inputs)) {
            assert_eq!(expected.shape, found.shape, "{}: {name}", name_of(&path));
            let difference = difference(&expected.values, &found.values);
            assert!(difference < 1e-5, "{}: {name} differs by {difference}", name_of(&path));
        }
    }
}

#[test]
fn nothing_primitive_is_left_of_encoder_layers() {
    for path in exports() {
        let (graph, log) = optimize(&load(&path)).unwrap();
        let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
        for node in graph.nodes() {
            *ops.entry(node.op.mnemonic()).or_default() += 1;
        }
        println!("{:<28} {ops:?}", name_of(&path));
        for miss in &log.near_misses {
            println!("    {} {} {}", miss.pass, miss.node, miss.why);
        }
        assert_eq!(count(&graph, |op| matches!(op, Op::Softmax { .. })), 0, "{}", name_of(&path));
        assert_eq!(count(&graph, |op| matches!(op, Op::Attention(_))), 2, "{}", name_of(&path));
    }
}

/// The real tokens of a padded batch, with the inputs that ragged encoders take.
fn without_pads(inputs: &[(&str, TensorData)], positions: PositionIds) -> Vec<(&'static str, TensorData)> {
    let columns = inputs[0].1.shape()[1];
    let real = || {
        let sequences = LENGTHS.iter().enumerate();
        sequences.flat_map(move |(row, length)| (0..*length).map(move |column| (row, column)))
    };
    let of = |name: &str| {
        let (_, data) = inputs.iter().find(|(input, _)| *input == name)?;
        let padded = data.to_i64().unwrap();
        let kept = real().map(|(row, column)| padded[row * columns + column] as i32).collect();
        Some(TensorData::vector::<i32>(kept))
    };
    let offset = match positions {
        PositionIds::AfterPad { pad_id } => pad_id as i32 + 1,
        _ => 0,
    };
    let position_ids = real().map(|(_, column)| column as i32 + offset).collect();
    let mut cu_seqlens = vec![0i32];
    cu_seqlens.extend(LENGTHS.iter().scan(0, |sum, length| {
        *sum += *length as i32;
        Some(*sum)
    }));
    let mut ragged = vec![(ragged::INPUT_IDS, of("input_ids").unwrap())];
    ragged.extend(of("token_type_ids").map(|ids| (ragged::TOKEN_TYPE_IDS, ids)));
    ragged.push((ragged::POSITION_IDS, TensorData::vector::<i32>(position_ids)));
    ragged.push((ragged::CU_SEQLENS, TensorData::vector::<i32>(cu_seqlens)));
    ragged
}

/// The rows of a padded result that belong to tokens; all of a result that has a row for each sequence.
fn rows_of_tokens(padded: &F64Tensor, ragged_shape: &[usize], columns: usize) -> Vec<f64> {
    let tokens: usize = LENGTHS.iter().sum();
    if ragged_shape[0] != tokens {
        return padded.values.clone();
    }
    let width = padded.values.len() / (LENGTHS.len() * columns);
    let sequences = LENGTHS.iter().enumerate();
    sequences
        .flat_map(|(row, length)| {
            let start = row * columns * width;
            padded.values[start..start + length * width].iter().copied()
        })
        .collect()
}

#[test]
fn padded_encoders_become_ragged_and_stay_the_same_function() {
    for path in exports() {
        let (name, before) = (name_of(&path), load_model(&path));
        let (after, log) = optimize_model(&before).unwrap_or_else(|error| panic!("{name}: {error}"));
        if name.starts_with("modernbert") {
            // Its window over neighbours is no mask of keys.
            assert_eq!(after.info.interface, Interface::Dense, "{name}");
            assert!(log.near_misses.iter().any(|miss| miss.pass == "ragged"), "{name}");
            continue;
        }
        assert_eq!(after.info.interface, Interface::Ragged, "{name}: {log}");
        let roberta = name.starts_with("roberta");
        let positions = if roberta { PositionIds::AfterPad { pad_id: 1 } } else { PositionIds::Absolute };
        assert_eq!(after.info.position_ids, positions, "{name}");
        assert_eq!(after.info.max_tokens, Some(if roberta { 62 } else { 64 }), "{name}");
        let has_types = before.graph.find(ragged::TOKEN_TYPE_IDS).is_some();
        assert_eq!(after.info.token_types, has_types, "{name}");

        let padded = padded_batch(&before.graph, 11);
        let columns = padded[0].1.shape()[1];
        let found = run(&after.graph, &without_pads(&padded, positions));
        for ((output, expected), (_, found)) in run(&before.graph, &padded).iter().zip(&found) {
            let expected = rows_of_tokens(expected, &found.shape, columns);
            let difference = difference(&expected, &found.values);
            assert!(difference < 1e-5, "{name}: {output} differs by {difference}");
        }
    }
}

/// Every prefix of the patches leaves a valid graph of the same function.
#[test]
fn passes_can_be_stopped_after_any_patch() {
    let Some(path) = exports().into_iter().find(|path| name_of(path) == "bert_sdpa_legacy14") else { return };
    let model = load_model(&path);
    let inputs = padded_batch(&model.graph, 3);
    let expected = run(&model.graph, &inputs);
    let (_, log) = optimize_model(&model).unwrap();
    for stop_after in 0..=log.events.len() {
        let options = Options { stop_after: Some(stop_after), ..Options::default() };
        let (stopped, part) = optimize_model_with(&model, &options).unwrap();
        assert_eq!(part.events, log.events[..stop_after]);
        stopped.graph.verify().unwrap();
        if stopped.info.interface == Interface::Dense {
            let found = run(&stopped.graph, &inputs);
            let difference = difference(&expected[0].1.values, &found[0].1.values);
            assert!(difference < 1e-5, "{stop_after}: {difference}");
        }
    }
}

/// Whatever pass is missing, the others leave a valid graph of the same function.
#[test]
fn every_pass_can_be_left_out() {
    let Some(path) = exports().into_iter().find(|path| name_of(path) == "bert_eager_legacy14") else {
        return;
    };
    let model = load_model(&path);
    let inputs = padded_batch(&model.graph, 3);
    let expected = run(&model.graph, &inputs);
    for name in bertha_compile::passes::names() {
        let options = Options { without: vec![name.to_owned()], ..Options::default() };
        let (part, log) = optimize_model_with(&model, &options).unwrap();
        assert!(log.events.iter().all(|event| event.pass != name), "{name}");
        part.graph.verify().unwrap();
        if part.info.interface == Interface::Dense {
            let found = run(&part.graph, &inputs);
            let difference = difference(&expected[0].1.values, &found[0].1.values);
            assert!(difference < 1e-5, "{name}: {difference}");
        }
    }
    let options = Options { without: vec!["no-such-pass".into()], ..Options::default() };
    let error = optimize_model_with(&model, &options).unwrap_err().to_string();
    assert!(error.contains("no-such-pass") && error.contains("layer-norm"), "{error}");
}

#[test]
fn ragged_encoders_hold_nothing_but_encoder_operations() {
    for path in exports() {
        let (name, model) = (name_of(&path), load_model(&path));
        let (model, log) = optimize_model(&model).unwrap();
        let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
        for node in model.graph.nodes() {
            *ops.entry(node.op.mnemonic()).or_default() += 1;
        }
        println!("{name:<28} {ops:?}");
        for miss in &log.near_misses {
            println!("    {} {} {}", miss.pass, miss.node, miss.why);
        }
        if name.starts_with("modernbert") {
            continue;
        }
        let encoder = |op: &Op| {
            matches!(
                op,
                Op::EmbeddingLayerNorm { .. }
                    | Op::LayerNorm { .. }
                    | Op::Linear { .. }
                    | Op::RaggedAttention { .. }
                    | Op::Pool(_)
            )
        };
        assert_eq!(count(&model.graph, |op| matches!(op, Op::EmbeddingLayerNorm { .. })), 1, "{name}");
        let others = count(&model.graph, |op| !encoder(op));
        // Start and end logits are columns of one product.
        assert_eq!(others, if name.contains("_qa_") { 2 } else { 0 }, "{name}: {ops:?}");
        assert_eq!(count(&model.graph, |op| matches!(op, Op::RaggedAttention { .. })), 2, "{name}");
    }
}
