//! No bytes make the engine reader panic, or hand out something it did not promise.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bertha_engine::testing::fuzz(input));
