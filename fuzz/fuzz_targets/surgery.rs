//! No ONNX file makes the surgeon panic or hang, and whatever it does to one, the result can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bertha_surgeon::testing::fuzz_surgery(input));
