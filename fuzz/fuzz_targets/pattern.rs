//! No text makes the reader of patterns panic or hang, and no pattern the matcher.
#![no_main]

use libfuzzer_sys::fuzz_target;

const MODEL: &[u8] = include_bytes!("../corpus/surgery/everything.onnx");

fuzz_target!(|input: &[u8]| bertha_surgeon::testing::fuzz_pattern(input, MODEL));
