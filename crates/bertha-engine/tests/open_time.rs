//! Opening a file the size of BERT-base, measured. Ignored by default: it writes 440 MB.
//!
//! ```text
//! cargo test --release -p bertha-engine --test open_time -- --ignored --nocapture
//! ```

use std::time::{Duration, Instant};

use bertha_engine::{EngineFile, EngineWriter, Metadata};

/// The tensors of BERT-base: name, rows, columns.
fn bert_base() -> Vec<(String, u64, u64)> {
    let mut tensors = vec![
        ("embeddings.word".into(), 30_522, 768),
        ("embeddings.position".into(), 512, 768),
        ("embeddings.type".into(), 2, 768),
        ("embeddings.norm.gamma".into(), 1, 768),
        ("embeddings.norm.beta".into(), 1, 768),
    ];
    for layer in 0..12 {
        for name in ["query", "key", "value", "output"] {
            tensors.push((format!("{layer}.{name}.weight"), 768, 768));
            tensors.push((format!("{layer}.{name}.bias"), 1, 768));
        }
        tensors.push((format!("{layer}.ffn.in.weight"), 3072, 768));
        tensors.push((format!("{layer}.ffn.in.bias"), 1, 3072));
        tensors.push((format!("{layer}.ffn.out.weight"), 768, 3072));
        tensors.push((format!("{layer}.ffn.out.bias"), 1, 768));
        for name in ["attention", "ffn"] {
            tensors.push((format!("{layer}.{name}.norm.gamma"), 1, 768));
            tensors.push((format!("{layer}.{name}.norm.beta"), 1, 768));
        }
    }
    tensors
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = run();
    let elapsed = start.elapsed();
    println!("{what}: {:.2} ms", elapsed.as_secs_f64() * 1e3);
    (value, elapsed)
}

#[test]
#[ignore = "writes 440 MB and measures time"]
fn bert_base_opens_in_under_50_ms_when_warm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bert-base.bertha");
    let mut state = 1_u64;
    let mut noise = |length: u64| -> Vec<u8> {
        let words = (0..length / 8).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()
        });
        words.flatten().collect()
    };
    let mut writer = EngineWriter::create(&path).unwrap();
    writer.metadata(&Metadata { producer: "test".into(), model: serde_json::Value::Null }).unwrap();
    writer.tokenizer(&noise(700_000)).unwrap();
    let mut weights = writer.begin_weights().unwrap();
    timed("write", || {
        for (name, rows, columns) in bert_base() {
            weights.tensor(&name, "f32", &[rows, columns], &noise(rows * columns * 4)).unwrap();
        }
        weights.finish().unwrap();
    });
    timed("sync and rename", || writer.finish().unwrap());

    for round in 0..3 {
        println!("round {round}, {} MB", std::fs::metadata(&path).unwrap().len() / 1_000_000);
        let (engine, opening) = timed("open", || EngineFile::open(&path).unwrap());
        timed("hand out every tensor, checked", || {
            engine.tensors().iter().for_each(|tensor| drop(engine.tensor(&tensor.name).unwrap()));
        });
        timed("hand out every tensor again", || {
            engine.tensors().iter().for_each(|tensor| drop(engine.tensor(&tensor.name).unwrap()));
        });
        let fresh = EngineFile::open(&path).unwrap();
        timed("verify the whole file", || fresh.verify().unwrap());
        assert!(opening < Duration::from_millis(50), "{opening:?}");
    }
}
