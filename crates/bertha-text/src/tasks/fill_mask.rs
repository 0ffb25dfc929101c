//! What stands behind the mask.

use bertha::{Engine, Session, Task, output};
use serde::Serialize;

use super::{require, softmax, top_indices};
use crate::error::TextError;
use crate::forward::{Per, forward};
use crate::tokenizer::{Encoded, Tokenizer};

/// One way to fill a mask. Serialises to what Hugging Face's fill-mask pipeline gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fill {
    /// Probability of the token.
    pub score: f64,
    /// The token's id.
    pub token: u32,
    /// The token's text.
    pub token_str: String,
    /// The whole text with the token filled in.
    pub sequence: String,
}

/// A model with a masked-LM head and its tokenizer.
pub struct FillMask {
    session: Session,
    tokenizer: Tokenizer,
    mask: (u32, String),
}

impl FillMask {
    /// The task over `engine` on `threads` threads (0: all cores).
    pub fn new(engine: &Engine, threads: usize) -> Result<Self, TextError> {
        require(engine.info(), &[Task::MaskedLm, Task::Pretraining], "fill-mask", "a masked-LM head")?;
        let tokenizer = Tokenizer::of(engine)?;
        let mask = tokenizer
            .mask()
            .map(|(id, text)| (id, text.to_owned()))
            .ok_or_else(|| TextError::Tokenizer("it has no mask token ([MASK] or <mask>)".into()))?;
        Ok(FillMask { session: engine.session(threads)?, tokenizer, mask })
    }

    /// The text of the mask token.
    pub fn mask(&self) -> &str {
        &self.mask.1
    }

    /// For each text, for each of its masks, the `top_k` best fills, best first.
    pub fn fill(
        &mut self,
        texts: &[impl AsRef<str> + Sync],
        top_k: usize,
    ) -> Result<Vec<Vec<Vec<Fill>>>, TextError> {
        let encoded = self.tokenizer.encode(texts)?;
        let (mask_id, mask_text) = self.mask.clone();
        for (index, (text, encoded)) in texts.iter().zip(&encoded).enumerate() {
            let written = text.as_ref().matches(mask_text.as_str()).count();
            let kept = encoded.ids.iter().filter(|id| **id == mask_id).count();
            if written == 0 {
                return Err(TextError::NoMask { index, mask: mask_text });
            }
            if kept < written {
                let max = self.tokenizer.max_tokens().unwrap_or(0);
                return Err(TextError::MaskCutOff { index, max });
            }
        }
        let mut answers = vec![Vec::new(); encoded.len()];
        let tokenizer = &self.tokenizer;
        forward(&mut self.session, &encoded, (output::LOGITS, Per::Token), |rows| {
            let sequence = &encoded[rows.sequence];
            for position in masks(sequence, mask_id) {
                let logits = &rows.values[position * rows.width..(position + 1) * rows.width];
                answers[rows.sequence].push(best_fills(tokenizer, sequence, position, logits, top_k)?);
            }
            Ok(())
        })?;
        Ok(answers)
    }
}

fn masks(sequence: &Encoded, mask_id: u32) -> impl Iterator<Item = usize> + '_ {
    sequence.ids.iter().enumerate().filter(move |(_, id)| **id == mask_id).map(|(position, _)| position)
}

fn best_fills(
    tokenizer: &Tokenizer,
    sequence: &Encoded,
    position: usize,
    logits: &[f32],
    top_k: usize,
) -> Result<Vec<Fill>, TextError> {
    let scores = softmax(logits);
    let mut filled = sequence.ids.clone();
    let fill = |token: usize| {
        filled[position] = token as u32;
        // The tokenizer's own tokens around the text are left out; other masks stay visible.
        let visible: Vec<u32> = filled
            .iter()
            .zip(&sequence.special)
            .filter(|(id, special)| !**special || tokenizer.mask().is_some_and(|(mask, _)| mask == **id))
            .map(|(id, _)| *id)
            .collect();
        Ok(Fill {
            score: scores[token],
            token: token as u32,
            token_str: tokenizer.decode(&[token as u32], false)?.trim().to_owned(),
            sequence: tokenizer.decode(&visible, false)?,
        })
    };
    top_indices(logits, top_k).into_iter().map(fill).collect()
}
