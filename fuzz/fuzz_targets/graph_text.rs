//! No text makes the graph parser panic, or read what it cannot print again.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/graph_text.rs"]
mod graph_text;

fuzz_target!(|input: &[u8]| graph_text::fuzz(input));
