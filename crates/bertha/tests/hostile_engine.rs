//! Containers that are sound but whose contents lie: each is an error that says what is wrong.

mod support;

use bertha::engine_file::{EngineFile, EngineWriter, Metadata, PlanHeader};
use bertha::plugin::{Declaration, F64Tensor, Fields, Parallel, Plugin, TensorView, TensorViewMut};
use bertha::{Engine, Error, Options};
use serde_json::{Value, json};
use support::*;

/// The parts of an engine file, to be changed one at a time.
#[derive(Clone)]
struct Parts {
    model: Value,
    graph: String,
    weights: Vec<(String, String, Vec<u64>, Vec<u8>)>,
    plan: Option<(PlanHeader, Vec<u8>)>,
    packed: Vec<u8>,
    padded: Option<Vec<u8>>,
    plugins: Option<Value>,
    tokenizer: Option<Vec<u8>>,
    cuda: Option<(PlanHeader, Vec<u8>)>,
}

impl Parts {
    fn of(fixture: &str) -> Self {
        let work = tempfile::tempdir().unwrap();
        let path = work.path().join("model.bertha");
        engine(fixture).save(&path).unwrap();
        let file = EngineFile::open(&path).unwrap();
        let weight = |entry: &bertha::engine_file::TensorEntry| {
            let bytes = file.tensor(&entry.name).unwrap().to_vec();
            (entry.name.clone(), entry.dtype.clone(), entry.shape.clone(), bytes)
        };
        let plan = file.plan("cpu").unwrap();
        Parts {
            model: file.metadata().model.clone(),
            graph: file.graph().unwrap().to_owned(),
            weights: file.tensors().iter().map(weight).collect(),
            plan: Some((plan.header, plan.payload.to_vec())),
            packed: file.packed("cpu").unwrap().unwrap().to_vec(),
            padded: None,
            plugins: None,
            tokenizer: None,
            cuda: None,
        }
    }

    fn load(&self) -> Result<Engine, Error> {
        self.load_with(&Options::default())
    }

    fn load_with(&self, options: &Options) -> Result<Engine, Error> {
        let mut writer = EngineWriter::in_memory();
        let metadata = Metadata { producer: "test".into(), model: self.model.clone() };
        writer.metadata(&metadata).unwrap();
        writer.graph(&self.graph).unwrap();
        let mut weights = writer.begin_weights().unwrap();
        for (name, dtype, shape, bytes) in &self.weights {
            weights.tensor(name, dtype, shape, bytes).unwrap();
        }
        weights.finish().unwrap();
        if let Some(padded) = &self.padded {
            writer.section("graph.padded", padded).unwrap();
        }
        if let Some(plugins) = &self.plugins {
            writer.section("plugins", &serde_json::to_vec(plugins).unwrap()).unwrap();
        }
        if let Some(tokenizer) = &self.tokenizer {
            writer.tokenizer(tokenizer).unwrap();
        }
        if let Some((header, payload)) = &self.plan {
            let mut packed = writer.begin_packed("cpu").unwrap();
            packed.append(&self.packed).unwrap();
            packed.finish().unwrap();
            writer.plan(header, payload).unwrap();
        }
        if let Some((header, payload)) = &self.cuda {
            writer.plan(header, payload).unwrap();
        }
        Engine::from_bytes(writer.finish().unwrap().bytes(), options)
    }

    /// The plan's list with one field of its first entry set.
    fn with_entry(&self, field: &str, value: Value) -> Self {
        let mut parts = self.clone();
        let (_, payload) = parts.plan.as_mut().unwrap();
        let mut plan: Value = serde_json::from_slice(payload).unwrap();
        let entries = &mut plan["weights"];
        assert!(entries.as_array().is_some_and(|entries| entries.len() > 1));
        match field.strip_prefix("desc.") {
            Some(field) => entries[0]["desc"][field] = value,
            None => entries[0][field] = value,
        }
        *payload = serde_json::to_vec(&plan).unwrap();
        parts
    }
}

#[track_caller]
fn refused(parts: &Parts, what: &[&str]) {
    assert_names(parts.load(), what);
}

#[test]
fn the_parts_unchanged_are_an_engine() {
    let parts = Parts::of("bert_encoder");
    let engine = parts.load().unwrap();
    let expected = support::engine("bert_encoder");
    let answer = |engine: &Engine| {
        run_ragged(&mut engine.session(1).unwrap(), &batch(engine, &SENTENCES), &[]).unwrap()
    };
    assert_eq!(answer(&engine), answer(&expected));
    // Without a plan it is made from the graph, with a notice.
    let planless = Parts { plan: None, ..parts }.load().unwrap();
    assert!(planless.notices()[0].contains("no CPU plan"));
    assert_eq!(answer(&planless), answer(&expected));
}

#[test]
fn descriptions_that_are_none() {
    let good = Parts::of("bert_encoder");
    for model in [json!(null), json!([1]), json!({}), json!({"family": 3})] {
        refused(&Parts { model, ..good.clone() }, &["engine in memory", "description", "bertha build"]);
    }
    for (field, value) in [
        ("task", json!("dance")),
        ("interface", json!(7)),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(1e300)),
        ("labels", json!("x")),
        ("position_ids", json!({"after_pad": {"pad_id": -1}})),
    ] {
        let mut parts = good.clone();
        parts.model[field] = value;
        refused(&parts, &["description"]);
    }
}

#[test]
fn graphs_that_are_none() {
    let good = Parts::of("bert_encoder");
    for graph in ["", "graph", "garbage", "graph x {", "graph x { %y: f32[2] = warp(%x) }", "\u{0}"] {
        refused(&Parts { graph: graph.into(), ..good.clone() }, &["its graph is not one", "line 1"]);
    }
    let absent = good.graph.replacen("= @", "= @absent_", 1);
    refused(&Parts { graph: absent, ..good.clone() }, &["absent_", "missing"]);
    let other_type = good.graph.replacen("f32[99, 16] = @", "f32[98, 16] = @", 1);
    assert_ne!(other_type, good.graph);
    refused(&Parts { graph: other_type, ..good.clone() }, &["f32[99, 16]", "f32[98, 16]"]);
    let huge = good.graph.replacen("f32[99, 16] = @", "f32[9223372036854775807, 16] = @", 1);
    refused(&Parts { graph: huge, ..good.clone() }, &["9223372036854775807"]);
    let factors: Vec<String> = (0..40).map(|i| format!("floor((a{i} + b{i})/1)")).collect();
    let product = format!("graph x {{\n input %x: f32[{}]\n output y = %x\n}}", factors.join("*"));
    refused(&Parts { graph: product, ..good.clone() }, &["line 2", "the polynomial is too large"]);
}

#[test]
fn weights_that_are_others() {
    let good = Parts::of("bert_encoder");
    let mut missing = good.clone();
    let (name, ..) = missing.weights.remove(0);
    refused(&missing, &[&name, "missing"]);
    let mut retyped = good.clone();
    retyped.weights[0].1 = "i32".into();
    refused(&retyped, &[&name, "i32", "f32"]);
    let mut reshaped = good.clone();
    reshaped.weights[0].2.push(1);
    refused(&reshaped, &[&name, "declares"]);
}

#[test]
fn plans_that_are_none() {
    let good = Parts::of("bert_encoder");
    let mut garbage = good.clone();
    for payload in ["", "{", "{}", "[1]", r#"[{"weight": "w"}]"#] {
        garbage.plan.as_mut().unwrap().1 = payload.as_bytes().to_vec();
        refused(&garbage, &["CPU plan is not one", "bertha build"]);
    }
    let length = good.packed.len();
    for (field, value, what) in [
        ("offset", json!(length.next_multiple_of(64)), &["outside"][..]),
        ("offset", json!(u64::MAX - 63), &["outside"]),
        ("offset", json!(2), &["offset 2", "aligned"]),
        ("length", json!(u64::MAX), &["outside"]),
        ("length", json!(4), &["packed"]),
        ("length", json!(3), &["packed"]),
        ("length", json!(0), &["packed"]),
        ("desc.k", json!(1u64 << 62), &["packed"]),
        ("desc.n", json!(u64::MAX), &["packed"]),
        ("desc.k", json!(0), &["packed"]),
        ("desc.tier", json!("avx1024"), &["plan"]),
    ] {
        refused(&good.with_entry(field, value), what);
    }
    let other = if good.plan.as_ref().unwrap().0.requirements == ["portable"] { "avx2" } else { "portable" };
    refused(&good.with_entry("desc.tier", json!(other)), &[other]);
}

#[test]
fn an_entry_for_another_weight_is_not_taken_for_it() {
    let good = Parts::of("bert_encoder");
    // Unknown weights are of no use, and what is missing is packed anew.
    let renamed = good.with_entry("weight", json!("nobody's")).load().unwrap();
    let answer = |engine: &Engine| {
        run_ragged(&mut engine.session(1).unwrap(), &batch(engine, &SENTENCES), &[]).unwrap()
    };
    assert_eq!(answer(&renamed), answer(&support::engine("bert_encoder")));
}

#[test]
fn padded_graphs_that_are_none() {
    let good = Parts::of("bert_encoder");
    refused(&Parts { padded: Some(vec![0xFF, 0xFE]), ..good.clone() }, &["padded graph"]);
    refused(&Parts { padded: Some(b"graph".to_vec()), ..good.clone() }, &["graph"]);
}

#[test]
fn a_description_that_does_not_fit_the_graph_fails_the_run_by_name() {
    let mut parts = Parts::of("bert_encoder");
    parts.model["position_ids"] = json!({"after_pad": {"pad_id": i32::MAX}});
    match parts.load() {
        Err(error) => assert!(error.to_string().contains("description"), "{error}"),
        Ok(engine) => {
            let batch = batch(&engine, &[&[2, 9, 3]]);
            assert_names(run_ragged(&mut engine.session(1).unwrap(), &batch, &[]), &["position_ids"]);
        }
    }
    // A dense model that says it is ragged.
    let graph = "graph g {\n input %x: f32[n]\n %y: f32[n] = relu(%x)\n output y = %y\n}".to_owned();
    let lying = Parts { graph, plan: None, ..parts };
    if let Ok(engine) = lying.load() {
        let batch = batch(&engine, &[&[2, 9, 3]]);
        assert_names(run_ragged(&mut engine.session(1).unwrap(), &batch, &[]), &["`x`"]);
    }
}

#[test]
fn a_tensor_larger_than_memory_fails_the_run() {
    let mut parts = Parts::of("bert_encoder");
    parts.model["interface"] = json!("dense");
    parts.plan = None;
    parts.graph = "graph g {\n input %x: f32[n]\n const %times: i64[1] = [1152921504606846976]\n \
                   %y = tile(%x, %times)\n output y = %y\n}"
        .into();
    let engine = parts.load().unwrap();
    let mut session = engine.session(1).unwrap();
    assert_names(run(&mut session, &[("x", bertha::TensorData::vector(vec![1f32]))]), &["`y`", "memory"]);
}

/// A file whose plan for a GPU has this format and these kernel sources, and nothing that any kernel needs.
fn with_cuda(target: &str, plan_format: u32, sources: &str) -> Parts {
    let header = PlanHeader {
        target: target.into(),
        producer: "bertha 9.0".into(),
        plan_format,
        requirements: vec![],
    };
    let plan = json!({
        "arch": "sm_90a", "precision": "f16", "multiprocessors": 132, "sources": sources, "cubins": [], "weights": [],
    });
    Parts { cuda: Some((header, serde_json::to_vec(&plan).unwrap())), ..Parts::of("bert_encoder") }
}

#[test]
fn plans_of_other_versions_for_gpus_are_left_out_with_a_notice() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("again.bertha");
    for (plan_format, why) in [(99, "bertha 9.0 in plan format 99"), (1, "other kernels")] {
        let engine = with_cuda("cuda-sm_90a-f16", plan_format, "0").load().unwrap();
        assert!(engine.cuda_plans().unwrap().is_empty());
        let notices = engine.save(&path).unwrap();
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert!(notices[0].contains("cuda-sm_90a-f16") && notices[0].contains(why), "{notices:?}");
        let again = Engine::open(&path).unwrap();
        assert!(again.save(work.path().join("third.bertha")).unwrap().is_empty());
    }
}

#[test]
fn a_plan_for_a_gpu_that_lies_is_an_error() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("again.bertha");
    let engine = with_cuda("cuda-sm_80-f16", 1, "0").load().unwrap();
    assert_names(engine.save(&path), &["cuda-sm_80-f16", "cuda-sm_90a-f16"]);
    let mut parts = with_cuda("cuda-sm_90a-f16", 1, "0");
    parts.cuda.as_mut().unwrap().1 = b"{}".to_vec();
    assert_names(parts.load().unwrap().save(&path), &["cuda-sm_90a-f16", "is not one"]);
}

/// Gives what it is given.
struct Same;

impl Plugin for Same {
    fn declaration(&self) -> Declaration {
        Declaration {
            name: "Same".into(),
            version: 2,
            op_type: "Same".into(),
            signature: "x: f32[...] -> y: f32[...]".into(),
            ..Declaration::default()
        }
    }

    fn reference(&self, _: &Fields, inputs: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
        Ok(vec![inputs[0].ok_or("no x")?.clone()])
    }

    fn run(
        &self,
        _: &Fields,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Option<TensorViewMut<'_>>],
        _: &mut dyn Parallel,
    ) -> Result<(), String> {
        if let (Some(x), Some(y)) = (&inputs[0], &mut outputs[0]) {
            y.bytes.copy_from_slice(x.bytes);
        }
        Ok(())
    }
}

#[test]
fn plugins_that_the_list_leaves_out() {
    let mut parts = Parts::of("bert_encoder");
    parts.model["interface"] = json!("dense");
    parts.plan = None;
    parts.graph =
        "graph g {\n input %x: f32[n]\n %y: f32[n] = plugin(%x) {name: \"Same\", version: 2, fields: {}}\n \
                   output y = %y\n}"
            .into();
    let mut options = Options::default();
    options.plugins.add(Same).unwrap();
    let record = |name: &str, version: u32| json!({"name": name, "version": version, "library": null});
    let listed = Parts { plugins: Some(json!([record("Same", 2)])), ..parts.clone() };
    listed.load_with(&options).unwrap();
    // Its build is not known without an entry, and any build may compute something else.
    for plugins in [None, Some(json!([]))] {
        let unlisted = Parts { plugins, ..parts.clone() };
        assert_names(unlisted.load_with(&options), &["plugin `Same` version 2", "list", "bertha build"]);
    }
    let padded = parts.graph.clone().into_bytes();
    let plain = "graph g {\n input %x: f32[n]\n output y = %x\n}".to_owned();
    let padded = Parts { graph: plain, padded: Some(padded), ..parts.clone() };
    assert_names(padded.load_with(&options), &["plugin `Same` version 2", "list"]);
    assert_names(listed.load(), &["plugin `Same` version 2", "--plugin"]);
}
