//! Files whose checksums are right and whose content is a lie.

mod common;

use bertha_engine::testing::{assemble, reseal};
use bertha_engine::{EngineFile, Fault};
use bytes::Bytes;
use common::small_engine;
use serde_json::json;

const META: (&str, &[u8]) = ("meta", br#"{"producer":"test","model":null}"#);
const ENTRY: usize = 64;

#[track_caller]
fn rejected(file: Vec<u8>, expected: &str) -> Fault {
    let error = EngineFile::from_bytes(Bytes::from(file)).expect_err(expected);
    let text = error.to_string();
    assert!(text.contains(expected), "{text:?} does not say {expected:?}");
    assert!(text.contains("bertha build"), "{text:?} does not say what to do");
    error.fault
}

/// A file with its table changed and its checksums mended.
fn with_table(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut file = small_engine().bytes().to_vec();
    let table = table_offset(&file);
    change(&mut file[table..]);
    reseal(&mut file);
    file
}

fn with_header(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut file = small_engine().bytes().to_vec();
    change(&mut file[..256]);
    reseal(&mut file);
    file
}

fn table_offset(file: &[u8]) -> usize {
    u64::from_le_bytes(file[24..32].try_into().unwrap()) as usize
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn resealing_an_intact_file_changes_nothing() {
    let mut file = small_engine().bytes().to_vec();
    reseal(&mut file);
    assert_eq!(file, small_engine().bytes());
}

#[test]
fn sections_that_overlap() {
    let file = with_table(|table| {
        let first = get(table, 48);
        put(table, ENTRY + 48, first);
    });
    rejected(file, "overlaps");
}

#[test]
fn a_section_in_the_header() {
    rejected(with_table(|table| put(table, 48, 0)), "overlaps");
}

#[test]
fn sections_with_a_gap() {
    let file = with_table(|table| {
        let second = get(table, ENTRY + 48);
        put(table, ENTRY + 48, second + 256);
    });
    rejected(file, "gap");
}

#[test]
fn a_section_that_is_not_aligned() {
    rejected(with_table(|table| put(table, 48, 257)), "multiple of 256");
}

#[test]
fn lengths_past_the_end() {
    for length in [1 << 20, 1 << 40, u64::MAX - 256, u64::MAX] {
        rejected(with_table(|table| put(table, 56, length)), "past the table");
    }
}

#[test]
fn a_shortened_section_leaves_the_table_in_the_wrong_place() {
    let count = small_engine().sections().len();
    rejected(with_table(|table| put(table, (count - 1) * ENTRY + 56, 0)), "table is at");
}

#[test]
fn section_counts_that_do_not_fit() {
    for count in [1000, u32::MAX] {
        let file = with_header(|header| header[12..16].copy_from_slice(&count.to_le_bytes()));
        rejected(file, "do not fit");
    }
    let none = with_header(|header| header[12..16].copy_from_slice(&0_u32.to_le_bytes()));
    rejected(none, "table is at");
}

#[test]
fn table_offsets_outside_the_file() {
    for offset in [0, 255, 1 << 30, u64::MAX] {
        let file = with_header(|header| put(header, 24, offset));
        rejected(file, "table offset");
    }
}

#[test]
fn reserved_bytes_in_use() {
    rejected(with_header(|header| header[100] = 1), "reserved");
}

#[test]
fn bytes_hidden_between_sections() {
    let mut file = small_engine().bytes().to_vec();
    let end = (get(&file, table_offset(&file) + 48) + get(&file, table_offset(&file) + 56)) as usize;
    file[end] = 1;
    reseal(&mut file);
    rejected(file, "padding");
}

#[test]
fn checksums_missing_or_left_over() {
    let mut file = small_engine().bytes().to_vec();
    file.extend_from_slice(&[0; 8]);
    let length = file.len() as u64;
    put(&mut file, 16, length);
    reseal(&mut file);
    rejected(file, "checksums belong");
}

#[test]
fn section_names_that_are_none() {
    for (name, expected) in [
        ("", "not empty"),
        ("naïve", "holds only"),
        ("Upper", "holds only"),
        ("a/b", "holds only"),
        ("a\nb", "holds only"),
        ("plan:", "target name is not empty"),
        ("packed:", "target name is not empty"),
        ("plan:a:b", "target name holds only"),
    ] {
        rejected(assemble(&[META, (name, b"")]), expected);
    }
    let bytes = with_table(|table| table[..4].copy_from_slice(&[0xff, 0xfe, b'a', 0]));
    rejected(bytes, "not ASCII");
    let hidden = with_table(|table| table[47] = b'x');
    rejected(hidden, "not zero");
}

#[test]
fn the_longest_section_name_is_read_whole() {
    let name = "n".repeat(48);
    let engine = EngineFile::from_bytes(assemble(&[META, (&name, b"x")]).into()).unwrap();
    assert_eq!(&engine.section(&name).unwrap()[..], b"x");
}

#[test]
fn sections_listed_twice() {
    rejected(assemble(&[META, META]), "`meta` is listed twice");
}

#[test]
fn missing_and_orphaned_sections() {
    rejected(assemble(&[]), "has no section `meta`");
    rejected(assemble(&[META, ("weights", b"")]), "`weights.index` is missing");
    rejected(assemble(&[META, ("weights.index", b"{\"tensors\":[]}")]), "`weights` is missing");
    rejected(assemble(&[META, ("packed:cpu", b"x")]), "`plan:cpu` is missing");
}

#[test]
fn contents_that_make_no_sense() {
    rejected(assemble(&[("meta", b"{}")]), "metadata");
    rejected(assemble(&[("meta", b"\xff")]), "metadata");
    rejected(assemble(&[META, ("graph", b"caf\xe9")]), "not UTF-8");
    let deep = "[".repeat(100_000);
    let deep = format!(r#"{{"producer":"","model":{deep}"#);
    rejected(assemble(&[("meta", deep.as_bytes())]), "recursion limit");
}

#[test]
fn plans_that_make_no_sense() {
    let header = serde_json::to_vec(&common::plan_header("cuda")).unwrap();
    let length = (header.len() as u32).to_le_bytes();
    let plan = |bytes: &[u8]| assemble(&[META, ("plan:cpu", bytes)]);
    for short in [&b""[..], b"\x01\0", b"\x01\0\0\0", b"\xff\xff\xff\xff{}"] {
        rejected(plan(short), "longer than the section");
    }
    rejected(plan(b"\x02\0\0\0{}"), "header is not one");
    rejected(plan(&[&length[..], &header].concat()), "for target `cuda`");
}

/// A file whose weights have `length` bytes and this index.
fn with_index(length: usize, index: &serde_json::Value) -> Vec<u8> {
    let index = serde_json::to_vec(index).unwrap();
    assemble(&[META, ("weights", &vec![1; length]), ("weights.index", &index)])
}

fn tensor(name: &str, dtype: &str, shape: &[u64], offset: u64, length: u64) -> serde_json::Value {
    json!({"name": name, "dtype": dtype, "shape": shape, "offset": offset, "length": length})
}

#[test]
fn tensors_that_cannot_be() {
    let big = 1 << 32;
    for (tensors, expected) in [
        (json!([tensor("t", "f32", &[2], 0, 4)]), "f32 [2] has 8 bytes, and 4 are listed"),
        (json!([tensor("t", "f32", &[big, big], 0, 0)]), "more bytes than 64 bits"),
        (json!([tensor("t", "f64", &[1 << 61], 0, 0)]), "more bytes than 64 bits"),
        (json!([tensor("t", "f32", &[u64::MAX, 0], 0, 0)]), "more bytes than 64 bits"),
        (json!([tensor("t", "f31", &[2], 0, 8)]), "dtype `f31` is not known"),
        (json!([tensor("", "f32", &[2], 0, 8)]), "name is not empty"),
        (json!([tensor("t", "f32", &[2], 8, 8)]), "belongs at"),
        (json!([tensor("t", "f32", &[2], 256, 8)]), "belongs at"),
        (json!([tensor("t", "f32", &[2], u64::MAX, 8)]), "belongs at"),
        (json!([tensor("t", "u8", &[9], 0, 9)]), "ends behind the section"),
        (json!([tensor("t", "u8", &[u64::MAX], 0, u64::MAX)]), "ends behind the section"),
        (json!([tensor("t", "u8", &[7], 0, 7)]), "the tensors end at 7"),
        (json!([]), "the tensors end at 0"),
        (json!([tensor("t", "u8", &[0], 0, 0), tensor("t", "f32", &[2], 0, 8)]), "listed twice"),
        (json!([tensor("a", "u8", &[4], 0, 4), tensor("b", "u8", &[4], 4, 4)]), "belongs at"),
        (json!([tensor("a", "u8", &[8], 0, 8), tensor("b", "u8", &[8], 0, 8)]), "belongs at"),
        (json!([{"name": "t"}]), "missing field"),
        (json!([tensor("t", "f32", &[2], 0, 8), 3]), "not an index"),
    ] {
        rejected(with_index(8, &json!({"tensors": tensors})), expected);
    }
    let mut signed = tensor("t", "f32", &[2], 0, 8);
    signed["shape"] = json!([-1]);
    rejected(with_index(8, &json!({"tensors": [signed]})), "not an index");
    let mut extra = tensor("t", "f32", &[2], 0, 8);
    extra["stride"] = json!([1]);
    rejected(with_index(8, &json!({"tensors": [extra]})), "unknown field");

    let honest = with_index(8, &json!({"tensors": [tensor("t", "f32", &[2], 0, 8)]}));
    let engine = EngineFile::from_bytes(honest.into()).unwrap();
    assert_eq!(engine.tensor("t").unwrap(), &[1; 8][..]);
}

#[test]
fn ranges_outside_a_section() {
    let engine = small_engine();
    let length = engine.section("packed:cpu").unwrap().len() as u64;
    #[expect(clippy::reversed_empty_ranges, reason = "a damaged plan can ask for it")]
    for range in [0..length + 1, length..u64::MAX, u64::MAX..u64::MAX, 5..4] {
        let error = engine.section_range("packed:cpu", range).unwrap_err();
        assert!(matches!(error.fault, Fault::OutOfRange { .. }), "{error}");
    }
    assert!(engine.section_range("packed:cpu", length..length).unwrap().is_empty());
}
