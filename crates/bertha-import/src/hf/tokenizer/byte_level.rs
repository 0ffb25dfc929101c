//! RoBERTa's tokenizer from `vocab.json` and `merges.txt`.

use std::path::Path;

use serde_json::{Value, json};

use super::special::{ROBERTA_TOKENS, SpecialTokens};
use super::{Parts, Settings, assemble, read_text};
use crate::error::{ImportError, Result};
use crate::hf::config::Config;

/// The tokenizer.json of `RobertaTokenizer`.
pub(super) fn tokenizer(vocab_path: &Path, merges_path: &Path, settings: &Settings) -> Result<Value> {
    let vocab = Config::open(vocab_path)?;
    let id_of = |token: &str| vocab.get(token).and_then(Value::as_u64);
    let merges = read_merges(merges_path)?;
    let special = SpecialTokens::collect(vocab_path, settings, &ROBERTA_TOKENS, &id_of)?;
    let cls = special.required("cls_token", &id_of)?;
    let sep = special.required("sep_token", &id_of)?;
    let prefix_space = settings.flag_or("add_prefix_space", false)?;
    let byte_level = |add_prefix_space: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": add_prefix_space,
            "trim_offsets": true,
            "use_regex": true,
        })
    };
    let parts = Parts {
        normalizer: Value::Null,
        pre_tokenizer: byte_level(prefix_space),
        post_processor: json!({
            "type": "RobertaProcessing",
            "sep": sep,
            "cls": cls,
            "trim_offsets": true,
            "add_prefix_space": prefix_space,
        }),
        decoder: byte_level(true),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "byte_fallback": false,
            "vocab": vocab.fields(),
            "merges": merges,
        }),
    };
    Ok(assemble(parts, &special))
}

/// One merge a line, two tokens apart by a space, after a line that names the version.
fn read_merges(path: &Path) -> Result<Vec<[String; 2]>> {
    let text = read_text(path)?;
    let lines = (1usize..).zip(text.lines());
    lines
        .filter(|(number, line)| !line.is_empty() && (*number > 1 || !line.starts_with("#version")))
        .map(|(number, line)| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok([left.to_owned(), right.to_owned()]),
            _ => {
                Err(ImportError::format(path, "merges", format!("line {number} is not two tokens: {line:?}")))
            }
        })
        .collect()
}
