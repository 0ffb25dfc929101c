//! Replays the fuzz corpus, and makes its seeds.

mod common;

use std::path::PathBuf;

use bertha_engine::testing::fuzz;
use common::{plan_header, small_engine};

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/engine_reader")
}

/// The seeds: engine files, and section lists as [`fuzz`] reads them.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let header = serde_json::to_vec(&plan_header("cpu")).unwrap();
    let plan = [&(header.len() as u32).to_le_bytes()[..], &header, b"steps"].concat();
    let meta: (&str, &[u8]) = ("meta", br#"{"producer":"p","model":{"a":[1]}}"#);
    let index = br#"{"tensors":[{"name":"t","dtype":"f32","shape":[1,2],"offset":0,"length":8}]}"#;
    vec![
        ("engine", small_engine().bytes().to_vec()),
        ("engine-meta", bertha_engine::testing::assemble(&[meta])),
        ("list-empty", vec![]),
        ("list-meta", section_list(&[meta])),
        ("list-graph", section_list(&[meta, ("graph", b"graph {}"), ("tokenizer", b"{}"), ("new", b"x")])),
        ("list-weights", section_list(&[meta, ("weights", &[1; 8]), ("weights.index", index)])),
        ("list-plan", section_list(&[meta, ("plan:cpu", &plan), ("packed:cpu", &[1; 4])])),
    ]
}

fn section_list(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (name, bytes) in sections {
        list.push(name.len() as u8);
        list.extend_from_slice(name.as_bytes());
        list.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        list.extend_from_slice(bytes);
    }
    list
}

#[test]
fn every_input_of_the_corpus_is_handled() {
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus()).expect("the corpus is part of the repository") {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        fuzz(&std::fs::read(path).unwrap());
        inputs += 1;
    }
    assert!(inputs >= seeds().len(), "{inputs} inputs are too few");
}

#[test]
fn the_corpus_holds_the_seeds() {
    for (name, seed) in seeds() {
        let stored = std::fs::read(corpus().join(name)).unwrap_or_default();
        assert!(
            stored == seed,
            "seed {name} is stale: run `cargo test -p bertha-engine -- --ignored write_seeds`"
        );
    }
}

#[test]
#[ignore = "writes the seeds into the corpus, after a change of the format"]
fn write_seeds() {
    std::fs::create_dir_all(corpus()).unwrap();
    for (name, seed) in seeds() {
        std::fs::write(corpus().join(name), seed).unwrap();
    }
}
