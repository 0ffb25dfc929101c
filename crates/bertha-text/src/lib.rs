//! Text in, answers out: tokenizers and the tasks that encoders are used for.

mod error;
mod forward;
pub mod tasks;
mod tokenizer;

pub use error::TextError;
pub use tokenizer::{Encoded, Tokenizer};
