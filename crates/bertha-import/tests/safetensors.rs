//! Safetensors files, and checkpoints in one file or several.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use bertha_graph::{DType, TensorData};
use bertha_import::ImportError;
use bertha_import::hf::{Checkpoint, SafetensorsFile, write_safetensors};
use bertha_import::testing::fuzz_safetensors;
use bytes::Bytes;
use common::{all_dtypes, assert_tensor, damage, fixture, ramp};

/// A file with this header and so many bytes of data.
fn with_header(header: &str, data: usize) -> Bytes {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), &vec![0; data]].concat().into()
}

#[test]
fn the_reference_implementations_file_is_read() {
    // Written by the Python package: `fixtures/safetensors/make.py`.
    let file = SafetensorsFile::open(fixture("safetensors/reference.safetensors")).unwrap();
    assert_eq!(file.metadata().unwrap()["format"], "np");
    for (name, dtype) in [("f4", DType::F32), ("f2", DType::F16), ("i1", DType::I8), ("i8", DType::I64)] {
        assert_tensor(&file.tensor(name).unwrap(), dtype, &[2, 3], &ramp(6));
    }
    assert_tensor(&file.tensor("bool").unwrap(), DType::Bool, &[2], &[1., 0.]);
    assert_tensor(&file.tensor("scalar").unwrap(), DType::F32, &[], &[2.5]);
    assert_tensor(&file.tensor("empty").unwrap(), DType::F32, &[0, 3], &[]);
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.safetensors");
    let tensors = all_dtypes();
    let pairs = || tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors(&path, pairs(), Some(metadata.clone())).unwrap();

    let bytes = Bytes::from(fs::read(&path).unwrap());
    let file = SafetensorsFile::from_bytes(&path, bytes.clone()).unwrap();
    assert_eq!(file.metadata(), Some(&metadata));
    assert_eq!(file.names().len(), tensors.len());
    for (name, tensor) in &tensors {
        let read = file.tensor(name).unwrap();
        assert_eq!(read, *tensor);
        let start = bytes.as_ptr() as usize;
        let offset = read.bytes().as_ptr() as usize - start;
        assert!(
            offset < bytes.len() && offset.is_multiple_of(read.dtype().size()),
            "{name} is shared and aligned"
        );
    }
    // The reference implementation reads it as well.
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(reference.len(), tensors.len());

    let twice = write_safetensors(&path, pairs().chain(pairs()), None).unwrap_err();
    assert!(twice.to_string().contains("taken already"), "{twice}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "a failed write leaves the old file");
}

#[test]
fn damaged_headers_are_described() {
    let tensor = |dtype: &str, shape: &str, start: u64, end: u64| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}}}"#)
    };
    let max = u64::MAX;
    for (bytes, part) in [
        (Bytes::new(), "it is empty"),
        (Bytes::from_static(b"version https://git-lfs"), "git lfs pull"),
        (Bytes::from_static(&[1, 2, 3]), "has 3 bytes"),
        (Bytes::from_static(&[0xff; 16]), "declares a header of 18446744073709551615 bytes"),
        (Bytes::from_static(&[100, 0, 0, 0, 0, 0, 0, 0, 1]), "has only 1 after it"),
        (with_header("[]", 0), "damaged header"),
        (with_header("{\"t\":1}", 0), "damaged header"),
        (with_header(&tensor("F32", "[2]", 0, 8), 4), "cut off"),
        (with_header(&tensor("F32", "[2]", 0, 8), 9), "8 bytes of tensors but 9 follow"),
        (with_header(&tensor("F32", "[3]", 0, 8), 8), "damaged header"),
        (with_header(&tensor("F32", "[2]", 8, 0), 8), "damaged header"),
        (with_header(&tensor("F32", "[2]", 4, 12), 12), "damaged header"),
        (with_header(&tensor("U8", &format!("[{max}]"), 0, max), 8), "damaged header"),
        (with_header(&tensor("U8", &format!("[{max},{max}]"), 0, 1), 1), "damaged header"),
        (with_header(&tensor("U8", "[-1]", 0, 1), 1), "damaged header"),
        (with_header(&tensor("Q7", "[1]", 0, 1), 1), "damaged header"),
    ] {
        let error = SafetensorsFile::from_bytes("m.safetensors", bytes).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("m.safetensors"), "{error}");
    }
    let small_float = with_header(&tensor("F8_E4M3", "[4]", 0, 4), 4);
    let error = SafetensorsFile::from_bytes("m.safetensors", small_float).unwrap().tensor("t").unwrap_err();
    assert!(
        matches!(&error, ImportError::Unsupported { what, .. } if what.contains("`t` of type F8_E4M3")),
        "{error}"
    );
}

#[test]
fn sizes_that_add_up_past_the_address_space_are_refused() {
    // Each tensor alone is allowed; eight of 2^61 bytes end at 2^64.
    let entries: Vec<_> = (0..8u64)
        .map(|n| {
            let end = if n == 7 { u64::MAX } else { (n + 1) << 61 };
            let (start, length) = (n << 61, end - (n << 61));
            format!(r#""t{n}":{{"dtype":"U8","shape":[{length}],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    let file = with_header(&format!("{{{}}}", entries.join(",")), 7);
    assert!(SafetensorsFile::from_bytes("m.safetensors", file).is_err());
}

#[test]
fn damaged_files_never_panic() {
    let bytes = fs::read(fixture("safetensors/reference.safetensors")).unwrap();
    damage(&bytes, |bytes| fuzz_safetensors(&bytes));
}

// --- checkpoints

fn shard(folder: &Path, name: &str, tensors: &[&str]) {
    let data = TensorData::vector(vec![name.len() as f32]);
    write_safetensors(folder.join(name), tensors.iter().map(|tensor| (*tensor, &data)), None).unwrap();
}

/// Opens a folder with two shards under this index.
fn sharded(index: &str) -> Result<Checkpoint, ImportError> {
    let folder = tempfile::tempdir().unwrap();
    shard(folder.path(), "one.safetensors", &["a", "b"]);
    shard(folder.path(), "three.safetensors", &["c"]);
    shard(folder.path(), "again.safetensors", &["c"]);
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    Checkpoint::open(folder.path())
}

#[test]
fn shards_are_joined() {
    let index = r#"{"metadata": {"total_size": 12}, "weight_map":
        {"b": "one.safetensors", "c": "three.safetensors", "a": "one.safetensors"}}"#;
    let checkpoint = sharded(index).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_tensor(&checkpoint.tensor("b").unwrap(), DType::F32, &[1], &["one.safetensors".len() as f64]);
    assert_tensor(&checkpoint.tensor("c").unwrap(), DType::F32, &[1], &["three.safetensors".len() as f64]);
    let error = checkpoint.tensor("model.c").unwrap_err();
    assert!(matches!(error, ImportError::MissingTensor { .. }), "{error}");
}

#[test]
fn shards_that_do_not_fit_are_described() {
    for (index, part) in [
        (
            r#"{"weight_map": {"a": "one.safetensors", "x": "two.safetensors"}}"#,
            "shard `two.safetensors` is missing",
        ),
        (
            r#"{"weight_map": {"a": "three.safetensors"}}"#,
            "tensor `a` should be in shard `three.safetensors`",
        ),
        (
            r#"{"weight_map": {"a": "one.safetensors", "c": "one.safetensors"}}"#,
            "tensor `c` should be in shard",
        ),
        (r#"{"weight_map": {"a": "one.safetensors", "a": "one.safetensors"}}"#, "lists tensor `a` twice"),
        (
            r#"{"weight_map": {"b": "three.safetensors", "c": "again.safetensors"}}"#,
            "tensor `c` is in two shards",
        ),
        (r#"{"weight_map": {}}"#, "lists no tensor"),
        (r#"{"weight_map": {"a": 1}}"#, "not a readable index"),
        (r#"{"weights": {}}"#, "missing field `weight_map`"),
        ("", "not a readable index"),
    ] {
        let error = sharded(index).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("index.json"), "{error}");
    }
}

#[test]
fn shards_elsewhere_are_refused() {
    for name in [
        "../one.safetensors",
        "/etc/passwd",
        "sub/one.safetensors",
        "..",
        ".",
        "",
        "./one.safetensors",
        "a\\\\b",
    ] {
        let error = sharded(&format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#)).unwrap_err();
        assert!(matches!(&error, ImportError::UnsafeLocation { .. }), "{name}: {error}");
    }
}

#[test]
fn a_folder_is_searched_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("no weights") && error.contains("pytorch_model.bin.index.json"), "{error}");

    // PyTorch shards, then a whole PyTorch file, then safetensors.
    fs::copy(fixture("torch/module_zip.bin"), folder.path().join("part.bin")).unwrap();
    let index = r#"{"weight_map": {"0.weight": "part.bin", "1.bias": "part.bin"}}"#;
    fs::write(folder.path().join("pytorch_model.bin.index.json"), index).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_tensor(&checkpoint.tensor("0.weight").unwrap(), DType::F32, &[2, 3], &ramp(6));

    fs::copy(fixture("torch/layouts_legacy.bin"), folder.path().join("pytorch_model.bin")).unwrap();
    assert!(Checkpoint::open(folder.path()).unwrap().contains("every_other"));

    shard(folder.path(), "model.safetensors", &["only"]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["only"]);
    assert_eq!(checkpoint.path(), folder.path().join("model.safetensors"));
}
