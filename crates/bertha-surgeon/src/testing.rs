//! Bodies of the fuzz targets: each takes any bytes, uses everything, and panics only if a promise was broken. The corpus is
//! replayed by this crate's tests.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::uses::captures;
use crate::{
    FoldOptions, Function, Length, Model, Replacement, Role, Selection, clean, extract, find_pattern, fold,
    list, parse_literal, parse_patterns, remove, rename_node, rename_tensor, replace, rewrite, set_length,
    set_shapes, summary,
};

/// Patterns that between them use the whole language.
const PATTERNS: &str = "
pattern square: y = Mul(x, x) replace y = vendor::Square(x)
pattern sum: y = Add(a, b) where a: constant; b: not constant, rank 2 replace y = vendor::Sum@3(b) { a = tensor(a) }
pattern any: y = _(x, ...) where x: shared
pattern chain: y = _(_(x)) where x: scalar, float32
pattern forward: y = Identity(x) replace y = x
pattern split: a, b = Split(x, axis=k) where k >= 0 replace b, a = Split(x) { axis = k }
pattern mean: y = ReduceMean(x, axes=n, keepdims=1) | Softmax(x, axis=-1) where x: shape [_, 2]
";

/// Tensors that are read, or given back, although nothing defines them.
fn undefined(model: &Model) -> BTreeSet<String> {
    let bodies = model.functions.iter().map(Function::body).collect::<Vec<_>>();
    let graphs = std::iter::once(&model.graph).chain(&bodies);
    graphs.flat_map(captures).map(str::to_owned).collect()
}

/// No tensor that is read has become undefined.
fn assert_nothing_lost(before: &BTreeSet<String>, model: &Model) {
    let after = undefined(model);
    let lost: Vec<_> = after.difference(before).collect();
    assert!(lost.is_empty(), "{lost:?} are read, but nothing defines them any more");
}

/// An ONNX file.
pub fn fuzz_surgery(input: &[u8]) {
    let open = || Model::from_bytes("fuzz.onnx", Bytes::copy_from_slice(input));
    let Ok(model) = open() else { return };
    // Once written, a model is written the same way ever after.
    let bytes = model.to_bytes();
    assert_eq!(bytes.len() as u64, model.encoded_len());
    let again = Model::from_bytes("fuzz.onnx", bytes.clone()).expect("what was written can be read");
    assert_eq!(again.to_bytes(), bytes);
    let _ = (summary(&model), list(&model, &Selection::default()));

    // What an operation leaves can be written and read, whether it worked or not, and reads nothing that is gone.
    let check = |operation: &dyn Fn(&mut Model)| {
        let Ok(mut model) = open() else { return };
        let before = undefined(&model);
        operation(&mut model);
        assert_nothing_lost(&before, &model);
        Model::from_bytes("fuzz.onnx", model.to_bytes()).expect("what is left can be read");
    };
    let tensors: Vec<String> =
        model.graph.nodes.iter().flat_map(|node| node.outputs.clone()).take(3).collect();
    let all = Selection { pattern: regex::Regex::new("").ok(), ..Selection::default() };
    check(&|model| drop(clean(model)));
    let options = FoldOptions { max_bytes: 1 << 10, max_total_bytes: 1 << 12, max_elements: 1 << 8 };
    check(&|model| drop(fold(model, &options)));
    check(&|model| drop(extract(model, &[], &tensors)));
    check(&|model| drop(extract(model, &tensors, &[])));
    check(&|model| drop(remove(model, &all, 0)));
    check(&|model| {
        let clear_attributes = true;
        drop(replace(
            model,
            &all,
            &Replacement { op_type: Some("Other".into()), clear_attributes, ..Default::default() },
        ));
    });
    check(&|model| {
        for (at, tensor) in tensors.iter().enumerate() {
            let _ = rename_tensor(model, Role::Tensor, tensor, &format!("fuzz {at}"));
            let _ = rename_node(model, tensor, "fuzz");
        }
    });
    check(&|model| {
        let shapes =
            model.graph.inputs.iter().map(|value| (value.name().to_owned(), vec![Length::Fixed(2); 2]));
        let shapes: Vec<_> = shapes.collect();
        let _ = set_shapes(model, &shapes);
        let _ = set_length(model, "n", &Length::Unknown);
    });
    check(&|model| {
        for pattern in parse_patterns("fuzz", PATTERNS).expect("the patterns are right") {
            let _ = find_pattern(model, &pattern);
            if pattern.replaces() {
                let _ = rewrite(model, &pattern);
            }
        }
    });
}

/// The text of patterns, tried on `model`.
pub fn fuzz_pattern(text: &[u8], model: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let _ = parse_literal("fuzz", text);
    match parse_patterns("fuzz", text) {
        Err(error) => {
            assert!(error.line >= 1 && error.column >= 1 && !error.message.is_empty());
            let _ = error.to_string();
        }
        Ok(patterns) => {
            for pattern in patterns {
                let mut model =
                    Model::from_bytes("fuzz.onnx", Bytes::copy_from_slice(model)).expect("a model");
                let found = find_pattern(&model, &pattern);
                let before = model.to_bytes();
                if pattern.replaces() {
                    let undefined = undefined(&model);
                    let done = rewrite(&mut model, &pattern);
                    assert!(
                        done.is_ok() || model.to_bytes() == before,
                        "a rewrite that failed has changed the model"
                    );
                    assert!(done.is_err() || found.is_ok());
                    assert_nothing_lost(&undefined, &model);
                    Model::from_bytes("fuzz.onnx", model.to_bytes()).expect("what is left can be read");
                }
            }
        }
    }
}
