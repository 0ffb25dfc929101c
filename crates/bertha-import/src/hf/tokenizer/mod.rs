//! The tokenizer of a checkpoint as the text of a `tokenizer.json`, the format of the `tokenizers` library.
//!
//! Older checkpoints hold only the vocabulary, and leave the rest to the code of their tokenizer class. For WordPiece
//! (`vocab.txt`) and byte-level BPE (`vocab.json` with `merges.txt`) the same pipeline is written down here.

mod byte_level;
mod smiles;
mod special;
mod word_piece;

use std::path::Path;

use bytes::Bytes;
use serde_json::Value;

use self::special::SpecialTokens;
use super::config::Config;
use crate::error::{ImportError, Result};
use crate::file_io::map_file;

/// A tokenizer, or why there is none: a model without one can still be run on token ids.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) json: Option<Bytes>,
    pub(crate) missing: Option<String>,
}

impl Found {
    fn json(value: &Value) -> Self {
        Found { json: Some(Bytes::from(value.to_string())), missing: None }
    }

    fn missing(reason: impl Into<String>) -> Self {
        Found { json: None, missing: Some(reason.into()) }
    }
}

/// Files that only the sentencepiece library reads.
const SENTENCEPIECE: [&str; 3] = ["sentencepiece.bpe.model", "spiece.model", "spm.model"];

/// Tokenizer classes whose `vocab.txt` is a WordPiece vocabulary.
const WORD_PIECE_CLASSES: [&str; 4] =
    ["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer"];

/// The tokenizer in a folder: `tokenizer.json`, or one made from the vocabulary.
///
/// # Errors
/// When files that are needed are there but damaged.
pub(crate) fn find(folder: &Path, model_types: &[&str]) -> Result<Found> {
    let ready = folder.join("tokenizer.json");
    if ready.exists() {
        return Ok(Found { json: Some(map_file(&ready)?), missing: None });
    }
    let settings = Settings::open(folder)?;
    let vocab = folder.join("vocab.txt");
    if vocab.exists() {
        let is_word_piece = match settings.class()? {
            Some(class) => WORD_PIECE_CLASSES.contains(&class),
            None => !model_types.contains(&"roberta"),
        };
        if !is_word_piece {
            let class = settings.class()?.unwrap_or("RobertaTokenizer");
            return Ok(Found::missing(format!("{class} with vocab.txt needs a tokenizer.json")));
        }
        let words = word_piece::read_vocab(&vocab)?;
        if smiles::is_smiles(&words) {
            return smiles::tokenizer(&vocab, &words, &settings).map(|json| Found::json(&json));
        }
        return word_piece::tokenizer(&vocab, &words, &settings).map(|json| Found::json(&json));
    }
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    if vocab.exists() && merges.exists() {
        return byte_level::tokenizer(&vocab, &merges, &settings).map(|json| Found::json(&json));
    }
    match SENTENCEPIECE.into_iter().find(|name| folder.join(name).exists()) {
        Some(name) => Ok(Found::missing(format!(
            "{name} is a sentencepiece model; save the tokenizer as tokenizer.json (AutoTokenizer does so)"
        ))),
        None => Ok(Found::missing("the folder has neither tokenizer.json nor a vocabulary")),
    }
}

/// The longest sequence that the tokenizer makes, where its settings say.
pub(crate) fn max_length(folder: &Path) -> Result<Option<usize>> {
    let Some(config) = Config::open_optional(&folder.join("tokenizer_config.json"))? else { return Ok(None) };
    // A tokenizer without a limit says 10^30.
    let limit = config.get("model_max_length").and_then(Value::as_u64);
    Ok(limit
        .and_then(|limit| u32::try_from(limit).ok())
        .filter(|limit| *limit > 0)
        .map(|limit| limit as usize))
}

/// What the files beside a vocabulary say.
#[derive(Debug)]
struct Settings {
    config: Option<Config>,
    special_tokens: Option<Config>,
    added_tokens: Option<Config>,
    model: Option<Config>,
}

impl Settings {
    fn open(folder: &Path) -> Result<Self> {
        let open = |name: &str| Config::open_optional(&folder.join(name));
        Ok(Settings {
            config: open("tokenizer_config.json")?,
            special_tokens: open("special_tokens_map.json")?,
            added_tokens: open("added_tokens.json")?,
            model: open("config.json")?,
        })
    }

    /// The class of the tokenizer, without the mark of the fast one.
    fn class(&self) -> Result<Option<&str>> {
        for config in [&self.config, &self.model].into_iter().flatten() {
            if let Some(class) = config.text("tokenizer_class")? {
                return Ok(Some(class.strip_suffix("Fast").unwrap_or(class)));
            }
        }
        Ok(None)
    }

    fn flag_or(&self, field: &str, default: bool) -> Result<bool> {
        self.config.as_ref().map_or(Ok(default), |config| config.flag_or(field, default))
    }

    /// The field itself, null when it is not there.
    fn value(&self, field: &str) -> Value {
        self.config.as_ref().and_then(|config| config.get(field)).cloned().unwrap_or(Value::Null)
    }
}

/// A text file as UTF-8.
fn read_text(path: &Path) -> Result<String> {
    let bytes = map_file(path)?;
    let text = std::str::from_utf8(&bytes);
    text.map(str::to_owned).map_err(|error| ImportError::format(path, "UTF-8 text", error.to_string()))
}

/// The frame of every tokenizer.json.
fn assemble(parts: Parts, special: &SpecialTokens) -> Value {
    serde_json::json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.added(),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": parts.post_processor,
        "decoder": parts.decoder,
        "model": parts.model,
    })
}

/// The steps of a tokenizer.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Value,
}
