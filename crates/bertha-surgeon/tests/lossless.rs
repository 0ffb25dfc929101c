//! A model that nobody changes is written as it was read.

mod support;

use bertha_surgeon::Model;
use bytes::Bytes;

#[test]
fn files_of_both_exporters_come_back_byte_for_byte() {
    for path in support::exported_files() {
        let bytes = std::fs::read(&path).unwrap();
        let model = Model::open(&path).unwrap();
        assert!(model.to_bytes() == bytes, "{} has changed", path.display());
    }
}

#[test]
fn unknown_fields_odd_orders_and_explicit_defaults_come_back() {
    // A model written by hand: an unknown field (number 999, text) in the model, the graph, a node, an attribute and a
    // tensor; the graph before the version; explicit empty texts; fields of one number apart from each other.
    let unknown = field(999, b"vendor");
    let attribute = [field(1, b"axis"), unknown.clone(), varint(3, 0), varint(20, 2)].concat();
    let node = [
        field(2, b"y"),
        unknown.clone(),
        field(1, b"x"),
        field(4, b"Softmax"),
        field(5, &attribute),
        field(7, b""),
    ]
    .concat();
    let second = [field(1, b"y"), field(2, b"z"), field(4, b"Odd"), field(7, b"vendor.ops")].concat();
    let tensor =
        [field(8, b"w"), varint(2, 1), varint(1, 1), field(9, &[0, 0, 128, 63]), unknown.clone()].concat();
    let value = |name: &[u8]| [field(1, name), unknown.clone()].concat();
    let graph = [
        unknown.clone(),
        field(12, &value(b"z")),
        field(1, &node),
        field(5, &tensor),
        field(1, &second),
        field(11, &value(b"x")),
        field(2, b""),
    ]
    .concat();
    let opset = [field(1, b""), varint(2, 17), unknown.clone()].concat();
    let bytes = [field(7, &graph), varint(1, 8), unknown, field(8, &opset), field(2, b"")].concat();
    let mut model = Model::from_bytes("odd.onnx", Bytes::from(bytes.clone())).unwrap();
    assert_eq!(model.to_bytes(), bytes);

    // One change moves nothing else: the rest of the file is what it was.
    model.graph.nodes[1].op_type = "Even".into();
    let changed = model.to_bytes();
    assert_eq!(changed.len(), bytes.len() + 1);
    model.graph.nodes[1].op_type = "Odd".into();
    assert_eq!(model.to_bytes(), bytes);
}

fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, u64::from(number) << 3 | 2);
    put(&mut bytes, value.len() as u64);
    bytes.extend_from_slice(value);
    bytes
}

fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, u64::from(number) << 3);
    put(&mut bytes, value);
    bytes
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[test]
fn what_changes_in_a_message_leaves_its_other_fields() {
    // A shape with a denotation and unknown fields at each level.
    let unknown = field(999, b"vendor");
    let dim = [field(2, b"n"), field(3, b"DATA_BATCH"), unknown.clone()].concat();
    let shape = [field(1, &dim), unknown.clone()].concat();
    let tensor = [varint(1, 1), field(2, &shape), unknown.clone()].concat();
    let ty = [field(1, &tensor), field(6, b"IMAGE"), unknown.clone()].concat();
    let input = [field(1, b"x"), field(2, &ty), unknown.clone()].concat();
    let entry = [field(1, b"SCALE_TENSOR"), field(2, b"x"), unknown.clone()].concat();
    let annotation = [field(1, b"x"), field(2, &entry), unknown.clone()].concat();
    let sparse =
        [field(1, &[varint(1, 0), field(8, b"s"), unknown.clone()].concat()), varint(3, 4), unknown].concat();
    let graph = |input: &[u8], annotation: &[u8]| {
        let graph = [field(11, input), field(14, annotation), field(15, &sparse)].concat();
        [varint(1, 8), field(7, &graph)].concat()
    };
    let bytes = graph(&input, &annotation);
    let mut model = Model::from_bytes("odd.onnx", Bytes::from(bytes.clone())).unwrap();
    bertha_surgeon::set_length(&mut model, "n", &bertha_surgeon::Length::Named("m".into())).unwrap();
    bertha_surgeon::rename_tensor(&mut model, bertha_surgeon::Role::Tensor, "x", "y").unwrap();
    bertha_surgeon::rename_tensor(&mut model, bertha_surgeon::Role::Tensor, "s", "t").unwrap();
    // Each changed name is one letter, so the file has its length, and differs in those letters alone.
    let after = model.to_bytes();
    assert_eq!(after.len(), bytes.len());
    let letters = |at: &usize| (bytes[*at], after[*at]);
    let changed: Vec<_> =
        (0..bytes.len()).filter(|at| bytes[*at] != after[*at]).map(|at| letters(&at)).collect();
    assert_eq!(changed, [(b'x', b'y'), (b'n', b'm'), (b'x', b'y'), (b'x', b'y'), (b's', b't')]);
}
