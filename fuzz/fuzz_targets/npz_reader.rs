//! No bytes make the NumPy reader panic or hand out a tensor of the wrong size.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bertha_import::testing::fuzz_npz(input));
