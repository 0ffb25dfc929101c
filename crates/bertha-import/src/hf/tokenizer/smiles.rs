//! The tokenizer of chemistry models over SMILES strings (rxnfp and what was made from it).
//!
//! Their `vocab.txt` looks like BERT's, but its tokens are whole atoms and bonds found by a regular expression; a
//! WordPiece tokenizer would cut `[C@@H]` to pieces. Such a vocabulary has no word pieces (`##..`) and has brackets of
//! atoms.

use std::path::Path;

use serde_json::{Value, json};

use super::special::{BERT_TOKENS, SpecialTokens};
use super::word_piece::{Vocab, template};
use super::{Parts, Settings, assemble};
use crate::error::Result;

/// The tokens of SMILES: atoms in brackets, two-letter and one-letter atoms of the organic subset, bonds, branches, ring
/// closures (`%(123)`, `%12`, digits) and the arrow of reactions.
const PATTERN: &str = r"(%\([0-9]{3}\)|\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\||\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|%[0-9]{2}|[0-9])";

/// Whether a vocabulary is one of SMILES.
pub(super) fn is_smiles(vocab: &Vocab) -> bool {
    let has = |token: &str| vocab.id(token).is_some();
    (has("[C@H]") || has("[C@@H]") || has(">>"))
        && has("Cl")
        && !vocab.tokens().any(|token| token.starts_with("##"))
}

/// Finds all matches of the pattern; each is a token, or unknown. What does not match is left out.
pub(super) fn tokenizer(path: &Path, vocab: &Vocab, settings: &Settings) -> Result<Value> {
    let id_of = |token: &str| vocab.id(token);
    let special = SpecialTokens::collect(path, settings, &BERT_TOKENS, &id_of)?;
    let (unknown, _) = special.required("unk_token", &id_of)?;
    let parts = Parts {
        normalizer: Value::Null,
        pre_tokenizer: json!({
            "type": "Split",
            "pattern": {"Regex": PATTERN},
            "behavior": "Removed",
            "invert": true,
        }),
        post_processor: template(&special, &id_of, false)?,
        decoder: json!({"type": "Fuse"}),
        model: json!({"type": "WordLevel", "vocab": vocab.to_json(), "unk_token": unknown}),
    };
    Ok(assemble(parts, &special))
}
