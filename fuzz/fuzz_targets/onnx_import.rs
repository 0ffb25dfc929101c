//! No ONNX file makes the importer panic, hang, or give a graph that does not verify.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bertha_import::testing::fuzz_onnx_import(input));
