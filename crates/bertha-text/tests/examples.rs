//! The numbered examples over texts run, on the model that comes with the repository.

#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../../../examples/02_embed.rs"]
mod embed;
#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../../../examples/05_fill_mask.rs"]
mod fill_mask;

use std::path::Path;

use bertha::import::hf;

/// The encoder of the demo model, as an engine file: the checkpoint has a head.
fn encoder(folder: &Path) -> std::path::PathBuf {
    let options = hf::ImportOptions { task: Some(bertha::Task::Encoder) };
    let model = hf::import(fill_mask::demo_model(), &options).unwrap();
    let path = folder.join("encoder.bertha");
    bertha::Engine::compile(model, &bertha::Options::default()).unwrap().save(&path).unwrap();
    path
}

#[test]
fn the_mask_is_filled_with_words() {
    let fills = fill_mask::fill(&fill_mask::demo_model(), "The [MASK] of France is [MASK].").unwrap();
    assert_eq!(fills.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5]);
    let paris = fill_mask::fill(&fill_mask::demo_model(), "The capital of France is [MASK].").unwrap();
    assert!(paris[0].iter().any(|fill| fill.token_str == "paris"), "{paris:?}");
}

#[test]
fn a_text_is_most_like_itself() {
    let work = tempfile::tempdir().unwrap();
    let texts = ["A dog runs.", "Interest rates rose again.", "A dog runs."].map(str::to_owned);
    let cosines = embed::cosines(&encoder(work.path()), &texts).unwrap();
    assert!((cosines[0][2] - 1.0).abs() < 1e-5, "{cosines:?}");
    assert!(cosines[0][1] < cosines[0][2] - 1e-3, "{cosines:?}");
    assert_eq!(cosines[0][1], cosines[1][0]);
}
