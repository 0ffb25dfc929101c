//! The three stages against their reference, in this program and from the shared library.

use std::sync::Arc;

use bertha_layernorm::{LayerNorm, LayerNormBasic, LayerNormFused};
use bertha_plugin::check::{Options, check};
use bertha_plugin::{Field, PluginDef, PluginSet, load};

fn passes(def: &Arc<PluginDef>, options: &Options) {
    let report = check(def, options).unwrap();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(report.lines.len(), 2, "f32 and f16");
    assert!(report.lines.iter().all(|line| line.cases == options.rounds && line.worst.relative > 0.0));
}

#[test]
fn every_stage_is_a_layer_norm() {
    let mut set = PluginSet::new();
    let stages =
        [set.add(LayerNormBasic).unwrap(), set.add(LayerNormFused).unwrap(), set.add(LayerNorm).unwrap()];
    for stage in &stages {
        passes(stage, &Options { rounds: 60, seed: 7, ..Options::default() });
        // The epsilon of BERT, and the width of its rows.
        let fields = [("epsilon".to_owned(), Field::Float(1e-12))].into();
        let sizes = [("hidden".to_owned(), 768)].into();
        passes(stage, &Options { rounds: 10, fields, sizes, ..Options::default() });
    }
}

#[test]
fn the_library_exports_all_three() {
    let name = format!("{}bertha_layernorm{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let path = std::env::current_exe().unwrap().parent().unwrap().join(name);
    let mut set = PluginSet::new();
    let defs = load(&path, &mut set).unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<&str> = defs.iter().map(|def| def.name()).collect();
    assert_eq!(names, ["LayerNorm", "LayerNormBasic", "LayerNormFused"]);
    defs.iter().for_each(|def| passes(def, &Options::default()));
    // Again: nothing changes.
    load(&path, &mut set).unwrap();
    assert_eq!(set.len(), 3);
    let own = set.add(LayerNorm).map(drop).unwrap_err().to_string();
    assert!(own.contains("there twice") && own.contains("this program"), "{own}");
}

#[test]
fn what_the_optimised_stage_says_of_cuda_fits_its_source() {
    let mut set = PluginSet::new();
    let def = set.add(LayerNorm).unwrap();
    let cuda = def.cuda().unwrap();
    for dtype in ["f32", "f16"] {
        let entry = cuda.entry.replace("{T}", dtype);
        assert!(cuda.source.contains(&format!("extern \"C\" __global__ void {entry}(")), "{entry}");
    }
    assert!(!cuda.source.contains("#include"));
    assert!(def.signature().names().iter().any(|name| **name == *cuda.items));
}
