//! A dense graph with an op of each kind that has generated kernels.

use bertha_graph::{
    AttentionAttrs, BinaryOp, ConvAttrs, ConvPadding, DType, Graph, GraphBuilder, GraphError, Op, PadMode,
    ReduceOp, SplitMix64, TensorData, TensorId, UnaryOp, Weight, output, shape,
};

use crate::models::random_values;

/// A dense graph and the shapes that it runs for.
#[derive(Clone, Debug)]
pub struct DenseCase {
    /// What it is, in words.
    pub name: String,
    /// The graph, before the compiler's passes.
    pub graph: Graph,
    /// Sequences and positions of each batch.
    pub shapes: Vec<[usize; 2]>,
}

/// The dense graphs of the self test.
///
/// # Errors
/// When the sizes do not fit together.
pub fn dense_cases() -> Result<Vec<DenseCase>, GraphError> {
    let mut net = Net { b: GraphBuilder::new("dense"), random: SplitMix64::new(11) };
    net.build()?;
    let name = "dense: tables, masks, windows, rotations, convolution, moves".into();
    let shapes = vec![[1, 1], [2, 7], [3, 40], [2, 130], [5, 64]];
    Ok(vec![DenseCase { name, graph: net.b.finish()?, shapes }])
}

const VOCABULARY: usize = 97;
const POSITIONS: usize = 200;
const HIDDEN: usize = 64;
const HEADS: i64 = 4;
const FEATURES: usize = 12;

impl DenseCase {
    /// Random inputs of a shape: the later sequences end in padding.
    ///
    /// # Errors
    /// When there are too many elements.
    pub fn inputs(
        &self,
        [batch, seq]: [usize; 2],
        seed: u64,
    ) -> Result<Vec<(&'static str, TensorData)>, bertha_graph::TensorError> {
        let mut random = SplitMix64::new(seed);
        let ids = (0..batch * seq).map(|_| random.below(VOCABULARY) as i64).collect();
        let is_there = |index: usize| i64::from(index % seq < seq - (index / seq * 3).min(seq - 1));
        let features = random_values(&mut random, batch * seq * FEATURES, 1.0);
        Ok(vec![
            ("ids", TensorData::from_vec(vec![batch, seq], ids)?),
            (
                "mask",
                TensorData::from_vec(vec![batch, seq], (0..batch * seq).map(is_there).collect::<Vec<i64>>())?,
            ),
            ("features", TensorData::from_vec(vec![batch, seq, FEATURES], features)?),
        ])
    }
}

struct Net {
    b: GraphBuilder,
    random: SplitMix64,
}

type Made = Result<TensorId, GraphError>;

impl Net {
    fn build(&mut self) -> Result<(), GraphError> {
        let ids = self.b.input("ids", DType::I64, shape!["batch", "seq"])?;
        let mask = self.b.input("mask", DType::I64, shape!["batch", "seq"])?;
        let features = self.b.input("features", DType::F32, shape!["batch", "seq", FEATURES])?;
        let positions = self.positions(ids)?;
        let x = self.embeddings(ids, mask, features)?;
        let seen = self.seen(mask, positions)?;
        let x = self.attention(x, seen, positions)?;
        let x = self.convolution(x)?;
        let y = self.moves(x)?;
        self.b.output(output::LAST_HIDDEN_STATE, y)?;
        let mean = self.b.reduce(ReduceOp::Mean, y, &[1], false)?;
        let pooled = self.b.l2_normalize(mean, 1e-12)?;
        self.b.output("pooled", pooled)
    }

    /// 0, 1, 2, ...
    fn positions(&mut self, ids: TensorId) -> Made {
        let length = self.b.node(Op::Shape { start: 1, end: Some(2) }, &[Some(ids)])?;
        let length = self.b.squeeze(length, &[0])?;
        let (zero, one) = (self.b.scalar(0i64)?, self.b.scalar(1i64)?);
        self.b.node(Op::Range, &[zero, length, one].map(Some))
    }

    /// Rows of two tables, one by a running sum of the mask, and a product of the features.
    fn embeddings(&mut self, ids: TensorId, mask: TensorId, features: TensorId) -> Made {
        let (words, places) = (self.matrix(VOCABULARY, HIDDEN)?, self.matrix(POSITIONS, HIDDEN)?);
        let axis = self.b.scalar(1i64)?;
        let place = self.b.node(Op::CumSum { exclusive: false, reverse: false }, &[mask, axis].map(Some))?;
        let (x, y) = (self.b.gather(words, ids, 0)?, self.b.gather(places, place, 0)?);
        let sum = self.b.add(x, y)?;
        let z = self.linear(features, HIDDEN, FEATURES)?;
        // Of three pieces nobody reads the second.
        let pieces = self.b.split(z, 2, &[16, 32, 16])?;
        let &[first, _, last] = pieces.as_slice() else { return Ok(z) };
        let z = self.b.concat(&[last, first, first, last], 2)?;
        let sum = self.b.add(sum, z)?;
        let normalised = self.normalised_embeddings(&[(ids, VOCABULARY), (place, POSITIONS)])?;
        let sum = self.b.add(sum, normalised)?;
        let gamma = self.values(vec![HIDDEN], 1.0)?;
        self.b.node(Op::LayerNorm { axis: -1, epsilon: 1e-5 }, &[Some(sum), Some(gamma)])
    }

    /// The norm of the sum of a row of each table, which have so many rows.
    fn normalised_embeddings(&mut self, lookups: &[(TensorId, usize)]) -> Made {
        let mut operands = Vec::new();
        for (ids, rows) in lookups {
            operands.extend([Some(*ids), Some(self.matrix(*rows, HIDDEN)?)]);
        }
        let (gamma, beta) = (self.values(vec![HIDDEN], 1.0)?, self.values(vec![HIDDEN], 0.1)?);
        operands.extend([gamma, beta].map(Some));
        self.b.node(Op::EmbeddingLayerNorm { epsilon: 1e-12 }, &operands)
    }

    /// Which keys a query sees, `[batch, 1, seq, seq]`: those that are there, at most 5 positions away.
    fn seen(&mut self, mask: TensorId, positions: TensorId) -> Made {
        let is_there = self.b.cast(mask, DType::Bool)?;
        let is_there = self.b.unsqueeze(is_there, &[1, 2])?;
        let (row, column) = (self.b.unsqueeze(positions, &[0])?, self.b.unsqueeze(positions, &[1])?);
        let distance = self.b.sub(row, column)?;
        let distance = self.b.unary(UnaryOp::Abs, distance)?;
        let width = self.b.scalar(5i64)?;
        let is_far = self.b.elementwise(BinaryOp::Greater, distance, width)?;
        let is_near = self.b.unary(UnaryOp::Not, is_far)?;
        self.b.elementwise(BinaryOp::And, is_there, is_near)
    }

    /// Attention as one op, and something like it in its parts, over rotated queries and keys.
    fn attention(&mut self, x: TensorId, seen: TensorId, positions: TensorId) -> Made {
        let qkv = self.linear(x, 3 * HIDDEN, HIDDEN)?;
        let parts = self.b.split(qkv, 2, &[HIDDEN as i64; 3])?;
        let mut heads = Vec::new();
        for part in parts {
            let part = self.b.reshape(part, &[0, 0, HEADS, -1])?;
            heads.push(self.b.transpose(part, &[0, 2, 1, 3])?);
        }
        let &[q, k, v] = heads.as_slice() else { return Ok(x) };
        let (q, k) = (self.rotated(q, positions)?, self.rotated(k, positions)?);
        let attrs = AttentionAttrs {
            q_heads: 0,
            kv_heads: 0,
            scale: None,
            is_causal: false,
            softcap: 0.0,
            scores_mode: 0,
            softmax_precision: None,
        };
        let whole = self.b.node(Op::Attention(attrs), &[q, k, v, seen].map(Some))?;
        let keys = self.b.transpose(k, &[0, 1, 3, 2])?;
        let scores = self.b.matmul(q, keys)?;
        let scores = self.b.scale(scores, 0.25)?;
        let hidden = self.b.scalar(-3.0e38f32)?;
        let scores = self.b.select(seen, scores, hidden)?;
        let weights = self.b.softmax(scores, -1)?;
        // With squares, so that no pass makes the op of it.
        let weights = self.b.mul(weights, weights)?;
        let parts = self.b.matmul(weights, v)?;
        let sum = self.b.add(whole, parts)?;
        let sum = self.b.transpose(sum, &[0, 2, 1, 3])?;
        let context = self.b.reshape(sum, &[0, 0, HIDDEN as i64])?;
        let y = self.linear(context, HIDDEN, HIDDEN)?;
        let y = self.b.add(y, x)?;
        let (gamma, beta) = (self.values(vec![HIDDEN], 1.0)?, self.values(vec![HIDDEN], 0.1)?);
        self.b.layer_norm(y, gamma, beta, 1e-12)
    }

    /// The first half of each head turned by angles of its position.
    fn rotated(&mut self, x: TensorId, positions: TensorId) -> Made {
        let places = self.b.cast(positions, DType::F32)?;
        let places = self.b.unsqueeze(places, &[0, 2])?;
        let rates = self.b.constant(TensorData::vector(vec![1.0f32, 0.3, 0.1, 0.03]))?;
        let angles = self.b.mul(places, rates)?;
        let (cos, sin) = (self.b.unary(UnaryOp::Cos, angles)?, self.b.unary(UnaryOp::Sin, angles)?);
        let op = Op::RotaryEmbedding { interleaved: false, heads: 0, rotary_dim: 8 };
        self.b.node(op, &[x, cos, sin].map(Some))
    }

    /// A convolution of each feature along the positions, gated.
    fn convolution(&mut self, x: TensorId) -> Made {
        let columns = self.b.transpose(x, &[0, 2, 1])?;
        let (weight, bias) = (self.values(vec![HIDDEN, 1, 3], 0.5)?, self.values(vec![HIDDEN], 0.1)?);
        let attrs = ConvAttrs {
            groups: HIDDEN,
            strides: vec![1],
            dilations: vec![2],
            padding: ConvPadding::Explicit(vec![2, 2]),
        };
        let y = self.b.node(Op::Conv(attrs), &[columns, weight, bias].map(Some))?;
        let gate = self.b.sigmoid(y)?;
        let y = self.b.mul(y, gate)?;
        let y = self.b.transpose(y, &[0, 2, 1])?;
        self.b.add(x, y)
    }

    /// Turned around, padded and cut, repeated, and beside itself.
    fn moves(&mut self, x: TensorId) -> Made {
        let mut list = |values: Vec<i64>| self.b.constant(TensorData::vector(values));
        let (end, start, axis, back) =
            (list(vec![-1])?, list(vec![i64::MIN])?, list(vec![1])?, list(vec![-1])?);
        let (pads, repeats) = (list(vec![0, 2, 0, 0, 1, 0])?, list(vec![1, 1, 2])?);
        let turned = self.b.node(Op::Slice, &[x, end, start, axis, back].map(Some))?;
        let padded = self.b.node(Op::Pad { mode: PadMode::Constant }, &[Some(turned), Some(pads)])?;
        let cut = self.b.slice(padded, 1, 1, -2)?;
        let both = self.b.concat(&[x, cut], 2)?;
        let twice = self.b.node(Op::Tile, &[Some(x), Some(repeats)])?;
        let sum = self.b.add(both, twice)?;
        self.linear(sum, HIDDEN, 2 * HIDDEN)
    }

    fn linear(&mut self, x: TensorId, out: usize, width: usize) -> Made {
        let (weight, bias) = (self.matrix(out, width)?, self.values(vec![out], 0.1)?);
        self.b.linear(x, Weight::out_in(weight), bias)
    }

    /// Scaled so that products have the spread of a trained model's.
    fn matrix(&mut self, out: usize, width: usize) -> Made {
        self.values(vec![out, width], 1.0 / (width as f32).sqrt())
    }

    fn values(&mut self, shape: Vec<usize>, spread: f32) -> Made {
        let values = random_values(&mut self.random, shape.iter().product(), spread);
        let data = TensorData::from_vec(shape, values)
            .map_err(|source| GraphError::Constant { name: "values".into(), source })?;
        self.b.constant(data)
    }
}
