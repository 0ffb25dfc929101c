//! What is written is what is read, aligned and without copies.

mod common;

use bertha_engine::{ALIGNMENT, CHUNK, EngineFile, EngineWriter, Metadata, SectionKind};
use common::{pattern, plan_header, small_engine, write_small};

fn check_small(engine: &EngineFile) {
    engine.verify().unwrap();
    assert_eq!(engine.metadata().producer, "bertha 0.1.0");
    assert_eq!(engine.metadata().model["hidden"], 4);
    assert_eq!(engine.graph().unwrap(), "graph { x: f32[tokens, 4] }\n");
    assert_eq!(&engine.tokenizer().unwrap().unwrap()[..], b"{\"version\":\"1.0\"}");

    let names: Vec<_> = engine.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["embeddings", "no rows", "scalar", "naïve"]);
    assert_eq!(engine.tensor("embeddings").unwrap(), pattern(48));
    assert_eq!(engine.tensor_entry("embeddings").unwrap().shape, [3, 4]);
    assert_eq!(engine.tensor("no rows").unwrap().len(), 0);
    assert_eq!(engine.tensor("scalar").unwrap(), &7_i64.to_le_bytes()[..]);
    assert_eq!(engine.tensor("naïve").unwrap(), pattern(5));

    for target in ["cpu", "cuda-sm90"] {
        let plan = engine.plan(target).unwrap();
        assert_eq!(plan.header, plan_header(target));
        assert_eq!(plan.payload, format!("steps of {target}"));
        let packed = engine.packed(target).unwrap().unwrap();
        assert_eq!(packed.len(), 276);
        assert_eq!(packed[256..], pattern(20));
        let range = engine.section_range(&format!("packed:{target}"), 256..276).unwrap();
        assert_eq!(range, packed.slice(256..276));
    }
    assert!(engine.packed("tpu").unwrap().is_none());
    assert_eq!(&engine.section("future").unwrap()[..], b"something new");
}

#[test]
fn from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.bertha");
    let mut writer = EngineWriter::create(&path).unwrap();
    write_small(&mut writer);
    check_small(&writer.finish().unwrap());
    check_small(&EngineFile::open(&path).unwrap());
}

#[test]
fn from_memory() {
    check_small(&small_engine());
}

#[test]
fn the_same_content_gives_the_same_bytes_in_file_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.bertha");
    let mut writer = EngineWriter::create(&path).unwrap();
    write_small(&mut writer);
    writer.finish().unwrap();
    assert_eq!(std::fs::read(path).unwrap(), small_engine().bytes());
}

#[test]
fn sections_are_listed_in_order_with_their_kinds() {
    let engine = small_engine();
    let kinds: Vec<_> = engine.sections().map(|section| section.kind()).collect();
    let expected = [
        SectionKind::Metadata,
        SectionKind::Graph,
        SectionKind::Tokenizer,
        SectionKind::Weights,
        SectionKind::WeightsIndex,
        SectionKind::Plan("cpu"),
        SectionKind::Packed("cpu"),
        SectionKind::Plan("cuda-sm90"),
        SectionKind::Packed("cuda-sm90"),
        SectionKind::Other,
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn sections_and_tensors_are_aligned_in_file_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.bertha");
    let mut writer = EngineWriter::create(&path).unwrap();
    write_small(&mut writer);
    let mapped = writer.finish().unwrap();
    let shifted = {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&mapped.bytes());
        bytes::Bytes::from(bytes).slice(1..)
    };
    for engine in [mapped, EngineFile::from_bytes(shifted).unwrap()] {
        for section in engine.sections() {
            assert_eq!(section.offset % ALIGNMENT as u64, 0, "{section:?}");
            let bytes = engine.section(&section.name).unwrap();
            assert_eq!(bytes.as_ptr().addr() % ALIGNMENT, 0, "{section:?}");
        }
        for tensor in engine.tensors().iter().filter(|tensor| tensor.length > 0) {
            let bytes = engine.tensor(&tensor.name).unwrap();
            assert_eq!(bytes.as_ptr().addr() % ALIGNMENT, 0, "{tensor:?}");
        }
    }
}

#[test]
fn slices_share_the_mapping_and_outlive_the_engine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.bertha");
    let mut writer = EngineWriter::create(&path).unwrap();
    write_small(&mut writer);
    let engine = writer.finish().unwrap();
    let first = engine.tensor("embeddings").unwrap();
    let second = engine.clone().tensor("embeddings").unwrap();
    assert_eq!(first.as_ptr(), second.as_ptr());
    drop(engine);
    drop(second);
    std::fs::remove_file(path).unwrap();
    assert_eq!(first, pattern(48));
}

#[test]
fn tensors_longer_than_a_chunk_keep_their_bytes() {
    let mut writer = EngineWriter::in_memory();
    let model = serde_json::Value::Null;
    writer.metadata(&Metadata { producer: "test".into(), model }).unwrap();
    let lengths = [CHUNK - 1, 3, 70 * CHUNK + 17, CHUNK, 1];
    let mut weights = writer.begin_weights().unwrap();
    for (at, &length) in lengths.iter().enumerate() {
        weights.tensor(&at.to_string(), "u8", &[length as u64], &pattern(length)).unwrap();
    }
    weights.finish().unwrap();
    let engine = writer.finish().unwrap();
    for (at, &length) in lengths.iter().enumerate() {
        assert!(engine.tensor(&at.to_string()).unwrap() == pattern(length), "tensor {at}");
    }
    engine.verify().unwrap();
}

#[test]
fn several_threads_may_read_at_once() {
    let engine = small_engine();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| check_small(&engine));
        }
    });
}

#[test]
fn a_file_needs_no_more_than_metadata() {
    let mut writer = EngineWriter::in_memory();
    writer.metadata(&Metadata { producer: "test".into(), model: serde_json::Value::Null }).unwrap();
    let engine = writer.finish().unwrap();
    assert!(engine.tensors().is_empty());
    assert_eq!(engine.plans().len(), 0);
    assert!(engine.tokenizer().unwrap().is_none());
    let error = engine.graph().unwrap_err().to_string();
    assert_eq!(error, "engine in memory: has no section `graph`; rebuild it with `bertha build`");
}

#[test]
fn a_plan_is_replaced_by_copying_the_rest() {
    let old = small_engine();
    let mut writer = EngineWriter::in_memory();
    writer.copy_sections(&old, |section| section.kind() != SectionKind::Plan("cpu")).unwrap();
    writer.plan(&plan_header("cpu"), b"other steps").unwrap();
    let new = writer.finish().unwrap();
    new.verify().unwrap();
    assert_eq!(&new.plan("cpu").unwrap().payload[..], b"other steps");
    assert_eq!(new.sections().len(), old.sections().len());
    for section in old.sections().filter(|section| section.name != "plan:cpu") {
        let same = new.sections().find(|other| other.name == section.name).unwrap();
        assert_eq!((same.length, same.checksum), (section.length, section.checksum), "{}", section.name);
        assert_eq!(new.section(&section.name).unwrap(), old.section(&section.name).unwrap());
    }
}
