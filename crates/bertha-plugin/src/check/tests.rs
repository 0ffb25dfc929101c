//! What cannot be tested is an error that says why, before memory is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Options, check, time};
use crate::{
    Declaration, F64Tensor, Fields, Parallel, Plugin, PluginDef, PluginSet, Sequential, TensorView,
    TensorViewMut,
};

/// Does nothing with operands of this signature.
struct Signed(String);

impl Plugin for Signed {
    fn declaration(&self) -> Declaration {
        Declaration {
            name: "Signed".into(),
            version: 1,
            op_type: "Signed".into(),
            signature: self.0.clone(),
            ..Declaration::default()
        }
    }

    fn reference(&self, _: &Fields, _: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
        Err("the reference was reached".into())
    }

    fn run(
        &self,
        _: &Fields,
        _: &[Option<TensorView<'_>>],
        _: &mut [Option<TensorViewMut<'_>>],
        _: &mut dyn Parallel,
    ) -> Result<(), String> {
        Err("the kernel was reached".into())
    }
}

fn signed(signature: &str) -> Arc<PluginDef> {
    PluginSet::new().add(Signed(signature.into())).unwrap()
}

fn sized(sizes: &[(&str, usize)]) -> Options {
    let sizes: BTreeMap<String, usize> = sizes.iter().map(|(name, size)| ((*name).into(), *size)).collect();
    Options { sizes, ..Options::default() }
}

#[track_caller]
fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{text}` does not contain `{part}`");
    }
}

#[test]
fn operands_that_are_too_large_are_refused_by_name() {
    let rows = signed("x: f32[...rows, hidden] -> y: f32[...rows, hidden]");
    for sizes in [
        &[("rows", 1_000_000_000_000)][..],
        &[("rows", 1), ("hidden", usize::MAX)],
        &[("rows", usize::MAX), ("hidden", usize::MAX)],
    ] {
        let error = check(&rows, &sized(sizes)).unwrap_err();
        assert_contains(&error, &["operand `x` (f32[", "too large", "--size"]);
        let error = time(&rows, &sized(sizes), &mut Sequential).unwrap_err();
        assert_contains(&error, &["operand `x` (f32[", "too large", "--size"]);
    }
    let fixed = signed("scale: f32[], x: f32[9223372036854775807] -> y: f32[]");
    assert_contains(
        &check(&fixed, &Options::default()).unwrap_err(),
        &["operand `x`", "9223372036854775807"],
    );
    // Without elements it takes no memory, whatever the other sizes.
    let report = check(&rows, &sized(&[("rows", usize::MAX), ("hidden", 0)])).unwrap();
    assert_contains(&report.failures[0], &["the reference was reached"]);
}

#[test]
fn results_that_are_too_large_are_refused_by_number() {
    let outer = signed("x: f32[n] -> y: f32[n, n*n]");
    let error = check(&outer, &sized(&[("n", 1 << 16)])).unwrap_err();
    assert_contains(&error, &["result 0 (f32[65536, 4294967296])", "too large", "--size"]);
    let error = time(&outer, &sized(&[("n", 1 << 16)]), &mut Sequential).unwrap_err();
    assert_contains(&error, &["result 0", "too large"]);
}

#[test]
fn too_many_choices_of_dtypes_are_refused() {
    let with = |count: usize| {
        let operands: Vec<String> = (0..count).map(|i| format!("x{i}: T{i}[]")).collect();
        let variables: Vec<String> = (0..count).map(|i| format!("T{i} = f64 | f32 | f16 | bf16")).collect();
        signed(&format!("{} -> y: T0[]; {}", operands.join(", "), variables.join(", ")))
    };
    assert_eq!(check(&with(4), &Options::default()).unwrap().lines.len(), 256);
    for count in [5, 20, 40] {
        let error = check(&with(count), &Options::default()).unwrap_err();
        assert_contains(&error, &["dtype variables", "256"]);
        assert_contains(&time(&with(count), &Options::default(), &mut Sequential).unwrap_err(), &["256"]);
    }
}
