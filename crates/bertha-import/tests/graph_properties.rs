//! What must hold of every imported graph: the verifier passes it, its text reads back to the same graph, and for any
//! input sizes it can be specialised to a graph without symbols.

use std::path::{Path, PathBuf};

use bertha_graph::{Bindings, Graph, TensorType, text};
use bertha_import::onnx::{ImportOptions, import};

/// The sample ONNX files beside the checkout; empty where they are not.
fn samples() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/onnx");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: there is no folder {}", folder.display());
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    files.sort();
    files
}

fn graph(path: &Path) -> Graph {
    import(path, &ImportOptions::default())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .graph
}

/// Input types with every symbol bound: that of the batch to `batch`, others to `seq`.
fn input_types(graph: &Graph, batch: i64, seq: i64) -> Vec<TensorType> {
    let bind = |ty: &TensorType| {
        let symbols = ty.shape.dims().iter().flat_map(|dim| dim.symbols());
        let sizes = symbols.map(|name| (name.clone(), if name.contains("batch") { batch } else { seq }));
        let bindings: Bindings = sizes.collect();
        TensorType::new(ty.dtype, ty.shape.substitute(&bindings))
    };
    graph.inputs().iter().map(|id| bind(&graph.tensor(*id).ty)).collect()
}

#[test]
fn imported_graphs_are_sound_and_round_trip() {
    for path in samples() {
        let graph = graph(&path);
        graph.verify().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let printed = text::print(&graph);
        let constants = &printed.constants;
        let read = text::parse(&printed.text, &mut |name, _| {
            constants.iter().find(|(other, _)| other == name).map(|(_, data)| data.clone())
        });
        let read = read.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(read == graph, "{}", path.display());
    }
}

#[test]
fn imported_graphs_are_specialised_to_any_size() {
    for path in samples() {
        let graph = graph(&path);
        for (batch, seq) in [(1, 1), (1, 7), (3, 16), (2, 64)] {
            let place = format!("{} at {batch} x {seq}", path.display());
            let special = graph.specialize(&input_types(&graph, batch, seq));
            let special = special.unwrap_or_else(|error| panic!("{place}: {error}"));
            special.verify().unwrap_or_else(|error| panic!("{place}: {error}"));
            for tensor in special.tensors() {
                assert!(tensor.ty.shape.as_const().is_some(), "{place}: `{}` is {}", tensor.name, tensor.ty);
            }
        }
    }
}
