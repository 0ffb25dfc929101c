//! The many ways in which checkpoints differ from what is written today: names, element types, pooling; and what is
//! refused, with messages that name file and field or tensor.

mod support;

use bertha_graph::{DType, PoolKind, TensorData};
use half::{bf16, f16};
use serde_json::json;
use support::{Checkpoint, assert_names, relative_error};

/// A model in f32 gives the answers of transformers in f64 up to here.
const EXACT: f64 = 1e-6;

fn round(checkpoint: Checkpoint, round: impl Fn(&TensorData) -> TensorData) -> Checkpoint {
    let weights = checkpoint.weights.iter().map(|(name, data)| (name.clone(), round(data))).collect();
    Checkpoint { weights, ..checkpoint }
}

#[test]
fn old_names_and_other_prefixes_are_the_same_model() {
    let old = |name: &str| match name.rsplit_once("LayerNorm.") {
        Some((start, "weight")) => format!("{start}LayerNorm.gamma"),
        Some((start, _)) => format!("{start}LayerNorm.beta"),
        None => name.to_owned(),
    };
    assert!(Checkpoint::fixture("bert_pretraining").rename(old).error() < EXACT);
    for prefix in ["bert.", "model.", "model.bert.", "module.bert."] {
        let renamed = Checkpoint::fixture("bert_encoder").rename(|name| format!("{prefix}{name}"));
        assert!(renamed.error() < EXACT, "{prefix}");
    }
    let wrapped = Checkpoint::fixture("roberta_masked_lm").rename(|name| format!("module.{name}"));
    assert!(wrapped.error() < EXACT);
}

#[test]
fn buffers_are_left_alone() {
    let ids = TensorData::from_vec(vec![1, 24], (0..24i64).collect()).unwrap();
    let checkpoint = Checkpoint::fixture("bert_encoder").weight("embeddings.position_ids", ids);
    assert!(checkpoint.error() < EXACT);
}

#[test]
fn other_float_types_become_f32() {
    let f64s = round(Checkpoint::fixture("bert_encoder"), |data| {
        TensorData::from_vec(data.shape().to_vec(), data.to_f64()).unwrap()
    });
    assert!(f64s.error() < EXACT);
    let f16s = round(Checkpoint::fixture("bert_encoder"), |data| {
        let values = data.to_f64().into_iter().map(f16::from_f64).collect();
        TensorData::from_vec(data.shape().to_vec(), values).unwrap()
    });
    let bf16s = round(Checkpoint::fixture("bert_encoder"), |data| {
        let values = data.to_f64().into_iter().map(bf16::from_f64).collect();
        TensorData::from_vec(data.shape().to_vec(), values).unwrap()
    });
    // The answers move by what the rounding of the weights moves them.
    assert!((1e-5..1e-2).contains(&f16s.error()), "{:e}", f16s.error());
    assert!((1e-4..1e-1).contains(&bf16s.error()), "{:e}", bf16s.error());
    let graph = f16s.import().unwrap().graph;
    assert!(graph.tensors().iter().filter_map(|t| t.constant()).all(|data| data.dtype() == DType::F32));
}

#[test]
fn a_tied_decoder_is_one_tensor_however_it_is_stored() {
    let words = "roberta.embeddings.word_embeddings.weight";
    let absent = Checkpoint::fixture("roberta_masked_lm");
    let data = absent.data(words).clone();
    let stored = Checkpoint::fixture("roberta_masked_lm").weight("lm_head.decoder.weight", data.clone());
    assert!(absent.error() < EXACT && stored.error() < EXACT);
    let graph = stored.import().unwrap().graph;
    assert!(graph.find("lm_head.decoder.weight").is_none());

    // A decoder of its own is not dropped for the embedding.
    let doubled = data.to_f32().unwrap().iter().map(|v| 2.0 * v).collect();
    let own = TensorData::from_vec(data.shape().to_vec(), doubled).unwrap();
    assert!(Checkpoint::fixture("roberta_masked_lm").weight("lm_head.decoder.weight", own).error() > 0.1);

    let untied = Checkpoint::fixture("roberta_masked_lm").set("tie_word_embeddings", false);
    assert_names(&untied.refusal(), &["lm_head.decoder.weight", "model.safetensors"]);
}

#[test]
fn missing_extra_and_misshapen_weights_are_named() {
    let missing = Checkpoint::fixture("bert_encoder").without("encoder.layer.1.output.dense.bias");
    assert_names(&missing.refusal(), &["model.safetensors", "`encoder.layer.1.output.dense.bias`"]);

    let extra = Checkpoint::fixture("bert_encoder")
        .weight("encoder.layer.2.output.dense.bias", TensorData::vector(vec![0f32; 16]))
        .weight("adapter.weight", TensorData::vector(vec![0f32]));
    let message = extra.refusal();
    assert_names(&message, &["2 tensors", "`encoder.layer.2.output.dense.bias`", "`adapter.weight`"]);

    let name = "encoder.layer.0.attention.self.key.weight";
    let misshapen = Checkpoint::fixture("bert_encoder")
        .weight(name, TensorData::from_vec(vec![16, 8], vec![0f32; 128]).unwrap());
    assert_names(&misshapen.refusal(), &[name, "[16, 16]", "[16, 8]"]);

    let integers = Checkpoint::fixture("bert_encoder")
        .weight(name, TensorData::from_vec(vec![16, 16], vec![0i8; 256]).unwrap());
    assert_names(&integers.refusal(), &[name, "i8", "quantization_config"]);

    let headless = Checkpoint::fixture("bert_encoder").set("architectures", json!(["BertForMaskedLM"]));
    assert_names(&headless.refusal(), &["cls.predictions.transform.dense.weight"]);
}

#[test]
fn what_a_configuration_cannot_have_is_named() {
    let bert = || Checkpoint::fixture("bert_encoder");
    let cases = [
        (bert().unset("hidden_size"), vec!["`hidden_size`", "missing"]),
        (bert().set("hidden_size", "wide"), vec!["`hidden_size`", "\"wide\""]),
        (bert().set("num_hidden_layers", 0), vec!["`num_hidden_layers`", "positive"]),
        (bert().set("num_hidden_layers", 4_000_000_000u64), vec!["`num_hidden_layers`", "1024"]),
        (bert().set("num_hidden_layers", 3), vec!["encoder.layer.2"]),
        (bert().set("num_hidden_layers", 1), vec!["`encoder.layer.1."]),
        (bert().set("num_attention_heads", 3), vec!["`num_attention_heads`", "divisor", "16"]),
        (bert().set("hidden_act", "mish"), vec!["`hidden_act`", "\"mish\"", "gelu_new"]),
        (bert().set("layer_norm_eps", -1.0), vec!["`layer_norm_eps`", "-1"]),
        (
            bert().set("position_embedding_type", "relative_key"),
            vec!["position_embedding_type", "relative_key"],
        ),
        (bert().set("is_decoder", true), vec!["is_decoder"]),
        (bert().set("pruned_heads", json!({"0": [1]})), vec!["pruned_heads"]),
        (bert().set("model_type", "llama"), vec!["`model_type`", "\"llama\"", "distilbert"]),
        (bert().set("architectures", json!(["BertLMHeadModel"])), vec!["`architectures`", "BertLMHeadModel"]),
        (bert().set("architectures", json!(["BertForMultipleChoice"])), vec!["BertForMultipleChoice"]),
        (bert().set("architectures", "BertModel"), vec!["`architectures`", "list"]),
        (
            Checkpoint::fixture("distilbert_masked_lm")
                .set("architectures", json!(["DistilBertForPreTraining"])),
            vec!["`architectures`", "DistilBERT"],
        ),
        (
            Checkpoint::fixture("mpnet_encoder").set("relative_attention_num_buckets", 64),
            vec!["`relative_attention_num_buckets`", "32", "64"],
        ),
        (
            Checkpoint::fixture("bert_sequence_classification").set("id2label", json!({"0": "a", "1": "b"})),
            vec!["`id2label`", "3", "2"],
        ),
        (
            Checkpoint::fixture("albert_pretraining").set("inner_group_num", 4_000_000_000u64),
            vec!["`inner_group_num`", "1024"],
        ),
    ];
    for (checkpoint, parts) in cases {
        let message = checkpoint.refusal();
        assert_names(&message, &parts);
        assert!(message.contains("config.json") || message.contains("model.safetensors"), "{message}");
    }
}

// ---- sentence-transformers ----------------------------------------------------------------------------------------

const MODULES: &str = r#"[
  {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
  {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
  {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
  {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}
]"#;

/// The hidden states of the fixture's first sequence, in rows.
fn hidden_rows(checkpoint: &Checkpoint) -> Vec<Vec<f64>> {
    let outputs = run(checkpoint);
    let (_, hidden) = outputs.into_iter().find(|(name, _)| name == "last_hidden_state").unwrap();
    hidden.values.chunks(hidden.shape[1]).take(5).map(<[f64]>::to_vec).collect()
}

fn run(checkpoint: &Checkpoint) -> Vec<(String, bertha_graph::interp::F64Tensor)> {
    let model = checkpoint.import().unwrap();
    let expected = support::fixtures().join("bert_encoder/expected.safetensors");
    let expected = bertha_import::hf::SafetensorsFile::open(expected).unwrap();
    let inputs: Vec<_> = ["input_ids", "token_type_ids", "position_ids", "cu_seqlens"]
        .into_iter()
        .map(|name| (name, expected.tensor(name).unwrap()))
        .collect();
    let precision = bertha_graph::interp::Precision::F64;
    bertha_graph::interp::Interpreter::new(&model.graph, precision).run_f64(&inputs).unwrap()
}

fn embedding(checkpoint: &Checkpoint) -> Vec<f64> {
    let outputs = run(checkpoint);
    let (_, embedding) = outputs.into_iter().find(|(name, _)| name == "sentence_embedding").unwrap();
    let width = embedding.shape[1];
    embedding.values[..width].to_vec()
}

fn column_wise(rows: &[Vec<f64>], fold: impl Fn(&mut dyn Iterator<Item = f64>) -> f64) -> Vec<f64> {
    (0..rows[0].len()).map(|at| fold(&mut rows.iter().map(|row| row[at]))).collect()
}

#[test]
fn every_way_of_pooling_is_read() {
    let rows = hidden_rows(&Checkpoint::fixture("bert_encoder"));
    let length = rows.len() as f64;
    let weighted = |values: &mut dyn Iterator<Item = f64>| {
        values.zip(1..).map(|(v, weight)| v * f64::from(weight)).sum::<f64>()
            / (length * (length + 1.0) / 2.0)
    };
    let cases = [
        ("pooling_mode_cls_token", "cls", PoolKind::Cls, rows[0].clone()),
        ("pooling_mode_mean_tokens", "mean", PoolKind::Mean, column_wise(&rows, |v| v.sum::<f64>() / length)),
        ("pooling_mode_max_tokens", "max", PoolKind::Max, column_wise(&rows, |v| v.fold(f64::MIN, f64::max))),
        (
            "pooling_mode_mean_sqrt_len_tokens",
            "mean_sqrt_len_tokens",
            PoolKind::MeanSqrtLen,
            column_wise(&rows, |v| v.sum::<f64>() / length.sqrt()),
        ),
        (
            "pooling_mode_weightedmean_tokens",
            "weightedmean",
            PoolKind::WeightedMean,
            column_wise(&rows, weighted),
        ),
        ("pooling_mode_lasttoken", "lasttoken", PoolKind::LastToken, rows[4].clone()),
    ];
    for (flag, name, kind, expected) in cases {
        for config in [json!({flag: true}), json!({"pooling_mode": name})] {
            let checkpoint =
                Checkpoint::fixture("bert_encoder").file("1_Pooling/config.json", config.to_string());
            assert_eq!(checkpoint.import().unwrap().info.pooling.map(|pooling| pooling.kind), Some(kind));
            let error = relative_error(&embedding(&checkpoint), &expected);
            assert!(error < 1e-12, "{name}: {error:e}");
        }
    }
    let several = json!({"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true});
    let several = Checkpoint::fixture("bert_encoder").file("1_Pooling/config.json", several.to_string());
    assert_names(&several.refusal(), &["1_Pooling", "pooling_mode", "cls, max"]);
}

#[test]
fn dense_and_normalize_modules_follow_the_pooling() {
    let weights: Vec<f32> = (0..3 * 16).map(|i| ((i * 7 % 11) as f32 - 5.0) / 10.0).collect();
    let bias = vec![0.1f32, -0.2, 0.3];
    let checkpoint = Checkpoint::fixture("bert_encoder")
        .file("modules.json", MODULES)
        .file("sentence_bert_config.json", r#"{"max_seq_length": 20, "do_lower_case": false}"#)
        .file("1_Pooling/config.json", r#"{"pooling_mode_mean_tokens": true}"#)
        .file(
            "2_Dense/config.json",
            r#"{"in_features": 16, "out_features": 3, "bias": true, "activation_function": "torch.nn.modules.activation.Tanh"}"#,
        );
    let folder = checkpoint.write();
    let tensors = [
        ("linear.weight", TensorData::from_vec(vec![3, 16], weights.clone()).unwrap()),
        ("linear.bias", TensorData::vector(bias.clone())),
    ];
    let tensors = tensors.iter().map(|(name, data)| (*name, data));
    bertha_import::hf::write_safetensors(folder.path().join("2_Dense/model.safetensors"), tensors, None)
        .unwrap();
    let model = bertha_import::hf::import(folder.path(), &Default::default()).unwrap();
    assert_eq!(model.info.max_tokens, Some(20));
    let pooling = model.info.pooling.unwrap();
    assert!(pooling.normalize && pooling.kind == PoolKind::Mean);

    let rows = hidden_rows(&Checkpoint::fixture("bert_encoder"));
    let mean = column_wise(&rows, |v| v.sum::<f64>() / rows.len() as f64);
    let mut expected: Vec<f64> = (weights.chunks(16).zip(&bias))
        .map(|(row, bias)| {
            row.iter().zip(&mean).map(|(w, x)| f64::from(*w) * x).sum::<f64>() + f64::from(*bias)
        })
        .map(f64::tanh)
        .collect();
    let norm = expected.iter().map(|v| v * v).sum::<f64>().sqrt();
    expected.iter_mut().for_each(|v| *v /= norm);

    let file = support::fixtures().join("bert_encoder/expected.safetensors");
    let file = bertha_import::hf::SafetensorsFile::open(file).unwrap();
    let inputs: Vec<_> = ["input_ids", "token_type_ids", "position_ids", "cu_seqlens"]
        .into_iter()
        .map(|name| (name, file.tensor(name).unwrap()))
        .collect();
    let interpreter =
        bertha_graph::interp::Interpreter::new(&model.graph, bertha_graph::interp::Precision::F64);
    let outputs = interpreter.run_f64(&inputs).unwrap();
    let (_, embedding) = outputs.iter().find(|(name, _)| name == "sentence_embedding").unwrap();
    assert!(relative_error(&embedding.values[..3], &expected) < 1e-12);
}

#[test]
fn modules_of_sparse_encoders_keep_the_head() {
    let modules = json!([
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.sparse_encoder.models.MLMTransformer"},
        {"idx": 1, "name": "1", "path": "1_SpladePooling",
         "type": "sentence_transformers.sparse_encoder.models.SpladePooling"},
    ]);
    let checkpoint = Checkpoint::fixture("bert_pretraining").file("modules.json", modules.to_string());
    let info = checkpoint.import().unwrap().info;
    assert_eq!(info.task, bertha_graph::Task::MaskedLm);
    assert_eq!(info.pooling, None);
}

#[test]
fn modules_outside_the_folder_or_unknown_are_refused() {
    let module = |path: &str, class: &str| {
        let list = json!([
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": path, "type": class},
        ]);
        Checkpoint::fixture("bert_encoder").file("modules.json", list.to_string()).refusal()
    };
    assert_names(
        &module("../elsewhere", "sentence_transformers.models.Pooling"),
        &["modules.json", "../elsewhere"],
    );
    assert_names(&module("/etc", "sentence_transformers.models.Pooling"), &["modules.json", "/etc"]);
    assert_names(&module("1_LSTM", "sentence_transformers.models.LSTM"), &["modules.json", "LSTM"]);
}

// ---- compressed-tensors -------------------------------------------------------------------------------------------

fn scheme(format: &str) -> serde_json::Value {
    json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "config_groups": {"group_0": {
            "targets": ["Linear"],
            "input_activations": null,
            "output_activations": null,
            "weights": {"num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel"},
        }},
        "ignore": [],
    })
}

/// Quantises every matrix of the encoder's layers by rows. Gives the checkpoint and one in f32 of the same values.
fn quantized(packed: bool) -> (Checkpoint, Checkpoint) {
    let mut quantized = Checkpoint::fixture("bert_encoder");
    let mut plain = Checkpoint::fixture("bert_encoder");
    for (name, data) in Checkpoint::fixture("bert_encoder").weights {
        let &[rows, columns] = data.shape() else { continue };
        if !name.starts_with("encoder.") {
            continue;
        }
        let values = data.as_slice::<f32>().unwrap();
        let scales: Vec<f32> =
            values.chunks(columns).map(|row| row.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0).collect();
        let q: Vec<i8> = (values.chunks(columns).zip(&scales))
            .flat_map(|(row, scale)| row.iter().map(move |v| (v / scale).round() as i8))
            .collect();
        let undone = (q.chunks(columns).zip(&scales))
            .flat_map(|(row, scale)| row.iter().map(move |q| f32::from(*q) * scale))
            .collect();
        plain = plain.weight(&name, TensorData::from_vec(vec![rows, columns], undone).unwrap());
        let scales = TensorData::from_vec(vec![rows, 1], scales).unwrap();
        quantized = quantized.weight(&format!("{name}_scale"), scales);
        if packed {
            let words: Vec<i32> = q
                .chunks(columns)
                .flat_map(|row| row.chunks(4))
                .map(|four| {
                    let byte = |at: usize| (i16::from(four[at]) + 128) as u8;
                    i32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
                })
                .collect();
            let words = TensorData::from_vec(vec![rows, columns / 4], words).unwrap();
            let shape = TensorData::vector(vec![rows as i64, columns as i64]);
            quantized = quantized
                .without(&name)
                .weight(&format!("{name}_packed"), words)
                .weight(&format!("{name}_shape"), shape);
        } else {
            quantized = quantized.weight(&name, TensorData::from_vec(vec![rows, columns], q).unwrap());
        }
    }
    let format = if packed { "pack-quantized" } else { "int-quantized" };
    (quantized.set("quantization_config", scheme(format)), plain)
}

#[test]
fn weights_in_eight_bits_become_the_floats_they_stand_for() {
    for packed in [false, true] {
        let (quantized, plain) = quantized(packed);
        let (quantized, plain) = (quantized.import().unwrap().graph, plain.import().unwrap().graph);
        for tensor in plain.tensors().iter().filter(|tensor| tensor.constant().is_some()) {
            let found = quantized.find(&tensor.name).map(|id| quantized.tensor(id));
            assert_eq!(found.and_then(|t| t.constant()), tensor.constant(), "{}", tensor.name);
        }
    }
}

#[test]
fn other_schemes_are_refused_by_their_field() {
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut scheme = scheme("int-quantized");
        change(&mut scheme);
        quantized(false).0.set("quantization_config", scheme).refusal()
    };
    let message = with(&|s| s["config_groups"]["group_0"]["input_activations"] = json!({"num_bits": 8}));
    assert_names(&message, &["quantization_config.config_groups.group_0.input_activations"]);
    let message = with(&|s| s["config_groups"]["group_0"]["weights"]["num_bits"] = json!(4));
    assert_names(&message, &["quantization_config.config_groups.group_0.weights.num_bits", "4"]);
    let message = with(&|s| s["config_groups"]["group_0"]["weights"]["type"] = json!("float"));
    assert_names(&message, &["weights.type", "float"]);
    assert_names(&with(&|s| s["format"] = json!("float-quantized")), &["quantization_config.format"]);
    assert_names(
        &with(&|s| s["quant_method"] = json!("gptq")),
        &["quantization_config.quant_method", "gptq"],
    );
}
