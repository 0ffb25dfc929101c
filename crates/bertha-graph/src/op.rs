//! The closed set of operations.
//!
//! Two layers share one enum: primitives with the meaning of their ONNX namesakes (latest opset form: what older
//! opsets say by attribute comes as an input, and the importer translates), and encoder operations, which say in
//! one node what an expert would write. Adding a variant makes the compiler list every place to touch.

use serde::{Deserialize, Serialize};

pub use crate::conv::{ConvAttrs, ConvPadding};
use crate::dtype::DType;
use crate::graph::Graph;
use crate::plugin::PluginOp;
use crate::tensor::TensorData;

/// What a node computes. Inputs and outputs are positional; optional inputs may be absent.
///
/// In the list of inputs, `x?` marks an optional one and `x..` a variable number.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    // ---- elementwise -------------------------------------------------------------------------------------------
    /// `x -> y`, one function applied to every element.
    Unary(UnaryOp),
    /// `a, b -> y`, with NumPy broadcasting. Comparisons give `Bool`.
    Binary(BinaryOp),
    /// `x -> y`: Gaussian error linear unit.
    Gelu(GeluKind),
    /// `x, min?, max? -> y`: bounds are scalars of the type of `x`.
    Clip,
    /// `condition, a, b -> y`: `a` where the condition holds, with broadcasting.
    Where,
    /// `x -> y`: conversion of the element type. Floats truncate toward zero when they become integers.
    Cast {
        /// The element type of the result.
        to: DType,
    },

    // ---- layout ------------------------------------------------------------------------------------------------
    /// `x, shape -> y`: same elements, other shape; -1 takes what is left, 0 copies the dimension of `x`.
    Reshape {
        /// Whether 0 means a dimension of zero instead of a copied one.
        allow_zero: bool,
    },
    /// `x -> y`: dimension `i` of the result is dimension `perm[i]` of `x`.
    Transpose {
        /// A permutation of `0..rank`.
        perm: Vec<usize>,
    },
    /// `x, axes? -> y`: removes dimensions of size 1; all of them when no axes are given.
    Squeeze,
    /// `x, axes -> y`: inserts dimensions of size 1 at these positions of the result.
    Unsqueeze,
    /// `x.. -> y`: joined along `axis`.
    Concat {
        /// May be negative, counting from the end.
        axis: i64,
    },
    /// `x, sizes? -> y..`: cut along `axis`; into `parts` nearly equal pieces when no sizes are given (the last is
    /// smaller when it does not divide).
    Split {
        /// May be negative, counting from the end.
        axis: i64,
        /// Number of outputs.
        parts: usize,
    },
    /// `x, starts, ends, axes?, steps? -> y`: ends are clamped, steps may be negative.
    Slice,
    /// `x, indices -> y`: whole slices of `x` along `axis`; negative indices count from the end.
    Gather {
        /// May be negative, counting from the end.
        axis: i64,
    },
    /// `x, indices -> y` of the shape of `indices`: one element for each index along `axis`.
    GatherElements {
        /// May be negative, counting from the end.
        axis: i64,
    },
    /// `x, indices -> y`: the last dimension of `indices` addresses leading dimensions of `x` after `batch_dims`.
    GatherNd {
        /// Leading dimensions shared by both.
        batch_dims: usize,
    },
    /// `x, shape -> y`: broadcast in both directions.
    Expand,
    /// `x, repeats -> y`.
    Tile,
    /// `x, pads, value?, axes? -> y`: pads are all begins, then all ends; negative ones crop.
    Pad {
        /// What the new elements hold.
        mode: PadMode,
    },

    // ---- shapes and constants ----------------------------------------------------------------------------------
    /// `x -> shape` as `I64`, of the dimensions `start..end`.
    Shape {
        /// First dimension; negative counts from the end.
        start: i64,
        /// One past the last; negative counts from the end; `None` is the rank.
        end: Option<i64>,
    },
    /// `shape -> y` filled with one value.
    ConstantOfShape {
        /// A tensor of one element, whose type is that of the result.
        value: TensorData,
    },
    /// `start, limit, delta -> y`: scalars of one type.
    Range,

    // ---- reductions --------------------------------------------------------------------------------------------
    /// `x, axes? -> y`: reduces the axes, or all when none are given.
    Reduce {
        /// What the elements become.
        op: ReduceOp,
        /// Whether reduced dimensions stay as 1.
        keep_dims: bool,
        /// Whether no axes means nothing is reduced.
        noop_with_empty_axes: bool,
    },
    /// `x, axis -> y`: running sum.
    CumSum {
        /// Whether element `i` leaves out `x[i]`.
        exclusive: bool,
        /// Whether the sum runs from the end.
        reverse: bool,
    },
    /// `x -> y`: softmax along one axis.
    Softmax {
        /// May be negative, counting from the end.
        axis: i64,
    },
    /// `x, gamma, beta? -> y, mean?, inv_std?`: normalised over the dimensions from `axis` on, statistics in f32 or
    /// better.
    LayerNorm {
        /// First normalised dimension; negative counts from the end.
        axis: i64,
        /// Added to the variance.
        epsilon: f32,
    },

    // ---- products ----------------------------------------------------------------------------------------------
    /// `a, b -> y`: matrix product over the last two dimensions, the others broadcast; 1-D operands as NumPy has it.
    MatMul,
    /// `a, b, c? -> y`: `alpha * a' * b' + beta * c`.
    Gemm {
        /// Factor of the product.
        alpha: f32,
        /// Factor of `c`.
        beta: f32,
        /// Whether `a` is transposed first.
        trans_a: bool,
        /// Whether `b` is transposed first.
        trans_b: bool,
    },
    /// `a, b, a_zero_point?, b_zero_point? -> y`: 8-bit integers to `I32`.
    MatMulInteger,
    /// `a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero -> y`.
    QLinearMatMul,
    /// `x, weight, bias? -> y`: `[batch, channels, sizes..]` and `[out, channels / groups, kernel..]` to
    /// `[batch, out, sizes..]`; the weight is not mirrored.
    Conv(ConvAttrs),

    // ---- quantisation ------------------------------------------------------------------------------------------
    /// `x, scale, zero_point? -> y`: rounds half to even and saturates.
    QuantizeLinear {
        /// The dimension that per-axis scales go along; ignored for a scalar scale.
        axis: i64,
        /// Elements of `axis` that share a scale in blocked quantisation; 0 for none.
        block_size: usize,
        /// Element type of the result; a given zero point must agree.
        to: DType,
    },
    /// `x, scale, zero_point? -> y`: `(x - zero_point) * scale`.
    DequantizeLinear {
        /// The dimension that per-axis scales go along; ignored for a scalar scale.
        axis: i64,
        /// Elements of `axis` that share a scale in blocked quantisation; 0 for none.
        block_size: usize,
        /// Element type of the result.
        to: DType,
    },
    /// `x -> y, scale, zero_point`: to `U8`, by the range of `x`.
    DynamicQuantizeLinear,

    // ---- attention, dense --------------------------------------------------------------------------------------
    /// `x, cos_cache, sin_cache, position_ids? -> y`.
    RotaryEmbedding {
        /// Whether pairs are neighbours instead of halves.
        interleaved: bool,
        /// Heads, when `x` is `[batch, seq, hidden]`; 0 when it is `[batch, heads, seq, head_dim]`.
        heads: usize,
        /// How much of each head is rotated; 0 for all.
        rotary_dim: usize,
    },
    /// `q, k, v, mask?, past_key?, past_value?, nonpad_kv_seqlen? -> y, present_key?, present_value?, scores?`: as
    /// ONNX defines it in opset 23.
    Attention(AttentionAttrs),

    // ---- control -----------------------------------------------------------------------------------------------
    /// `condition, captured.. -> y..`: both branches take the captured tensors as their inputs, in this order.
    If {
        /// Runs when the condition holds.
        then_branch: Box<Graph>,
        /// Runs otherwise.
        else_branch: Box<Graph>,
    },

    // ---- encoder operations ------------------------------------------------------------------------------------
    /// `ids, table, (ids, table).. -> y`: the sum of one row of each table: `[..] , [rows, hidden] -> [.., hidden]`.
    EmbeddingSum,
    /// `ids, table, (ids, table).., gamma, beta -> y`: the embedding sum of the pairs, and the layer norm of its last dimension:
    /// `gamma` and `beta` are `[hidden]`.
    EmbeddingLayerNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// `x, weight, bias?, residual? -> y`: `activation(x * weight + bias) + residual`, over the last dimension of `x`.
    Linear {
        /// How the weight lies in memory.
        layout: WeightLayout,
        /// Applied to the sum of product and bias.
        activation: Activation,
    },
    /// `q, k?, v?, cu_seqlens, relative_bias? -> y`: bidirectional attention of each sequence with itself.
    ///
    /// `q`, `k` and `v` are `[tokens, heads * head_dim]`. Without `k` and `v`, the first operand holds all three side by
    /// side, `[tokens, 3 * heads * head_dim]`: the result of one product, read in place. `cu_seqlens` is `I32 [batch + 1]`, the running sum of the
    /// lengths from 0; `relative_bias` is the table `[buckets, heads]` that `relative` explains.
    RaggedAttention {
        /// Number of heads.
        heads: usize,
        /// Factor of the scores, usually `1 / sqrt(head_dim)`.
        scale: f32,
        /// How distances become rows of the bias table, when there is one.
        relative: Option<RelativeBuckets>,
    },
    /// `x, cu_seqlens -> y`: `[tokens, hidden] -> [batch, hidden]`.
    Pool(PoolKind),
    /// `x -> y`: each row of the last dimension divided by its Euclidean norm (at least `epsilon`).
    L2Normalize {
        /// The smallest divisor.
        epsilon: f32,
    },

    // ---- open end ----------------------------------------------------------------------------------------------
    /// A named operation that is not built in.
    Plugin(PluginOp),
}

/// Functions of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum UnaryOp {
    Identity,
    Abs,
    Ceil,
    Cos,
    Erf,
    Exp,
    IsNan,
    Log,
    Neg,
    Not,
    Reciprocal,
    Relu,
    Sigmoid,
    Sign,
    Sin,
    Sqrt,
    Tanh,
}

/// Functions of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    /// Integers truncate toward zero.
    Div,
    Pow,
    Max,
    Min,
    And,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl BinaryOp {
    /// Whether the result is `Bool` whatever the operands are.
    pub const fn is_predicate(self) -> bool {
        use BinaryOp::*;
        matches!(self, And | Equal | Greater | GreaterOrEqual | Less | LessOrEqual)
    }
}

/// The two definitions of GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeluKind {
    /// `x/2 * (1 + erf(x / sqrt 2))`.
    Erf,
    /// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`.
    Tanh,
}

/// What a fused product ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Activation {
    None,
    Relu,
    Tanh,
    GeluErf,
    GeluTanh,
    /// `x * sigmoid(x)`.
    Silu,
}

/// How the weight of a [`Op::Linear`] lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightLayout {
    /// `[out, in]`, as PyTorch stores it.
    OutIn,
    /// `[in, out]`, as a `MatMul` operand has it.
    InOut,
}

/// What new elements of a padded tensor hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum PadMode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

/// How elements are reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ReduceOp {
    Sum,
    Mean,
    Prod,
}

/// How the rows of one sequence become one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// The first token.
    Cls,
    /// The mean of all tokens.
    Mean,
    /// The largest value of each column.
    Max,
    /// The sum divided by the square root of the length.
    MeanSqrtLen,
    /// The mean weighted by 1, 2, 3, ... from the first token on.
    WeightedMean,
    /// The last token.
    LastToken,
}

/// T5-style buckets of relative distance, both directions: half of the buckets for each sign; in each, half of them
/// for exact distances and the rest growing logarithmically up to `max_distance`.
///
/// Row of the table for query position `i` and key position `j`, with `n = buckets / 2`, `d = |j - i|`:
/// `(j > i) * n + (d < n/2 ? d : min(n - 1, n/2 + floor(ln(d / (n/2)) / ln(max_distance / (n/2)) * (n - n/2))))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RelativeBuckets {
    /// Rows of the table.
    pub buckets: usize,
    /// The distance from which on all share the last bucket.
    pub max_distance: usize,
}

impl RelativeBuckets {
    /// The row of the table for a key at `key` seen from a query at `query`.
    pub fn bucket(&self, query: usize, key: usize) -> usize {
        let per_side = (self.buckets / 2).max(1);
        let exact = (per_side / 2).max(1);
        let distance = query.abs_diff(key);
        let side = if key > query { per_side } else { 0 };
        if distance < exact {
            return side + distance;
        }
        // In f32, as the reference implementation of the model does it, so that bucket borders agree.
        let ratio =
            (distance as f32 / exact as f32).ln() as f64 / (self.max_distance as f64 / exact as f64).ln();
        // A maximum distance within the exact ones makes the ratio infinite.
        let log_bucket = exact.saturating_add((ratio as f32 * (per_side - exact) as f32) as usize);
        side + log_bucket.min(per_side - 1)
    }
}

/// Attributes of [`Op::Attention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionAttrs {
    /// Query heads when inputs are `[batch, seq, hidden]`; 0 when they are 4-D.
    pub q_heads: usize,
    /// Key and value heads, likewise.
    pub kv_heads: usize,
    /// Factor of the scores; `None` is `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// Whether later positions are hidden.
    pub is_causal: bool,
    /// `softcap * tanh(scores / softcap)` when positive, before the mask is added.
    pub softcap: f32,
    /// What the fourth output holds: 0 raw scores, 1 after softcap, 2 after softcap and mask, 3 after softmax.
    pub scores_mode: u8,
    /// Element type in which softmax is computed, when it is not that of the inputs.
    pub softmax_precision: Option<DType>,
}

impl Op {
    /// The op's name in the text format and in messages.
    pub fn mnemonic(&self) -> &'static str {
        match self {
            Op::Unary(op) => op.mnemonic(),
            Op::Binary(op) => op.mnemonic(),
            Op::Gelu(_) => "gelu",
            Op::Clip => "clip",
            Op::Where => "where",
            Op::Cast { .. } => "cast",
            Op::Reshape { .. } => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Squeeze => "squeeze",
            Op::Unsqueeze => "unsqueeze",
            Op::Concat { .. } => "concat",
            Op::Split { .. } => "split",
            Op::Slice => "slice",
            Op::Gather { .. } => "gather",
            Op::GatherElements { .. } => "gather_elements",
            Op::GatherNd { .. } => "gather_nd",
            Op::Expand => "expand",
            Op::Tile => "tile",
            Op::Pad { .. } => "pad",
            Op::Shape { .. } => "shape",
            Op::ConstantOfShape { .. } => "constant_of_shape",
            Op::Range => "range",
            Op::Reduce { op, .. } => op.mnemonic(),
            Op::CumSum { .. } => "cumsum",
            Op::Softmax { .. } => "softmax",
            Op::LayerNorm { .. } => "layer_norm",
            Op::MatMul => "matmul",
            Op::Gemm { .. } => "gemm",
            Op::MatMulInteger => "matmul_integer",
            Op::QLinearMatMul => "qlinear_matmul",
            Op::Conv(_) => "conv",
            Op::QuantizeLinear { .. } => "quantize_linear",
            Op::DequantizeLinear { .. } => "dequantize_linear",
            Op::DynamicQuantizeLinear => "dynamic_quantize_linear",
            Op::RotaryEmbedding { .. } => "rotary_embedding",
            Op::Attention(_) => "attention",
            Op::If { .. } => "if",
            Op::EmbeddingSum => "embedding_sum",
            Op::EmbeddingLayerNorm { .. } => "embedding_layer_norm",
            Op::Linear { .. } => "linear",
            Op::RaggedAttention { .. } => "ragged_attention",
            Op::Pool(_) => "pool",
            Op::L2Normalize { .. } => "l2_normalize",
            Op::Plugin(_) => "plugin",
        }
    }
}

impl UnaryOp {
    /// Every function, in the order of the enum.
    pub const ALL: [UnaryOp; 17] = [
        UnaryOp::Identity,
        UnaryOp::Abs,
        UnaryOp::Ceil,
        UnaryOp::Cos,
        UnaryOp::Erf,
        UnaryOp::Exp,
        UnaryOp::IsNan,
        UnaryOp::Log,
        UnaryOp::Neg,
        UnaryOp::Not,
        UnaryOp::Reciprocal,
        UnaryOp::Relu,
        UnaryOp::Sigmoid,
        UnaryOp::Sign,
        UnaryOp::Sin,
        UnaryOp::Sqrt,
        UnaryOp::Tanh,
    ];

    /// The name in the text format.
    pub const fn mnemonic(self) -> &'static str {
        match self {
            UnaryOp::Identity => "identity",
            UnaryOp::Abs => "abs",
            UnaryOp::Ceil => "ceil",
            UnaryOp::Cos => "cos",
            UnaryOp::Erf => "erf",
            UnaryOp::Exp => "exp",
            UnaryOp::IsNan => "is_nan",
            UnaryOp::Log => "log",
            UnaryOp::Neg => "neg",
            UnaryOp::Not => "not",
            UnaryOp::Reciprocal => "reciprocal",
            UnaryOp::Relu => "relu",
            UnaryOp::Sigmoid => "sigmoid",
            UnaryOp::Sign => "sign",
            UnaryOp::Sin => "sin",
            UnaryOp::Sqrt => "sqrt",
            UnaryOp::Tanh => "tanh",
        }
    }
}

impl BinaryOp {
    /// Every function, in the order of the enum.
    pub const ALL: [BinaryOp; 13] = [
        BinaryOp::Add,
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::Div,
        BinaryOp::Pow,
        BinaryOp::Max,
        BinaryOp::Min,
        BinaryOp::And,
        BinaryOp::Equal,
        BinaryOp::Greater,
        BinaryOp::GreaterOrEqual,
        BinaryOp::Less,
        BinaryOp::LessOrEqual,
    ];

    /// The name in the text format.
    pub const fn mnemonic(self) -> &'static str {
        match self {
            BinaryOp::Add => "add",
            BinaryOp::Sub => "sub",
            BinaryOp::Mul => "mul",
            BinaryOp::Div => "div",
            BinaryOp::Pow => "pow",
            BinaryOp::Max => "max",
            BinaryOp::Min => "min",
            BinaryOp::And => "and",
            BinaryOp::Equal => "equal",
            BinaryOp::Greater => "greater",
            BinaryOp::GreaterOrEqual => "greater_or_equal",
            BinaryOp::Less => "less",
            BinaryOp::LessOrEqual => "less_or_equal",
        }
    }
}

impl ReduceOp {
    /// Every reduction, in the order of the enum.
    pub const ALL: [ReduceOp; 3] = [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Prod];

    /// The name in the text format.
    pub const fn mnemonic(self) -> &'static str {
        match self {
            ReduceOp::Sum => "reduce_sum",
            ReduceOp::Mean => "reduce_mean",
            ReduceOp::Prod => "reduce_prod",
        }
    }
}
