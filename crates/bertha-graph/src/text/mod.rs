//! The text format of graphs: printed for people and goldens, parsed from engine files and tests.
//!
//! ```text
//! graph bert {
//!   input %input_ids: i32[tokens]
//!   const %scale: f32[] = 0.125                          // up to 16 elements stand here, exactly
//!   const %table: f32[30522, 384] = @table               // the contents are elsewhere, under this name
//!   %h: f32[tokens, 384] = embedding_sum(%input_ids, %table) @embeddings from ["/bert/Gather", "/bert/Add"]
//!   %a: f32[tokens, 192], _ = split(%h, _) {axis: -1, parts: 2}
//!   %"/bert/y": f32[tokens, 192] = if(%c, %a) then graph then_branch {
//!     ...
//!   } else graph else_branch {
//!     ...
//!   }
//!   output last_hidden_state = %a
//! }
//! ```
//!
//! `@` names the node, where its name is not that of its first output; `from` lists the nodes of the source model.
//! `_` stands for an absent operand or an output that nobody asked for. Names of other characters than letters,
//! digits, `_` and `.` are quoted. `//` begins a comment. Line breaks mean no more than spaces.
//!
//! The types of results may be left out; where they are given they must be what the [rules](crate::rules) infer, up to
//! the names of data-dependent symbols (`?0`, `?1`, ...).

mod attributes;
mod canonical;
mod cursor;
mod literal;
mod operation;
mod parse;
mod print;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::graph::Graph;
use crate::tensor::TensorData;

pub use parse::{Resolver, parse, parse_with};

/// Constants with more elements than this are not part of the text.
const INLINE_ELEMENTS: usize = 16;

/// How deep branches, and lists in attributes, may lie within one another.
const MAX_DEPTH: usize = 32;

/// Why a text is not a graph, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The character within the line, from 1.
    pub column: usize,
    /// What was expected, and what was found.
    pub message: String,
}

/// A graph as text, and the contents of the constants that the text only names.
#[derive(Clone, Debug)]
pub struct Printed {
    /// What [`parse`] reads.
    pub text: String,
    /// Large constants by the name that stands after `@`, in order. At the top level that is the tensor's name; within
    /// branches the names of the nodes around come before it.
    pub constants: Vec<(String, TensorData)>,
}

/// Prints `graph` with everything that it holds, apart from the contents of large constants.
pub fn print(graph: &Graph) -> Printed {
    print::print(graph)
}

impl Graph {
    /// The graph as text, which [`parse`] reads back.
    pub fn to_text(&self) -> String {
        print(self).text
    }

    /// The graph as text without the names of tensors, nodes and sources, in which large constants are told by a hash
    /// of their contents: equal for graphs that compute the same in the same order. It cannot be parsed.
    ///
    /// Tensors and data-dependent symbols are numbered by their first use. Unused constants are left out. The names of
    /// outputs stay.
    pub fn to_text_canonical(&self) -> String {
        canonical::print(self)
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}
