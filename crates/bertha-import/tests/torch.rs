//! PyTorch files. The fixtures are made by PyTorch itself (`fixtures/torch/make.py`).

mod common;

use std::io::{Read, Write};

use bertha_graph::DType;
use bertha_import::ImportError;
use bertha_import::hf::TorchFile;
use bertha_import::testing::{fuzz_torch, wrap_pickle};
use bytes::Bytes;
use common::{assert_tensor, damage, fixture, ramp};

fn open(name: &str) -> TorchFile {
    TorchFile::open(fixture("torch").join(name)).unwrap()
}

#[track_caller]
fn refused(name: &str, parts: &[&str]) {
    let error = TorchFile::open(fixture("torch").join(name)).unwrap_err().to_string();
    for part in [name].iter().chain(parts) {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn every_element_type_is_read() {
    let types = [
        ("float64", DType::F64),
        ("float32", DType::F32),
        ("float16", DType::F16),
        ("bfloat16", DType::BF16),
        ("int64", DType::I64),
        ("int32", DType::I32),
        ("int16", DType::I16),
        ("int8", DType::I8),
        ("uint8", DType::U8),
    ];
    for container in ["dtypes_zip.bin", "dtypes_legacy.bin"] {
        let file = open(container);
        let names: Vec<_> = types.iter().map(|(name, _)| *name).chain(["bool"]).collect();
        assert_eq!(file.names().collect::<Vec<_>>(), names);
        for (name, dtype) in types {
            assert_tensor(&file.tensor(name).unwrap(), dtype, &[2, 3], &ramp(6));
        }
        assert_tensor(&file.tensor("bool").unwrap(), DType::Bool, &[3], &[1.0, 0.0, 1.0]);
    }
    let file = open("unsigned_zip.bin");
    assert_tensor(&file.tensor("u16").unwrap(), DType::U16, &[4], &ramp(4));
    assert_tensor(&file.tensor("u64").unwrap(), DType::U64, &[4], &ramp(4));
}

#[test]
fn views_become_row_major() {
    for container in ["layouts_zip.bin", "layouts_legacy.bin", "layouts_deflated.bin"] {
        let file = open(container);
        let tensor = |name: &str| file.tensor(name).unwrap();
        assert_tensor(&tensor("plain"), DType::F32, &[2, 3, 4], &ramp(24));
        // permute(2, 0, 1): element [i, j, k] of the result is [j, k, i] of the base.
        let mut permuted = Vec::new();
        for i in 0..4 {
            for j in 0..2 {
                permuted.extend((0..3).map(|k| f64::from(j * 12 + k * 4 + i)));
            }
        }
        assert_tensor(&tensor("transposed"), DType::F32, &[4, 2, 3], &permuted);
        assert_tensor(&tensor("column"), DType::F32, &[2, 4], &[4., 5., 6., 7., 16., 17., 18., 19.]);
        assert_tensor(&tensor("every_other"), DType::F32, &[5], &[1., 3., 5., 7., 9.]);
        assert_tensor(&tensor("tail"), DType::F32, &[4], &[6., 7., 8., 9.]);
        assert_tensor(&tensor("scalar"), DType::F32, &[], &[2.5]);
        assert_tensor(&tensor("empty"), DType::F32, &[0, 3], &[]);
        assert_tensor(&tensor("parameter"), DType::F32, &[3], &ramp(3));
        assert_tensor(&tensor("ones"), DType::F32, &[3, 1, 1], &[1.; 3]);
    }
}

#[test]
fn a_state_dict_and_a_training_checkpoint_are_flattened() {
    for container in ["zip", "legacy"] {
        let module = open(&format!("module_{container}.bin"));
        assert_eq!(module.names().collect::<Vec<_>>(), ["0.weight", "0.bias", "1.weight", "1.bias"]);
        assert_tensor(&module.tensor("0.weight").unwrap(), DType::F32, &[2, 3], &ramp(6));
        assert!(module.other_entries().is_empty());

        let training = open(&format!("training_{container}.bin"));
        let names = ["model.w", "optimizer.state.0.exp_avg", "optimizer.steps.0"];
        assert_eq!(training.names().collect::<Vec<_>>(), names);
        let others = ["epoch", "lr", "name", "optimizer.steps.1", "size.0", "size.1"];
        assert_eq!(training.other_entries(), others);
        let error = training.tensor("w").unwrap_err();
        assert!(error.to_string().contains("the nearest name is `model.w`"), "{error}");
    }
}

#[test]
fn contiguous_tensors_share_the_file() {
    let bytes = Bytes::from(std::fs::read(fixture("torch/layouts_zip.bin")).unwrap());
    let file = TorchFile::from_bytes("x", bytes.clone()).unwrap();
    let shared = |name: &str| bytes.as_ptr_range().contains(&file.tensor(name).unwrap().bytes().as_ptr());
    assert!(shared("plain") && shared("tail"));
    assert!(!shared("transposed"));
}

#[test]
fn what_cannot_be_read_is_named() {
    refused("whole_module_zip.bin", &["refuses to run `torch.nn.modules.linear.Linear`", "data.pkl"]);
    refused("complex_zip.bin", &["torch.ComplexFloatStorage", "not supported"]);
    refused("sparse_zip.bin", &["sparse tensors are not supported"]);
    refused("script.bin", &["TorchScript", "state_dict()"]);
    refused("bare_tensor_zip.bin", &["holds a tensor where a dictionary of tensors is expected"]);
    for container in ["expanded_zip.bin", "expanded_legacy.bin"] {
        let error = open(container).tensor("expanded").unwrap_err();
        assert!(matches!(&error, ImportError::Tensor { tensor, .. } if tensor == "expanded"));
        assert!(error.to_string().contains("expanded view"), "{error}");
    }
}

#[test]
fn foreign_files_are_told_apart() {
    for (bytes, part) in [
        (&b""[..], "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\x08\x07garbage", "magic number"),
        (b"PK\x03\x04", "damaged zip"),
    ] {
        let error = TorchFile::from_bytes("model.bin", Bytes::from_static(bytes)).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("model.bin"), "{error}");
    }
}

/// `{"a": tensor}` with the given call of `_rebuild_tensor_v2`, written as in `pickletools`' assembly.
fn one_tensor(storage_len: i32, offset: i32, size: &[i32], stride: &[i32]) -> Vec<u8> {
    let int = |value: i32| [&b"J"[..], &value.to_le_bytes()].concat();
    let ints = |values: &[i32]| {
        [b"(".to_vec(), values.iter().flat_map(|v| int(*v)).collect(), b"t".to_vec()].concat()
    };
    let parts: [&[u8]; 11] = [
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage",
        b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu",
        &int(storage_len),
        b"tQ",
        &int(offset),
        &ints(size),
        &ints(stride),
        b"\x89}",
        b"tR",
        b"s",
        b".",
    ];
    parts.concat()
}

#[test]
fn windows_are_kept_inside_their_storage() {
    let read = |pickle: Vec<u8>| TorchFile::from_bytes("w.bin", wrap_pickle(&pickle));
    assert_eq!(read(one_tensor(16, 4, &[3, 4], &[4, 1])).unwrap().tensor("a").unwrap().len(), 12);
    // Exactly up to the end, and one past it, by offset, by size and by stride.
    for (offset, size, stride) in [
        (5, vec![3, 4], vec![4, 1]),
        (16, vec![1], vec![1]),
        (0, vec![17], vec![1]),
        (0, vec![2], vec![16]),
        (0, vec![4, 4], vec![5, 1]),
        (i32::MAX, vec![i32::MAX; 3], vec![i32::MAX; 3]),
        (0, vec![i32::MAX; 16], vec![0; 16]),
    ] {
        let error = read(one_tensor(16, offset, &size, &stride)).unwrap_err().to_string();
        assert!(error.contains("tensor `a`") && error.contains("outside its storage"), "{error}");
    }
    // The storage must be as long as it is said to be (64 bytes).
    for length in [0, 15, 17, i32::MAX] {
        let error = read(one_tensor(length, 0, &[0], &[1])).unwrap_err().to_string();
        assert!(error.contains("storage `0` should have"), "{error}");
    }
    // No element, anywhere.
    assert_eq!(read(one_tensor(16, 99, &[0, 5], &[1, 1])).unwrap().tensor("a").unwrap().shape(), [0, 5]);
}

#[test]
fn files_of_big_endian_machines_are_turned() {
    // The same file as another machine would have written it: elements reversed, and the byte order noted.
    let original = std::fs::read(fixture("torch/dtypes_zip.bin")).unwrap();
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(&original)).unwrap();
    let mut turned = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let sizes = [8, 4, 2, 2, 8, 4, 2, 1, 1, 1];
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        let name = entry.name().unwrap().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if let Some((_, key)) = name.split_once("/data/") {
            let size: usize = sizes[key.parse::<usize>().unwrap()];
            bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        } else if name.ends_with("/byteorder") {
            assert_eq!(bytes, b"little");
            bytes = b"big".to_vec();
        }
        turned.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        turned.write_all(&bytes).unwrap();
    }
    let turned = Bytes::from(turned.finish().unwrap().into_inner());
    let (expected, read) = (open("dtypes_zip.bin"), TorchFile::from_bytes("big.bin", turned).unwrap());
    for name in expected.names() {
        assert_eq!(read.tensor(name).unwrap(), expected.tensor(name).unwrap(), "{name}");
    }
}

/// A file of the old format with one storage of six floats (0 to 5) under the key `k`; `view` is what the oldest
/// versions put at the end of a storage's description.
fn legacy(view: &[u8], little_endian: bool, stored_key: u8, stored_length: i64) -> Bytes {
    let end = if little_endian { b"\x88" } else { b"\x89" };
    let floats: Vec<u8> = (0..6u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    let parts: [&[u8]; 11] = [
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.",
        &[&b"\x80\x02}X\x0d\x00\x00\x00little_endian"[..], end, b"s."].concat(),
        b"\x80\x02}U\x01actorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x01kU\x03cpuK\x06",
        view,
        b"tQ",
        b"K\x00(K\x02K\x02t(K\x02K\x01ttR",
        b"s.",
        &[b"\x80\x02](U\x01", &[stored_key][..], b"e."].concat(),
        &stored_length.to_le_bytes(),
        &floats,
        b"",
    ];
    Bytes::from(parts.concat())
}

#[test]
fn the_oldest_files_are_read() {
    let read = |view: &[u8]| TorchFile::from_bytes("old.bin", legacy(view, true, b'k', 6));
    assert_tensor(&read(b"N").unwrap().tensor("a").unwrap(), DType::F32, &[2, 2], &ramp(4));
    // A view of four elements from the second on.
    let view = |offset: u8, size: u8| [&b"(U\x01vK"[..], &[offset], b"K", &[size], b"t"].concat();
    let tensor = read(&view(1, 4)).unwrap().tensor("a").unwrap();
    assert_tensor(&tensor, DType::F32, &[2, 2], &[1., 2., 3., 4.]);
    // The tensor must fit the view, and the view the storage.
    for (offset, size) in [(1, 3), (3, 4), (7, 0)] {
        let error = read(&view(offset, size)).unwrap_err().to_string();
        assert!(error.contains("tensor `a`") && error.contains("outside its storage"), "{error}");
    }
}

#[test]
fn old_files_that_do_not_fit_are_described() {
    let read = |bytes: Bytes| TorchFile::from_bytes("old.bin", bytes).unwrap_err().to_string();
    let trailing = [legacy(b"N", true, b'k', 6).as_ref(), &b"x"[..]].concat();
    for (bytes, part) in [
        (legacy(b"N", false, b'k', 6), "big-endian machine"),
        (legacy(b"N", true, b'z', 6), "no tensor uses storage `z`"),
        (legacy(b"N", true, b'k', 5), "should have 6 elements but has 5"),
        (legacy(b"N", true, b'k', -6), "should have 6 elements but has -6"),
        (Bytes::from(trailing), "1 bytes after the last storage"),
    ] {
        let error = read(bytes);
        assert!(error.contains(part) && error.contains("old.bin"), "{error}");
    }
}

#[test]
fn a_tree_of_shared_dictionaries_is_cut_short() {
    // d0 = {}; d1 = {a: d0, b: d0}; ... A dozen levels are 2^12 leaves, forty would be 2^40.
    let bomb = |levels: u8| {
        let mut pickle = b"\x80\x02}q\x00".to_vec();
        for level in 0..levels {
            let entry = |key: u8| [b'X', 1, 0, 0, 0, key, b'h', level, b's'];
            pickle.extend([b'0', b'}']);
            pickle.extend(entry(b'a'));
            pickle.extend(entry(b'b'));
            pickle.extend([b'q', level + 1]);
        }
        pickle.push(b'.');
        TorchFile::from_bytes("bomb.bin", wrap_pickle(&pickle))
    };
    assert!(bomb(12).is_ok());
    assert!(bomb(40).unwrap_err().to_string().contains("nested too deeply"));
}

#[test]
fn damaged_files_never_panic() {
    for name in ["layouts_legacy.bin", "training_legacy.bin", "training_zip.bin", "layouts_deflated.bin"] {
        damage(&std::fs::read(fixture("torch").join(name)).unwrap(), |bytes| fuzz_torch(&bytes));
    }
}

#[test]
fn every_cut_of_a_file_is_an_error() {
    for name in ["layouts_legacy.bin", "layouts_zip.bin"] {
        let bytes = Bytes::from(std::fs::read(fixture("torch").join(name)).unwrap());
        for end in 0..bytes.len() {
            assert!(TorchFile::from_bytes(name, bytes.slice(..end)).is_err(), "{name} cut at {end}");
        }
    }
}
