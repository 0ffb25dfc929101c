//! Replays the fuzz corpora, and makes their seeds from the fixtures.

mod common;

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use bertha_import::testing::{fuzz_npz, fuzz_onnx, fuzz_onnx_import, fuzz_safetensors, fuzz_torch};
use common::fixture;

/// Fuzz target, its body, and the folder of fixtures that are its seeds.
type Target = (&'static str, fn(&[u8]), &'static str);

const TARGETS: [Target; 5] = [
    ("torch_reader", fuzz_torch, "torch"),
    ("safetensors_reader", fuzz_safetensors, "safetensors"),
    ("npz_reader", fuzz_npz, "npz"),
    ("onnx_reader", fuzz_onnx, "onnx"),
    ("onnx_import", fuzz_onnx_import, "onnx"),
];

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// The seeds of a target: its fixtures, and of PyTorch's zip archives also the pickle alone.
fn seeds(folder: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for entry in fs::read_dir(fixture(folder)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".py") || name.ends_with(".data") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        if folder == "torch" && bytes.starts_with(b"PK") {
            let mut zip = zip::ZipArchive::new(std::io::Cursor::new(&bytes)).unwrap();
            let entry = zip
                .file_names()
                .map(|name| name.unwrap().into_owned())
                .find(|name| name.ends_with("data.pkl"));
            let mut pickle = Vec::new();
            zip.by_name(&entry.unwrap()).unwrap().read_to_end(&mut pickle).unwrap();
            seeds.push((name.replace(".bin", ".pkl"), pickle));
        }
        seeds.push((name, bytes));
    }
    seeds
}

#[test]
fn every_input_of_the_corpora_is_handled() {
    for (target, body, folder) in TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus(target)).expect("the corpus is part of the repository") {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            body(&fs::read(path).unwrap());
            inputs += 1;
        }
        assert!(inputs >= seeds(folder).len(), "{target}: {inputs} inputs are too few");
    }
}

#[test]
fn the_corpora_hold_the_seeds() {
    for (target, _, folder) in TARGETS {
        for (name, seed) in seeds(folder) {
            let stored = fs::read(corpus(target).join(&name)).unwrap_or_default();
            assert!(
                stored == seed,
                "seed {target}/{name} is stale: run `cargo test -p bertha-import -- --ignored write_seeds`"
            );
        }
    }
}

#[test]
#[ignore = "writes the seeds into the corpora, after a change of the fixtures"]
fn write_seeds() {
    for (target, _, folder) in TARGETS {
        fs::create_dir_all(corpus(target)).unwrap();
        for (name, seed) in seeds(folder) {
            fs::write(corpus(target).join(name), seed).unwrap();
        }
    }
}
