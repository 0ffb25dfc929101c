//! Which documents answer a query best.

use bertha::{Engine, Session, Task, output};
use serde::Serialize;

use super::{require, sigmoid, softmax};
use crate::error::TextError;
use crate::forward::{Per, forward};
use crate::tokenizer::Tokenizer;

/// A document and how well it fits the query.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// Its number among the documents given, from 0.
    pub index: usize,
    /// Probability that it is relevant.
    pub score: f64,
    /// The logit behind the score.
    pub logit: f32,
}

/// A cross-encoder and its tokenizer: a sequence classification head over the pair of query and document. The score
/// is the sigmoid of a single logit; of several, the probability of the last class.
pub struct Rerank {
    session: Session,
    tokenizer: Tokenizer,
}

impl Rerank {
    /// The task over `engine` on `threads` threads (0: all cores).
    pub fn new(engine: &Engine, threads: usize) -> Result<Self, TextError> {
        require(engine.info(), &[Task::SequenceClassification], "rerank", "a sequence classification head")?;
        Ok(Rerank { session: engine.session(threads)?, tokenizer: Tokenizer::of(engine)? })
    }

    /// All documents, best first.
    pub fn rerank(&mut self, query: &str, documents: &[impl AsRef<str>]) -> Result<Vec<Ranked>, TextError> {
        let pairs: Vec<(&str, &str)> = documents.iter().map(|document| (query, document.as_ref())).collect();
        let encoded = self.tokenizer.encode_pairs(&pairs)?;
        let mut ranked = Vec::with_capacity(encoded.len());
        forward(&mut self.session, &encoded, (output::LOGITS, Per::Sequence), |rows| {
            let logit = rows.values.last().copied().unwrap_or(f32::NEG_INFINITY);
            let score = match rows.values {
                [logit] => sigmoid(*logit),
                logits => softmax(logits).last().copied().unwrap_or(0.0),
            };
            ranked.push(Ranked { index: rows.sequence, score, logit });
            Ok(())
        })?;
        ranked.sort_by(|a, b| {
            b.score.total_cmp(&a.score).then(b.logit.total_cmp(&a.logit)).then(a.index.cmp(&b.index))
        });
        Ok(ranked)
    }
}
