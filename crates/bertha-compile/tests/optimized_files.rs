//! What ONNX Runtime's optimiser makes of an export ends as the same graph as the export itself. `make_cases.py` writes
//! the files.

use std::path::{Path, PathBuf};

use bertha_compile::optimize_model;
use bertha_graph::{Interface, Model};
use bertha_import::onnx::{ImportOptions, import};

/// Each rewritten file with the export that it comes from; nothing, with a note, when there are none.
fn pairs() -> Vec<(PathBuf, PathBuf)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = std::env::var_os("BERTHA_ONNX_CASES").map(PathBuf::from);
    let folder = cases.unwrap_or_else(|| here.join("../../target/onnx-cases")).join("optimized");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: there is no {}; tests/onnx/make_cases.py writes it", folder.display());
        return Vec::new();
    };
    let mut pairs = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".optimized_raw.onnx") {
            pairs.push((here.join("../../../shared/onnx").join(format!("{stem}.onnx")), path));
        }
    }
    pairs.sort();
    pairs
}

fn optimized(path: &Path) -> (Model, String) {
    let model = import(path, &ImportOptions { companions: false, ..Default::default() });
    let model = model.unwrap_or_else(|error| panic!("{error}"));
    let (model, log) = optimize_model(&model).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    model.graph.verify().unwrap();
    (model, log.to_string())
}

#[test]
fn optimized_files_end_as_the_export_does() {
    for (export, rewritten) in pairs() {
        let (expected, _) = optimized(&export);
        let (found, log) = optimized(&rewritten);
        let name = rewritten.display();
        println!("{name}: {:?}", found.info.interface);
        assert_eq!(found.info.interface, expected.info.interface, "{name}\n{log}");
        if found.info.interface == Interface::Ragged {
            assert_eq!(found.graph.to_text_canonical(), expected.graph.to_text_canonical(), "{name}");
        }
    }
}
