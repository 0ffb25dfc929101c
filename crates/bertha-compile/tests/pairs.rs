//! A checkpoint and its exports end as the same graph. `pairs/make_pairs.py` writes both from the same weights.

use std::path::{Path, PathBuf};

use bertha_compile::optimize_model;
use bertha_graph::{Interface, Model};
use bertha_import::{hf, onnx};

/// The models in `pairs`, each a folder with a checkpoint and exports.
fn folders() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pairs");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
}

fn exports(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut exports: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "onnx")).collect();
    exports.sort();
    assert!(!exports.is_empty(), "{}", folder.display());
    exports
}

fn optimized(model: &Model, of: &Path) -> Model {
    let (model, log) = optimize_model(model).unwrap_or_else(|error| panic!("{}: {error}", of.display()));
    assert_eq!(model.info.interface, Interface::Ragged, "{}\n{log}", of.display());
    model.graph.verify().unwrap();
    model
}

#[test]
fn exports_end_as_the_checkpoint_does() {
    for folder in folders() {
        let checkpoint = hf::import(&folder, &hf::ImportOptions::default()).unwrap();
        let checkpoint = optimized(&checkpoint, &folder);
        let expected = checkpoint.graph.to_text_canonical();
        for path in exports(&folder) {
            let options = onnx::ImportOptions { companions: false, ..Default::default() };
            let export = optimized(&onnx::import(&path, &options).unwrap(), &path);
            assert_eq!(export.graph.to_text_canonical(), expected, "{}", path.display());
            assert_eq!(export.info.position_ids, checkpoint.info.position_ids, "{}", path.display());
            assert_eq!(export.info.max_tokens, checkpoint.info.max_tokens, "{}", path.display());
            assert_eq!(export.info.token_types, checkpoint.info.token_types, "{}", path.display());
        }
    }
}

/// Running the passes over their own result changes nothing.
#[test]
fn optimizing_twice_is_optimizing_once() {
    for folder in folders() {
        let once = optimized(&hf::import(&folder, &hf::ImportOptions::default()).unwrap(), &folder);
        let twice = optimized(&once, &folder);
        assert_eq!(once.graph.to_text_canonical(), twice.graph.to_text_canonical(), "{}", folder.display());
    }
}
