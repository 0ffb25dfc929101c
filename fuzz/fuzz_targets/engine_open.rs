//! No bytes make loading an engine panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/engine_open.rs"]
mod engine_open;

fuzz_target!(|input: &[u8]| engine_open::fuzz(input));
