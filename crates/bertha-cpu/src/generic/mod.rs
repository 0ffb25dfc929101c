//! Plain kernels for every op and every dtype: what the fast kernels leave over.
//!
//! [`execute`] runs one op on borrowed tensors whose shapes the shape rules have worked out. It allocates nothing but
//! what [`Scratch`] grows to. The 16-bit floats are computed in f32; integers wrap; sums of f32 are kept in several
//! lanes. Every operand is checked, so nothing that a model or its inputs hold makes it panic.

mod attention;
mod binary;
mod conv;
mod encoder;
mod error;
mod fill;
mod gather;
mod integer;
mod matmul;
mod movement;
mod nest;
mod norm;
mod number;
mod operands;
mod quantize;
mod reduce;
mod scratch;
mod select;
mod tensor;
mod unary;

use bertha_graph::Op;

pub use error::ExecuteError;
pub use scratch::Scratch;
pub use tensor::{TensorMut, TensorRef};

use error::{Fault, Outcome};
use operands::Operands;

/// Runs one op.
///
/// `inputs` are the operands in the order that [`Op`] gives, absent optional ones `None` or left off the end.
/// `outputs` are its results in order; those that nobody asked for are `None` or left off. Results must have the
/// dtypes and shapes that the shape rules give; what they hold before does not matter.
///
/// # Errors
///
/// [`ExecuteError::Operands`] when operands are missing or do not fit each other or the planned results, or when they
/// hold indices, sizes or axes out of range; [`ExecuteError::Unsupported`] for a dtype that the op is not defined for,
/// for [`Op::If`] (which a runtime resolves) and for [`Op::Plugin`]. Results then hold anything.
pub fn execute(
    op: &Op,
    inputs: &[Option<TensorRef<'_>>],
    outputs: &mut [Option<TensorMut<'_>>],
    scratch: &mut Scratch,
) -> Result<(), ExecuteError> {
    run(op, inputs, outputs, scratch).map_err(|fault| fault.of(op.mnemonic()))
}

fn run(
    op: &Op,
    inputs: &[Option<TensorRef<'_>>],
    outputs: &mut [Option<TensorMut<'_>>],
    scratch: &mut Scratch,
) -> Outcome {
    inputs.iter().flatten().try_for_each(|tensor| tensor.check("an operand"))?;
    outputs.iter().flatten().try_for_each(|tensor| tensor.check("a result"))?;
    let operands = Operands(inputs);
    match op {
        Op::Split { axis, .. } => return movement::split(*axis, operands, outputs),
        Op::LayerNorm { axis, epsilon } => {
            return norm::layer_norm(*axis, *epsilon, operands, outputs, scratch);
        }
        Op::DynamicQuantizeLinear => return quantize::dynamic_quantize_linear(operands, outputs),
        Op::Attention(attrs) => return attention::attention(attrs, operands, outputs, scratch),
        _ => {}
    }
    match outputs.first_mut() {
        Some(Some(y)) => run_single(op, operands, y, scratch),
        // Nobody asked for the result.
        _ => Ok(()),
    }
}

/// The ops with one result.
fn run_single(op: &Op, operands: Operands, y: &mut TensorMut, scratch: &mut Scratch) -> Outcome {
    match op {
        Op::Unary(op) => unary::unary(*op, operands, y),
        Op::Binary(op) => binary::binary(*op, operands, y),
        Op::Gelu(kind) => unary::gelu(*kind, operands, y),
        Op::Clip => select::clip(operands, y),
        Op::Where => select::where_(operands, y),
        Op::Cast { to } => y.expect_dtype(*to).and_then(|()| select::cast(operands, y)),
        Op::Reshape { .. } | Op::Squeeze | Op::Unsqueeze => movement::same_elements(operands, y),
        Op::Transpose { perm } => movement::transpose(perm, operands, y),
        Op::Concat { axis } => movement::concat(*axis, operands, y),
        Op::Slice => movement::slice(operands, y),
        Op::Gather { axis } => gather::gather(*axis, operands, y),
        Op::GatherElements { axis } => gather::gather_elements(*axis, operands, y),
        Op::GatherNd { batch_dims } => gather::gather_nd(*batch_dims, operands, y),
        Op::Expand => movement::expand(operands, y),
        Op::Tile => movement::tile(operands, y),
        Op::Pad { mode } => gather::pad(*mode, operands, y, scratch),
        Op::Shape { start, end } => fill::shape(*start, *end, operands, y),
        Op::ConstantOfShape { value } => fill::constant_of_shape(value, operands, y),
        Op::Range => fill::range(operands, y),
        Op::Reduce { op, keep_dims, noop_with_empty_axes } => {
            let (op, keep_dims, noop_with_empty_axes) = (*op, *keep_dims, *noop_with_empty_axes);
            reduce::reduce(reduce::ReduceAttrs { op, keep_dims, noop_with_empty_axes }, operands, y, scratch)
        }
        Op::CumSum { exclusive, reverse } => reduce::cumsum(*exclusive, *reverse, operands, y),
        Op::Softmax { axis } => reduce::softmax(*axis, operands, y, scratch),
        Op::MatMul => matmul::matmul(operands, y, scratch),
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            let (alpha, beta, trans_a, trans_b) = (*alpha, *beta, *trans_a, *trans_b);
            matmul::gemm(matmul::GemmAttrs { alpha, beta, trans_a, trans_b }, operands, y, scratch)
        }
        Op::MatMulInteger => integer::matmul_integer(operands, y, scratch),
        Op::QLinearMatMul => integer::qlinear_matmul(operands, y, scratch),
        Op::Conv(attrs) => conv::conv(attrs, operands, y, scratch),
        Op::QuantizeLinear { axis, block_size, to } => {
            let granularity = quantize::Granularity { axis: *axis, block_size: *block_size };
            quantize::quantize_linear(granularity, *to, operands, y)
        }
        Op::DequantizeLinear { axis, block_size, to } => {
            let granularity = quantize::Granularity { axis: *axis, block_size: *block_size };
            quantize::dequantize_linear(granularity, *to, operands, y)
        }
        Op::RotaryEmbedding { interleaved, heads, rotary_dim } => {
            let (interleaved, heads, rotary_dim) = (*interleaved, *heads, *rotary_dim);
            attention::rotary_embedding(
                attention::RotaryAttrs { interleaved, heads, rotary_dim },
                operands,
                y,
            )
        }
        Op::EmbeddingSum => encoder::embedding_sum(operands, y, scratch),
        Op::EmbeddingLayerNorm { epsilon } => encoder::embedding_layer_norm(*epsilon, operands, y, scratch),
        Op::Linear { layout, activation } => encoder::linear(*layout, *activation, operands, y, scratch),
        Op::RaggedAttention { heads, scale, relative } => {
            let (heads, scale, relative) = (*heads, *scale, *relative);
            encoder::ragged_attention(encoder::RaggedAttrs { heads, scale, relative }, operands, y, scratch)
        }
        Op::Pool(kind) => encoder::pool(*kind, operands, y, scratch),
        Op::L2Normalize { epsilon } => norm::l2_normalize(*epsilon, operands, y, scratch),
        Op::If { .. } => Err(Fault::Unsupported("a branch; the runtime chooses one before it runs".into())),
        Op::Plugin(plugin) => Err(Fault::Unsupported(format!("plugin `{}`", plugin.def().name()))),
        Op::Split { .. } | Op::LayerNorm { .. } | Op::DynamicQuantizeLinear | Op::Attention(_) => {
            Err(Fault::Unsupported("several results".into()))
        }
    }
}
