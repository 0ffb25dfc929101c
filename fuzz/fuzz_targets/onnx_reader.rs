//! No bytes make the ONNX reader panic, or lose what it read when writing it back.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bertha_import::testing::fuzz_onnx(input));
