//! Texts as weighted bags of vocabulary words (SPLADE).

use bertha::{Engine, Session, Task, output};
use serde::Serialize;

use super::require;
use crate::error::TextError;
use crate::forward::{Per, forward};
use crate::tokenizer::Tokenizer;

/// A word of the vocabulary and its weight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Term {
    /// The token's id.
    pub index: u32,
    /// The token's text.
    pub token: String,
    /// Its weight, above 0.
    pub value: f32,
}

/// A masked-LM model trained for sparse retrieval and its tokenizer.
pub struct Sparse {
    session: Session,
    tokenizer: Tokenizer,
}

impl Sparse {
    /// The task over `engine` on `threads` threads (0: all cores).
    pub fn new(engine: &Engine, threads: usize) -> Result<Self, TextError> {
        require(engine.info(), &[Task::MaskedLm, Task::Pretraining], "sparse", "a masked-LM head")?;
        Ok(Sparse { session: engine.session(threads)?, tokenizer: Tokenizer::of(engine)? })
    }

    /// For each text its terms, heaviest first: `max over tokens of ln(1 + relu(logit))`, as SPLADE-max defines it
    /// (Formal et al. 2021, <https://arxiv.org/abs/2109.10086>).
    pub fn sparse(&mut self, texts: &[impl AsRef<str> + Sync]) -> Result<Vec<Vec<Term>>, TextError> {
        let encoded = self.tokenizer.encode(texts)?;
        let tokenizer = &self.tokenizer;
        let mut answers = vec![Vec::new(); encoded.len()];
        forward(&mut self.session, &encoded, (output::LOGITS, Per::Token), |rows| {
            let mut largest = vec![0f32; rows.width];
            for logits in rows.values.chunks_exact(rows.width.max(1)) {
                for (largest, logit) in largest.iter_mut().zip(logits) {
                    *largest = largest.max(*logit);
                }
            }
            let mut terms: Vec<Term> = largest
                .iter()
                .enumerate()
                .filter(|(_, logit)| **logit > 0.0)
                .map(|(id, logit)| Term {
                    index: id as u32,
                    token: tokenizer.token(id as u32),
                    value: logit.ln_1p(),
                })
                .collect();
            terms.sort_by(|a, b| b.value.total_cmp(&a.value).then(a.index.cmp(&b.index)));
            answers[rows.sequence] = terms;
            Ok(())
        })?;
        Ok(answers)
    }
}
