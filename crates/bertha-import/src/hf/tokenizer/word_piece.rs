//! BERT's tokenizer from a `vocab.txt`.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::special::{BERT_TOKENS, MPNET_TOKENS, SpecialTokens};
use super::{Parts, Settings, assemble, read_text};
use crate::error::{ImportError, Result};

/// Longer words are unknown.
const MAX_WORD: usize = 100;

/// A vocabulary of one token a line; the number of the line is the id.
#[derive(Debug)]
pub(super) struct Vocab {
    ids: HashMap<String, u64>,
    /// As a JSON object, in order of the ids.
    json: Map<String, Value>,
}

impl Vocab {
    pub(super) fn id(&self, token: &str) -> Option<u64> {
        self.ids.get(token).copied()
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = &str> {
        self.ids.keys().map(String::as_str)
    }

    pub(super) fn to_json(&self) -> Value {
        Value::Object(self.json.clone())
    }
}

/// Reads a `vocab.txt`.
pub(super) fn read_vocab(path: &Path) -> Result<Vocab> {
    let text = read_text(path)?;
    let mut vocab = Vocab { ids: HashMap::new(), json: Map::new() };
    for (id, line) in (0u64..).zip(text.lines()) {
        vocab.ids.insert(line.to_owned(), id);
        vocab.json.insert(line.to_owned(), Value::from(id));
    }
    if vocab.ids.is_empty() {
        return Err(ImportError::format(path, "vocabulary", "it is empty"));
    }
    Ok(vocab)
}

/// The tokenizer.json of `BertTokenizer`, or of `MPNetTokenizer` when the vocabulary has its special tokens.
pub(super) fn tokenizer(path: &Path, vocab: &Vocab, settings: &Settings) -> Result<Value> {
    let id_of = |token: &str| vocab.id(token);
    let is_mpnet = vocab.id("[CLS]").is_none() && vocab.id("<s>").is_some();
    let defaults: &[(&str, &str)] = if is_mpnet { &MPNET_TOKENS } else { &BERT_TOKENS };
    let special = SpecialTokens::collect(path, settings, defaults, &id_of)?;
    let (unknown, _) = special.required("unk_token", &id_of)?;
    let normalizer = json!({
        "type": "BertNormalizer",
        "clean_text": true,
        "handle_chinese_chars": settings.flag_or("tokenize_chinese_chars", true)?,
        "strip_accents": settings.value("strip_accents"),
        "lowercase": settings.flag_or("do_lower_case", true)?,
    });
    let parts = Parts {
        normalizer,
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        post_processor: template(&special, &id_of, is_mpnet)?,
        decoder: json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        model: json!({
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": MAX_WORD,
            "vocab": vocab.to_json(),
        }),
    };
    Ok(assemble(parts, &special))
}

/// `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`; `double` puts two separators between the two.
pub(super) fn template(
    special: &SpecialTokens,
    id_of: &dyn Fn(&str) -> Option<u64>,
    double: bool,
) -> Result<Value> {
    let (cls, cls_id) = special.required("cls_token", id_of)?;
    let (sep, sep_id) = special.required("sep_token", id_of)?;
    let token = |token: &str, segment: u64| json!({"SpecialToken": {"id": token, "type_id": segment}});
    let sequence = |name: &str, segment: u64| json!({"Sequence": {"id": name, "type_id": segment}});
    let single = vec![token(cls, 0), sequence("A", 0), token(sep, 0)];
    let mut pair = single.clone();
    if double {
        pair.push(token(sep, 0));
    }
    pair.extend([sequence("B", 1), token(sep, 1)]);
    let entry = |token: &str, id: u64| json!({"id": token, "ids": [id], "tokens": [token]});
    let mut tokens = Map::new();
    tokens.insert(cls.to_owned(), entry(cls, cls_id));
    tokens.insert(sep.to_owned(), entry(sep, sep_id));
    Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}))
}
