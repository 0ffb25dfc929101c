//! What several tests share.

use bertha_engine::{EngineFile, EngineWriter, Metadata, PlanHeader};
use serde_json::json;

/// A small file with every kind of section.
pub(crate) fn small_engine() -> EngineFile {
    let mut writer = EngineWriter::in_memory();
    write_small(&mut writer);
    writer.finish().unwrap()
}

/// Writes every kind of section.
pub(crate) fn write_small(writer: &mut EngineWriter) {
    let model = json!({"family": "bert", "hidden": 4});
    writer.metadata(&Metadata { producer: "bertha 0.1.0".into(), model }).unwrap();
    writer.graph("graph { x: f32[tokens, 4] }\n").unwrap();
    writer.tokenizer(b"{\"version\":\"1.0\"}").unwrap();
    let mut weights = writer.begin_weights().unwrap();
    weights.tensor("embeddings", "f32", &[3, 4], &pattern(48)).unwrap();
    weights.tensor("no rows", "f16", &[0, 4], &[]).unwrap();
    weights.tensor("scalar", "i64", &[], &7_i64.to_le_bytes()).unwrap();
    weights.tensor("naïve", "u8", &[5], &pattern(5)).unwrap();
    weights.finish().unwrap();
    for target in ["cpu", "cuda-sm90"] {
        writer.plan(&plan_header(target), format!("steps of {target}").as_bytes()).unwrap();
        let mut packed = writer.begin_packed(target).unwrap();
        packed.append(&pattern(10)).unwrap();
        assert_eq!(packed.align().unwrap(), 256);
        packed.append(&pattern(20)).unwrap();
        packed.finish().unwrap();
    }
    writer.section("future", b"something new").unwrap();
}

pub(crate) fn plan_header(target: &str) -> PlanHeader {
    PlanHeader {
        target: target.into(),
        producer: "bertha 0.1.0".into(),
        plan_format: 1,
        requirements: vec!["avx2".into()],
    }
}

pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 37 % 255 + 1) as u8).collect()
}
