//! No bytes make the PyTorch reader panic, call anything, or hand out memory outside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bertha_import::testing::fuzz_torch(input));
