//! Text in, answers out: tokenizers and the tasks that encoders are used for.
//!
//! ```
//! use bertha::Engine;
//! use bertha_text::tasks::fill_mask::FillMask;
//!
//! # let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo");
//! let engine = Engine::open(model)?; // a folder with a masked-LM checkpoint and its tokenizer
//! let mut task = FillMask::new(&engine, 0)?; // on all cores
//! let answers = task.fill(&["The capital of France is [MASK]."], 5)?;
//! let best_of_first_mask = &answers[0][0][0];
//! assert_eq!(best_of_first_mask.sequence, "the capital of france is paris.");
//! # Ok::<(), bertha_text::TextError>(())
//! ```
//!
//! Each task of [`tasks`] is made once from an engine and asked as often as wanted; it keeps its memory and threads.
//! Many texts in one call are run together, each with the answer that it has alone.

mod error;
mod forward;
pub mod tasks;
mod tokenizer;

pub use error::TextError;
pub use tokenizer::{Encoded, Tokenizer};
