//! Engine files answer as the engine that wrote them, here and on machines with other instruction sets.

mod support;

use bertha::isa::{Isa, Tier};
use bertha::{Engine, Options, Precision, import};
use support::*;

fn answers(engine: &Engine) -> Named {
    run_ragged(&mut engine.session(2).unwrap(), &batch(engine, &SENTENCES), &[]).unwrap()
}

#[test]
fn a_file_answers_as_the_engine_that_wrote_it() {
    let work = tempfile::tempdir().unwrap();
    for name in all_fixtures() {
        let built = engine(&name);
        let path = work.path().join(format!("{name}.bertha"));
        built.save(&path).unwrap();
        let mapped = Engine::open(&path).unwrap();
        assert_eq!(mapped.notices(), [""; 0], "{name}");
        assert_eq!(mapped.info(), built.info(), "{name}");
        assert_eq!(mapped.graph().to_text(), built.graph().to_text(), "{name}");
        let embedded = Engine::from_bytes(std::fs::read(&path).unwrap().into(), &Options::default()).unwrap();
        let expected = answers(&built);
        assert_eq!(answers(&mapped), expected, "{name}");
        assert_eq!(answers(&embedded), expected, "{name}");
        // What is loaded can be saved again, and is the same file.
        let again = work.path().join("again.bertha");
        mapped.save(&again).unwrap();
        assert!(std::fs::read(&again).unwrap() == std::fs::read(&path).unwrap(), "{name}");
    }
}

#[test]
fn a_plan_for_another_instruction_set_is_made_anew() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("model.bertha");
    let of_tier = |tier| Options { isa: Isa::from_tier(tier).ok(), ..Options::default() };
    let portable = of_tier(Tier::Portable);
    Engine::open_with(folder("bert_encoder"), &portable).unwrap().save(&path).unwrap();
    let mut tiers = 0;
    for tier in Tier::ALL {
        let options = of_tier(tier);
        if options.isa.is_none() {
            println!("skipped: this CPU has no {tier}");
            continue;
        }
        let loaded = Engine::open_with(&path, &options).unwrap();
        assert_eq!(loaded.cpu().isa().tier(), tier);
        let told = loaded.notices().join("\n");
        assert_eq!(told.is_empty(), tier == Tier::Portable, "{told}");
        if tier != Tier::Portable {
            let expected = format!("The plan is for portable, and {tier} is used here.");
            assert!(told.starts_with(&expected), "{told}");
        }
        // The answers are those of an engine built for this tier.
        let built = Engine::open_with(folder("bert_encoder"), &options).unwrap();
        assert_eq!(answers(&loaded), answers(&built));
        tiers += 1;
    }
    assert!(tiers > 0);
}

#[test]
fn a_bf16_file_keeps_precision_and_measured_error_and_becomes_no_other() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("model.bertha");
    let options = Options { precision: Precision::Bf16, ..Options::default() };
    let built = match Engine::open_with(folder("bert_encoder"), &options) {
        Ok(built) => built,
        Err(error) => {
            assert!(!Isa::detect().has_bf16() && error.to_string().contains("--precision f32"), "{error}");
            println!("skipped: {error}");
            return;
        }
    };
    let error = built.rounding_error().expect("measured at build").clone();
    assert!(error.relative > 1e-5 && error.relative < 0.1, "{error:?}");
    built.save(&path).unwrap();
    let loaded = Engine::open(&path).unwrap();
    assert_eq!(loaded.notices(), [""; 0]);
    assert_eq!((loaded.precision(), loaded.rounding_error()), (Precision::Bf16, Some(&error)));
    assert_eq!(answers(&loaded), answers(&built));
    assert_ne!(answers(&loaded), answers(&engine("bert_encoder")), "f32 answers otherwise");
    // Where there are no such kernels, the file is refused: it does not turn into an f32 model.
    let portable = Options { isa: Isa::from_tier(Tier::Portable).ok(), ..Options::default() };
    let refused = Engine::open_with(&path, &portable).unwrap_err().to_string();
    assert!(refused.contains("bf16") && refused.contains("--precision f32"), "{refused}");
}

#[test]
fn an_onnx_file_that_became_ragged_answers_at_padding_as_its_graph_says() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("model.onnx");
    let model = import::hf::import(folder("bert_encoder"), &import::hf::ImportOptions::default()).unwrap();
    let exported = import::onnx::export(&model, &import::onnx::ExportOptions::default()).unwrap();
    let externals = import::onnx::ExternalFiles::none(&path);
    import::onnx::write_onnx(&exported, &externals, &path, import::onnx::ExternalData::WhenNeeded).unwrap();
    let as_imported = Engine::open_with(&path, &Options { optimize: false, ..Options::default() }).unwrap();
    let engine = Engine::open(&path).unwrap();
    assert!(engine.padded_graph().is_some(), "the export did not become ragged:\n{}", engine.log());
    let file = work.path().join("model.bertha");
    engine.save(&file).unwrap();
    let from_file = Engine::open(&file).unwrap();

    let ids = vec![vec![2i64, 41, 17, 8, 98, 3], vec![2, 9, 3, 0, 0, 0]];
    let whole = vec![vec![1i64; 6]; 2];
    let cut = vec![vec![1i64; 6], vec![1, 1, 1, 0, 0, 0]];
    for mask in [whole, cut] {
        let mut inputs = vec![("input_ids", matrix(&ids)), ("attention_mask", matrix(&mask))];
        if as_imported.graph().find("token_type_ids").is_some() {
            inputs.push(("token_type_ids", matrix(&[vec![0i64; 6], vec![0; 6]])));
        }
        let expected = run(&mut as_imported.session(1).unwrap(), &inputs).unwrap();
        for engine in [&engine, &from_file] {
            let found = run(&mut engine.session(1).unwrap(), &inputs).unwrap();
            assert_eq!(found.len(), expected.len());
            for ((name, found), (other, expected)) in found.iter().zip(&expected) {
                assert_eq!((name, found.shape()), (other, expected.shape()));
                let difference =
                    bertha::compare::difference(name, found, expected.shape(), &expected.to_f64());
                assert!(difference.is_within(1e-5), "{difference:?}");
            }
        }
        // The same bits from the file as from memory.
        let (here, there) = (&mut engine.session(1).unwrap(), &mut from_file.session(1).unwrap());
        assert_eq!(run(here, &inputs).unwrap(), run(there, &inputs).unwrap());
    }
}
