//! ONNX Runtime's own ops (domain `com.microsoft`), which its graph optimiser and its quantiser write, as compositions of
//! ops that everything behind the importer knows.
//!
//! Forms that only a GPU or a decoder with a cache needs are refused by name.

use super::{MANY, OpRow};

mod attention;
mod elementwise;
mod embedding;
mod masks;
mod nbits;
mod norm;
mod product;
mod projection;
mod quantized;

/// Every op, in order of name. All have been there since version 1 of the domain.
#[rustfmt::skip]
pub(super) const OPS: &[OpRow] = rows! {
    "Attention"                      1 2..=7, 2 => attention::attention;
    "BiasGelu"                       1 2..=2, 1 => elementwise::bias_gelu;
    "DequantizeLinear"               1 2..=3, 1 => super::quantize::dequantize_linear;
    "DynamicQuantizeMatMul"          1 3..=5, 1 => quantized::dynamic_quantize_matmul;
    "EmbedLayerNormalization"        1 7..=9, 3 => embedding::embed_layer_normalization;
    "FastGelu"                       1 1..=2, 1 => elementwise::fast_gelu;
    "FusedGemm"                      1 2..=3, 1 => product::fused_gemm;
    "FusedMatMul"                    1 2..=2, 1 => product::fused_matmul;
    "Gelu"                           1 1..=1, 1 => elementwise::gelu;
    "MatMulIntegerToFloat"           1 4..=7, 1 => quantized::matmul_integer_to_float;
    "MatMulNBits"                    1 3..=6, 1 => nbits::matmul_nbits;
    "MultiHeadAttention"             1 1..=10, 4 => attention::multi_head_attention;
    "QAttention"                     1 5..=9, 2 => quantized::attention;
    "QEmbedLayerNormalization"       1 18..=18, 2 => embedding::quantized_embed_layer_normalization;
    "QGemm"                          1 6..=9, 1 => quantized::gemm;
    "QLinearAdd"                     1 7..=8, 1 => quantized::add;
    "QLinearConcat"                  1 5..=MANY, 1 => quantized::concat;
    "QLinearMul"                     1 7..=8, 1 => quantized::mul;
    "QLinearSigmoid"                 1 4..=5, 1 => quantized::sigmoid;
    "QLinearSoftmax"                 1 5..=5, 1 => quantized::softmax;
    "QLinearWhere"                   1 9..=9, 1 => quantized::select;
    "QuantizeLinear"                 1 2..=3, 1 => super::quantize::quantize_linear;
    "QuickGelu"                      1 1..=1, 1 => elementwise::quick_gelu;
    "SkipLayerNormalization"         1 3..=5, 4 => norm::skip_layer_normalization;
    "SkipSimplifiedLayerNormalization" 1 3..=4, 4 => norm::skip_simplified_layer_normalization;
};

#[cfg(test)]
mod tests {
    use super::OPS;

    #[test]
    fn rows_are_in_order_of_name() {
        assert!(OPS.is_sorted_by(|a, b| a.op_type < b.op_type));
    }
}
