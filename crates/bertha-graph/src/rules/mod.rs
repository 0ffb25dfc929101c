//! Shape rules: what an op makes of the types of its operands.
//!
//! One rule serves every stage. On symbolic operands it gives symbolic results; on concrete ones, concrete
//! results. Dimensions that depend on data become fresh symbols, named `?0`, `?1`, ...

mod args;
mod attention;
mod control;
mod conv;
mod dims;
mod elementwise;
mod encoder;
mod layout;
mod product;
mod quant;
mod reduce;
mod select;
mod shape;
mod value;

#[cfg(test)]
mod tests;

pub(crate) use control::{check_captured, known_condition};
pub(crate) use dims::{unify, unify_all};

use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::RuleError;
use crate::op::Op;
use crate::shape::{Shape, TensorType};
use crate::tensor::TensorData;

/// What is known of a tensor before anything runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Element type and shape.
    pub ty: TensorType,
    /// The elements as functions of dimensions, for small integer tensors where they are known.
    pub value: Option<Vec<Dim>>,
    /// The contents, when the tensor is a constant.
    pub constant: Option<TensorData>,
}

impl Fact {
    /// A tensor of which only the type is known.
    pub fn of(ty: TensorType) -> Self {
        Fact { ty, value: None, constant: None }
    }

    /// A tensor of this type whose contents may be known too.
    pub fn with_value(dtype: DType, shape: Shape, value: Option<Vec<Dim>>) -> Self {
        Fact { ty: TensorType::new(dtype, shape), value, constant: None }
    }

    /// What is known of a constant.
    pub fn of_constant(data: &TensorData) -> Self {
        Fact { ty: data.ty(), value: constant_value(data), constant: Some(data.clone()) }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }

    /// The dimensions.
    pub fn dims(&self) -> &[Dim] {
        self.ty.shape.dims()
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.ty.shape.rank()
    }
}

/// Source of symbols for dimensions that depend on data.
#[derive(Debug)]
pub struct FreshSymbols {
    next: usize,
}

impl FreshSymbols {
    /// Symbols from `?first` on.
    pub fn starting_at(first: usize) -> Self {
        FreshSymbols { next: first }
    }

    /// The first number that no symbol of `shape` has.
    pub fn after(shape: &Shape) -> usize {
        let symbols = shape.dims().iter().flat_map(Dim::symbols);
        let numbers = symbols.filter_map(|name| name.strip_prefix('?')?.parse::<usize>().ok());
        // A number that counting from 0 never reaches (a hostile file may have one) needs no room.
        numbers.filter(|number| *number < 1 << 40).max().map_or(0, |number| number + 1)
    }

    /// How many symbols have been made in all.
    pub fn count(&self) -> usize {
        self.next
    }

    /// A symbol that no other dimension has.
    pub fn fresh(&mut self) -> Dim {
        self.next += 1;
        Dim::symbol(&format!("?{}", self.next - 1))
    }
}

/// Integer tensors up to this many elements have their contents tracked as [`Fact::value`].
pub(crate) const TRACKED_ELEMENTS: usize = 64;

/// Dimensions that a tensor can have. Nothing real comes near it; hostile files would.
pub const MAX_RANK: usize = 64;

/// Outputs that one node can have.
pub const MAX_OUTPUTS: usize = 4096;

/// What a rule gives: one fact for each result.
pub type Outcome = Result<Vec<Fact>, RuleError>;

/// The tracked contents of a constant: integers, and few of them.
pub fn constant_value(data: &TensorData) -> Option<Vec<Dim>> {
    if data.len() > TRACKED_ELEMENTS {
        return None;
    }
    let values = data.to_i64()?;
    let wrapped = data.dtype() == DType::U64 && values.iter().any(|v| *v < 0);
    (!wrapped).then(|| values.into_iter().map(Dim::from).collect())
}

/// Types (and, where they follow from shapes, contents) of the results of `op`, in order, the optional ones
/// included. An error says what was expected.
///
/// Dimensions and contents are known only as far as they hold for every non-negative value of every symbol, with
/// two exceptions, both checked when the symbols are bound: a symbol that meets a number where the two must agree
/// (or broadcast) is taken to be that number, and one that meets a data-dependent symbol there wins over it.
pub fn infer(op: &Op, inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let facts = dispatch(op, inputs, symbols)?;
    facts.into_iter().map(|fact| finish(fact, symbols)).collect()
}

fn dispatch(op: &Op, inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    match op {
        Op::Unary(op) => elementwise::unary(*op, inputs),
        Op::Binary(op) => elementwise::binary(*op, inputs, symbols),
        Op::Gelu(_) => elementwise::gelu(inputs),
        Op::Clip => elementwise::clip(inputs),
        Op::Where => elementwise::where_(inputs, symbols),
        Op::Cast { to } => elementwise::cast(*to, inputs),
        Op::Reshape { allow_zero } => layout::reshape(*allow_zero, inputs, symbols),
        Op::Transpose { perm } => layout::transpose(perm, inputs),
        Op::Squeeze => layout::squeeze(inputs, symbols),
        Op::Unsqueeze => layout::unsqueeze(inputs, symbols),
        Op::Concat { axis } => layout::concat(*axis, inputs, symbols),
        Op::Split { axis, parts } => layout::split(*axis, *parts, inputs, symbols),
        Op::Slice => select::slice(inputs, symbols),
        Op::Gather { axis } => select::gather(*axis, inputs),
        Op::GatherElements { axis } => select::gather_elements(*axis, inputs),
        Op::GatherNd { batch_dims } => select::gather_nd(*batch_dims, inputs),
        Op::Expand => shape::expand(inputs, symbols),
        Op::Tile => shape::tile(inputs, symbols),
        Op::Pad { mode } => shape::pad(*mode, inputs, symbols),
        Op::Shape { start, end } => shape::shape(*start, *end, inputs),
        Op::ConstantOfShape { value } => shape::constant_of_shape(value, inputs, symbols),
        Op::Range => shape::range(inputs, symbols),
        Op::Reduce { op, keep_dims, noop_with_empty_axes } => {
            reduce::reduce(*op, *keep_dims, *noop_with_empty_axes, inputs, symbols)
        }
        Op::CumSum { .. } => reduce::cumsum(inputs),
        Op::Softmax { axis } => reduce::softmax(*axis, inputs),
        Op::LayerNorm { axis, .. } => reduce::layer_norm(*axis, inputs),
        Op::MatMul => product::matmul(inputs, symbols),
        Op::Gemm { trans_a, trans_b, .. } => product::gemm(*trans_a, *trans_b, inputs),
        Op::MatMulInteger => product::matmul_integer(inputs, symbols),
        Op::QLinearMatMul => product::qlinear_matmul(inputs, symbols),
        Op::Conv(attrs) => conv::conv(attrs, inputs, symbols),
        Op::QuantizeLinear { axis, block_size, to } => {
            quant::quantize_linear(quant::Axis { axis: *axis, block_size: *block_size }, *to, inputs)
        }
        Op::DequantizeLinear { axis, block_size, to } => {
            quant::dequantize_linear(quant::Axis { axis: *axis, block_size: *block_size }, *to, inputs)
        }
        Op::DynamicQuantizeLinear => quant::dynamic_quantize_linear(inputs),
        Op::RotaryEmbedding { heads, rotary_dim, .. } => {
            attention::rotary_embedding(*heads, *rotary_dim, inputs)
        }
        Op::Attention(attrs) => attention::attention(attrs, inputs),
        Op::If { then_branch, else_branch } => control::if_(then_branch, else_branch, inputs, symbols),
        Op::EmbeddingSum => encoder::embedding_sum(inputs),
        Op::EmbeddingLayerNorm { .. } => encoder::embedding_layer_norm(inputs),
        Op::Linear { layout, .. } => encoder::linear(*layout, inputs),
        Op::RaggedAttention { heads, relative, .. } => {
            encoder::ragged_attention(*heads, relative.as_ref(), inputs)
        }
        Op::Pool(_) => encoder::pool(inputs),
        Op::L2Normalize { .. } => encoder::l2_normalize(inputs),
        Op::Plugin(plugin) => plugin.infer(inputs, symbols),
    }
}

/// Enforces what holds for every result: a bounded rank, no negative size, dimensions that stay small, and contents
/// that fit the element type.
fn finish(mut fact: Fact, symbols: &mut FreshSymbols) -> Result<Fact, RuleError> {
    let rank = fact.ty.shape.rank();
    if rank > MAX_RANK {
        return Err(RuleError(format!(
            "the result would have {rank} dimensions; at most {MAX_RANK} are supported"
        )));
    }
    if fact.ty.shape.dims().iter().any(|dim| dim.as_const().is_some_and(|size| size < 0)) {
        return Err(RuleError(format!("the result would have a negative dimension: {}", fact.ty)));
    }
    for dim in fact.ty.shape.0.iter_mut().filter(|dim| dim.is_unwieldy()) {
        *dim = symbols.fresh();
    }
    fact.value = fact.value.filter(|value| value::fits(value, &fact.ty));
    Ok(fact)
}
