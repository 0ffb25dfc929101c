//! Bodies of the fuzz targets: each takes any bytes, uses everything the reader offers, and panics only if the reader
//! broke a promise. The corpus is replayed by this crate's tests.

use std::io::{Cursor, Write};

use bertha_graph::{TensorData, byte_count};
use bytes::Bytes;
use prost::Message;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::hf::{SafetensorsFile, TorchFile};
use crate::npz::{npy_from_bytes, npz_from_bytes};
use crate::onnx::proto::ModelProto;
use crate::onnx::{ImportOptions, OnnxFile, import_model};

/// Bytes that [`fuzz_torch`] puts into each storage around a bare pickle.
const STORAGE_BYTES: [u8; 64] = [7; 64];

/// A PyTorch file, or the pickle of one: bytes that start like neither container are wrapped in a zip archive with
/// storages `0` to `2` of 64 bytes each.
pub fn fuzz_torch(input: &[u8]) {
    let bytes = if input.starts_with(b"PK") || input.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc") {
        Bytes::copy_from_slice(input)
    } else {
        wrap_pickle(input)
    };
    let Ok(file) = TorchFile::from_bytes("fuzz.bin", bytes) else { return };
    for name in file.names() {
        assert!(file.contains(name));
        if let Ok(tensor) = file.tensor(name) {
            check(&tensor);
        }
    }
    assert!(file.tensor("no such tensor \0").is_err());
}

/// The zip container of PyTorch around a pickle.
#[must_use]
pub fn wrap_pickle(pickle: &[u8]) -> Bytes {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let storages =
        ["archive/data/0", "archive/data/1", "archive/data/2"].map(|name| (name, &STORAGE_BYTES[..]));
    for (name, bytes) in [("archive/data.pkl", pickle)].into_iter().chain(storages) {
        zip.start_file(name, options)
            .and_then(|()| Ok(zip.write_all(bytes)?))
            .expect("memory can be written");
    }
    Bytes::from(zip.finish().expect("memory can be written").into_inner())
}

/// A safetensors file.
pub fn fuzz_safetensors(input: &[u8]) {
    let Ok(file) = SafetensorsFile::from_bytes("fuzz.safetensors", Bytes::copy_from_slice(input)) else {
        return;
    };
    for name in file.names() {
        assert!(file.contains(name));
        if let Ok(tensor) = file.tensor(name) {
            check(&tensor);
        }
    }
}

/// An `.npz` archive, or one `.npy` array when it does not start like a zip archive.
pub fn fuzz_npz(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    if input.starts_with(b"PK") {
        let arrays = npz_from_bytes("fuzz.npz", bytes).unwrap_or_default();
        arrays.iter().for_each(|(_, array)| check(array));
    } else if let Ok(array) = npy_from_bytes("fuzz.npy", bytes) {
        check(&array);
    }
}

/// An ONNX model. What is read must also survive being written and read again.
pub fn fuzz_onnx(input: &[u8]) {
    let Ok(file) = OnnxFile::from_bytes("fuzz.onnx", Bytes::copy_from_slice(input)) else { return };
    let graph = file.graph().expect("a graph was asked for when reading");
    for tensor in
        graph.initializer.iter().chain(graph.node.iter().flat_map(|n| &n.attribute).flat_map(|a| &a.t))
    {
        if let Ok(tensor) = file.tensor(tensor) {
            check(&tensor);
        }
    }
    let written = file.model.encode_to_vec();
    let again = ModelProto::decode(written.as_slice()).expect("what was written can be read");
    // Bytes, because NaN is not equal to itself.
    assert_eq!(again.encode_to_vec(), written);
}

/// An ONNX model all the way to a graph, which the importer verifies.
pub fn fuzz_onnx_import(input: &[u8]) {
    let Ok(file) = OnnxFile::from_bytes("fuzz.onnx", Bytes::copy_from_slice(input)) else { return };
    let options = ImportOptions { companions: false, ..ImportOptions::default() };
    match import_model(&file.model, "fuzz.onnx", &options) {
        Ok(model) => {
            assert!(model.graph.outputs().len() == file.graph().map_or(0, |graph| graph.output.len()))
        }
        Err(error) => assert!(error.to_string().contains("fuzz.onnx")),
    }
}

/// Asserts what every [`TensorData`] promises.
fn check(tensor: &TensorData) {
    assert_eq!(byte_count(tensor.dtype(), tensor.shape()), Ok(tensor.bytes().len()));
    assert_eq!(tensor.to_f64().len(), tensor.len());
}
