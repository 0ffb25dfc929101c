//! Which spans of a text are entities.

use bertha::{Engine, Session, Task, output};
use serde::Serialize;

use super::classify::label_name;
use super::{require, softmax};
use crate::error::TextError;
use crate::forward::{Per, forward};
use crate::tokenizer::{Encoded, Tokenizer};

/// A span of a text and its class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entity {
    /// The class, without the `B-` or `I-` of its tokens.
    pub entity_group: String,
    /// Mean probability of the tokens' classes.
    pub score: f64,
    /// The text of the span.
    pub word: String,
    /// Its first byte.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
}

/// A model with a token classification head and its tokenizer.
pub struct Tag {
    session: Session,
    tokenizer: Tokenizer,
}

/// The class of one token.
struct TokenClass {
    label: String,
    score: f64,
    start: usize,
    end: usize,
    word: Option<u32>,
}

impl Tag {
    /// The task over `engine` on `threads` threads (0: all cores).
    pub fn new(engine: &Engine, threads: usize) -> Result<Self, TextError> {
        require(engine.info(), &[Task::TokenClassification], "tag", "a token classification head")?;
        Ok(Tag { session: engine.session(threads)?, tokenizer: Tokenizer::of(engine)? })
    }

    /// For each text its entities in order: neighbouring tokens of one class, `O` left out. A word has the class of
    /// its first token; `B-` starts a new entity.
    pub fn tag(&mut self, texts: &[impl AsRef<str> + Sync]) -> Result<Vec<Vec<Entity>>, TextError> {
        let encoded = self.tokenizer.encode(texts)?;
        let labels = self.session.info().labels.clone();
        let mut answers = vec![Vec::new(); encoded.len()];
        forward(&mut self.session, &encoded, (output::LOGITS, Per::Token), |rows| {
            let classes = token_classes(&encoded[rows.sequence], rows.values, rows.width, &labels);
            answers[rows.sequence] = group(texts[rows.sequence].as_ref(), classes);
            Ok(())
        })?;
        Ok(answers)
    }
}

fn token_classes(encoded: &Encoded, logits: &[f32], width: usize, labels: &[String]) -> Vec<TokenClass> {
    let rows = logits.chunks_exact(width.max(1)).enumerate();
    rows.filter(|(token, _)| !encoded.special[*token])
        .map(|(token, logits)| {
            let scores = softmax(logits);
            let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or(0);
            let (start, end) = encoded.offsets[token];
            let label = label_name(labels, best);
            TokenClass { label, score: scores[best], start, end, word: encoded.words[token] }
        })
        .collect()
}

/// Joins neighbouring tokens of one class.
fn group(text: &str, tokens: Vec<TokenClass>) -> Vec<Entity> {
    let mut entities: Vec<(Entity, usize)> = Vec::new();
    let mut previous: Option<TokenClass> = None;
    for mut token in tokens {
        let continues_word =
            previous.as_ref().is_some_and(|before| before.word.is_some() && before.word == token.word);
        if let (true, Some(before)) = (continues_word, &previous) {
            token.label = before.label.replacen("B-", "I-", 1);
        }
        let kind = token.label.trim_start_matches("B-").trim_start_matches("I-").to_owned();
        let same_entity = previous.as_ref().is_some_and(|before| {
            let before_kind = before.label.trim_start_matches("B-").trim_start_matches("I-");
            before_kind == kind && !token.label.starts_with("B-")
        });
        match entities.last_mut() {
            _ if kind == "O" => {}
            Some((entity, tokens)) if same_entity => {
                entity.end = token.end;
                entity.score += token.score;
                *tokens += 1;
            }
            _ => entities.push((
                Entity {
                    entity_group: kind,
                    score: token.score,
                    word: String::new(),
                    start: token.start,
                    end: token.end,
                },
                1,
            )),
        }
        previous = Some(token);
    }
    let finish = |(mut entity, tokens): (Entity, usize)| {
        entity.score /= tokens as f64;
        entity.word = text.get(entity.start..entity.end).unwrap_or_default().to_owned();
        entity
    };
    entities.into_iter().map(finish).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_tokens_become_one_entity() {
        let text = "Angela Merkel visited Paris Lyon";
        let token = |label: &str, start, end, word| TokenClass {
            label: label.into(),
            score: 1.0,
            start,
            end,
            word: Some(word),
        };
        let tokens = vec![
            token("B-PER", 0, 6, 0),
            token("I-PER", 7, 10, 1),
            token("O", 10, 13, 1), // the rest of the word follows its first token
            token("O", 14, 21, 2),
            token("B-LOC", 22, 27, 3),
            token("B-LOC", 28, 32, 4),
        ];
        let entities = group(text, tokens);
        let found: Vec<_> = entities.iter().map(|e| (e.entity_group.as_str(), e.word.as_str())).collect();
        assert_eq!(found, [("PER", "Angela Merkel"), ("LOC", "Paris"), ("LOC", "Lyon")]);
    }
}
