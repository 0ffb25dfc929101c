//! Truncated, bit-flipped and mutated files give errors: never a panic, never wrong bytes.

mod common;

use bertha_engine::testing::{exercise, fuzz, reseal};
use bertha_engine::{CHUNK, EngineFile, EngineWriter, FORMAT_VERSION, Fault, Metadata};
use bytes::Bytes;
use common::{pattern, small_engine};
use proptest::prelude::*;

fn open(bytes: &[u8]) -> Result<EngineFile, bertha_engine::EngineError> {
    EngineFile::from_bytes(Bytes::copy_from_slice(bytes))
}

#[test]
fn every_truncation_is_an_error() {
    let file = small_engine().bytes();
    for length in 0..file.len() {
        let error = open(&file[..length]).expect_err("truncated");
        let expected = if length == 0 { "not a Bertha engine file" } else { "truncated" };
        assert!(error.to_string().contains(expected), "{length}: {error}");
    }
}

#[test]
fn every_truncation_of_a_mapped_file_is_an_error() {
    let file = small_engine().bytes();
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    for length in (0..file.len()).step_by(61) {
        std::fs::write(&path, &file[..length]).unwrap();
        EngineFile::open(&path).expect_err("truncated");
    }
}

#[test]
fn appended_bytes_are_an_error() {
    let mut file = small_engine().bytes().to_vec();
    file.push(0);
    assert!(matches!(open(&file).unwrap_err().fault, Fault::TooLong { .. }));
}

#[test]
fn every_flipped_bit_is_an_error() {
    let file = small_engine().bytes();
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut flipped = file.to_vec();
            flipped[at] ^= 1 << bit;
            let result = open(&flipped).and_then(|engine| engine.verify());
            assert!(result.is_err(), "bit {bit} of byte {at}");
        }
    }
}

/// A file whose weights are too long to be checked on opening.
fn large_engine() -> EngineFile {
    let mut writer = EngineWriter::in_memory();
    writer.metadata(&Metadata { producer: "test".into(), model: serde_json::Value::Null }).unwrap();
    let mut weights = writer.begin_weights().unwrap();
    weights.tensor("first", "u8", &[CHUNK as u64], &pattern(CHUNK)).unwrap();
    weights.tensor("second", "u8", &[90 * CHUNK as u64 + 5], &pattern(90 * CHUNK + 5)).unwrap();
    weights.finish().unwrap();
    writer.finish().unwrap()
}

#[test]
fn a_section_is_copied_whole_or_its_damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.bertha");
    let intact = large_engine();
    let start = intact.sections().find(|section| section.name == "weights").unwrap().offset as usize;
    let length = 91 * CHUNK + 5;
    let mut copy = vec![0; length];
    for within in [None, Some(0), Some(50 * CHUNK), Some(length - 1)] {
        let mut file = intact.bytes().to_vec();
        if let Some(within) = within {
            file[start + within] ^= 1;
        }
        std::fs::write(&path, &file).unwrap();
        let engine = EngineFile::open(&path).unwrap();
        match (within, engine.copy_section("weights", &mut copy)) {
            (None, result) => {
                result.unwrap();
                assert!(copy == file[start..start + length]);
                // What was forgotten is read again.
                assert!(engine.section("weights").unwrap() == copy);
                assert!(engine.section("weights").unwrap() == copy);
            }
            (Some(within), result) => {
                let Fault::DamagedSection { offset, .. } = result.unwrap_err().fault else {
                    panic!("{within}")
                };
                assert_eq!(offset, (start + within / CHUNK * CHUNK) as u64);
            }
        }
    }
    let short = intact.copy_section("weights", &mut copy[1..]).unwrap_err();
    assert!(matches!(short.fault, Fault::OutOfRange { .. }), "{short}");
}

#[test]
fn a_flipped_bit_in_weights_is_found_before_the_tensor_is_handed_out() {
    let intact = large_engine();
    let start = intact.sections().find(|section| section.name == "weights").unwrap().offset;
    for within in [CHUNK, 40 * CHUNK + 1, 91 * CHUNK + 4] {
        let mut file = intact.bytes().to_vec();
        file[start as usize + within] ^= 0x10;
        let engine = open(&file).unwrap();
        assert!(engine.tensor("first").unwrap() == pattern(CHUNK), "the other tensor is intact");
        for _ in 0..2 {
            let error = engine.tensor("second").unwrap_err();
            let Fault::DamagedSection { section, offset, length } = error.fault else { panic!("{error}") };
            assert_eq!(section, "weights");
            assert_eq!(offset, start + (within / CHUNK * CHUNK) as u64);
            assert!((1..=CHUNK as u64).contains(&length));
        }
        assert!(engine.section("weights").is_err());
        assert!(engine.verify().is_err());
    }
}

#[test]
fn other_versions_are_one_plain_sentence() {
    for (version, expected) in [
        (FORMAT_VERSION + 1, "is written in engine format 2, newer than format 1 that this program reads"),
        (u32::MAX, "newer than format 1"),
        (0, "is written in engine format 0, older than format 1"),
    ] {
        let mut file = small_engine().bytes().to_vec();
        file[8..12].copy_from_slice(&version.to_le_bytes());
        for sealed in [false, true] {
            if sealed {
                reseal(&mut file);
            }
            let error = open(&file).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("bertha build"), "{error}");
        }
    }
}

#[test]
fn other_files_are_not_engines() {
    for file in [&b"PK\x03\x04"[..], b"", b"\x08\x07\x12\x07pytorch", &[0; 4096], b"\x89PNG\r\n\x1a\n"] {
        assert!(matches!(open(file).unwrap_err().fault, Fault::NotAnEngine));
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(EngineFile::open(folder.path()).unwrap_err().fault, Fault::NotAFile));
    let missing = EngineFile::open(folder.path().join("none.bertha")).unwrap_err();
    assert!(matches!(missing.fault, Fault::Io { .. }), "{missing}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn mutated_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let original = small_engine().bytes();
        let mut file = original.to_vec();
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        if file != original {
            prop_assert!(open(&file).and_then(|engine| engine.verify()).is_err());
        }
        reseal(&mut file);
        exercise(&file);
    }

    #[test]
    fn mutated_tables_never_panic(
        words in prop::collection::vec((any::<prop::sample::Index>(), interesting_word()), 1..4),
    ) {
        let mut file = small_engine().bytes().to_vec();
        let table = u64::from_le_bytes(file[24..32].try_into().unwrap()) as usize;
        let places: Vec<_> = (12..40).step_by(4).chain((table..file.len() - 8).step_by(8)).collect();
        for (place, word) in words {
            let at = places[place.index(places.len())];
            file[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        reseal(&mut file);
        exercise(&file);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz(&bytes);
        fuzz(&[&small_engine().bytes()[..12], &bytes].concat());
    }
}

fn interesting_word() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0..20_u64).prop_map(|n| n * 256),
        0..8000_u64,
        (0..300_u64).prop_map(|n| u64::MAX - n),
        (0..64_u32).prop_map(|n| 1 << n),
        any::<u64>(),
    ]
}
