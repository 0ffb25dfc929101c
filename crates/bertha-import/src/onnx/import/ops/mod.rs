//! One row for each op that can be imported, of the default domain here and of ONNX Runtime's in `contrib`.

use std::ops::RangeInclusive;

use super::context::{NodeContext, Translated};

macro_rules! rows {
    ($($op_type:literal $since:literal $inputs:expr, $outputs:expr => $translate:path;)*) => {
        &[$(OpRow {
            op_type: $op_type,
            since: $since,
            inputs: $inputs,
            outputs: $outputs,
            translate: |node| $translate(node),
        }),*]
    };
}

mod attention;
mod constant;
mod contrib;
mod control;
mod conv;
mod derived;
mod elementwise;
mod layout;
mod product;
mod quantize;
mod reduce;

/// How to translate one op.
pub(super) struct OpRow {
    /// The op's name.
    pub(super) op_type: &'static str,
    /// The first version of its operator set whose meaning the translation knows.
    pub(super) since: i64,
    /// How many operands the op takes, counting those that are left out in the middle.
    pub(super) inputs: RangeInclusive<usize>,
    /// The largest number of results.
    pub(super) outputs: usize,
    /// Adds the op to the graph.
    pub(super) translate: for<'a, 'm> fn(&mut NodeContext<'a, 'm>) -> Translated,
}

/// Any number of operands or results.
const MANY: usize = usize::MAX;

/// Every op, in order of name. The number after the name is the operator set from which on the op is understood;
/// where an op changed its form later, its translation asks for the version of the file. ONNX Runtime has both
/// normalisations of layers in every version, and its optimiser writes them into old files.
#[rustfmt::skip]
pub(super) const OPS: &[OpRow] = rows! {
    "Abs"                    6 1..=1, 1 => elementwise::abs;
    "Add"                    7 2..=2, 1 => elementwise::add;
    "And"                    7 2..=2, 1 => elementwise::and;
    "Attention"             23 3..=7, 4 => attention::attention;
    "BatchNormalization"      7 5..=5, 5 => conv::batch_normalization;
    "Cast"                   6 1..=1, 1 => elementwise::cast;
    "CastLike"               15 2..=2, 1 => derived::cast_like;
    "Ceil"                   6 1..=1, 1 => elementwise::ceil;
    "Clip"                   6 1..=3, 1 => elementwise::clip;
    "Concat"                 4 1..=MANY, 1 => layout::concat;
    "Constant"               1 0..=0, 1 => constant::constant;
    "ConstantOfShape"        9 1..=1, 1 => constant::constant_of_shape;
    "Conv"                   1 2..=3, 1 => conv::conv;
    "Cos"                    7 1..=1, 1 => elementwise::cos;
    "CumSum"                11 2..=2, 1 => reduce::cumsum;
    "DequantizeLinear"      10 2..=3, 1 => quantize::dequantize_linear;
    "Div"                    7 2..=2, 1 => elementwise::div;
    "Dropout"                 7 1..=3, 2 => derived::dropout;
    "DynamicQuantizeLinear" 11 1..=1, 3 => quantize::dynamic_quantize_linear;
    "Equal"                  7 2..=2, 1 => elementwise::equal;
    "Erf"                    9 1..=1, 1 => elementwise::erf;
    "Exp"                     6 1..=1, 1 => derived::exp;
    "Expand"                 8 2..=2, 1 => layout::expand;
    "Flatten"                 1 1..=1, 1 => derived::flatten;
    "Floor"                   6 1..=1, 1 => derived::floor;
    "Gather"                 1 2..=2, 1 => layout::gather;
    "GatherElements"        11 2..=2, 1 => layout::gather_elements;
    "GatherND"              11 2..=2, 1 => layout::gather_nd;
    "Gelu"                  20 1..=1, 1 => elementwise::gelu;
    "Gemm"                   7 2..=3, 1 => product::gemm;
    "Greater"                7 2..=2, 1 => elementwise::greater;
    "GreaterOrEqual"        12 2..=2, 1 => elementwise::greater_or_equal;
    "Identity"               1 1..=1, 1 => elementwise::identity;
    "If"                     1 1..=1, MANY => control::if_else;
    "IsNaN"                  9 1..=1, 1 => elementwise::is_nan;
    "LayerNormalization"      1 2..=3, 3 => reduce::layer_normalization;
    "Less"                   7 2..=2, 1 => elementwise::less;
    "LessOrEqual"           12 2..=2, 1 => elementwise::less_or_equal;
    "Log"                    6 1..=1, 1 => elementwise::log;
    "MatMul"                 1 2..=2, 1 => product::matmul;
    "MatMulInteger"         10 2..=4, 1 => product::matmul_integer;
    "Max"                    6 1..=MANY, 1 => elementwise::max;
    "Min"                    6 1..=MANY, 1 => elementwise::min;
    "Mul"                    7 2..=2, 1 => elementwise::mul;
    "Neg"                    6 1..=1, 1 => elementwise::neg;
    "Not"                    1 1..=1, 1 => elementwise::not;
    "Or"                      7 2..=2, 1 => derived::or;
    "Pad"                    2 1..=4, 1 => layout::pad;
    "Pow"                    7 2..=2, 1 => elementwise::pow;
    "QLinearMatMul"         10 8..=8, 1 => product::qlinear_matmul;
    "QuantizeLinear"        10 2..=3, 1 => quantize::quantize_linear;
    "RMSNormalization"      23 2..=2, 1 => reduce::rms_normalization;
    "Range"                 11 3..=3, 1 => constant::range;
    "Reciprocal"             6 1..=1, 1 => elementwise::reciprocal;
    "ReduceL2"                1 1..=2, 1 => derived::reduce_l2;
    "ReduceMean"             1 1..=2, 1 => reduce::reduce_mean;
    "ReduceProd"             1 1..=2, 1 => reduce::reduce_prod;
    "ReduceSum"              1 1..=2, 1 => reduce::reduce_sum;
    "ReduceSumSquare"         1 1..=2, 1 => derived::reduce_sum_square;
    "Relu"                   6 1..=1, 1 => elementwise::relu;
    "Reshape"                5 2..=2, 1 => layout::reshape;
    "RotaryEmbedding"       23 3..=4, 1 => attention::rotary_embedding;
    "Shape"                  1 1..=1, 1 => constant::shape;
    "Sigmoid"                6 1..=1, 1 => elementwise::sigmoid;
    "Sign"                   9 1..=1, 1 => elementwise::sign;
    "SimplifiedLayerNormalization" 1 2..=2, 2 => reduce::rms_normalization;
    "Sin"                    7 1..=1, 1 => elementwise::sin;
    "Size"                    1 1..=1, 1 => derived::size;
    "Slice"                  1 1..=5, 1 => layout::slice;
    "Softmax"                1 1..=1, 1 => reduce::softmax;
    "Split"                  2 1..=2, MANY => layout::split;
    "Sqrt"                   6 1..=1, 1 => elementwise::sqrt;
    "Squeeze"                1 1..=2, 1 => layout::squeeze;
    "Sub"                    7 2..=2, 1 => elementwise::sub;
    "Sum"                     8 1..=MANY, 1 => derived::sum;
    "Swish"                  24 1..=1, 1 => derived::swish;
    "Tanh"                   6 1..=1, 1 => elementwise::tanh;
    "Tile"                   6 2..=2, 1 => layout::tile;
    "Transpose"              1 1..=1, 1 => layout::transpose;
    "Unsqueeze"              1 1..=2, 1 => layout::unsqueeze;
    "Where"                  9 3..=3, 1 => elementwise::select;
    "Xor"                     7 2..=2, 1 => derived::xor;
};

/// The domain of ONNX Runtime's own ops.
pub(super) const CONTRIB_DOMAIN: &str = "com.microsoft";

/// The row of an op of a domain (as [`opsets::domain`](super::opsets::domain) gives it).
pub(super) fn find(domain: &str, op_type: &str) -> Option<&'static OpRow> {
    let rows = match domain {
        "" => OPS,
        CONTRIB_DOMAIN => contrib::OPS,
        _ => return None,
    };
    rows.binary_search_by(|row| row.op_type.cmp(op_type)).ok().and_then(|index| rows.get(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_of_name() {
        assert!(OPS.is_sorted_by(|a, b| a.op_type < b.op_type));
        assert!(
            OPS.iter().all(|row| find("", row.op_type).is_some_and(|found| found.op_type == row.op_type))
        );
        assert!(find("", "LSTM").is_none());
        assert!(find("com.microsoft", "BiasGelu").is_some() && find("", "BiasGelu").is_none());
    }
}
