//! Which class a text belongs to.

use bertha::{Engine, Session, Task, output};
use serde::Serialize;

use super::{require, sigmoid, softmax};
use crate::error::TextError;
use crate::forward::{Per, forward};
use crate::tokenizer::Tokenizer;

/// A class and how likely it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Label {
    /// The class's name.
    pub label: String,
    /// Its probability: classes exclude each other unless the model says otherwise.
    pub score: f64,
}

/// A model with a sequence classification head and its tokenizer.
pub struct Classify {
    session: Session,
    tokenizer: Tokenizer,
}

impl Classify {
    /// The task over `engine` on `threads` threads (0: all cores).
    pub fn new(engine: &Engine, threads: usize) -> Result<Self, TextError> {
        require(
            engine.info(),
            &[Task::SequenceClassification],
            "classify",
            "a sequence classification head",
        )?;
        Ok(Classify { session: engine.session(threads)?, tokenizer: Tokenizer::of(engine)? })
    }

    /// For each text all classes, likeliest first.
    pub fn classify(&mut self, texts: &[impl AsRef<str> + Sync]) -> Result<Vec<Vec<Label>>, TextError> {
        let encoded = self.tokenizer.encode(texts)?;
        let info = self.session.info().clone();
        let mut answers = vec![Vec::new(); encoded.len()];
        forward(&mut self.session, &encoded, (output::LOGITS, Per::Sequence), |rows| {
            let scores = probabilities(rows.values, info.multi_label);
            let mut labels: Vec<Label> = scores
                .into_iter()
                .enumerate()
                .map(|(class, score)| Label { label: label_name(&info.labels, class), score })
                .collect();
            labels.sort_by(|a, b| b.score.total_cmp(&a.score));
            answers[rows.sequence] = labels;
            Ok(())
        })?;
        Ok(answers)
    }
}

/// A single logit stands alone, as does each of several that do not exclude each other.
fn probabilities(logits: &[f32], multi_label: bool) -> Vec<f64> {
    if multi_label || logits.len() == 1 {
        logits.iter().map(|logit| sigmoid(*logit)).collect()
    } else {
        softmax(logits)
    }
}

/// The class's name, or `LABEL_3` as Hugging Face has it where the model gives none.
pub(super) fn label_name(labels: &[String], class: usize) -> String {
    labels.get(class).cloned().unwrap_or_else(|| format!("LABEL_{class}"))
}
