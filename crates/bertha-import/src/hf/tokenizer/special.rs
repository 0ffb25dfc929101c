//! Special tokens: which they are and which ids they have.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::Settings;
use crate::error::{ImportError, Result};

/// The roles of special tokens by their field names.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The content of special tokens by role: BERT's unless the settings say otherwise.
pub(super) const BERT_TOKENS: [(&str, &str); 5] = [
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];

/// RoBERTa's.
pub(super) const ROBERTA_TOKENS: [(&str, &str); 7] = [
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "</s>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<s>"),
    ("mask_token", "<mask>"),
];

/// MPNet's: those of RoBERTa, with BERT's token for unknown words.
pub(super) const MPNET_TOKENS: [(&str, &str); 7] = [
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "[UNK]"),
    ("sep_token", "</s>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<s>"),
    ("mask_token", "<mask>"),
];

/// The special tokens of one tokenizer.
pub(super) struct SpecialTokens {
    vocab_path: PathBuf,
    roles: Vec<(&'static str, String)>,
    /// Entries of `added_tokens`, in order of their ids.
    added: Vec<Value>,
}

impl SpecialTokens {
    /// Collects the special tokens. `id_of` looks a token up in the vocabulary.
    ///
    /// # Errors
    /// When a token that `needed` names has no id.
    pub(super) fn collect(
        vocab_path: &Path,
        settings: &Settings,
        defaults: &[(&'static str, &str)],
        id_of: &dyn Fn(&str) -> Option<u64>,
    ) -> Result<Self> {
        let mut special =
            SpecialTokens { vocab_path: vocab_path.to_owned(), roles: Vec::new(), added: Vec::new() };
        let mut flags: Map<String, Value> = Map::new();
        for role in ROLES {
            let stated = [&settings.special_tokens, &settings.config]
                .into_iter()
                .flatten()
                .find_map(|config| config.get(role))
                .and_then(|value| Some((content(value)?, value)));
            let default = defaults.iter().find(|(name, _)| *name == role).map(|(_, token)| *token);
            let Some(token) = stated.map(|(token, _)| token).or(default) else { continue };
            special.roles.push((role, token.to_owned()));
            // The mask takes the space before it along where words carry their spaces.
            let default_lstrip = role == "mask_token" && token == "<mask>";
            let lstrip =
                stated.and_then(|(_, value)| value.get("lstrip")?.as_bool()).unwrap_or(default_lstrip);
            flags.entry(token).or_insert_with(|| json!(lstrip));
        }
        let mut entries: Vec<(u64, Value)> = Vec::new();
        for (token, lstrip) in &flags {
            if let Some(id) = id_of(token) {
                entries.push((id, entry(id, token, lstrip.as_bool().unwrap_or(false), true)));
            }
        }
        if let Some(added) = &settings.added_tokens {
            for (token, id) in added.fields() {
                let id = id.as_u64().ok_or_else(|| added.wrong(token, "expected the id of the token"))?;
                if !flags.contains_key(token) {
                    entries.push((id, entry(id, token, false, false)));
                }
            }
        }
        entries.sort_by_key(|(id, _)| *id);
        entries.dedup_by_key(|(id, _)| *id);
        special.added = entries.into_iter().map(|(_, entry)| entry).collect();
        Ok(special)
    }

    /// The entries of `added_tokens`.
    pub(super) fn added(&self) -> &[Value] {
        &self.added
    }

    /// The token that plays a role.
    pub(super) fn token(&self, role: &str) -> &str {
        self.roles.iter().find(|(name, _)| *name == role).map_or("", |(_, token)| token)
    }

    /// The token that plays a role, and its id.
    ///
    /// # Errors
    /// When it is not in the vocabulary.
    pub(super) fn required(&self, role: &str, id_of: &dyn Fn(&str) -> Option<u64>) -> Result<(&str, u64)> {
        let token = self.token(role);
        match id_of(token) {
            Some(id) => Ok((token, id)),
            None => Err(ImportError::format(
                &self.vocab_path,
                "vocabulary",
                format!("the {} `{token}` is not in it", role.replace('_', " ")),
            )),
        }
    }
}

/// The text of a token, which is given bare or with flags.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn entry(id: u64, content: &str, lstrip: bool, special: bool) -> Value {
    json!({
        "id": id,
        "content": content,
        "single_word": false,
        "lstrip": lstrip,
        "rstrip": false,
        "normalized": !special,
        "special": special,
    })
}
