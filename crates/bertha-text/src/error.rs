//! Errors of text in, answers out.

/// Why a text could not be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The model comes without a tokenizer.
    #[error(
        "the model has no tokenizer, so it takes token ids only; put its tokenizer.json beside it and build it again"
    )]
    NoTokenizer,
    /// The tokenizer's file is not one.
    #[error("the model's tokenizer cannot be read: {0}")]
    Tokenizer(String),
    /// A text could not be tokenized.
    #[error("text {index} cannot be tokenized: {why}")]
    Encode {
        /// Its number among the texts given, from 0.
        index: usize,
        /// The tokenizer's reason.
        why: String,
    },
    /// The model's head answers another question.
    #[error("{asked} needs {needs}, but the model {has}")]
    WrongHead {
        /// The task asked for.
        asked: &'static str,
        /// What it needs of a model.
        needs: &'static str,
        /// What this one has.
        has: String,
    },
    /// A text for fill-mask without the mask token.
    #[error("text {index} has no {mask}: write {mask} where a word is to be filled in")]
    NoMask {
        /// Its number among the texts given, from 0.
        index: usize,
        /// The model's mask token.
        mask: String,
    },
    /// The mask lies past the longest text that the model takes.
    #[error(
        "text {index}: a mask lies beyond the first {max} tokens, which is all the model takes; shorten the text"
    )]
    MaskCutOff {
        /// Its number among the texts given, from 0.
        index: usize,
        /// Longest text in tokens.
        max: usize,
    },
    /// The run failed.
    #[error(transparent)]
    Run(#[from] bertha::Error),
}
