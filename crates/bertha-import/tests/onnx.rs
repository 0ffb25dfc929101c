//! ONNX files. The fixtures are made by the `onnx` Python package (`fixtures/onnx/make.py`).

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use bertha_graph::{DType, TensorData};
use bertha_import::ImportError;
use bertha_import::onnx::proto::{
    AttributeProto, DataLocation, DataType, GraphProto, ModelProto, NodeProto, StringStringEntryProto,
    TensorProto,
};
use bertha_import::onnx::{ExternalData, ExternalFiles, OnnxFile, tensor_proto, write_onnx};
use bertha_import::testing::fuzz_onnx;
use bytes::Bytes;
use common::{all_dtypes, assert_tensor, damage, fixture, ramp};
use prost::Message;

fn open(name: &str) -> OnnxFile {
    OnnxFile::open(fixture("onnx").join(name)).unwrap()
}

/// The initializers of a file by name.
fn initializers(file: &OnnxFile) -> HashMap<String, TensorData> {
    let graph = file.graph().unwrap();
    graph.initializer.iter().map(|tensor| (tensor.name.clone(), file.tensor(tensor).unwrap())).collect()
}

fn model(initializer: Vec<TensorProto>) -> ModelProto {
    let graph = GraphProto { name: "g".into(), initializer, ..GraphProto::default() };
    ModelProto { ir_version: 8, graph: Some(graph), ..ModelProto::default() }
}

fn nowhere() -> ExternalFiles {
    ExternalFiles::none(Path::new("m.onnx"))
}

#[test]
fn every_element_type_is_read_from_raw_and_typed_data() {
    let file = open("dtypes.onnx");
    let tensors = initializers(&file);
    for (name, dtype) in [
        ("DOUBLE", DType::F64),
        ("FLOAT", DType::F32),
        ("FLOAT16", DType::F16),
        ("BFLOAT16", DType::BF16),
        ("INT64", DType::I64),
        ("INT32", DType::I32),
        ("INT16", DType::I16),
        ("INT8", DType::I8),
        ("UINT64", DType::U64),
        ("UINT32", DType::U32),
        ("UINT16", DType::U16),
        ("UINT8", DType::U8),
        ("BOOL", DType::Bool),
    ] {
        let expected = if dtype == DType::Bool { vec![0., 1., 1., 1., 1., 1.] } else { ramp(6) };
        assert_tensor(&tensors[&format!("raw_{name}")], dtype, &[2, 3], &expected);
        assert_tensor(&tensors[&format!("typed_{name}")], dtype, &[2, 3], &expected);
    }
    assert_tensor(&tensors["negative_INT8"], DType::I8, &[2], &[-1., -128.]);
    assert_tensor(&tensors["scalar"], DType::F32, &[], &[2.5]);
    assert_tensor(&tensors["empty"], DType::F32, &[0, 3], &[]);
}

#[test]
fn element_types_without_a_tensor_type_are_named() {
    let file = open("unsupported.onnx");
    for (tensor, kind) in
        file.graph().unwrap().initializer.iter().zip(["STRING", "INT4", "FLOAT8E4M3FN", "COMPLEX64"])
    {
        let error = file.tensor(tensor).unwrap_err().to_string();
        let expected = format!("tensor `{}` with elements of type {kind} is not supported", tensor.name);
        assert!(error.contains(&expected) && error.contains("unsupported.onnx"), "{error}");
    }
}

#[test]
fn every_message_of_the_schema_survives() {
    // The fixture uses every field of every message; dropping or moving one would change the bytes.
    let path = fixture("onnx/everything.onnx");
    let stored = fs::read(&path).unwrap();
    let file = OnnxFile::open(&path).unwrap();
    assert!(file.model.encode_to_vec() == stored, "the file changes when it is written back");
}

#[test]
fn external_data_are_found_and_taken_along() {
    let file = open("external.onnx");
    let tensors = initializers(&file);
    assert_tensor(&tensors["a"], DType::F32, &[2, 3], &ramp(6));
    assert_tensor(&tensors["b"], DType::I64, &[4], &ramp(4));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inline.onnx");
    write_onnx(&file.model, &file.externals, &path, ExternalData::WhenNeeded).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let inline = OnnxFile::open(&path).unwrap();
    assert_eq!(initializers(&inline), tensors);
    // Everything but the storage is as it was.
    assert_eq!(inline.graph().unwrap().node, file.graph().unwrap().node);
    assert_eq!(inline.model.opset_import, file.model.opset_import);
}

#[test]
fn tensors_are_moved_out_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let mut tensors = all_dtypes();
    let large = TensorData::from_vec(vec![512, 1024], vec![0.5f32; 512 * 1024]).unwrap();
    tensors.push(("large".into(), large.clone()));
    tensors.push(("larger".into(), large));
    tensors.push(("empty".into(), TensorData::from_vec::<f32>(vec![0], vec![]).unwrap()));
    let mut protos: Vec<_> = tensors.iter().map(|(name, tensor)| tensor_proto(name, tensor)).collect();
    protos.push(TensorProto {
        name: "typed".into(),
        dims: vec![16],
        data_type: DataType::Float as i32,
        float_data: vec![1.5; 16],
        ..TensorProto::default()
    });
    tensors.push(("typed".into(), TensorData::vector(vec![1.5f32; 16])));
    let expected: HashMap<_, _> = tensors.into_iter().collect();
    let source = model(protos);

    write_onnx(&source, &nowhere(), &path, ExternalData::AtLeast(20)).unwrap();
    let file = OnnxFile::open(&path).unwrap();
    assert_eq!(initializers(&file), expected);
    for tensor in &file.graph().unwrap().initializer {
        let external = tensor.data_location == DataLocation::External as i32;
        assert_eq!(external, expected[&tensor.name].bytes().len() >= 20, "{}", tensor.name);
        assert!(!external || tensor.raw_data.is_empty() && tensor.float_data.is_empty());
        let offset = tensor.external_data.iter().find(|entry| entry.key == "offset");
        let offset: usize = offset.map_or(0, |entry| entry.value.parse().unwrap());
        assert_eq!(offset % 64, 0);
        assert!(!tensor.name.starts_with("large") || offset.is_multiple_of(65536));
    }
    // Written over itself, and back inside, while the old files are mapped.
    write_onnx(&file.model, &file.externals, &path, ExternalData::AtLeast(0)).unwrap();
    let again = OnnxFile::open(&path).unwrap();
    assert_eq!(initializers(&again), expected);
    assert_eq!(initializers(&file), expected);
    write_onnx(&again.model, &again.externals, &path, ExternalData::WhenNeeded).unwrap();
    fs::remove_file(folder.path().join("m.onnx.data")).unwrap();
    assert_eq!(initializers(&OnnxFile::open(&path).unwrap()), expected);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn tensors_in_inner_graphs_and_attributes_are_found() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("w"), [7u8; 8]).unwrap();
    let tensor = |name: &str| external_tensor(name, &[("location", "w")]);
    let inner = GraphProto { initializer: vec![tensor("inner")], ..GraphProto::default() };
    let attribute =
        AttributeProto { t: Some(tensor("constant")), g: Some(Box::new(inner)), ..Default::default() };
    let node = NodeProto { attribute: vec![attribute], ..NodeProto::default() };
    let mut source = model(vec![]);
    source.graph.as_mut().unwrap().node.push(node);
    let beside = ExternalFiles::beside(&folder.path().join("m.onnx"));
    let path = folder.path().join("out.onnx");
    write_onnx(&source, &beside, &path, ExternalData::AtLeast(1)).unwrap();

    let file = OnnxFile::open(&path).unwrap();
    let attribute = &file.graph().unwrap().node[0].attribute[0];
    let constant = attribute.t.as_ref().unwrap();
    assert_eq!(constant.raw_data.as_ref(), [7u8; 8], "constants of nodes are kept in the model");
    let inner = &attribute.g.as_ref().unwrap().initializer[0];
    assert_eq!(inner.data_location, DataLocation::External as i32);
    assert_eq!(file.tensor(inner).unwrap().bytes().as_ref(), [7u8; 8]);
}

/// Two floats in an external file.
fn external_tensor(name: &str, entries: &[(&str, &str)]) -> TensorProto {
    let entry =
        |&(key, value): &(&str, &str)| StringStringEntryProto { key: key.into(), value: value.into() };
    TensorProto {
        name: name.into(),
        dims: vec![2],
        data_type: DataType::Float as i32,
        data_location: DataLocation::External as i32,
        external_data: entries.iter().map(entry).collect(),
        ..TensorProto::default()
    }
}

#[test]
fn external_ranges_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("w"), [0u8; 24]).unwrap();
    let files = ExternalFiles::beside(&folder.path().join("m.onnx"));
    let read = |entries: &[(&str, &str)]| files.tensor(&external_tensor("t", entries));
    assert!(read(&[("location", "w")]).is_ok());
    assert!(read(&[("location", "./w"), ("offset", "16"), ("length", "8"), ("checksum", "x")]).is_ok());
    for (offset, length, part) in [
        ("17", "8", "reach past the end"),
        ("24", "8", "reach past the end"),
        ("18446744073709551615", "8", "reach past the end"),
        ("18446744073709551616", "8", "the offset `18446744073709551616`"),
        ("-8", "8", "the offset `-8`"),
        ("0", "7", "takes 8 bytes but its external data have length 7"),
        ("0", "x\ny", "the length `x\\ny`"),
    ] {
        let error =
            read(&[("location", "w"), ("offset", offset), ("length", length)]).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("tensor `t`"), "{error}");
    }
    let missing = read(&[("location", "none")]).unwrap_err();
    assert!(matches!(&missing, ImportError::Io { path, .. } if path.ends_with("none")), "{missing}");
    let mut twice = external_tensor("t", &[("location", "w")]);
    twice.raw_data = Bytes::from_static(&[0; 8]);
    assert!(
        files.tensor(&twice).unwrap_err().to_string().contains("both in the model and in an external file")
    );
    let unsaved = nowhere().tensor(&external_tensor("t", &[("location", "w")])).unwrap_err().to_string();
    assert!(unsaved.contains("not a file itself"), "{unsaved}");
}

/// A model folder, and beside it a file that is none of its business.
fn folder_with_secret() -> (tempfile::TempDir, PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(outer.path().join("secret"), [0u8; 8]).unwrap();
    fs::write(folder.join("sub/w"), [0u8; 8]).unwrap();
    (outer, folder)
}

#[test]
fn external_data_stay_in_the_models_folder() {
    let (outer, folder) = folder_with_secret();
    let files = ExternalFiles::beside(&folder.join("m.onnx"));
    let read = |location: &str| files.tensor(&external_tensor("t", &[("location", location)]));
    assert!(read("sub/w").is_ok());
    let absolute = outer.path().join("secret").display().to_string();
    for location in ["../secret", "sub/../../secret", "sub/../sub/w", "", "/etc/passwd", &absolute] {
        let error = read(location).unwrap_err();
        assert!(
            matches!(&error, ImportError::UnsafeLocation { owner, .. } if owner == "tensor `t`"),
            "{location}: {error}"
        );
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_inside_and_refused_outside() {
    use std::os::unix::fs::symlink;

    let (outer, folder) = folder_with_secret();
    symlink(outer.path().join("secret"), folder.join("leak")).unwrap();
    symlink("..", folder.join("up")).unwrap();
    symlink("sub/w", folder.join("alias")).unwrap();
    let files = ExternalFiles::beside(&folder.join("m.onnx"));
    let read = |location: &str| files.tensor(&external_tensor("t", &[("location", location)]));
    assert!(read("alias").is_ok());
    for location in ["leak", "up/secret"] {
        let error = read(location).unwrap_err();
        assert!(matches!(&error, ImportError::UnsafeLocation { .. }), "{location}: {error}");
    }

    // A download cache: both the model and its data are links into one folder of blobs.
    let blobs = outer.path().join("blobs");
    fs::create_dir(&blobs).unwrap();
    fs::write(blobs.join("m1"), "").unwrap();
    fs::write(blobs.join("w1"), [0u8; 8]).unwrap();
    symlink(blobs.join("m1"), folder.join("cached.onnx")).unwrap();
    symlink(blobs.join("w1"), folder.join("cached.data")).unwrap();
    let cached = ExternalFiles::beside(&folder.join("cached.onnx"));
    assert!(cached.tensor(&external_tensor("t", &[("location", "cached.data")])).is_ok());
    assert!(cached.tensor(&external_tensor("t", &[("location", "leak")])).is_err());
}

#[test]
fn data_that_do_not_fit_the_shape_are_named() {
    let float = |dims: &[i64]| TensorProto {
        name: "w".into(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        ..TensorProto::default()
    };
    let ints = |data_type: DataType, values: &[i32]| TensorProto {
        data_type: data_type as i32,
        int32_data: values.to_vec(),
        ..float(&[values.len() as i64])
    };
    let raw = Bytes::from_static(&[0; 8]);
    for (tensor, part) in [
        (TensorProto { raw_data: raw.clone(), ..float(&[3]) }, "takes 12 bytes but raw_data has 8"),
        (TensorProto { raw_data: raw.clone(), ..float(&[-2]) }, "negative dimension"),
        (TensorProto { raw_data: raw.clone(), ..float(&[i64::MAX, i64::MAX]) }, "larger than memory"),
        (TensorProto { raw_data: raw.clone(), float_data: vec![0.; 2], ..float(&[2]) }, "stored twice"),
        (TensorProto { float_data: vec![0.; 3], ..float(&[2]) }, "has 2 elements but float_data has 3"),
        (float(&[2]), "has 2 elements but float_data has 0"),
        (float(&[]), "has 1 elements but float_data has 0"),
        (TensorProto { double_data: vec![0.; 2], ..float(&[2]) }, "not in the field float_data"),
        (TensorProto { float_data: vec![0.], ..float(&[0]) }, "has 0 elements but float_data has 1"),
        (ints(DataType::Int8, &[127, 128]), "element 1 is 128, not a i8"),
        (ints(DataType::Uint8, &[-1]), "element 0 is -1, not a u8"),
        (ints(DataType::Float16, &[65536]), "element 0 is 65536, not a f16"),
        (ints(DataType::Bool, &[2]), "element 0 is 2, not a bool"),
    ] {
        let error = nowhere().tensor(&tensor).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("tensor `w`") && error.contains("m.onnx"), "{error}");
    }
    let unknown = TensorProto { data_type: 99, ..float(&[1]) };
    assert!(nowhere().tensor(&unknown).unwrap_err().to_string().contains("unknown type number 99"));
}

#[test]
fn foreign_files_are_told_apart() {
    for (bytes, part) in [
        (&b""[..], "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"{\"a\": 1}", "JSON"),
        (b"PK\x03\x04...", "zip archive"),
        (b"\xff\xff\xff\xff", "damaged or of another format"),
        (b"\x08\x08", "no graph"),
        (b"\x3a\x00", "IR version 0"),
    ] {
        let error = OnnxFile::from_bytes("m.onnx", Bytes::from_static(bytes)).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("m.onnx"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = OnnxFile::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("it is a folder"), "{error}");
}

#[test]
fn endless_nesting_is_refused() {
    // A graph in an attribute of a node of a graph in ..., written from the inside out.
    let mut graph = GraphProto::default().encode_to_vec();
    for _ in 0..1000 {
        for tag in [0x32u8, 0x2a, 0x0a] {
            let mut outer = vec![tag];
            prost::encode_length_delimiter(graph.len(), &mut outer).unwrap();
            outer.extend(&graph);
            graph = outer;
        }
    }
    let mut model = vec![0x08, 0x08, 0x3a];
    prost::encode_length_delimiter(graph.len(), &mut model).unwrap();
    model.extend(graph);
    let error = OnnxFile::from_bytes("m.onnx", Bytes::from(model)).unwrap_err().to_string();
    assert!(error.contains("nested over 96 deep"), "{error}");
}

#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    // Four million empty attributes of one node: 8 MB, which would become 4 GB.
    let attributes = [0x2a, 0].repeat(4 << 20);
    let nest = |tag: u8, inner: Vec<u8>| {
        let mut outer = vec![tag];
        prost::encode_length_delimiter(inner.len(), &mut outer).unwrap();
        outer.extend(inner);
        outer
    };
    let model = [vec![0x08, 0x08], nest(0x3a, nest(0x0a, attributes))].concat();
    let error = OnnxFile::from_bytes("m.onnx", Bytes::from(model)).unwrap_err().to_string();
    assert!(error.contains("so many small parts"), "{error}");
}

#[test]
fn damaged_files_never_panic() {
    for name in ["dtypes.onnx", "everything.onnx"] {
        damage(&fs::read(fixture("onnx").join(name)).unwrap(), |bytes| fuzz_onnx(&bytes));
    }
}

#[test]
fn exported_encoders_survive() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/onnx");
    if !folder.is_dir() {
        println!("skipped: no exported models at {}", folder.display());
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let written = scratch.path().join("written.onnx");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = OnnxFile::open(&path).unwrap();
        write_onnx(&file.model, &file.externals, &written, ExternalData::AtLeast(64)).unwrap();
        let moved = OnnxFile::open(&written).unwrap();
        assert_eq!(initializers(&moved), initializers(&file), "{}", path.display());
        write_onnx(&moved.model, &moved.externals, &written, ExternalData::WhenNeeded).unwrap();
        let back = OnnxFile::open(&written).unwrap();
        assert_eq!(initializers(&back), initializers(&file), "{}", path.display());
        assert_eq!(back.graph().unwrap().node, file.graph().unwrap().node, "{}", path.display());
    }
}
