//! One small graph for each pass, before and after: a pass that stops firing, or does something else, fails here.
//!
//! A file holds a graph and, after a line `====`, what the pass of the file's name makes of it with what it nearly did.
//! `BLESS=1 cargo test -p bertha-compile --test goldens` writes the second half anew; read the difference before it is
//! committed.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use bertha_compile::passes::{closing, portable, ragged};
use bertha_compile::{Log, optimize_model, optimize_with};
use bertha_graph::interp::{Interpreter, Precision};
use bertha_graph::{
    Bindings, DType, Graph, Interface, Model, ModelInfo, PositionIds, Task, TensorData, text,
};

const SEPARATOR: &str = "====\n";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn parse(source: &str) -> Graph {
    text::parse(source, &mut |name, _| panic!("{name} is not in the file")).unwrap()
}

fn padded_model(graph: Graph) -> Model {
    let info = ModelInfo {
        family: "onnx".into(),
        interface: Interface::Dense,
        task: Task::Encoder,
        position_ids: PositionIds::None,
        max_tokens: None,
        token_types: false,
        hidden: None,
        labels: Vec::new(),
        multi_label: false,
        pooling: None,
        source: String::new(),
    };
    Model { graph, info, tokenizer: None }
}

/// What the pass called `name` makes of a graph.
fn apply(name: &str, graph: &Graph) -> (Graph, Log) {
    if name == "ragged" {
        let (model, log) = optimize_model(&padded_model(graph.clone())).unwrap();
        assert_eq!(model.info.interface, Interface::Ragged, "{log}");
        return (model.graph, log);
    }
    let pass = portable().iter().chain(ragged()).chain(closing()).find(|pass| pass.name() == name);
    optimize_with(graph, &[*pass.unwrap_or_else(|| panic!("there is no pass `{name}`"))]).unwrap()
}

fn describe(graph: &Graph, log: &Log) -> String {
    let mut text = graph.to_text();
    for place in &log.settled {
        writeln!(text, "// settled at {}: {}", place.node, place.why).unwrap();
    }
    for miss in &log.near_misses {
        writeln!(text, "// not at {}: {}", miss.node, miss.why).unwrap();
    }
    text
}

#[test]
fn passes_do_what_the_goldens_say() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let contents = std::fs::read_to_string(&path).unwrap();
        let (source, expected) = contents.split_once(SEPARATOR).unwrap_or((&contents, ""));
        let before = parse(source);
        let (after, log) = apply(&name, &before);
        after.verify().unwrap();
        let found = describe(&after, &log);
        if bless {
            std::fs::write(&path, format!("{source}{SEPARATOR}{found}")).unwrap();
        } else {
            assert_eq!(found, expected, "{name}");
        }
        if name != "ragged" {
            same_function(&name, &before, &after);
        }
        seen.push(name);
    }
    for pass in portable().iter().chain(ragged()).chain(closing()) {
        assert!(seen.iter().any(|name| name == pass.name()), "{} has no golden", pass.name());
    }
}

/// Both graphs give the same for one set of inputs.
fn same_function(name: &str, before: &Graph, after: &Graph) {
    let sizes: Bindings =
        [("b", 2), ("s", 3), ("tokens", 5), ("batch", 2)].map(|(name, size)| (name.into(), size)).into();
    let inputs: Vec<(&str, TensorData)> = before
        .inputs()
        .iter()
        .map(|id| {
            let tensor = before.tensor(*id);
            let shape = tensor.ty.shape.substitute(&sizes).as_const().unwrap();
            let count: usize = shape.iter().product();
            let data = match tensor.ty.dtype {
                DType::F32 => {
                    let values = (0..count).map(|at| ((at * 7 + 3) % 11) as f32 / 5.0 - 1.0).collect();
                    TensorData::from_vec::<f32>(shape, values)
                }
                DType::I32 if tensor.name == "cu_seqlens" => TensorData::from_vec(shape, vec![0i32, 2, 5]),
                DType::I32 if tensor.name == "token_type_ids" => {
                    TensorData::from_vec(shape, vec![0i32; count])
                }
                DType::I32 => TensorData::from_vec(shape, (0..count as i32).map(|at| at % 3).collect()),
                DType::Bool => {
                    let values: Vec<bool> = (0..count).map(|at| at % 3 == 2).collect();
                    TensorData::from_bools(shape, &values)
                }
                other => panic!("no values of type {other}"),
            };
            (tensor.name.as_str(), data.unwrap())
        })
        .collect();
    let run = |graph| Interpreter::new(graph, Precision::F64).run_f64(&inputs).unwrap();
    for ((output, expected), (_, found)) in run(before).iter().zip(run(after)) {
        assert_eq!(expected.shape, found.shape, "{name}: {output}");
        for (expected, found) in expected.values.iter().zip(&found.values) {
            let difference = (expected - found).abs();
            assert!(difference <= 1e-6 * expected.abs().max(1.0), "{name}: {output}: {expected} and {found}");
        }
    }
}
