//! Which exported graphs run on a GPU: those that become ragged, their padded forms, and those that stay dense. No card and
//! no compiler is needed to tell.
//!
//! The exports of encoders lie beside the checkout; without them that test says so and passes.

use std::path::{Path, PathBuf};

use bertha_compile::{Precision, optimize, optimize_model};
use bertha_cuda::{Arch, CudaPlan};
use bertha_graph::Interface;
use bertha_import::onnx::{ImportOptions, import};

/// The files of a folder, in order.
fn onnx_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let files = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|ending| ending == "onnx")).collect();
    files.sort();
    files
}

/// Whether the graph that runs is ragged; panics when it does not run, or its padded form does not.
fn lowers(path: &Path) -> bool {
    let imported = import(path, &ImportOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let (model, _) = optimize_model(&imported).unwrap();
    let is_ragged = model.info.interface == Interface::Ragged;
    let padded = is_ragged.then(|| optimize(&imported.graph).unwrap().0);
    for graph in [Some(&model.graph), padded.as_ref()].into_iter().flatten() {
        for precision in [Precision::F32, Precision::F16] {
            let launches = CudaPlan::launches_for(graph, Arch::Sm90a, precision, 132, &[[40, 2, 20]]);
            let launches = launches.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(launches.keys().any(|kernel| kernel.entry.starts_with("gemm")), "{}", path.display());
        }
    }
    is_ragged
}

#[test]
fn all_exports_of_encoders_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/onnx");
    let files = onnx_files(&folder);
    if files.is_empty() {
        println!("skipped: no {}", folder.display());
        return;
    }
    for path in &files {
        let name = path.file_name().unwrap().to_string_lossy();
        // ModernBERT has angles of positions and windows of neighbours in its graph.
        assert_eq!(lowers(path), !name.starts_with("modernbert"), "{name}");
    }
}

#[test]
fn conformers_run() {
    let files = onnx_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/onnx/conformer"));
    assert_eq!(files.len(), 3);
    for path in &files {
        assert!(!lowers(path));
    }
}
