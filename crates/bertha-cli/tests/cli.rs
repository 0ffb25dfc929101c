//! The command as a person or a script calls it: answers, JSON shapes, exit codes, messages.

mod support;

use bertha::TensorData;
use bertha::import::npz::{read_npz, write_npz};
use bertha::import::onnx::proto;
use prost::Message;
use serde_json::Value;
use support::{Work, bertha, command, with_input};

#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[track_caller]
fn array(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

#[test]
fn fill_mask_gives_what_hugging_face_gives() {
    let work = Work::new();
    let model = work.model("distilbert_masked_lm");
    let fill = |args: &[&str]| bertha(&[&["fill-mask", "--model", &model], args].concat());
    let one = fill(&["--json", "--top-k", "3", "hello [MASK] ."]).json();
    assert_eq!(array(&one).len(), 3);
    assert_eq!(keys(&one[0]), ["score", "token", "token_str", "sequence"]);
    let scores: Vec<f64> = array(&one).iter().map(|fill| fill["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && scores[0] < 1.0 && scores[2] > 0.0, "{scores:?}");
    let word = one[0]["token_str"].as_str().unwrap();
    assert!(one[0]["sequence"].as_str().unwrap().contains(word));

    let two_masks = fill(&["--json", "[MASK] world [MASK]"]).json();
    assert_eq!((array(&two_masks).len(), array(&two_masks[0]).len()), (2, 10));
    assert!(two_masks[0][0]["sequence"].as_str().unwrap().contains("[MASK]"));
    let two_texts = fill(&["--json", "hello [MASK] .", "[MASK] world [MASK]"]).json();
    assert_eq!(two_texts[1], two_masks);
    assert_eq!(array(&two_texts[0]).len(), 10);

    let text = fill(&["--top-k", "2", "hello [MASK] ."]);
    assert_eq!(text.succeeds().stdout.lines().count(), 3);
    assert!(text.stdout.starts_with("hello [MASK] .\n  0."), "{}", text.stdout);
    assert_eq!(text.stderr, "");
}

#[test]
fn the_model_that_comes_along_is_compiled_once_and_kept() {
    let work = Work::new();
    let cache = work.path("cache");
    let ask = || {
        let text = "The capital of France is [MASK].";
        let output =
            command(&["fill-mask", "--json", "--top-k", "1", text]).env("BERTHA_CACHE", &cache).output();
        let output = output.unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let first = ask();
    assert_eq!(first[0]["token_str"], "paris");
    let kept: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(ask(), first);
    std::fs::write(&kept[0], "damaged").unwrap();
    assert_eq!(ask(), first);
    assert!(std::fs::metadata(&kept[0]).unwrap().len() > 1_000_000, "the damaged file was not replaced");
}

#[test]
fn texts_come_from_the_standard_input_too() {
    let work = Work::new();
    let model = work.model("bert_encoder");
    let given = bertha(&["embed", "--model", &model, "--json", "hello world", "its done ."]).json();
    let read = with_input(&["embed", "--model", &model, "--json", "-"], "hello world\nits done .\n").json();
    assert_eq!(read, given);
    assert_eq!((array(&given).len(), array(&given[0]).len()), (2, 16));
    // Alone or in company, the same digits.
    let alone = bertha(&["embed", "--model", &model, "--json", "its done ."]).json();
    assert_eq!(alone[0], given[1]);
    let nothing = with_input(&["embed", "--model", &model, "--json", "-"], "").json();
    assert_eq!(nothing, Value::Array(Vec::new()));
    let text = bertha(&["embed", "--model", &model, "hello world"]);
    assert!(text.succeeds().stdout.contains("hello world") && text.stdout.contains("16"), "{}", text.stdout);
    assert!(text.stderr.contains("note: the model does not say how it pools"), "{}", text.stderr);
}

#[test]
fn classify_tag_rerank_and_sparse_answer() {
    let work = Work::new();
    let classifier = work.model("bert_sequence_classification");
    let classes = bertha(&["classify", "--model", &classifier, "--json", "hello world", "its done"]).json();
    assert_eq!((array(&classes).len(), array(&classes[0]).len()), (2, 3));
    assert_eq!(keys(&classes[0][0]), ["label", "score"]);
    let sum: f64 = array(&classes[0]).iter().map(|class| class["score"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    let text = bertha(&["classify", "--model", &classifier, "--top-k", "1", "hello world"]);
    assert_eq!(text.succeeds().stdout.lines().count(), 2);

    let documents = ["hello world", "its done", "first sentence"];
    let ranked =
        bertha(&[&["rerank", "--model", &classifier, "--json", "met"], &documents[..]].concat()).json();
    assert_eq!(keys(&ranked[0]), ["index", "score", "logit"]);
    let mut indices: Vec<u64> = array(&ranked).iter().map(|entry| entry["index"].as_u64().unwrap()).collect();
    let scores: Vec<f64> = array(&ranked).iter().map(|entry| entry["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    indices.sort_unstable();
    assert_eq!(indices, [0, 1, 2]);
    let read = with_input(&["rerank", "--model", &classifier, "--json", "met", "-"], &documents.join("\n"));
    assert_eq!(read.json(), ranked);

    let tagger = work.model("albert_token_classification");
    let entities = bertha(&["tag", "--model", &tagger, "--json", "hello world , its done"]).json();
    assert_eq!(array(&entities).len(), 1);
    for entity in array(&entities[0]) {
        assert_eq!(keys(entity), ["entity_group", "score", "word", "start", "end"]);
    }

    let masked = work.model("distilbert_masked_lm");
    let terms = bertha(&["sparse", "--model", &masked, "--json", "hello world"]).json();
    assert_eq!(keys(&terms[0][0]), ["index", "token", "value"]);
    let values: Vec<f64> = array(&terms[0]).iter().map(|term| term["value"].as_f64().unwrap()).collect();
    assert!(values.is_sorted_by(|a, b| a >= b) && values.iter().all(|value| *value > 0.0), "{values:?}");
    let text = bertha(&["sparse", "--model", &masked, "--top-k", "2", "hello world"]);
    assert_eq!(text.succeeds().stdout.lines().count(), 3, "{}", text.stdout);
}

#[test]
fn tensors_go_in_and_out_by_name() {
    let work = Work::new();
    let model = work.bare_model("bert_encoder");
    let (inputs, outputs) = (work.path("in.npz"), work.path("out.npz"));
    let ids = TensorData::from_vec(vec![2, 3], vec![2i64, 41, 3, 2, 9, 0]).unwrap();
    let mask = TensorData::from_vec(vec![2, 3], vec![1i64, 1, 1, 1, 1, 0]).unwrap();
    write_npz(&inputs, [("attention_mask", &mask), ("input_ids", &ids)]).unwrap();
    let ran = bertha(&["run", &model, "--inputs", &inputs, "--outputs", &outputs]);
    assert_eq!(ran.succeeds().stdout, "last_hidden_state: f32[2, 3, 16]\npooler_output: f32[2, 16]\n");
    let written = read_npz(&outputs).unwrap();
    let shapes: Vec<(&str, &[usize])> =
        written.iter().map(|(name, data)| (name.as_str(), data.shape())).collect();
    assert_eq!(shapes, [("last_hidden_state", &[2, 3, 16][..]), ("pooler_output", &[2, 16])]);
    let only =
        bertha(&["run", &model, "--inputs", &inputs, "--outputs", &outputs, "--only", "pooler_output"]);
    only.succeeds();
    assert_eq!(read_npz(&outputs).unwrap().len(), 1);

    bertha(&["run", &model, "--inputs", &work.path("no.npz"), "--outputs", &outputs]).fails(1, &["no.npz"]);
    bertha(&["run", &model, "--inputs", &inputs, "--outputs", &outputs, "--only", "logits"])
        .fails(1, &["logits", "pooler_output"]);
    write_npz(&inputs, [("ids", &ids)]).unwrap();
    bertha(&["run", &model, "--inputs", &inputs, "--outputs", &outputs]).fails(1, &["`ids`", "input_ids"]);
}

#[test]
fn an_engine_is_built_inspected_and_checked() {
    let work = Work::new();
    let (model, engine) = (work.model("bert_encoder"), work.path("tiny.bertha"));
    let built = bertha(&["build", &model, "-o", &engine]);
    assert!(built.succeeds().stdout.starts_with(&engine), "{}", built.stdout);
    let same = |model: &str| bertha(&["embed", "--model", model, "--json", "hello world"]).json();
    assert_eq!(same(&engine), same(&model));

    let report = bertha(&["inspect", &engine, "--json"]).json();
    assert_eq!(
        keys(&report),
        ["model", "inputs", "outputs", "weights", "weight_bytes", "nodes", "cpu", "file"]
    );
    assert_eq!(report["model"]["family"], "bert");
    assert_eq!(report["inputs"][0]["name"], "input_ids");
    assert_eq!(report["outputs"][0]["shape"], "[tokens, 16]");
    assert_eq!(report["file"]["verified"], false);
    let sections: Vec<&str> =
        array(&report["file"]["sections"]).iter().map(|section| section["name"].as_str().unwrap()).collect();
    for section in ["meta", "graph", "weights", "weights.index", "tokenizer", "plan:cpu", "packed:cpu"] {
        assert!(sections.contains(&section), "{sections:?}");
    }
    assert_eq!(report["file"]["bytes"], std::fs::metadata(&engine).unwrap().len());
    let text = bertha(&["inspect", &engine]).succeeds().stdout.clone();
    for what in ["family", "inputs:", "last_hidden_state", "packed:cpu"] {
        assert!(text.contains(what), "{text}");
    }
    assert!(bertha(&["inspect", &engine, "--text"]).succeeds().stdout.starts_with("graph "));
    assert_eq!(bertha(&["inspect", &engine, "--verify", "--json"]).json()["file"]["verified"], true);
    bertha(&["inspect", &model, "--verify"]).fails(2, &["--verify", &model]);

    let weights =
        array(&report["file"]["sections"]).iter().find(|section| section["name"] == "weights").unwrap();
    let mut bytes = std::fs::read(&engine).unwrap();
    bytes[weights["offset"].as_u64().unwrap() as usize + 5] ^= 1;
    let damaged = work.path("damaged.bertha");
    std::fs::write(&damaged, &bytes).unwrap();
    bertha(&["inspect", &damaged, "--verify"]).fails(1, &["damaged.bertha", "weights"]);
    std::fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    bertha(&["inspect", &damaged]).fails(1, &["damaged.bertha"]);
    std::fs::write(&damaged, b"not an engine").unwrap();
    bertha(&["embed", "--model", &damaged, "x"]).fails(1, &["damaged.bertha"]);
}

#[test]
fn an_export_agrees_with_the_reference() {
    let work = Work::new();
    let (model, exported) = (work.bare_model("bert_encoder"), work.path("model.onnx"));
    let export = bertha(&["export", &model, "-o", &exported]);
    assert!(export.succeeds().stdout.contains("opset 17"), "{}", export.stdout);
    for model in [&model, &exported] {
        let compared = bertha(&["compare", model, "--against", "reference", "--json"]).json();
        assert_eq!(keys(&compared), ["against", "tolerance", "equal", "tensors"]);
        assert_eq!(compared["equal"], true);
        assert!(keys(&compared["tensors"][0]).starts_with(&["name", "shape", "max_abs", "relative"]));
        let text = bertha(&["compare", model, "--against", "reference"]);
        assert!(text.succeeds().stdout.contains("equal"), "{}", text.stdout);
        let layers = bertha(&["compare", model, "--against", "reference", "--layers"]);
        assert!(layers.succeeds().stdout.contains("equal"), "{}", layers.stdout);
    }
    // f32 is not f64: with no tolerance the first difference is found, told, and is exit code 3.
    let differs = bertha(&["compare", &model, "--against", "reference", "--tolerance", "0"]);
    assert_eq!(differs.code, 3);
    assert!(differs.stdout.contains("differs"), "{}", differs.stdout);
    assert!(differs.stderr.contains("the answers differ"), "{}", differs.stderr);
    let layers = bertha(&["compare", &model, "--against", "reference", "--tolerance", "0", "--layers"]);
    assert_eq!(layers.code, 3);
    assert!(layers.stdout.starts_with("first tensor that differs: "), "{}", layers.stdout);
    bertha(&["compare", &model, "--against", "onnxruntime", "--library", "/nowhere/libonnxruntime.so"])
        .fails(1, &["/nowhere/libonnxruntime.so", "BERTHA_ONNXRUNTIME"]);
    bertha(&["export", &exported, "-o", &work.path("x.onnx")]).fails(1, &["model.onnx"]);
    bertha(&["export", &model, "-o", &work.path("x.onnx"), "--opset", "5"]).fails(1, &["5"]);
}

#[test]
fn bench_measures() {
    let work = Work::new();
    let model = work.bare_model("bert_encoder");
    let quick = ["--runs", "5", "--seconds", "0", "--warmup", "1", "--threads", "1"];
    let bench = |args: &[&str]| bertha(&[&["bench", model.as_str()], args, &quick[..]].concat());
    let report = bench(&["--json", "--batch", "2", "--seq", "8", "--profile"]).json();
    let latency = &report["latency_ms"];
    assert_eq!(keys(latency), ["min", "mean", "median", "p90", "p95", "p99"]);
    let ordered = ["min", "median", "p90", "p95", "p99"].map(|key| latency[key].as_f64().unwrap());
    assert!(ordered.is_sorted() && ordered[0] > 0.0, "{ordered:?}");
    assert!(latency["mean"].as_f64().unwrap() >= ordered[0]);
    for rate in ["sequences_per_second", "tokens_per_second", "gflop_per_second", "gflop_per_batch"] {
        assert!(report[rate].as_f64().unwrap() > 0.0, "{rate}");
    }
    let counts =
        ["batches", "sequences", "tokens", "runs", "threads"].map(|key| report[key].as_u64().unwrap());
    assert_eq!(counts, [1, 2, 16, 5, 1]);
    let accounted = report["profile"]["accounted"].as_f64().unwrap();
    assert!(accounted > 0.2 && accounted <= 1.0, "{accounted}");
    assert!(report["profile"]["peak_gflop_per_second"].as_f64().unwrap() > 1.0);
    let profile = array(&report["profile"]["operations"]);
    assert_eq!(keys(&profile[0]), ["node", "kernel", "ms", "share", "gflop_per_second", "peak_share"]);
    let shares: f64 = profile.iter().map(|step| step["share"].as_f64().unwrap()).sum();
    assert!(shares > 0.2 && shares < 1.5, "the steps are most of a run: {shares}");

    let lengths = work.path("lengths.txt");
    std::fs::write(&lengths, "3\n7\n\n5\n").unwrap();
    let report = bench(&["--json", "--batch", "2", "--lengths", &lengths]).json();
    let counts = ["batches", "sequences", "tokens", "runs"].map(|key| report[key].as_u64().unwrap());
    assert_eq!(counts, [2, 3, 15, 10]);
    std::fs::write(&lengths, "3\nseven\n").unwrap();
    bench(&["--lengths", &lengths]).fails(2, &["lengths.txt:2", "seven"]);
    std::fs::write(&lengths, "").unwrap();
    bench(&["--lengths", &lengths]).fails(2, &["lengths.txt", "no length"]);
    let report = bench(&["--json", "--lengths", "2..9", "--sequences", "20", "--token-budget", "24"]).json();
    assert_eq!(report["sequences"], 20);
    let (tokens, batches) = (report["tokens"].as_u64().unwrap(), report["batches"].as_u64().unwrap());
    assert!((40..=180).contains(&tokens) && (tokens.div_ceil(24)..20).contains(&batches), "{report}");
    bench(&["--lengths", "2..9", "--token-budget", "3"]).fails(2, &["--token-budget 3"]);
    bench(&["--lengths", "9..2"]).fails(2, &["MIN..MAX"]);
    bench(&["--sessions", "2", "--seq", "8"]).fails(2, &["--sessions"]);
    bench(&["--batch", "0"]).fails(2, &["--batch"]);
    bench(&["--seq", "25"]).fails(1, &["25 tokens", "24"]);
    let text = bench(&["--seq", "8", "--profile"]).succeeds().stdout.clone();
    for what in ["latency ms", "p99", "tokens/s", "GFLOP/s", "ragged_attention"] {
        assert!(text.contains(what), "{text}");
    }
}

#[test]
fn a_damaged_timing_cache_is_told_and_what_is_asked_for_by_rule_takes_none() {
    let work = Work::new();
    let model = work.bare_model("bert_encoder");
    let (cache, out) = (work.path("timings.json"), work.path("out.bertha"));
    std::fs::write(&cache, "{").unwrap();
    // With or without a card and a compiler for it, the cache is read first.
    let build = ["build", model.as_str(), "-o", out.as_str(), "--target", "cuda"];
    let told = bertha(&[&build[..], &["--timing-cache", &cache]].concat()).stderr;
    assert!(told.contains("timings.json") && told.contains("anew"), "{told}");
    let both = [&build[..], &["--timing-cache", &cache, "--no-timing"]].concat();
    bertha(&both).fails(2, &["--no-timing"]);
}

#[test]
fn doctor_tells_what_will_be_used() {
    let report = bertha(&["doctor", "--json"]).json();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    let used = report["used"].as_str().expect("the tier that is used");
    let text = bertha(&["doctor"]).succeeds().stdout.clone();
    assert!(text.contains(used) && text.contains("processor"), "{text}");
    let forced = command(&["doctor"]).env("BERTHA_ISA", "portable").output().unwrap();
    let forced = String::from_utf8(forced.stdout).unwrap();
    assert!(forced.contains("portable (forced by BERTHA_ISA)"), "{forced}");
    let unknown = command(&["doctor", "--json"]).env("BERTHA_ISA", "mmx").output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("mmx"));
}

#[test]
fn wrong_calls_exit_with_2_and_say_what_is_right() {
    for args in [&[][..], &["fly"], &["embed"], &["embed", "--model"], &["bench"], &["compare", "x"]] {
        let ran = bertha(args);
        assert_eq!(ran.code, 2, "{args:?}");
        assert!(ran.stderr.contains("--help") || ran.stderr.contains("Usage"), "{args:?}: {}", ran.stderr);
    }
    bertha(&["fill-mask", "--top-k", "0", "x"]).fails(2, &["--top-k"]);
    bertha(&["embed", "hello"]).fails(2, &["--model"]);
    bertha(&["compare", "x", "--against", "reference", "--batch", "0"]).fails(2, &["--batch"]);
    bertha(&["bench", "x", "--runs", "0"]).fails(2, &["--runs"]);
    bertha(&["bench", "x", "--fusions", "--runs", "0"]).fails(2, &["--runs"]);
    bertha(&["bench", "x", "--fusions", "--device", "cuda"]).fails(2, &["--fusions", "--device"]);
    bertha(&["bench", "x", "--fusions", "--gpu", "1"]).fails(2, &["--fusions", "--gpu"]);
    bertha(&["bench", "x", "--fusions", "--precision", "f16"]).fails(2, &["--fusions", "--precision"]);
    // Random weights are imported like any others.
    bertha(&["inspect", "random:nobody", "--text", "--source"]).fails(2, &["random:nobody"]);
    bertha(&["bench", "random:nobody", "--fusions"]).fails(2, &["random:nobody"]);
}

#[test]
fn failures_exit_with_1_and_name_the_cause() {
    let work = Work::new();
    bertha(&["embed", "--model", "/nowhere", "x"]).fails(1, &["/nowhere", "config.json", ".onnx"]);
    let masked = work.model("distilbert_masked_lm");
    bertha(&["fill-mask", "--model", &masked, "hello [MASK]", "hello"]).fails(1, &["text 1", "[MASK]"]);
    bertha(&["classify", "--model", &masked, "x"])
        .fails(1, &["classify", "sequence classification", "masked-LM"]);
    bertha(&["embed", "--model", &masked, "x"]).fails(1, &["embed", "masked-LM"]);
    let bare = work.bare_model("electra_masked_lm");
    bertha(&["fill-mask", "--model", &bare, "[MASK]"]).fails(1, &["no tokenizer"]);
    let weights = format!("{masked}/model.safetensors");
    bertha(&["inspect", &weights]).fails(1, &["model.safetensors", "folder"]);
}

#[test]
fn every_unsupported_node_is_listed_at_once() {
    let work = Work::new();
    let node = |name: &str, op_type: &str, input: &str| proto::NodeProto {
        name: name.into(),
        op_type: op_type.into(),
        input: vec![input.into()],
        output: vec![format!("{name}_out")],
        ..Default::default()
    };
    let port = |name: &str| proto::ValueInfoProto { name: name.into(), ..Default::default() };
    let graph = proto::GraphProto {
        node: vec![node("first", "Frobnicate", "x"), node("second", "Relu", "x"), node("third", "Det", "x")],
        input: vec![port("x")],
        output: vec![port("third_out")],
        ..Default::default()
    };
    let opset = proto::OperatorSetIdProto { version: 17, ..Default::default() };
    let model = proto::ModelProto {
        ir_version: 8,
        opset_import: vec![opset],
        graph: Some(graph),
        ..Default::default()
    };
    let path = work.path("odd.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    bertha(&["build", &path, "-o", &work.path("odd.bertha")])
        .fails(1, &["odd.onnx", "first", "Frobnicate", "third", "Det"]);
    assert!(!std::path::Path::new(&work.path("odd.bertha")).exists());
}

#[test]
fn token_ids_go_from_a_text_to_a_file_to_a_run() {
    let work = Work::new();
    let (model, file) = (work.model("bert_encoder"), work.path("in.npz"));
    let texts = ["hello world", "hello"];
    let run = |args: &[&str]| bertha(&[&["tokenize", "--model", &model], args, &texts].concat());
    let tokens = run(&["--json"]).json();
    assert_eq!(keys(&tokens[0]), ["ids", "tokens", "types", "offsets", "truncated"]);
    assert_eq!(array(&tokens[0]["ids"]).len(), array(&tokens[1]["ids"]).len() + 1);
    let printed = run(&["-o", &file]).succeeds().stdout.clone();
    assert!(printed.lines().count() == 2 && printed.contains("hello="), "{printed}");
    let tensors = read_npz(std::path::Path::new(&file)).unwrap();
    let of =
        |name: &str| tensors.iter().find(|(n, _)| n == name).unwrap().1.as_slice::<i64>().unwrap().to_vec();
    let ids = of("input_ids");
    assert_eq!(ids[0], tokens[0]["ids"][0].as_i64().unwrap());
    assert_eq!((ids.last(), of("attention_mask").iter().sum::<i64>()), (Some(&0), ids.len() as i64 - 1));
    let out = work.path("out.npz");
    bertha(&["run", &model, "--inputs", &file, "--outputs", &out]).succeeds();
    assert!(!read_npz(std::path::Path::new(&out)).unwrap().is_empty());
    // From the engine as from the checkpoint, which is not compiled for it.
    let engine = work.path("model.bertha");
    bertha(&["build", &model, "-o", &engine]).succeeds();
    let of_engine = bertha(&[&["tokenize", "--model", &engine, "--json"], &texts[..]].concat()).json();
    assert_eq!(of_engine, tokens);
}

#[test]
fn answers_in_a_file_are_compared() {
    let work = Work::new();
    let (model, file, out) = (work.model("bert_encoder"), work.path("in.npz"), work.path("out.npz"));
    bertha(&["tokenize", "--model", &model, "-o", &file, "hello world", "hello"]).succeeds();
    bertha(&["run", &model, "--inputs", &file, "--outputs", &out]).succeeds();
    let compare = |answers: &str| bertha(&["compare", &model, "--inputs", &file, "--against", answers]);
    assert!(compare(&out).succeeds().stdout.contains("equal"));
    let mut answers: Vec<(String, TensorData)> = read_npz(&out).unwrap().into_iter().collect();
    let (name, first) = answers[0].clone();
    let mut values = first.as_slice::<f32>().unwrap().to_vec();
    values[0] += 1.0;
    answers[0].1 = TensorData::from_vec(first.shape().to_vec(), values).unwrap();
    let changed = work.path("changed.npz");
    write_npz(&changed, answers.iter().map(|(name, data)| (name.as_str(), data))).unwrap();
    let differs = compare(&changed);
    assert_eq!(differs.code, 3, "{}", differs.stderr);
    assert!(differs.stdout.contains(&name) && differs.stderr.contains("changed.npz"), "{}", differs.stderr);
    write_npz(&changed, [("no_such_output", &first)]).unwrap();
    compare(&changed).fails(1, &["no_such_output"]);
    bertha(&["compare", &model, "--against", &out]).fails(2, &["--inputs"]);
    bertha(&["compare", &model, "--against", &out, "--inputs", &file, "--layers"]).fails(2, &["--layers"]);
    compare("elsewhere").fails(2, &["reference", "onnxruntime", ".npz"]);
}

#[test]
fn the_compiler_shows_its_work() {
    let work = Work::new();
    let (model, onnx) = (work.bare_model("bert_encoder"), work.path("model.onnx"));
    // Operator set 14 has neither layer norm nor GELU: there is something to put together.
    bertha(&["export", &model, "-o", &onnx, "--opset", "14"]).succeeds();
    let engine = work.path("model.bertha");
    let build = |args: &[&str]| bertha(&[&["build", onnx.as_str(), "-o", engine.as_str()], args].concat());

    let source = bertha(&["inspect", &onnx, "--text", "--source"]).succeeds().stdout.clone();
    let erf = source.lines().find(|line| line.contains(" = erf(")).expect("an erf in the source");
    // A node that has its result's name is printed without one of its own.
    let name = erf.trim().trim_start_matches('%').split(": ").next().unwrap().trim_matches('"');
    let explained = build(&["--explain", name]).succeeds().stdout.clone();
    for what in [name, "activations", "linear-activation", "computed in", "linear"] {
        assert!(explained.contains(what), "{what}: {explained}");
    }
    build(&["--explain", "no-such-node"]).fails(2, &["no-such-node", "names like it"]);

    let log = work.path("log.json");
    let told = build(&["-vv", "--log", &log]).succeeds().stdout.clone();
    for what in ["steps (", "kernels for ", "GFLOP/s", "-gemm-", "memory of a run", "left as it is:"] {
        assert!(told.contains(what), "{what}: {told}");
    }
    let log: Value = serde_json::from_str(&std::fs::read_to_string(&log).unwrap()).unwrap();
    let steps = array(&log["kernels"][0]["steps"]);
    assert_eq!(steps[0]["tactics"][0]["chosen"], true);
    assert!(steps.iter().all(|step| step["tactics"][0]["microseconds"].as_f64() > Some(0.0)), "{log}");
    assert!(array(&log["events"]).iter().any(|event| event["pass"] == "embedding-layer-norm"), "{log}");
    assert!(!array(&log["steps"]).is_empty() && !array(&log["memory"]).is_empty());

    let none = build(&["--stop-after", "0"]).succeeds().stdout.clone();
    assert!(none.contains("0 patches applied of at most 0"), "{none}");
    assert!(build(&["--stop-after", "3"]).succeeds().stdout.contains("3 patches applied"));

    let without = build(&["-v", "--without", "layer-norm"]).succeeds().stdout.clone();
    let fired = |pass: &str| without.lines().any(|line| line == format!("{pass}:"));
    assert!(fired("matmul-linear") && !fired("layer-norm"), "{without}");
    build(&["--without", "no-such-pass"]).fails(2, &["no-such-pass", "layer-norm"]);
    build(&[]).succeeds();

    let bench = ["bench", &onnx, "--fusions", "--runs", "1", "--seconds", "0", "--seq", "8", "--json"];
    let worth = bertha(&bench).json();
    let variants = array(&worth["variants"]);
    assert_eq!(variants[0]["without"], "none of them");
    assert!(variants.iter().any(|variant| variant["without"] == "all but attention"));
    for variant in variants {
        assert!(variant["ms"].as_f64() > Some(0.0) && variant["nodes"].as_u64() >= worth["nodes"].as_u64());
    }

    for (file, model, panels) in [("both.svg", &onnx, 2), ("one.html", &engine, 1)] {
        let path = work.path(file);
        bertha(&["inspect", model, "--graph", &path]).succeeds();
        let picture = std::fs::read_to_string(&path).unwrap();
        assert!(picture.contains("as it runs"));
        assert_eq!(picture.contains("as imported"), panels == 2);
    }
    // The ending is looked at before the model is.
    bertha(&["inspect", "/nowhere/model.onnx", "--graph", &work.path("x.png")]).fails(2, &["x.png", ".svg"]);
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let work = Work::new();
    let model = work.bare_model("bert_encoder");
    let mut child = command(&["inspect", &model, "--text"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn every_command_explains_itself() {
    let overview = bertha(&["--help"]).succeeds().stdout.clone();
    for name in [
        "fill-mask",
        "embed",
        "classify",
        "tag",
        "rerank",
        "sparse",
        "tokenize",
        "run",
        "build",
        "inspect",
        "export",
        "bench",
        "compare",
        "doctor",
        "selftest",
    ] {
        assert!(overview.contains(name), "{overview}");
        let help = bertha(&[name, "--help"]).succeeds().stdout.clone();
        assert!(help.contains("Usage: bertha") && help.contains(name), "{help}");
    }
    assert!(bertha(&["--version"]).succeeds().stdout.starts_with("bertha "));
}
