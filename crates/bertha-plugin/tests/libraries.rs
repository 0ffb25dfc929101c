//! Libraries in C that do one thing wrong each: every one is an error that says what, and none a crash.

mod support;

use std::path::{Path, PathBuf};

use bertha_plugin::check::{Options, check};
use bertha_plugin::{LoadError, PluginSet, load};

/// The plugin of `misbehaving.c`, built with these macros.
fn build(folder: &Path, macros: &[&str]) -> Option<PathBuf> {
    let defines: Vec<String> = macros.iter().map(|name| format!("-D{name}")).collect();
    let mut arguments = vec!["-shared", "-fPIC"];
    arguments.extend(defines.iter().map(String::as_str));
    let name = format!("lib{}.so", macros.join("_").replace(|c: char| !c.is_alphanumeric(), "_"));
    // File names have an end.
    let name = if name.len() > 100 { name[name.len() - 100..].to_owned() } else { name };
    support::compile("tests/misbehaving.c", &folder.join(name), &arguments)
}

/// The error of loading the plugin built with these macros, which names the library.
fn refusal(macros: &[&str]) -> Option<LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let library = build(folder.path(), macros)?;
    let mut set = PluginSet::new();
    let error = match load(&library, &mut set) {
        Ok(_) => panic!("{macros:?} is loaded"),
        Err(error) => error,
    };
    assert!(set.is_empty());
    assert!(error.to_string().starts_with(library.to_str().unwrap()), "{error}");
    Some(error)
}

#[test]
fn libraries_that_cannot_be_used_are_refused() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["NO_SYMBOL"], &["no function `bertha_plugin_library`"]),
        (&["NO_TABLE"], &["returns no table"]),
        (&["LIBRARY={2}"], &["version 2 of the plugin interface", "this is version 1", "build it again"]),
        (&["LIBRARY={BERTHA_PLUGIN_ABI,{8}}"], &["`bertha_library` has 8 bytes"]),
        (&["LIBRARY={BERTHA_PLUGIN_ABI,BERTHA_SIZES,0,plugins}"], &["no plugins"]),
        (&["LIBRARY={BERTHA_PLUGIN_ABI,BERTHA_SIZES,3,NULL}"], &["is null"]),
        (&["LIBRARY={BERTHA_PLUGIN_ABI,BERTHA_SIZES,1u<<30,plugins}"], &["1073741824 plugins"]),
        (&["KERNEL=NULL"], &["plugin `Copy`", "no CPU kernel"]),
        (&["REFERENCE=NULL"], &["plugin `Copy`", "no reference"]),
        (&["NAME=\"\""], &["its name"]),
        (&["NAME=\"\\xff\\xfe\""], &["its name is not UTF-8"]),
        (&["SIGNATURE=\"x: f32[n] -> y: f32[m]\""], &["plugin `Copy`", "result `y`", "`m`"]),
        (&["SIGNATURE=\"x, y\""], &["no `->`"]),
        (&["FLAGS=6"], &["plugin `Copy`", "flags are 0x6"]),
        (&["FLAGS=1", "SIGNATURE=\"x: f32[n] -> y: f32[n]\""], &["plugin `Copy`", "row by row", "no run"]),
        (&["TWICE"], &["`Copy` version 3 is there twice"]),
        (&["FIELD={.value={.name=BERTHA_TEXT(\"f\"),.kind=9}}"], &["field `f`", "kind is 9"]),
        (
            &["FIELD={.value={.name=BERTHA_TEXT(\"f\"),.kind=BERTHA_INT},.min=2,.max=1}"],
            &["field `f`", "bounds"],
        ),
        (
            &["FIELD={.value={.name=BERTHA_TEXT(\"f\"),.kind=BERTHA_FLOAT,.number=3},.has_default=1,.max=1}"],
            &["default of field `f` is 3.0", "0.0 to 1.0"],
        ),
        (
            &["FIELD={.value={.name=BERTHA_TEXT(\"f\"),.kind=BERTHA_INTS,.count=4},.has_default=1}"],
            &["field `f`", "null", "4"],
        ),
        (
            &["FIELD={.value={.name={NULL,5},.kind=BERTHA_INT}}"],
            &["name of a field is null with a length of 5"],
        ),
    ];
    for (macros, parts) in cases {
        let Some(error) = refusal(macros) else { return };
        let error = error.to_string();
        for part in *parts {
            assert!(error.contains(part), "{macros:?}: {error}");
        }
    }
}

#[test]
fn files_that_are_no_libraries_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libtext.so");
    let error = load(&path, &mut PluginSet::new()).unwrap_err();
    assert!(matches!(error, LoadError::Read { .. }), "{error}");
    std::fs::write(&path, "no library").unwrap();
    let error = load(&path, &mut PluginSet::new()).unwrap_err();
    assert!(matches!(error, LoadError::Open { .. }) && error.to_string().contains("libtext.so"), "{error}");
}

/// What the test of the plugin built with these macros finds.
fn findings(macros: &[&str]) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let library = build(folder.path(), macros)?;
    let defs = load(library, &mut PluginSet::new()).unwrap_or_else(|error| panic!("{macros:?}: {error}"));
    Some(check(&defs[0], &Options::default()).unwrap().failures)
}

#[test]
fn a_plugin_without_faults_passes() {
    let Some(failures) = findings(&[]) else { return };
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn every_fault_of_a_kernel_is_found() {
    for (name, parts) in [
        ("REFERENCE_FAILS", &["plugin `Copy`: x has", "no good"][..]),
        ("REFERENCE_FAILS_SILENTLY", &["failed with code -7, without a message"]),
        ("REFERENCE_SETS_NOTHING", &["gives 0 results, but its signature has 1"]),
        ("REFERENCE_TOO_LARGE", &["too large to hold"]),
        ("REFERENCE_NULL_SHAPE", &["shape of its result 0 is null"]),
        ("REFERENCE_FAR_RESULT", &["it sets a result"]),
        ("REFERENCE_OTHER_SHAPE", &["result 0 (`y`) must be", "its reference says"]),
        ("REFERENCE_TWICE", &["sets result 0 twice"]),
        ("SHAPES_LIE", &["result 0 (`y`) must be", "its shape rule says"]),
        ("SHAPES_REFUSE", &["the shape rule refused every case"]),
        ("KERNEL_FAILS", &["plugin `Copy`: it is too late"]),
        ("KERNEL_WRITES_BEHIND", &["the kernel writes 0 bytes behind the end of result 0"]),
        ("KERNEL_WRITES_BEFORE", &["bytes before the start of result 0"]),
        ("KERNEL_WRITES_OPERAND", &["the kernel changes its operand 0"]),
        ("KERNEL_SKIPS_LAST", &["is not written, or depends on what was there before"]),
        ("KERNEL_COUNTS_THREADS", &["depends on the number of threads"]),
        ("KERNEL_SUMS_ROWS", &["row 1", "on its own"]),
        ("KERNEL_WRONG", &["result 0 (f32[", "differs from the reference"]),
        ("KERNEL_NAN", &["is NaN, the reference"]),
    ] {
        let signature = "SIGNATURE=\"x: f32[...rows, b] -> y: f32[...rows, b]\"";
        let Some(failures) = findings(&[name, "FLAGS=1", signature]) else { return };
        assert_eq!(failures.len(), 1, "{name}: {failures:?}");
        for part in parts {
            assert!(failures[0].contains(part), "{name}: {}", failures[0]);
        }
    }
}

/// The layer norms of plugins/layernorm-c, built as their first lines say.
#[test]
fn layer_norms_in_c_pass() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["-shared", "-fPIC", "-O2", "-march=native"];
    let source = "../../plugins/layernorm-c/layer_norm.c";
    let Some(library) = support::compile(source, &folder.path().join("liblayernorm_c.so"), &arguments) else {
        return;
    };
    let defs = load(library, &mut PluginSet::new()).unwrap();
    let names: Vec<&str> = defs.iter().map(|def| def.name()).collect();
    assert_eq!(names, ["CLayerNorm", "CLayerNormBasic", "CLayerNormFused"]);
    for def in &defs {
        let report = check(def, &Options::default()).unwrap();
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        assert_eq!(report.lines.len(), 2, "f32 and f16");
        assert!(report.lines.iter().all(|line| line.cases == 24));
    }
}
