//! Encoders with random weights: what the self test runs, and what speed is measured with where no checkpoint is at hand.
//!
//! Speed does not depend on the values of the weights as long as they are not all alike.

use bertha_graph::plugin::PluginOp;
use bertha_graph::{
    Attention, DType, Dim, GeluKind, GraphBuilder, GraphError, Interface, Model, ModelInfo, Op, PoolKind,
    PositionIds, RelativeBuckets, SplitMix64, Task, TensorData, TensorId, Weight, output, ragged, shape,
};

/// The sizes of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// What it is called.
    pub name: String,
    /// Layers.
    pub layers: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Width between the two products of the feed-forward part.
    pub intermediate: usize,
    /// Rows of the word table.
    pub vocabulary: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// The feed-forward part's function.
    pub gelu: GeluKind,
    /// Whether scores have a bias by distance, as MPNet has it.
    pub relative: bool,
    /// Outputs besides the last hidden state.
    pub heads_on_top: Vec<Head>,
    /// What takes the place of the layer norms: a plugin's op of the same operands.
    pub norm: Option<PluginOp>,
}

/// An output besides the last hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Dense layer and tanh over the first token.
    Pooler,
    /// A pooled and normalised embedding.
    Embedding(PoolKind),
    /// Dense layer, activation, norm, and logits over the vocabulary.
    MaskedLm,
    /// Two logits for each token, as two outputs.
    QuestionAnswering,
    /// Classes for each sequence, through a pooler.
    Classifier(usize),
}

impl EncoderConfig {
    /// BERT-base and its kin by name: `bert-base`, `bert-large`, `minilm-l6`.
    pub fn named(name: &str) -> Option<Self> {
        let (layers, hidden, heads) = match name {
            "bert-base" => (12, 768, 12),
            "bert-large" => (24, 1024, 16),
            "minilm-l6" => (6, 384, 12),
            _ => return None,
        };
        Some(EncoderConfig {
            name: name.to_owned(),
            layers,
            hidden,
            heads,
            intermediate: 4 * hidden,
            vocabulary: 30_522,
            positions: 512,
            gelu: GeluKind::Erf,
            relative: false,
            heads_on_top: Vec::new(),
            norm: None,
        })
    }

    /// The names that [`Self::named`] knows.
    pub const NAMES: [&'static str; 3] = ["bert-base", "bert-large", "minilm-l6"];

    /// The model, as the checkpoint importer would give it, before the compiler's passes.
    ///
    /// # Errors
    /// When the sizes do not fit together.
    pub fn build(&self, seed: u64) -> Result<Model, GraphError> {
        let mut net = Net { b: GraphBuilder::new(&self.name), random: SplitMix64::new(seed), config: self };
        net.encoder()?;
        let graph = net.b.finish()?;
        let info = ModelInfo {
            family: "bert".into(),
            interface: Interface::Ragged,
            task: Task::Encoder,
            position_ids: PositionIds::Absolute,
            max_tokens: Some(self.positions),
            token_types: true,
            hidden: Some(self.hidden),
            labels: Vec::new(),
            multi_label: false,
            pooling: None,
            source: format!("random weights in the shape of {}", self.name),
        };
        Ok(Model { graph, info, tokenizer: None })
    }
}

struct Net<'a> {
    b: GraphBuilder,
    random: SplitMix64,
    config: &'a EncoderConfig,
}

impl Net<'_> {
    fn encoder(&mut self) -> Result<(), GraphError> {
        let config = self.config;
        let [ids, types, positions] = [ragged::INPUT_IDS, ragged::TOKEN_TYPE_IDS, ragged::POSITION_IDS]
            .map(|name| self.b.input(name, DType::I32, shape!["tokens"]));
        let (ids, types, positions) = (ids?, types?, positions?);
        let cu_seqlens = self.b.input(ragged::CU_SEQLENS, DType::I32, shape![Dim::from("batch") + 1])?;
        let words = self.matrix("words", config.vocabulary, config.hidden)?;
        let position_table = self.matrix("positions", config.positions, config.hidden)?;
        let type_table = self.matrix("types", 2, config.hidden)?;
        let sum = self.b.embedding_sum(&[(ids, words), (positions, position_table), (types, type_table)])?;
        let mut x = self.norm("embeddings.norm", sum)?;
        let mut attention = Attention::ragged(cu_seqlens, config.heads);
        if config.relative {
            let buckets = RelativeBuckets { buckets: 32, max_distance: 128 };
            let table = self.values("distances", vec![buckets.buckets, config.heads], 0.5)?;
            attention = attention.relative(table, buckets);
        }
        for layer in 0..config.layers {
            x = self.layer(&format!("layer.{layer}"), x, &attention)?;
        }
        self.b.output(output::LAST_HIDDEN_STATE, x)?;
        config.heads_on_top.iter().try_for_each(|head| self.head(*head, x, words, cu_seqlens))
    }

    fn layer(&mut self, at: &str, x: TensorId, attention: &Attention) -> Result<TensorId, GraphError> {
        let hidden = self.config.hidden;
        let q = self.linear(&format!("{at}.query"), x, hidden)?;
        let k = self.linear(&format!("{at}.key"), x, hidden)?;
        let v = self.linear(&format!("{at}.value"), x, hidden)?;
        let context = self.b.named(format!("{at}.attention")).attention(q, k, v, attention)?;
        let y = self.linear(&format!("{at}.output"), context, hidden)?;
        let sum = self.b.named(format!("{at}.sum")).add(y, x)?;
        let x = self.norm(&format!("{at}.norm"), sum)?;
        let y = self.linear(&format!("{at}.up"), x, self.config.intermediate)?;
        let y = self.b.named(format!("{at}.gelu")).gelu(y, self.config.gelu)?;
        let y = self.linear(&format!("{at}.down"), y, hidden)?;
        let sum = self.b.named(format!("{at}.sum_2")).add(y, x)?;
        self.norm(&format!("{at}.norm_2"), sum)
    }

    fn head(
        &mut self,
        head: Head,
        x: TensorId,
        words: TensorId,
        cu_seqlens: TensorId,
    ) -> Result<(), GraphError> {
        let hidden = self.config.hidden;
        match head {
            Head::Pooler => {
                let first = self.b.named("first").pool(x, cu_seqlens, PoolKind::Cls)?;
                let dense = self.linear("pooler", first, hidden)?;
                let y = self.b.named("pooler.tanh").tanh(dense)?;
                self.b.output(output::POOLER_OUTPUT, y)
            }
            Head::Embedding(kind) => {
                let pooled = self.b.named("pooled").pool(x, cu_seqlens, kind)?;
                let y = self.b.named("normalised").l2_normalize(pooled, 1e-12)?;
                self.b.output(output::SENTENCE_EMBEDDING, y)
            }
            Head::MaskedLm => {
                let dense = self.linear("lm.dense", x, hidden)?;
                let y = self.b.named("lm.gelu").gelu(dense, self.config.gelu)?;
                let y = self.norm("lm.norm", y)?;
                let bias = self.values("lm.bias", vec![self.config.vocabulary], 0.1)?;
                let logits = self.b.named("lm.decoder").linear(y, Weight::out_in(words), bias)?;
                self.b.output(output::LOGITS, logits)
            }
            Head::QuestionAnswering => {
                let logits = self.linear("qa", x, 2)?;
                for (column, name) in [(0, output::START_LOGITS), (1, output::END_LOGITS)] {
                    let index = self.b.constant(TensorData::scalar(column as i64))?;
                    let y = self.b.named(format!("qa.{column}")).gather(logits, index, -1)?;
                    self.b.output(name, y)?;
                }
                Ok(())
            }
            Head::Classifier(classes) => {
                let first = self.b.named("class.first").pool(x, cu_seqlens, PoolKind::Cls)?;
                let dense = self.linear("class.dense", first, hidden)?;
                let y = self.b.named("class.tanh").tanh(dense)?;
                let logits = self.linear("class.logits", y, classes)?;
                self.b.output(output::LOGITS, logits)
            }
        }
    }

    fn linear(&mut self, name: &str, x: TensorId, out: usize) -> Result<TensorId, GraphError> {
        let width = self.b.shape(x).dims().last().and_then(Dim::as_const).unwrap_or(1) as usize;
        let weight = self.matrix(&format!("{name}.weight"), out, width)?;
        let bias = self.values(&format!("{name}.bias"), vec![out], 0.1)?;
        self.b.named(name).linear(x, Weight::out_in(weight), bias)
    }

    fn norm(&mut self, name: &str, x: TensorId) -> Result<TensorId, GraphError> {
        let hidden = self.config.hidden;
        let mut around_one = random_values(&mut self.random, hidden, 0.2);
        around_one.iter_mut().for_each(|value| *value += 1.0);
        let gamma = self.b.weight(&format!("{name}.weight"), TensorData::vector(around_one))?;
        let beta = self.values(&format!("{name}.bias"), vec![hidden], 0.1)?;
        match &self.config.norm {
            None => self.b.named(name).layer_norm(x, gamma, beta, 1e-12),
            Some(norm) => self.b.named(name).node(Op::Plugin(norm.clone()), &[x, gamma, beta].map(Some)),
        }
    }

    /// `[out, width]`, scaled so that products have the spread of a trained model's.
    fn matrix(&mut self, name: &str, out: usize, width: usize) -> Result<TensorId, GraphError> {
        self.values(name, vec![out, width], 1.0 / (width as f32).sqrt())
    }

    fn values(&mut self, name: &str, shape: Vec<usize>, spread: f32) -> Result<TensorId, GraphError> {
        let values = random_values(&mut self.random, shape.iter().product(), spread);
        let data = TensorData::from_vec(shape, values)
            .map_err(|source| GraphError::Constant { name: name.to_owned(), source })?;
        self.b.weight(name, data)
    }
}

/// Values with a standard deviation of `spread`: sums of four uniform ones.
pub fn random_values(random: &mut SplitMix64, count: usize, spread: f32) -> Vec<f32> {
    let mut value = || {
        let bits = random.bits();
        let sum: f32 = (0..4).map(|part| ((bits >> (16 * part)) & 0xffff) as f32 / 65536.0 - 0.5).sum();
        // The variance of the sum is 4 / 12.
        sum * 3f32.sqrt() * spread
    };
    (0..count).map(|_| value()).collect()
}
