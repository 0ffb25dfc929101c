//! Whole graphs on the CPU runtime against the reference interpreter.

use std::sync::Arc;

use bertha_cpu::isa::Isa;
use bertha_cpu::{CpuModel, LowerError, PackedStore, RunError, TensorRef};
use bertha_graph::interp::{Interpreter, Precision};
use bertha_graph::{
    Activation, BinaryOp, DType, GeluKind, Graph, Op, PoolKind, RelativeBuckets, SplitMix64, TensorData,
    TensorId, TensorType, WeightLayout, shape,
};

/// So that every run tests the same numbers.
struct Random(SplitMix64);

impl Random {
    fn tensor(&mut self, shape: &[usize]) -> TensorData {
        let count = shape.iter().product();
        let value = |random: &mut Random| (random.0.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        TensorData::from_vec(shape.to_vec(), (0..count).map(|_| value(self)).collect()).unwrap()
    }
}

const VOCABULARY: usize = 23;
const HIDDEN: usize = 24;
const HEADS: usize = 3;

struct Net {
    graph: Graph,
    random: Random,
}

impl Net {
    fn weight(&mut self, name: &str, shape: &[usize]) -> Option<TensorId> {
        let data = self.random.tensor(shape);
        Some(self.graph.add_constant(name, data).unwrap())
    }

    fn node(&mut self, name: &str, op: Op, inputs: &[Option<TensorId>]) -> Option<TensorId> {
        let id = self.graph.add_node(name, op, inputs, &[&format!("{name}.out")]).unwrap();
        self.graph.node(id).outputs[0]
    }

    fn linear(
        &mut self,
        name: &str,
        x: Option<TensorId>,
        (k, n): (usize, usize),
        extra: (Activation, Option<TensorId>),
    ) -> Option<TensorId> {
        let weight = self.weight(&format!("{name}.weight"), &[n, k]);
        let bias = self.weight(&format!("{name}.bias"), &[n]);
        let op = Op::Linear { layout: WeightLayout::OutIn, activation: extra.0 };
        self.node(name, op, &[x, weight, bias, extra.1])
    }
}

/// A two-layer encoder with every hot op in it, ragged.
fn encoder(seed: u64) -> Graph {
    let mut net = Net { graph: Graph::new("encoder"), random: Random(SplitMix64::new(seed)) };
    let mut input =
        |name: &str, shape| Some(net.graph.add_input(name, TensorType::new(DType::I32, shape)).unwrap());
    let ids = input("input_ids", shape!["tokens"]);
    let positions = input("position_ids", shape!["tokens"]);
    let cu = Some(
        net.graph
            .add_input(
                "cu_seqlens",
                TensorType::new(DType::I32, bertha_graph::Shape(vec!["batch + 1".parse().unwrap()])),
            )
            .unwrap(),
    );
    let words = net.weight("words", &[VOCABULARY, HIDDEN]);
    let places = net.weight("places", &[512, HIDDEN]);
    let table = net.weight("relative", &[8, HEADS]);
    let embeddings = [ids, words, positions, places];
    let mut x = net.node("embed", Op::EmbeddingSum, &embeddings);
    for layer in 0..2 {
        let name = |part: &str| format!("{layer}.{part}");
        let plain = (Activation::None, None);
        let q = net.linear(&name("q"), x, (HIDDEN, HIDDEN), plain);
        let k = net.linear(&name("k"), x, (HIDDEN, HIDDEN), plain);
        let v = net.linear(&name("v"), x, (HIDDEN, HIDDEN), plain);
        let relative = (layer == 1).then_some(RelativeBuckets { buckets: 8, max_distance: 16 });
        let op = Op::RaggedAttention { heads: HEADS, scale: 0.35, relative };
        let mixed = if layer == 0 {
            net.node(&name("attention"), op, &[q, k, v, cu])
        } else {
            // The same with the three side by side.
            let packed = net.linear(&name("qkv"), x, (HIDDEN, 3 * HIDDEN), plain);
            net.node(&name("attention"), op, &[packed, None, None, cu, table])
        };
        let sum = net.linear(&name("out"), mixed, (HIDDEN, HIDDEN), (Activation::None, x));
        let (gamma, beta) = (net.weight(&name("gamma"), &[HIDDEN]), net.weight(&name("beta"), &[HIDDEN]));
        let normed = net.node(&name("norm"), Op::LayerNorm { axis: -1, epsilon: 1e-12 }, &[sum, gamma, beta]);
        let wide = net.linear(&name("up"), normed, (HIDDEN, 40), plain);
        let wide = net.node(
            &name("gelu"),
            Op::Gelu(if layer == 0 { GeluKind::Erf } else { GeluKind::Tanh }),
            &[wide],
        );
        let down = net.linear(&name("down"), wide, (40, HIDDEN), plain);
        x = net.node(&name("residual"), Op::Binary(BinaryOp::Add), &[down, normed]);
    }
    let mut outputs = vec![("last_hidden_state".to_owned(), x.unwrap())];
    let kinds = [
        PoolKind::Cls,
        PoolKind::Mean,
        PoolKind::Max,
        PoolKind::MeanSqrtLen,
        PoolKind::WeightedMean,
        PoolKind::LastToken,
    ];
    for kind in kinds {
        let pooled = net.node(&format!("{kind:?}"), Op::Pool(kind), &[x, cu]);
        let unit = net.node(&format!("{kind:?}.unit"), Op::L2Normalize { epsilon: 1e-12 }, &[pooled]);
        outputs.push((format!("{kind:?}"), unit.unwrap()));
    }
    // Normalised at once, as a product reads it.
    let (gamma, beta) = (net.weight("embed.gamma", &[HIDDEN]), net.weight("embed.beta", &[HIDDEN]));
    let fused = Op::EmbeddingLayerNorm { epsilon: 1e-5 };
    let inputs: Vec<_> = embeddings.into_iter().chain([gamma, beta]).collect();
    let normed = net.node("normed", fused, &inputs);
    let product = net.linear("product", normed, (HIDDEN, HIDDEN), (Activation::None, None));
    let pooled = net.node("product.first", Op::Pool(PoolKind::Cls), &[product, cu]);
    outputs.push(("product".into(), pooled.unwrap()));
    net.graph.set_outputs(outputs).unwrap();
    net.graph
}

/// A ragged batch of random sequences of these lengths.
fn batch(lengths: &[usize], seed: u64) -> Vec<(&'static str, TensorData)> {
    let mut random = Random(SplitMix64::new(seed));
    let tokens: usize = lengths.iter().sum();
    let ids = (0..tokens).map(|_| random.0.below(VOCABULARY) as i32).collect();
    let positions = lengths.iter().flat_map(|length| 0..*length as i32).collect();
    let mut cu = vec![0i32];
    cu.extend(lengths.iter().scan(0, |sum, length| {
        *sum += *length as i32;
        Some(*sum)
    }));
    let vector = |values: Vec<i32>| TensorData::vector(values);
    vec![("input_ids", vector(ids)), ("position_ids", vector(positions)), ("cu_seqlens", vector(cu))]
}

fn run(
    model: &Arc<CpuModel>,
    threads: usize,
    inputs: &[(&str, TensorData)],
    wanted: &[&str],
) -> Vec<(String, TensorData)> {
    let views: Vec<_> = inputs.iter().map(|(name, data)| (*name, view(data))).collect();
    let mut outputs = Vec::new();
    let mut session = model.session(threads).unwrap();
    session
        .run(&views, wanted, |output| {
            outputs.push((output.name.to_owned(), output.to_data()?));
            Ok(())
        })
        .unwrap();
    outputs
}

fn view(data: &TensorData) -> TensorRef<'_> {
    TensorRef { dtype: data.dtype(), shape: data.shape(), bytes: data.bytes() }
}

/// The norm of the difference over the norm of what is expected.
fn relative_error(ours: &TensorData, theirs: &[f64]) -> f64 {
    let ours = ours.to_f64();
    assert_eq!(ours.len(), theirs.len());
    let error: f64 = ours.iter().zip(theirs).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let norm: f64 = theirs.iter().map(|b| b * b).sum::<f64>().sqrt();
    if error == 0.0 { 0.0 } else { error / norm }
}

fn assert_close(name: &str, ours: &TensorData, theirs: &[f64]) {
    let error = relative_error(ours, theirs);
    assert!(error <= 1e-5, "{name}: relative error {error}");
}

const LENGTHS: [&[usize]; 6] = [&[1], &[2, 1, 5], &[7], &[16, 3, 40], &[1, 1, 1], &[100, 64]];

#[test]
fn every_tier_and_thread_count_gives_the_reference_answer() {
    let graph = encoder(1);
    let (optimized, _) = bertha_compile::optimize(&graph).unwrap();
    for isa in Isa::available() {
        for graph in [&graph, &optimized] {
            let model = Arc::new(CpuModel::new(graph.clone(), isa).unwrap());
            for (seed, lengths) in LENGTHS.iter().enumerate() {
                let inputs = batch(lengths, seed as u64);
                let expected = Interpreter::new(graph, Precision::F64).run_f64(&inputs).unwrap();
                for threads in [1, 3] {
                    for ((name, data), (_, theirs)) in
                        run(&model, threads, &inputs, &[]).iter().zip(&expected)
                    {
                        assert_close(
                            &format!("{name} of {lengths:?} on {}", isa.tier()),
                            data,
                            &theirs.values,
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_sentence_answers_the_same_alone_and_in_company() {
    let (graph, _) = bertha_compile::optimize(&encoder(2)).unwrap();
    for isa in Isa::available() {
        let model = Arc::new(CpuModel::new(graph.clone(), isa).unwrap());
        let lengths = [5, 1, 33, 12, 64, 2, 7];
        let together = batch(&lengths, 9);
        let all = run(&model, 2, &together, &[]);
        let mut start = 0;
        for (sequence, length) in lengths.into_iter().enumerate() {
            let ids = together[0].1.as_slice::<i32>().unwrap()[start..start + length].to_vec();
            let mut alone = batch(&[length], 0);
            alone[0].1 = TensorData::vector(ids);
            for ((name, one), (_, many)) in run(&model, 1, &alone, &[]).iter().zip(&all) {
                let rows =
                    if name == "last_hidden_state" { start..start + length } else { sequence..sequence + 1 };
                let row = HIDDEN * 4;
                assert_eq!(
                    one.bytes()[..],
                    many.bytes()[rows.start * row..rows.end * row],
                    "{name} of {sequence}"
                );
            }
            start += length;
        }
    }
}

/// Linears and a norm over rows of a multiple of 32 cache lines, which a program keeps apart by padding.
fn crowding(seed: u64) -> Graph {
    let mut net = Net { graph: Graph::new("crowding"), random: Random(SplitMix64::new(seed)) };
    let x = net.graph.add_input("x", TensorType::new(DType::F32, shape!["tokens", HIDDEN])).unwrap();
    let plain = (Activation::None, None);
    let wide = net.linear("wide", Some(x), (HIDDEN, 512), plain);
    let (gamma, beta) = (net.weight("gamma", &[512]), net.weight("beta", &[512]));
    let normed = net.node("norm", Op::LayerNorm { axis: -1, epsilon: 1e-12 }, &[wide, gamma, beta]);
    let up = net.linear("up", normed, (512, 1024), (Activation::GeluErf, None));
    let down = net.linear("down", up, (1024, 512), (Activation::None, normed));
    let narrow = net.linear("narrow", down, (512, HIDDEN), plain);
    net.graph.set_outputs(vec![("y".to_owned(), narrow.unwrap())]).unwrap();
    net.graph
}

#[test]
fn padded_rows_change_no_answer() {
    let graph = crowding(7);
    let mut random = Random(SplitMix64::new(8));
    for isa in Isa::available() {
        let model = Arc::new(CpuModel::new(graph.clone(), isa).unwrap());
        for tokens in [0, 1, 5, 33] {
            let inputs = [("x", random.tensor(&[tokens, HIDDEN]))];
            let expected = Interpreter::new(&graph, Precision::F64).run_f64(&inputs).unwrap();
            for threads in [1, 2] {
                let (name, data) = &run(&model, threads, &inputs, &[])[0];
                assert_close(&format!("{name} of {tokens} tokens on {isa}"), data, &expected[0].1.values);
            }
        }
    }
}

/// The model in bf16, where this CPU has such instructions.
fn bf16_model(graph: &Graph) -> Option<Arc<CpuModel>> {
    let isa = Isa::detect();
    match PackedStore::with_precision(isa, bertha_compile::Precision::Bf16) {
        Ok(store) => Some(Arc::new(CpuModel::with_packed(graph.clone(), isa, store).unwrap())),
        Err(error) => {
            assert!(!isa.has_bf16(), "{error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn bf16_models_stay_within_the_formats_error() {
    // A product's factors are off by 2^-8 each at most, by a third of that in the mean, and errors add up like a random
    // walk over the products that follow each other. The encoder's scores reach tens, and an attention weight changes by
    // as much of itself as its score changes in all: ten times a value's own error.
    const ROUND: f64 = 1.0 / 256.0;
    let encoder = bertha_compile::optimize(&encoder(9)).unwrap().0;
    for (graph, products, slope) in [(crowding(7), 4.0, 1.0), (encoder, 12.0, 10.0)] {
        let Some(model) = bf16_model(&graph) else { return };
        for (seed, lengths) in LENGTHS.iter().enumerate() {
            let inputs = match graph.name.as_str() {
                "crowding" => {
                    let tokens = lengths.iter().sum();
                    vec![("x", Random(SplitMix64::new(seed as u64)).tensor(&[tokens, HIDDEN]))]
                }
                _ => batch(lengths, seed as u64),
            };
            let expected = Interpreter::new(&graph, Precision::F64).run_f64(&inputs).unwrap();
            let outputs = run(&model, 1, &inputs, &[]);
            assert_eq!(outputs, run(&model, 3, &inputs, &[]), "threads change nothing");
            for ((name, data), (_, theirs)) in outputs.iter().zip(&expected) {
                let error = relative_error(data, &theirs.values);
                assert!(error > 1e-6, "{name} of {} is as exact as f32: {error}", graph.name);
                assert!(error < ROUND * f64::sqrt(products) * slope, "{name} of {}: {error}", graph.name);
            }
        }
    }
}

#[test]
fn a_bf16_sequence_is_the_same_in_any_company() {
    let graph = bertha_compile::optimize(&encoder(2)).unwrap().0;
    let Some(model) = bf16_model(&graph) else { return };
    let lengths = [5, 1, 33, 20, 64];
    let all = batch(&lengths, 3);
    let together = run(&model, 2, &all, &["last_hidden_state"])[0].1.clone();
    let mut start = 0;
    for length in lengths {
        let piece = |name: &str| {
            let (_, data) = all.iter().find(|(other, _)| *other == name).unwrap();
            TensorData::vector(data.as_slice::<i32>().unwrap()[start..start + length].to_vec())
        };
        let alone = [
            ("input_ids", piece("input_ids")),
            ("position_ids", piece("position_ids")),
            ("cu_seqlens", TensorData::vector(vec![0, length as i32])),
        ];
        let alone = run(&model, 1, &alone, &["last_hidden_state"])[0].1.clone();
        let row = 4 * HIDDEN;
        assert_eq!(alone.bytes()[..], together.bytes()[start * row..(start + length) * row]);
        start += length;
    }
}

#[test]
fn a_precision_without_kernels_is_refused_by_name() {
    use bertha_compile::Precision::{Bf16, F16};
    let portable = Isa::from_name("portable").unwrap();
    for (isa, precision) in [(portable, Bf16), (portable, F16), (Isa::detect(), F16)] {
        let error = PackedStore::with_precision(isa, precision).unwrap_err();
        assert!(matches!(error, LowerError::Precision { .. }), "{error}");
        assert!(error.to_string().contains("--precision f32"), "{error}");
    }
}

#[test]
fn sessions_share_weights_and_run_at_the_same_time() {
    let model = Arc::new(CpuModel::new(encoder(3), Isa::detect()).unwrap());
    let inputs = batch(&[9, 30], 4);
    let expected = run(&model, 1, &inputs, &[]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(run(&model, 2, &inputs, &[]), expected);
                }
            });
        }
    });
}

#[test]
fn only_wanted_outputs_are_given_and_they_are_the_same() {
    let model = Arc::new(CpuModel::new(encoder(4), Isa::detect()).unwrap());
    let inputs = batch(&[4, 6], 5);
    let all = run(&model, 1, &inputs, &[]);
    let some = run(&model, 1, &inputs, &["Mean", "Cls"]);
    assert_eq!(some.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["Cls", "Mean"]);
    for (name, data) in some {
        assert_eq!(all.iter().find(|(other, _)| *other == name).unwrap().1, data);
    }
}

#[test]
fn packed_weights_travel_through_bytes() {
    let graph = encoder(5);
    let isa = Isa::detect();
    let fresh = Arc::new(CpuModel::new(graph.clone(), isa).unwrap());
    let mut blob = Vec::new();
    let mut entries = Vec::new();
    for (entry, bytes) in fresh.packed().entries() {
        entries.push(bertha_cpu::PackedEntry {
            offset: blob.len() as u64,
            length: bytes.len() as u64,
            ..entry
        });
        blob.extend_from_slice(&bytes);
    }
    let store =
        PackedStore::from_entries(isa, bertha_compile::Precision::F32, entries.clone(), &blob.clone().into())
            .unwrap();
    let loaded = Arc::new(CpuModel::with_packed(graph.clone(), isa, store).unwrap());
    let inputs = batch(&[3, 8], 6);
    assert_eq!(run(&fresh, 1, &inputs, &[]), run(&loaded, 1, &inputs, &[]));

    let mut outside = entries.clone();
    outside[0].offset = u64::MAX;
    assert!(
        PackedStore::from_entries(isa, bertha_compile::Precision::F32, outside, &blob.clone().into())
            .is_err()
    );
    // Same length, since panels are padded, but another matrix: found when the graph asks for it.
    let mut wrong_shape = entries;
    wrong_shape[0].desc.n += 1;
    let store =
        PackedStore::from_entries(isa, bertha_compile::Precision::F32, wrong_shape, &blob.into()).unwrap();
    assert!(matches!(CpuModel::with_packed(graph, isa, store), Err(LowerError::Packed { .. })));
}

#[test]
fn wrong_inputs_are_named() {
    let model = Arc::new(CpuModel::new(encoder(6), Isa::detect()).unwrap());
    let mut session = model.session(1).unwrap();
    let mut attempt = |inputs: &[(&str, TensorData)]| {
        let views: Vec<_> = inputs.iter().map(|(name, data)| (*name, view(data))).collect();
        session.run(&views, &[], |_| Ok(())).unwrap_err()
    };
    let good = batch(&[3, 4], 7);
    assert!(matches!(attempt(&good[..2]), RunError::MissingInput { name, .. } if name == "cu_seqlens"));
    let replaced = |index: usize, data: TensorData| {
        let mut inputs = good.clone();
        inputs[index].1 = data;
        inputs
    };
    assert!(matches!(attempt(&replaced(0, TensorData::vector(vec![0i64; 7]))), RunError::InputDType { .. }));
    assert!(matches!(attempt(&replaced(1, TensorData::vector(vec![0i32; 6]))), RunError::InputShape { .. }));
    for (index, values, needle) in [
        (0, vec![0, 1, 2, 3, 99, 5, 6], "99"),
        (0, vec![0, 1, 2, 3, -1, 5, 6], "-1"),
        (2, vec![0, 9, 7], "9"),
        (2, vec![0, 3, 6], "7 tokens"),
        (2, vec![0, -3, 7], "7 tokens"),
        (2, vec![1, 3, 7], "start with 0"),
    ] {
        let message = attempt(&replaced(index, TensorData::vector::<i32>(values.clone()))).to_string();
        assert!(message.contains(needle) || message.contains("fall"), "{values:?}: {message}");
    }
    let mut extra = good.clone();
    extra.push(("mask", TensorData::vector(vec![1i32; 7])));
    assert!(matches!(attempt(&extra), RunError::UnknownInput { name, .. } if name == "mask"));
}

#[test]
fn memory_does_not_grow_with_more_runs() {
    let model = Arc::new(CpuModel::new(encoder(7), Isa::detect()).unwrap());
    let mut session = model.session(2).unwrap();
    let mut run = |lengths: &[usize]| {
        let inputs = batch(lengths, 8);
        let views: Vec<_> = inputs.iter().map(|(name, data)| (*name, view(data))).collect();
        session.run(&views, &[], |_| Ok(())).unwrap();
        session.memory_bytes()
    };
    let after_largest = run(&[50, 49, 1]);
    for lengths in LENGTHS.iter().filter(|lengths| lengths.iter().sum::<usize>() <= 100) {
        assert_eq!(run(lengths), after_largest, "{lengths:?}");
    }
}

/// Words that are looked up and decoded again, with one table for both or two of the same values.
fn masked_lm(seed: u64, tied: bool, normed: bool) -> Graph {
    let mut net = Net { graph: Graph::new("masked lm"), random: Random(SplitMix64::new(seed)) };
    let mut input = |name: &str, shape| net.graph.add_input(name, TensorType::new(DType::I32, shape)).ok();
    let ids = input("input_ids", shape!["tokens"]);
    let positions = input("position_ids", shape!["tokens"]);
    let words = net.random.tensor(&[VOCABULARY, HIDDEN]);
    let mut table = |name: &str| net.graph.add_constant(name, words.clone()).ok();
    let looked_up = table("words");
    let decoded = if tied { looked_up } else { table("decoder") };
    let places = net.weight("places", &[512, HIDDEN]);
    // The tied table comes second too.
    let mut operands = vec![positions, places, ids, looked_up];
    let mut op = Op::EmbeddingSum;
    if normed {
        operands.rotate_left(2);
        operands.extend([net.weight("gamma", &[HIDDEN]), net.weight("beta", &[HIDDEN])]);
        op = Op::EmbeddingLayerNorm { epsilon: 1e-12 };
    }
    let x = net.node("embed", op, &operands);
    let op = Op::Linear { layout: WeightLayout::OutIn, activation: Activation::None };
    let logits = net.node("decode", op, &[x, decoded]);
    net.graph
        .set_outputs(vec![("x".to_owned(), x.unwrap()), ("logits".to_owned(), logits.unwrap())])
        .unwrap();
    net.graph
}

#[test]
fn a_tied_table_is_held_once_and_changes_no_answer() {
    let inputs = &batch(&[9, 70], 5)[..2];
    for normed in [false, true] {
        let (one, two) = (masked_lm(31, true, normed), masked_lm(31, false, normed));
        for isa in Isa::available() {
            let model = |graph: &Graph| Arc::new(CpuModel::new(graph.clone(), isa).unwrap());
            let (one, two) = (model(&one), model(&two));
            assert_eq!(run(&one, 2, inputs, &[]), run(&two, 2, inputs, &[]), "{isa}, norm {normed}");
            // The packed form is the one that was there before.
            assert_eq!(one.packed().bytes(), two.packed().bytes());
        }
        if let (Some(one), Some(two)) = (bf16_model(&one), bf16_model(&two)) {
            assert_eq!(run(&one, 2, inputs, &[]), run(&two, 2, inputs, &[]), "bf16, norm {normed}");
        }
    }
}
