//! Tokenizers made from old vocabularies give the ids that transformers gives (`generate_hf_tokenizers.py`).

mod support;

use std::path::Path;

use serde_json::Value;
use support::{Checkpoint, assert_names};
use tokenizers::{EncodeInput, Tokenizer};

/// A model of the fixture with these tokenizer files.
fn tokenizer_of(model: &str, folder: &Path) -> Tokenizer {
    let mut checkpoint = Checkpoint::fixture(model);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name != "expected.json" {
            checkpoint = checkpoint.file(name, std::fs::read_to_string(&path).unwrap());
        }
    }
    let json = checkpoint.import().unwrap().tokenizer.expect("a tokenizer");
    Tokenizer::from_bytes(&json).unwrap()
}

fn check(model: &str, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf_tokenizers").join(name);
    let tokenizer = tokenizer_of(model, &folder);
    let cases: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["text"].as_str().unwrap().to_owned();
        let input: EncodeInput<'_> = match case["pair"].as_str() {
            Some(pair) => (text, pair.to_owned()).into(),
            None => text.into(),
        };
        let encoding = tokenizer.encode(input, true).unwrap();
        let ids: Vec<u64> = encoding.get_ids().iter().map(|id| u64::from(*id)).collect();
        let expected: Vec<u64> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        assert_eq!(ids, expected, "{name}: {case}");
    }
}

#[test]
fn word_pieces_are_those_of_bert() {
    check("bert_encoder", "bert_uncased");
    check("bert_encoder", "bert_cased");
    check("bert_encoder", "bert_accents");
    check("distilbert_masked_lm", "bert_uncased");
}

#[test]
fn word_pieces_with_robertas_special_tokens_are_those_of_mpnet() {
    check("mpnet_encoder", "mpnet");
}

#[test]
fn byte_pairs_are_those_of_roberta() {
    check("roberta_masked_lm", "roberta");
}

#[test]
fn a_smiles_vocabulary_is_cut_at_atoms_and_bonds() {
    check("bert_encoder", "smiles");
}

#[test]
fn a_tokenizer_json_is_kept_as_it_is() {
    let text = r#"{"version": "1.0",  "anything": 1}"#;
    let model = Checkpoint::fixture("bert_encoder").file("tokenizer.json", text).import().unwrap();
    assert_eq!(model.tokenizer.as_deref(), Some(text.as_bytes()));
}

#[test]
fn a_model_without_a_readable_tokenizer_says_why() {
    let bare = Checkpoint::fixture("albert_pretraining").import().unwrap();
    assert!(bare.tokenizer.is_none());
    assert_names(&bare.info.source, &["no tokenizer"]);
    let pieces = Checkpoint::fixture("albert_pretraining").file("spiece.model", "x").import().unwrap();
    assert!(pieces.tokenizer.is_none());
    assert_names(&pieces.info.source, &["spiece.model", "tokenizer.json"]);
    let japanese = Checkpoint::fixture("bert_encoder")
        .file("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
        .file("tokenizer_config.json", r#"{"tokenizer_class": "BertJapaneseTokenizer"}"#);
    assert_names(&japanese.import().unwrap().info.source, &["BertJapaneseTokenizer"]);
}

#[test]
fn a_vocabulary_without_its_special_tokens_is_refused() {
    let message = Checkpoint::fixture("bert_encoder").file("vocab.txt", "[UNK]\nhello\n").refusal();
    assert_names(&message, &["vocab.txt", "cls token", "[CLS]"]);
    let message = (Checkpoint::fixture("roberta_masked_lm"))
        .file("vocab.json", r#"{"<s>": 0, "</s>": 1}"#)
        .file("merges.txt", "#version: 0.2\na b c\n")
        .refusal();
    assert_names(&message, &["merges.txt", "line 2"]);
}
