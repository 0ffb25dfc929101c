//! Texts as vectors.

use bertha::graph::{PoolKind, Pooling};
use bertha::{Engine, Session, Task, output};

use super::require;
use crate::error::TextError;
use crate::forward::{Per, Rows, forward};
use crate::tokenizer::Tokenizer;

/// A sentence encoder and its tokenizer. Pooling and normalisation are the model's own.
pub struct Embed {
    session: Session,
    tokenizer: Tokenizer,
    how: How,
}

/// Where the vectors come from.
enum How {
    /// The graph has an output for them.
    InGraph,
    /// They are pooled here from the hidden states.
    FromHidden(Pooling),
}

impl Embed {
    /// The task over `engine` on `threads` threads (0: all cores).
    ///
    /// A model that does not say how it pools is pooled by the mean over its tokens, not normalised, as
    /// sentence-transformers does for a plain encoder; [`Embed::pooling_is_assumed`] tells.
    pub fn new(engine: &Engine, threads: usize) -> Result<Self, TextError> {
        let has = |name: &str| engine.graph().outputs().iter().any(|(output, _)| output == name);
        let how = if has(output::SENTENCE_EMBEDDING) {
            How::InGraph
        } else if has(output::LAST_HIDDEN_STATE) {
            How::FromHidden(
                engine.info().pooling.unwrap_or(Pooling { kind: PoolKind::Mean, normalize: false }),
            )
        } else {
            require(engine.info(), &[Task::Encoder], "embed", "a model that gives hidden states")?;
            let has = format!("{} has no output `last_hidden_state`", engine.info().source);
            return Err(TextError::WrongHead { asked: "embed", needs: "hidden states", has });
        };
        Ok(Embed { session: engine.session(threads)?, tokenizer: Tokenizer::of(engine)?, how })
    }

    /// Whether the model does not say how it pools.
    pub fn pooling_is_assumed(&self) -> bool {
        matches!(self.how, How::FromHidden(_)) && self.session.info().pooling.is_none()
    }

    /// One vector a text, in the order given.
    pub fn embed(&mut self, texts: &[impl AsRef<str> + Sync]) -> Result<Vec<Vec<f32>>, TextError> {
        let encoded = self.tokenizer.encode(texts)?;
        let mut vectors = vec![Vec::new(); encoded.len()];
        match self.how {
            How::InGraph => {
                forward(&mut self.session, &encoded, (output::SENTENCE_EMBEDDING, Per::Sequence), |rows| {
                    vectors[rows.sequence] = rows.values.to_vec();
                    Ok(())
                })?
            }
            How::FromHidden(pooling) => {
                forward(&mut self.session, &encoded, (output::LAST_HIDDEN_STATE, Per::Token), |rows| {
                    vectors[rows.sequence] = pool(pooling, &rows);
                    Ok(())
                })?;
            }
        }
        Ok(vectors)
    }
}

/// Pools the rows of one sequence as [`PoolKind`] says, in f64.
fn pool(pooling: Pooling, rows: &Rows<'_>) -> Vec<f32> {
    let width = rows.width;
    let lines: Vec<&[f32]> = rows.values.chunks_exact(width.max(1)).collect();
    let count = lines.len() as f64;
    let column = |c: usize| -> f64 {
        let values = lines.iter().map(|line| f64::from(line[c]));
        match pooling.kind {
            PoolKind::Cls => lines.first().map_or(0.0, |line| f64::from(line[c])),
            PoolKind::LastToken => lines.last().map_or(0.0, |line| f64::from(line[c])),
            PoolKind::Max => values.fold(f64::NEG_INFINITY, f64::max),
            PoolKind::Mean => values.sum::<f64>() / count,
            PoolKind::MeanSqrtLen => values.sum::<f64>() / count.sqrt(),
            PoolKind::WeightedMean => {
                let weighted = values.enumerate().map(|(row, value)| value * (row + 1) as f64);
                weighted.sum::<f64>() / (count * (count + 1.0) / 2.0)
            }
        }
    };
    let pooled: Vec<f64> = (0..width).map(column).collect();
    let norm = pooled.iter().map(|value| value * value).sum::<f64>().sqrt();
    let divisor = if pooling.normalize { norm.max(1e-12) } else { 1.0 };
    pooled.into_iter().map(|value| (value / divisor) as f32).collect()
}
