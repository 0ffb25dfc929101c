//! The passes on what the exporters of PyTorch write: same function before and after, and the graph that an expert
//! would write.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bertha_compile::optimize;
use bertha_graph::interp::{F64Tensor, Interpreter, Precision};
use bertha_graph::{Graph, Op, TensorData};
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

fn load(path: &Path) -> Graph {
    import(path, &ImportOptions { task: None, companions: false }).unwrap().graph
}

/// A padded batch: random tokens, lengths from 1 to `seq`, ids of pads that differ from those of tokens.
fn padded_batch(graph: &Graph, seed: u64) -> Vec<(&str, TensorData)> {
    const SHAPE: [usize; 2] = [3, 11];
    let lengths = [11, 4, 7];
    let mut state = seed;
    let mut next = |bound: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % bound) as i64
    };
    let mut inputs = Vec::new();
    for id in graph.inputs() {
        let tensor = graph.tensor(*id);
        let mut values = Vec::new();
        for length in lengths {
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
