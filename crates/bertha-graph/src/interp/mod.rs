//! The reference interpreter: every op in its slow and obvious form.
//!
//! It is the oracle that kernels, passes and importers are tested against. It works out shapes for itself, so it also
//! checks the shape rules. The meaning of the ops is that of ONNX (opset 23) and of the documentation of [`Op`].
//!
//! Integers wrap on overflow as NumPy's do; an integer divided by zero is 0. What is undefined in ONNX gives some
//! value or an error, never a panic.

mod args;
mod attention;
mod conv;
mod elementwise;
mod encoder;
mod error;
mod gather;
mod index;
mod layout;
mod matmul;
mod quantize;
mod reduce;
mod run;
#[cfg(test)]
mod tests;
mod value;

pub use error::EvalError;
pub use run::Interpreter;
pub use value::{Elements, F64Tensor, MAX_ELEMENTS, Value};

use crate::dtype::DType;
use crate::op::Op;
use crate::plugin::PluginOp;
use crate::shape::TensorType;
use args::Args;
use error::{Fault, fault};

/// How floats are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Each op in `f64`, its results then rounded to their own dtypes.
    Native,
    /// All floats stay in `f64`, whatever the dtype of the tensor: the oracle.
    F64,
}

/// What evaluation depends on beside op and operands.
#[derive(Clone, Copy)]
struct Context {
    precision: Precision,
}

impl Context {
    /// Nothing is rounded.
    const EXACT: Context = Context { precision: Precision::F64 };

    fn rounds(self) -> bool {
        self.precision == Precision::Native
    }

    /// A float tensor, rounded to its dtype where the precision asks for it.
    fn floats(self, dtype: DType, shape: Vec<usize>, mut values: Vec<f64>) -> Value {
        if self.rounds() {
            values.iter_mut().for_each(|v| *v = value::round(dtype, *v));
        }
        Value::floats(dtype, shape, values)
    }

    /// An integer as a float of `dtype`. Straight to f32: by way of f64 it would be rounded twice.
    fn integer(self, dtype: DType, value: i128) -> f64 {
        if self.rounds() && dtype == DType::F32 { f64::from(value as f32) } else { value as f64 }
    }
}

/// Evaluates one op: all of its results in order, the optional ones included.
///
/// `inputs` are the operands in the order that [`Op`] gives; absent optional ones are `None` or left off the end.
///
/// # Errors
///
/// [`EvalError::Op`] when operands are missing, do not fit each other, or hold indices, sizes or axes out of range;
/// what an inner node of an [`Op::If`] reports; and what the
/// reference of a plugin reports.
pub fn eval(op: &Op, inputs: &[Option<&Value>], precision: Precision) -> Result<Vec<Value>, EvalError> {
    let args = Args(inputs);
    let fail = |Fault(what)| EvalError::Op { op: op.mnemonic(), what };
    for value in inputs.iter().flatten() {
        value::element_count(value.shape()).map_err(fail)?;
    }
    if let Op::If { then_branch, else_branch } = op {
        return branch(then_branch, else_branch, args, precision);
    }
    eval_op(op, args, Context { precision }).map_err(fail)
}

fn eval_op(op: &Op, args: Args, context: Context) -> Result<Vec<Value>, Fault> {
    let one = match op {
        Op::Unary(op) => elementwise::unary(*op, args, context)?,
        Op::Binary(op) => elementwise::binary(*op, args, context)?,
        Op::Gelu(kind) => elementwise::gelu(*kind, args, context)?,
        Op::Clip => elementwise::clip(args)?,
        Op::Where => elementwise::where_(args)?,
        Op::Cast { to } => elementwise::cast(*to, args, context)?,
        Op::Reshape { allow_zero } => layout::reshape(*allow_zero, args)?,
        Op::Transpose { perm } => layout::transpose(perm, args)?,
        Op::Squeeze => layout::squeeze(args)?,
        Op::Unsqueeze => layout::unsqueeze(args)?,
        Op::Concat { axis } => layout::concat(*axis, args)?,
        Op::Split { axis, parts } => return layout::split(*axis, *parts, args),
        Op::Slice => gather::slice(args)?,
        Op::Gather { axis } => gather::gather(*axis, args)?,
        Op::GatherElements { axis } => gather::gather_elements(*axis, args)?,
        Op::GatherNd { batch_dims } => gather::gather_nd(*batch_dims, args)?,
        Op::Expand => layout::expand(args)?,
        Op::Tile => layout::tile(args)?,
        Op::Pad { mode } => gather::pad(*mode, args)?,
        Op::Shape { start, end } => layout::shape(*start, *end, args)?,
        Op::ConstantOfShape { value } => layout::constant_of_shape(value, args)?,
        Op::Range => layout::range(args, context)?,
        Op::Reduce { op, keep_dims, noop_with_empty_axes } => {
            let (op, keep_dims, noop_with_empty_axes) = (*op, *keep_dims, *noop_with_empty_axes);
            reduce::reduce(reduce::ReduceAttrs { op, keep_dims, noop_with_empty_axes }, args, context)?
        }
        Op::CumSum { exclusive, reverse } => reduce::cumsum(*exclusive, *reverse, args, context)?,
        Op::Softmax { axis } => reduce::softmax(*axis, args, context)?,
        Op::LayerNorm { axis, epsilon } => return reduce::layer_norm(*axis, *epsilon, args, context),
        Op::MatMul => matmul::matmul(args, context)?,
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            let (alpha, beta, trans_a, trans_b) = (*alpha, *beta, *trans_a, *trans_b);
            matmul::gemm(matmul::GemmAttrs { alpha, beta, trans_a, trans_b }, args, context)?
        }
        Op::MatMulInteger => matmul::matmul_integer(args)?,
        Op::QLinearMatMul => matmul::qlinear_matmul(args, context)?,
        Op::Conv(attrs) => conv::conv(attrs, args, context)?,
        Op::QuantizeLinear { axis, block_size, to } => {
            let granularity = quantize::Granularity { axis: *axis, block_size: *block_size };
            quantize::quantize_linear(granularity, *to, args, context)?
        }
        Op::DequantizeLinear { axis, block_size, to } => {
            let granularity = quantize::Granularity { axis: *axis, block_size: *block_size };
            quantize::dequantize_linear(granularity, *to, args, context)?
        }
        Op::DynamicQuantizeLinear => return quantize::dynamic_quantize_linear(args, context),
        Op::RotaryEmbedding { interleaved, heads, rotary_dim } => {
            let (interleaved, heads, rotary_dim) = (*interleaved, *heads, *rotary_dim);
            attention::rotary_embedding(
                attention::RotaryAttrs { interleaved, heads, rotary_dim },
                args,
                context,
            )?
        }
        Op::Attention(attrs) => return attention::attention(attrs, args, context),
        Op::EmbeddingSum => encoder::embedding_sum(args, context)?,
        Op::EmbeddingLayerNorm { epsilon } => encoder::embedding_layer_norm(*epsilon, args, context)?,
        Op::Linear { layout, activation } => encoder::linear(*layout, *activation, args, context)?,
        Op::RaggedAttention { heads, scale, relative } => {
            let (heads, scale, relative) = (*heads, *scale, *relative);
            encoder::ragged_attention(encoder::RaggedAttrs { heads, scale, relative }, args, context)?
        }
        Op::Pool(kind) => encoder::pool(*kind, args, context)?,
        Op::L2Normalize { epsilon } => encoder::l2_normalize(*epsilon, args, context)?,
        Op::Plugin(plugin) => {
            return plugin_reference(plugin, args, context);
        }
        Op::If { .. } => return fault!("branches are evaluated as graphs"),
    };
    Ok(vec![one])
}

/// The results of a plugin's reference, in the dtypes that its signature gives.
fn plugin_reference(plugin: &PluginOp, args: Args, context: Context) -> Result<Vec<Value>, Fault> {
    let types: Vec<Option<TensorType>> = args
        .0
        .iter()
        .map(|value| {
            value.map(|value| TensorType::new(value.dtype(), value.shape().iter().copied().collect()))
        })
        .collect();
    let tensors: Vec<Option<F64Tensor>> =
        args.0.iter().map(|value| value.map(Value::to_f64_tensor)).collect();
    let types: Vec<Option<&TensorType>> = types.iter().map(Option::as_ref).collect();
    let tensors: Vec<Option<&F64Tensor>> = tensors.iter().map(Option::as_ref).collect();
    let results = plugin.reference(&types, &tensors).map_err(Fault)?;
    let value = |(dtype, F64Tensor { shape, values }): (DType, F64Tensor)| match dtype {
        DType::Bool => Value::bools(shape, values.into_iter().map(|v| v != 0.0).collect()),
        _ if dtype.is_float() => context.floats(dtype, shape, values),
        _ => Value::ints(dtype, shape, values.into_iter().map(|v| v as i128).collect()),
    };
    Ok(results.into_iter().map(value).collect())
}

/// Evaluates the branch that the condition chooses, with the captured tensors as its inputs.
fn branch(
    then_branch: &crate::Graph,
    else_branch: &crate::Graph,
    args: Args,
    precision: Precision,
) -> Result<Vec<Value>, EvalError> {
    let fail = |Fault(what)| EvalError::Op { op: "if", what };
    let condition = args.required(0, "condition").map_err(fail)?;
    let holds = match args::bools(condition, "condition").map_err(fail)? {
        [holds] => *holds,
        many => return Err(fail(Fault(format!("the condition has {} elements, expected one", many.len())))),
    };
    let graph = if holds { then_branch } else { else_branch };
    let captured = (1..args.0.len())
        .map(|at| args.required(at, "captured").cloned())
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail)?;
    Interpreter::new(graph, precision).run_positional(captured)
}
