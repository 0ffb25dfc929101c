//! NumPy files. The fixtures are made by NumPy itself (`fixtures/npz/make.py`).

mod common;

use std::collections::HashMap;

use bertha_graph::{DType, TensorData};
use bertha_import::ImportError;
use bertha_import::npz::{npz_from_bytes, read_npy, read_npz, write_npy, write_npz};
use bertha_import::testing::fuzz_npz;
use bytes::Bytes;
use common::{all_dtypes, assert_tensor, damage, fixture, ramp};

const TYPES: [(&str, DType); 12] = [
    ("f8", DType::F64),
    ("f4", DType::F32),
    ("f2", DType::F16),
    ("i8", DType::I64),
    ("i4", DType::I32),
    ("i2", DType::I16),
    ("i1", DType::I8),
    ("u8", DType::U64),
    ("u4", DType::U32),
    ("u2", DType::U16),
    ("u1", DType::U8),
    ("b1", DType::Bool),
];

#[test]
fn every_type_order_and_layout_is_read() {
    for container in ["stored.npz", "deflated.npz"] {
        let arrays = read_npz(fixture("npz").join(container)).unwrap();
        assert_eq!(arrays.first().map(|(name, _)| name.as_str()), Some("little_f8"));
        assert_eq!(arrays.last().map(|(name, _)| name.as_str()), Some("folder/inner"));
        let arrays: HashMap<_, _> = arrays.into_iter().collect();
        for (kind, dtype) in TYPES {
            let expected = match dtype {
                DType::Bool => vec![0., 1., 1., 1., 1., 1.],
                _ => ramp(6),
            };
            for order in ["little", "big"] {
                for layout in ["", "_fortran"] {
                    if order == "big" && dtype.size() == 1 {
                        continue;
                    }
                    assert_tensor(&arrays[&format!("{order}_{kind}{layout}")], dtype, &[2, 3], &expected);
                }
            }
        }
        assert_tensor(&arrays["deep_fortran"], DType::I32, &[2, 3, 4], &ramp(24));
        assert_tensor(&arrays["scalar"], DType::F32, &[], &[2.5]);
        assert_tensor(&arrays["empty"], DType::F32, &[0, 3], &[]);
        assert_tensor(&arrays["folder/inner"], DType::F32, &[3], &ramp(3));
    }
}

#[test]
fn every_header_version_is_read() {
    for version in 1..=3 {
        let array = read_npy(fixture("npz").join(format!("version{version}.npy"))).unwrap();
        assert_tensor(&array, DType::F32, &[2, 3], &ramp(6));
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    for (name, part) in [
        ("complex.npy", "`<c8` are not supported"),
        ("text.npy", "`<U2` are not supported"),
        ("object.npy", "`|O` are not supported"),
        ("record.npy", "record types"),
    ] {
        let error = read_npy(fixture("npz").join(name)).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(name), "{error}");
    }
    let error = read_npz(fixture("npz/stray.npz")).unwrap_err().to_string();
    assert!(error.contains("`readme.txt` is not an array"), "{error}");
    let error = read_npz(fixture("npz/no_such.npz")).unwrap_err();
    assert!(matches!(error, ImportError::Io { .. }));
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut arrays = all_dtypes();
    let large = TensorData::from_vec(vec![3, 1000], (0..3000).map(|v| v as f32).collect()).unwrap();
    arrays.push(("weights/large".into(), large));
    arrays.push(("scalar".into(), TensorData::scalar(7i64)));
    arrays.push(("empty".into(), TensorData::from_vec::<f32>(vec![2, 0], vec![]).unwrap()));
    let path = folder.path().join("all.npz");
    write_npz(&path, arrays.iter().map(|(name, array)| (name.as_str(), array))).unwrap();
    let first = std::fs::read(&path).unwrap();
    write_npz(&path, arrays.iter().map(|(name, array)| (name.as_str(), array))).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first, "the same arrays give the same bytes");

    let back = read_npz(&path).unwrap();
    assert_eq!(back.len(), arrays.len());
    for ((name, array), (back_name, mut read)) in arrays.iter().zip(back) {
        assert_eq!(*name, back_name);
        if array.dtype() == DType::BF16 {
            // The documented detour by uint16.
            assert_eq!(read.dtype(), DType::U16);
            read = TensorData::from_bytes(DType::BF16, read.shape().to_vec(), read.bytes().clone()).unwrap();
        }
        assert_eq!(*array, read);

        let single = folder.path().join("one.npy");
        write_npy(&single, array).unwrap();
        assert_eq!(read_npy(&single).unwrap().bytes(), array.bytes());
    }

    // Nothing but the two files is left, and they have the permissions of any new file.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let permissions = |path| std::fs::metadata(path).unwrap().permissions();
    assert_eq!(permissions(&path), permissions(&plain));

    let twice = write_npz(&path, arrays.iter().chain(&arrays).map(|(name, array)| (name.as_str(), array)));
    assert!(twice.unwrap_err().to_string().contains("taken already"));
    assert_eq!(std::fs::read(&path).unwrap(), first, "a failed write leaves the old file");
}

#[test]
#[ignore = "writes files for `fixtures/npz/make.py check DIR`"]
fn write_for_numpy() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let arrays = all_dtypes();
    write_npz(folder.join("all.npz"), arrays.iter().map(|(name, array)| (name.as_str(), array))).unwrap();
    write_npy(folder.join("one.npy"), &arrays[1].1).unwrap();
    println!("{}", folder.display());
}

#[test]
fn stored_arrays_share_the_file_and_are_aligned_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    let array = TensorData::vector(vec![1.0f64; 9]);
    write_npz(&path, [("first", &array), ("second name", &array)]).unwrap();
    let file = std::fs::read(&path).unwrap();
    let bytes = Bytes::from(file);
    let start = bytes.as_ptr() as usize;
    for (name, read) in npz_from_bytes("a.npz", bytes.clone()).unwrap() {
        let offset =
            (read.bytes().as_ptr() as usize).checked_sub(start).filter(|offset| *offset < bytes.len());
        assert!(offset.is_some_and(|offset| offset % 64 == 0), "{name} at {offset:?}");
    }
}

#[test]
fn a_changed_byte_of_data_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    write_npz(&path, [("a", &TensorData::vector(vec![1.5f32; 100]))]).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    assert!(npz_from_bytes("a.npz", Bytes::from(bytes)).is_err());
}

#[test]
fn damaged_files_never_panic() {
    for version in 1..=3 {
        let path = fixture("npz").join(format!("version{version}.npy"));
        damage(&std::fs::read(path).unwrap(), |bytes| fuzz_npz(&bytes));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    write_npz(&path, [("a", &TensorData::vector(vec![1u8])), ("b", &TensorData::scalar(1i8))]).unwrap();
    damage(&std::fs::read(path).unwrap(), |bytes| fuzz_npz(&bytes));
}
