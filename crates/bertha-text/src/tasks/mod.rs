//! Questions that a model answers about texts, one file each.

pub mod classify;
pub mod embed;
pub mod fill_mask;
pub mod rerank;
pub mod sparse;
pub mod tag;

use bertha::{ModelInfo, Task};

use crate::error::TextError;

/// What a model answers, in words for messages.
pub(crate) fn describe(info: &ModelInfo) -> String {
    let head = match info.task {
        Task::Encoder => "no head: it gives hidden states (`embed`)",
        Task::MaskedLm | Task::Pretraining => "a masked-LM head (`fill-mask`, `sparse`)",
        Task::NextSentence => "a next-sentence head",
        Task::SequenceClassification => "a sequence classification head (`classify`, `rerank`)",
        Task::TokenClassification => "a token classification head (`tag`)",
        Task::QuestionAnswering => "a question answering head",
        Task::ReplacedTokenDetection => "a replaced-token head",
    };
    format!("{} has {head}", info.source)
}

/// Fails unless the model's head is one of `heads`.
pub(crate) fn require(
    info: &ModelInfo,
    heads: &[Task],
    asked: &'static str,
    needs: &'static str,
) -> Result<(), TextError> {
    if heads.contains(&info.task) {
        return Ok(());
    }
    Err(TextError::WrongHead { asked, needs, has: describe(info) })
}

/// Probabilities of logits that exclude each other, computed in f64.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = logits.iter().map(|logit| f64::from(logit - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|exp| exp / sum).collect()
}

/// Probability of a logit that stands alone.
pub(crate) fn sigmoid(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}

/// Indices of the `count` largest values, largest first; equal ones in order of index. NaN counts as smallest.
pub(crate) fn top_indices(values: &[f32], count: usize) -> Vec<usize> {
    let count = count.min(values.len());
    let mut order: Vec<usize> = (0..values.len()).collect();
    let by_value = |a: &usize, b: &usize| {
        let (x, y) = (values[*a], values[*b]);
        y.partial_cmp(&x).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan())).then(a.cmp(b))
    };
    if count > 0 && count < order.len() {
        order.select_nth_unstable_by(count - 1, by_value);
    }
    order.truncate(count);
    order.sort_by(by_value);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_nan_last() {
        let values = [1.0, f32::NAN, 3.0, 2.0, 3.0];
        assert_eq!(top_indices(&values, 3), [2, 4, 3]);
        assert_eq!(top_indices(&values, 9), [2, 4, 3, 0, 1]);
        assert!(top_indices(&[], 3).is_empty());
    }

    #[test]
    fn probabilities_survive_huge_logits() {
        let p = softmax(&[1e30, 0.0, -1e30]);
        assert_eq!(p, [1.0, 0.0, 0.0]);
        assert_eq!(sigmoid(-1e30), 0.0);
    }
}
