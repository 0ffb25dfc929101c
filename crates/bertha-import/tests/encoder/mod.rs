//! Small ragged encoders with random weights, and batches for them.

use bertha_graph::{
    Activation, DType, Dim, GeluKind, Graph, Interface, Model, ModelInfo, Op, PoolKind, PositionIds,
    RelativeBuckets, Shape, Task, TensorData, TensorId, TensorType, UnaryOp, WeightLayout, output, ragged,
    shape,
};
use bertha_import::hf;
use bertha_import::onnx::input as onnx_input;

/// The pad token of the encoders.
pub(crate) const PAD: i32 = 1;
pub(crate) const HIDDEN: usize = 8;
const VOCAB: usize = 23;
const POSITIONS: usize = 64;
const HEADS: usize = 2;
pub(crate) const WORD_EMBEDDING: &str = "embeddings.word";
pub(crate) const SQUARE_WEIGHT: &str = "layer.query.weight";

/// How an output relates to the batch.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Tokens,
    Batch,
}

/// The kind of each output, by its leading dimension.
pub(crate) fn output_kinds(graph: &Graph) -> Vec<Kind> {
    let of = |id: TensorId| match graph.tensor(id).ty.shape.dims().first() {
        Some(dim) if *dim == Dim::from("tokens") => Kind::Tokens,
        _ => Kind::Batch,
    };
    graph.outputs().iter().map(|(_, id)| of(*id)).collect()
}

/// Sequences of token ids, with no pad token unless a test puts one in.
pub(crate) struct Batch {
    pub(crate) ids: Vec<Vec<i32>>,
}

impl Batch {
    pub(crate) fn new(lengths: &[usize]) -> Self {
        let mut random = Random(lengths.len() as u64 + 5);
        let ids = lengths.iter().map(|length| (0..*length).map(|_| 2 + random.below(21)).collect());
        Batch { ids: ids.collect() }
    }

    fn longest(&self) -> usize {
        self.ids.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The second half of each sequence is of the second type, where there are two.
    fn token_type(sequence: &[i32], position: usize, types: i64) -> i32 {
        i32::from(types > 1 && position >= sequence.len() / 2)
    }

    /// The inputs of the ragged graph.
    pub(crate) fn ragged(&self, encoder: &Encoder) -> Vec<(&'static str, TensorData)> {
        let type_count = encoder.type_count();
        let (mut ids, mut types, mut positions, mut bounds) = (vec![], vec![], vec![], vec![0]);
        for sequence in &self.ids {
            let mut number = 0;
            for (position, id) in sequence.iter().enumerate() {
                ids.push(*id);
                types.push(Batch::token_type(sequence, position, type_count));
                positions.push(match encoder.model.info.position_ids {
                    PositionIds::AfterPad { pad_id } if *id == pad_id as i32 => *id,
                    PositionIds::AfterPad { pad_id } => {
                        number += 1;
                        pad_id as i32 + number
                    }
                    _ => position as i32,
                });
            }
            bounds.push(ids.len() as i32);
        }
        let mut inputs = vec![
            (ragged::INPUT_IDS, TensorData::vector(ids)),
            (ragged::POSITION_IDS, TensorData::vector(positions)),
            (ragged::CU_SEQLENS, TensorData::vector(bounds)),
        ];
        if type_count > 0 {
            inputs.push((ragged::TOKEN_TYPE_IDS, TensorData::vector(types)));
        }
        inputs
    }

    /// The inputs of the exported graph.
    pub(crate) fn padded(&self, encoder: &Encoder) -> Vec<(&'static str, TensorData)> {
        let type_count = encoder.type_count();
        let shape = vec![self.ids.len(), self.longest()];
        let fill = |value: &dyn Fn(&[i32], usize) -> i32, padding: i32| {
            let rows = self.ids.iter().flat_map(|sequence| {
                (0..shape[1])
                    .map(move |at| i64::from(if at < sequence.len() { value(sequence, at) } else { padding }))
            });
            TensorData::from_vec(shape.clone(), rows.collect()).expect("the shape fits")
        };
        let mut inputs = vec![
            (onnx_input::INPUT_IDS, fill(&|sequence, at| sequence[at], PAD)),
            (onnx_input::ATTENTION_MASK, fill(&|_, _| 1, 0)),
        ];
        if type_count > 0 {
            let types = fill(&|sequence, at| Batch::token_type(sequence, at, type_count), 0);
            inputs.push((onnx_input::TOKEN_TYPE_IDS, types));
        }
        inputs
    }

    /// The values of tokens in `[batch, sequence, ..]`.
    pub(crate) fn without_padding(&self, shape: &[usize], values: &[f64]) -> Vec<f64> {
        assert_eq!(shape[..2], [self.ids.len(), self.longest()]);
        let width: usize = shape[2..].iter().product();
        let row = |batch: usize, at: usize| &values[(batch * shape[1] + at) * width..][..width];
        let mut kept = Vec::new();
        for (batch, sequence) in self.ids.iter().enumerate() {
            (0..sequence.len()).for_each(|at| kept.extend_from_slice(row(batch, at)));
        }
        kept
    }
}

/// A model to export.
pub(crate) struct Encoder {
    pub(crate) model: Model,
}

impl Encoder {
    /// Embeddings, a layer, a pooler and a tied decoder.
    pub(crate) fn bert() -> Self {
        let mut b = Builder::new();
        let x = b.embeddings();
        let x = b.layer(x, None);
        b.output(output::LAST_HIDDEN_STATE, x);
        let pooled = b.pooled(x, PoolKind::Cls);
        b.output(output::POOLER_OUTPUT, pooled);
        let logits = b.tied_decoder(x);
        b.output(output::LOGITS, logits);
        let index = b.graph.add_constant("one", TensorData::scalar(1i64)).expect("a new name");
        let column = b.node("column", Op::Gather { axis: -1 }, &[logits, index]);
        b.output(output::START_LOGITS, column);
        b.finish(PositionIds::Absolute)
    }

    pub(crate) fn with_relative_bias() -> Self {
        let relative = RelativeBuckets { buckets: 8, max_distance: 20 };
        let mut b = Builder::new();
        let x = b.normalized_embeddings();
        let x = b.layer(x, Some(relative));
        b.output(output::LAST_HIDDEN_STATE, x);
        b.finish(PositionIds::Absolute)
    }

    pub(crate) fn with_positions(position_ids: PositionIds) -> Self {
        let mut b = Builder::new();
        let x = b.embeddings();
        b.output(output::LAST_HIDDEN_STATE, x);
        b.finish(position_ids)
    }

    pub(crate) fn with_pool(kind: PoolKind) -> Self {
        let mut b = Builder::new();
        let x = b.embeddings();
        let pooled = b.node("pool", Op::Pool(kind), &[x, b.cu_seqlens]);
        let normal = b.node("normal", Op::L2Normalize { epsilon: 1e-12 }, &[pooled]);
        b.output(output::SENTENCE_EMBEDDING, normal);
        b.finish(PositionIds::Absolute)
    }

    /// A fused linear with a residual for each activation, and the unfused GELUs and SiLU beside the last.
    pub(crate) fn with_each_activation() -> Vec<Self> {
        use Activation::*;
        let of = |activation| {
            let mut b = Builder::new();
            let x = b.embeddings();
            let weight = b.weight("square", &[HIDDEN, HIDDEN]);
            let bias = b.weight("bias", &[HIDDEN]);
            for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
                let op = Op::Linear { layout, activation };
                let y = b.node(&format!("{layout:?}"), op, &[x, weight, bias, x]);
                b.output(&format!("{layout:?}"), y);
                b.output(&format!("{layout:?} again"), y);
            }
            if activation == Silu {
                let gate = b.node("gate", Op::Unary(UnaryOp::Sigmoid), &[x]);
                let silu = b.node("silu", Op::Binary(bertha_graph::BinaryOp::Mul), &[x, gate]);
                let erf = b.node("erf", Op::Gelu(GeluKind::Erf), &[silu]);
                let tanh = b.node("tanh", Op::Gelu(GeluKind::Tanh), &[erf]);
                let softmax = b.node("softmax", Op::Softmax { axis: 1 }, &[tanh]);
                b.output("softmax", softmax);
            }
            b.finish(PositionIds::Absolute)
        };
        [None, Relu, Tanh, GeluErf, GeluTanh, Silu].into_iter().map(of).collect()
    }

    pub(crate) fn with_softmax_along_tokens() -> Self {
        let mut b = Builder::new();
        let x = b.embeddings();
        let y = b.node("over_all", Op::Softmax { axis: 0 }, &[x]);
        b.output("y", y);
        b.finish(PositionIds::Absolute)
    }

    /// The checkpoints of every family and task that the tests of the importer have, by name.
    pub(crate) fn of_every_family() -> Vec<(String, Self)> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf");
        let mut names: Vec<String> = std::fs::read_dir(&folder)
            .expect("the fixtures are there")
            .map(|entry| entry.expect("the folder can be read").file_name().to_string_lossy().into_owned())
            .filter(|name| folder.join(name).join("config.json").is_file())
            .collect();
        names.sort();
        let load = |name: String| {
            let model = hf::import(folder.join(&name), &hf::ImportOptions::default());
            (name, Encoder { model: model.expect("the fixture can be imported") })
        };
        names.into_iter().map(load).collect()
    }

    pub(crate) fn dense() -> Self {
        let mut encoder = Encoder::bert();
        encoder.model.info.interface = Interface::Dense;
        encoder
    }

    /// Number of token types that the model tells apart; 0 when it has no such input.
    pub(crate) fn type_count(&self) -> i64 {
        let graph = &self.model.graph;
        let Some(types) = graph.find(ragged::TOKEN_TYPE_IDS) else { return 0 };
        let table = graph.nodes().iter().find_map(|node| {
            let at = node.inputs.iter().position(|input| *input == Some(types))?;
            node.inputs.get(at + 1).copied().flatten()
        });
        let table = table.expect("token types index a table");
        graph.tensor(table).ty.shape.dims()[0].as_const().expect("the table has a known size")
    }

    pub(crate) fn weight(&self, name: &str) -> &TensorData {
        let id = self.model.graph.find(name).expect("the weight is there");
        self.model.graph.tensor(id).constant().expect("it is a constant")
    }

    pub(crate) fn has_square_weights(&self) -> bool {
        let weight = self.weight(SQUARE_WEIGHT);
        let values = weight.to_f64();
        weight.shape() == [HIDDEN, HIDDEN] && (values[1] - values[HIDDEN]).abs() > 1e-3
    }
}

struct Builder {
    graph: Graph,
    random: Random,
    ids: TensorId,
    types: TensorId,
    positions: TensorId,
    cu_seqlens: TensorId,
}

impl Builder {
    fn new() -> Self {
        let mut graph = Graph::new("encoder");
        let mut input = |name: &str, shape: Shape| {
            graph.add_input(name, TensorType::new(DType::I32, shape)).expect("a new input")
        };
        let ids = input(ragged::INPUT_IDS, shape!["tokens"]);
        let types = input(ragged::TOKEN_TYPE_IDS, shape!["tokens"]);
        let positions = input(ragged::POSITION_IDS, shape!["tokens"]);
        let cu_seqlens = input(ragged::CU_SEQLENS, shape![&Dim::from("batch") + &Dim::from(1)]);
        Builder { graph, random: Random(7), ids, types, positions, cu_seqlens }
    }

    fn weight(&mut self, name: &str, shape: &[usize]) -> TensorId {
        let values = (0..shape.iter().product()).map(|_| self.random.float()).collect();
        let data = TensorData::from_vec::<f32>(shape.to_vec(), values).expect("the shape fits");
        self.graph.add_constant(name, data).expect("a new weight")
    }

    fn node(&mut self, name: &str, op: Op, inputs: &[TensorId]) -> TensorId {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.graph.add_node(name, op, &inputs, &[name]).expect("the node fits");
        self.graph.find(name).expect("the node has a result")
    }

    fn output(&mut self, name: &str, tensor: TensorId) {
        self.graph.add_output(name, tensor).expect("a new output");
    }

    fn norm(&mut self, name: &str, x: TensorId) -> TensorId {
        let gamma = self.weight(&format!("{name}.weight"), &[HIDDEN]);
        let beta = self.weight(&format!("{name}.bias"), &[HIDDEN]);
        self.node(name, Op::LayerNorm { axis: -1, epsilon: 1e-3 }, &[x, gamma, beta])
    }

    fn linear(&mut self, name: &str, x: TensorId, [out, width]: [usize; 2]) -> TensorId {
        let weight = self.weight(&format!("{name}.weight"), &[out, width]);
        let bias = self.weight(&format!("{name}.bias"), &[out]);
        let op = Op::Linear { layout: WeightLayout::OutIn, activation: Activation::None };
        self.node(name, op, &[x, weight, bias])
    }

    fn embeddings(&mut self) -> TensorId {
        let words = self.weight(WORD_EMBEDDING, &[VOCAB, HIDDEN]);
        let positions = self.weight("embeddings.position", &[POSITIONS, HIDDEN]);
        let types = self.weight("embeddings.type", &[2, HIDDEN]);
        let inputs = [self.ids, words, self.positions, positions, self.types, types];
        let sum = self.node("embeddings", Op::EmbeddingSum, &inputs);
        self.norm("embeddings.norm", sum)
    }

    /// As `embeddings` gives, the sum and its norm being one node.
    fn normalized_embeddings(&mut self) -> TensorId {
        let words = self.weight(WORD_EMBEDDING, &[VOCAB, HIDDEN]);
        let positions = self.weight("embeddings.position", &[POSITIONS, HIDDEN]);
        let types = self.weight("embeddings.type", &[2, HIDDEN]);
        let gamma = self.weight("embeddings.norm.weight", &[HIDDEN]);
        let beta = self.weight("embeddings.norm.bias", &[HIDDEN]);
        let inputs = [self.ids, words, self.positions, positions, self.types, types, gamma, beta];
        self.node("embeddings", Op::EmbeddingLayerNorm { epsilon: 1e-3 }, &inputs)
    }

    fn layer(&mut self, x: TensorId, relative: Option<RelativeBuckets>) -> TensorId {
        let square = [HIDDEN, HIDDEN];
        let q = self.linear("layer.query", x, square);
        let k = self.linear("layer.key", x, square);
        let v = self.linear("layer.value", x, square);
        let mut inputs = vec![q, k, v, self.cu_seqlens];
        if let Some(relative) = relative {
            inputs.push(self.weight("distances", &[relative.buckets, HEADS]));
        }
        let op = Op::RaggedAttention { heads: HEADS, scale: 0.7, relative };
        let context = self.node("layer.attention", op, &inputs);
        let attended = self.linear("layer.output", context, square);
        let sum = self.node("layer.sum", Op::Binary(bertha_graph::BinaryOp::Add), &[attended, x]);
        let x = self.norm("layer.norm", sum);
        let inner = self.linear("layer.inner", x, [3 * HIDDEN, HIDDEN]);
        let bent = self.node("layer.gelu", Op::Gelu(GeluKind::Erf), &[inner]);
        let outer = self.linear("layer.outer", bent, [HIDDEN, 3 * HIDDEN]);
        let sum = self.node("layer.outer_sum", Op::Binary(bertha_graph::BinaryOp::Add), &[outer, x]);
        self.norm("layer.outer_norm", sum)
    }

    fn pooled(&mut self, x: TensorId, kind: PoolKind) -> TensorId {
        let first = self.node("first", Op::Pool(kind), &[x, self.cu_seqlens]);
        let dense = self.linear("pooler", first, [HIDDEN, HIDDEN]);
        self.node("pooler.tanh", Op::Unary(UnaryOp::Tanh), &[dense])
    }

    fn tied_decoder(&mut self, x: TensorId) -> TensorId {
        let words = self.graph.find(WORD_EMBEDDING).expect("the embedding is there");
        let op = Op::Linear { layout: WeightLayout::OutIn, activation: Activation::None };
        self.node("decoder", op, &[x, words])
    }

    fn finish(self, position_ids: PositionIds) -> Encoder {
        let info = ModelInfo {
            family: "test".into(),
            interface: Interface::Ragged,
            task: Task::Encoder,
            position_ids,
            max_tokens: Some(POSITIONS),
            token_types: true,
            hidden: Some(HIDDEN),
            labels: Vec::new(),
            multi_label: false,
            pooling: None,
            source: "a test".into(),
        };
        Encoder { model: Model { graph: self.graph, info, tokenizer: None } }
    }
}

/// A small linear congruential generator: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn below(&mut self, bound: u64) -> i32 {
        (self.next() % bound) as i32
    }

    /// From -1 to 1.
    fn float(&mut self) -> f32 {
        (self.next() % 20001) as f32 / 10000.0 - 1.0
    }
}
