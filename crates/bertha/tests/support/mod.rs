//! The tiny checkpoints of the importer's tests as engines, and batches for them.

#![allow(dead_code)] // each test file uses its part

use std::path::{Path, PathBuf};

use bertha::{Engine, Error, RaggedBatch, Session, TensorData};

/// Outputs by name.
pub(crate) type Named = Vec<(String, TensorData)>;

/// Ids that every fixture's vocabulary has and that none takes for padding.
pub(crate) const SENTENCES: [&[u32]; 4] =
    [&[2, 41, 17, 8, 98, 3], &[5], &[2, 9, 9, 3], &[2, 60, 61, 62, 63, 64, 3]];

/// One fixture of each family.
pub(crate) const FAMILIES: [&str; 6] = [
    "bert_encoder",
    "distilbert_masked_lm",
    "roberta_masked_lm",
    "electra_masked_lm",
    "mpnet_encoder",
    "albert_token_classification",
];

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bertha-import/tests/fixtures/hf").join(name)
}

pub(crate) fn engine(name: &str) -> Engine {
    Engine::open(folder(name)).unwrap()
}

/// The names of all fixtures, each a folder.
pub(crate) fn all_fixtures() -> Vec<String> {
    let entries = std::fs::read_dir(folder("")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= FAMILIES.len());
    names
}

pub(crate) fn batch(engine: &Engine, sentences: &[&[u32]]) -> RaggedBatch {
    let mut batch = RaggedBatch::new();
    for ids in sentences {
        batch.push(engine.info(), ids, None).unwrap();
    }
    batch
}

pub(crate) fn run_ragged(
    session: &mut Session,
    batch: &RaggedBatch,
    wanted: &[&str],
) -> Result<Named, Error> {
    let mut outputs = Vec::new();
    session.run_ragged(batch, wanted, |output| {
        outputs.push((output.name.to_owned(), output.to_data().unwrap()));
    })?;
    Ok(outputs)
}

pub(crate) fn run(session: &mut Session, inputs: &[(&str, TensorData)]) -> Result<Named, Error> {
    let inputs: Vec<(&str, &TensorData)> = inputs.iter().map(|(name, data)| (*name, data)).collect();
    session.run(&inputs, &[])
}

/// Row `index` of a tensor, as bits.
pub(crate) fn row(data: &TensorData, index: usize) -> Vec<u32> {
    let values = data.as_slice::<f32>().unwrap();
    let width = values.len() / data.shape()[0];
    values[index * width..(index + 1) * width].iter().map(|value| value.to_bits()).collect()
}

/// Rows `range` of a tensor, as bits.
pub(crate) fn rows(data: &TensorData, range: std::ops::Range<usize>) -> Vec<u32> {
    range.flat_map(|index| row(data, index)).collect()
}

/// A `[rows, columns]` tensor.
pub(crate) fn matrix<T: bertha::graph::Element>(rows: &[Vec<T>]) -> TensorData {
    let columns = rows.first().map_or(0, Vec::len);
    let values: Vec<T> = rows.iter().flatten().copied().collect();
    TensorData::from_vec(vec![rows.len(), columns], values).unwrap()
}

/// Whether an output has a row for each token: as many as `tokens`.
pub(crate) fn is_per_token(data: &TensorData, tokens: usize) -> bool {
    data.shape().first() == Some(&tokens)
}

/// The text of an error, which must name `what`.
#[track_caller]
pub(crate) fn assert_names<T>(result: Result<T, Error>, what: &[&str]) {
    let error = result.err().expect("an error").to_string();
    for what in what {
        assert!(error.contains(what), "`{error}` does not name `{what}`");
    }
}
