//! Checkpoints of the fixtures, changed in one point and written to a folder of their own.

#![allow(dead_code)] // each test file uses its part

use std::path::{Path, PathBuf};

use bertha_graph::interp::{Interpreter, Precision};
use bertha_graph::{Model, TensorData};
use bertha_import::hf::{self, ImportOptions, SafetensorsFile, write_safetensors};
use serde_json::{Map, Value};

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf")
}

/// The largest difference from the expected values, as a part of the largest of them.
pub(crate) fn relative_error(actual: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let scale = expected.iter().fold(0f64, |max, v| max.max(v.abs())).max(1e-30);
    actual.iter().zip(expected).fold(0f64, |max, (a, e)| max.max((a - e).abs())) / scale
}

/// Runs a model on the inputs in `expected` and gives the largest error of each output that `expected` has.
pub(crate) fn errors_of(model: &Model, expected: &SafetensorsFile) -> Vec<(String, f64)> {
    let names: Vec<String> =
        model.graph.inputs().iter().map(|id| model.graph.tensor(*id).name.clone()).collect();
    let inputs: Vec<(&str, TensorData)> =
        names.iter().map(|name| (name.as_str(), expected.tensor(name).unwrap())).collect();
    let outputs = Interpreter::new(&model.graph, Precision::F64).run_f64(&inputs).unwrap();
    let wanted = expected.names().filter_map(|name| name.strip_prefix("expected."));
    wanted
        .map(|name| {
            let want = expected.tensor(&format!("expected.{name}")).unwrap();
            let (_, got) = outputs
                .iter()
                .find(|(output, _)| output == name)
                .unwrap_or_else(|| panic!("no output `{name}`"));
            assert_eq!(got.shape, want.shape(), "{name}");
            (name.to_owned(), relative_error(&got.values, &want.to_f64()))
        })
        .collect()
}

/// A checkpoint that can be changed.
pub(crate) struct Checkpoint {
    pub(crate) config: Map<String, Value>,
    pub(crate) weights: Vec<(String, TensorData)>,
    pub(crate) files: Vec<(String, String)>,
    pub(crate) source: PathBuf,
}

impl Checkpoint {
    /// One of the fixtures.
    pub(crate) fn fixture(name: &str) -> Self {
        let source = fixtures().join(name);
        let text = std::fs::read_to_string(source.join("config.json")).unwrap();
        let file = SafetensorsFile::open(source.join("model.safetensors")).unwrap();
        let weights = file.names().map(|name| (name.to_owned(), file.tensor(name).unwrap())).collect();
        Checkpoint { config: serde_json::from_str(&text).unwrap(), weights, files: Vec::new(), source }
    }

    pub(crate) fn set(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.config.insert(field.into(), value.into());
        self
    }

    pub(crate) fn unset(mut self, field: &str) -> Self {
        self.config.remove(field);
        self
    }

    pub(crate) fn file(mut self, path: &str, contents: impl Into<String>) -> Self {
        self.files.push((path.into(), contents.into()));
        self
    }

    /// Renames every weight.
    pub(crate) fn rename(mut self, rename: impl Fn(&str) -> String) -> Self {
        self.weights.iter_mut().for_each(|(name, _)| *name = rename(name));
        self
    }

    /// Adds a weight or replaces it.
    pub(crate) fn weight(mut self, name: &str, data: TensorData) -> Self {
        self.weights.retain(|(other, _)| other != name);
        self.weights.push((name.into(), data));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        let before = self.weights.len();
        self.weights.retain(|(other, _)| other != name);
        assert_eq!(self.weights.len() + 1, before, "{name}");
        self
    }

    pub(crate) fn data(&self, name: &str) -> &TensorData {
        &self.weights.iter().find(|(other, _)| other == name).unwrap().1
    }

    pub(crate) fn write(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::write(path.join("config.json"), Value::Object(self.config.clone()).to_string()).unwrap();
        let tensors = self.weights.iter().map(|(name, data)| (name.as_str(), data));
        write_safetensors(path.join("model.safetensors"), tensors, None).unwrap();
        for (name, contents) in &self.files {
            let file = path.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, contents).unwrap();
        }
        folder
    }

    pub(crate) fn import(&self) -> Result<Model, bertha_import::ImportError> {
        hf::import(self.write().path(), &ImportOptions::default())
    }

    /// The message of the error that importing must give.
    pub(crate) fn refusal(&self) -> String {
        match self.import() {
            Ok(_) => panic!("this checkpoint should be refused"),
            Err(error) => error.to_string(),
        }
    }

    /// The largest error of any output against the fixture's expected answers.
    pub(crate) fn error(&self) -> f64 {
        let model = self.import().unwrap_or_else(|error| panic!("{error}"));
        let expected = SafetensorsFile::open(self.source.join("expected.safetensors")).unwrap();
        errors_of(&model, &expected).into_iter().fold(0.0, |max, (_, error)| max.max(error))
    }
}

/// Asserts that a message contains all of these.
#[track_caller]
pub(crate) fn assert_names(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}
