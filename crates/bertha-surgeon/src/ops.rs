//! What patterns know about ONNX's own operators.

use crate::literal::Literal;

/// Whether two operands may be exchanged.
pub(crate) fn is_commutative(op_type: &str) -> bool {
    matches!(
        op_type,
        "Add" | "Mul" | "And" | "Or" | "Xor" | "Equal" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor"
    )
}

/// The operand in which newer operator sets have what older ones have as an attribute.
pub(crate) fn operand_of_attribute(op_type: &str, attribute: &str) -> Option<usize> {
    let is_reduction = op_type.starts_with("Reduce");
    Some(match (op_type, attribute) {
        (_, "axes") if is_reduction => 1,
        ("Squeeze" | "Unsqueeze", "axes") => 1,
        ("Split", "split") | ("Dropout", "ratio") | ("TopK", "k") | ("Reshape", "shape") => 1,
        ("Clip", "min") | ("Slice", "starts") | ("Pad", "pads") | ("Tile", "repeats") => 1,
        ("Clip", "max") | ("Slice", "ends") | ("Pad", "value") => 2,
        ("Slice", "axes") => 3,
        ("Slice", "steps") => 4,
        _ => return None,
    })
}

/// Whether an attribute's numbers are axes, which may be counted from either end.
pub(crate) fn is_axis(attribute: &str) -> bool {
    matches!(attribute, "axis" | "axes")
}

/// What an attribute is when the file does not say it.
pub(crate) fn default_of(op_type: &str, attribute: &str, opset: i64) -> Option<Literal> {
    let text = |text: &str| Literal::Text(text.to_owned());
    let is_reduction = op_type.starts_with("Reduce");
    Some(match (op_type, attribute) {
        (_, "keepdims") if is_reduction => Literal::Int(1),
        (_, "noop_with_empty_axes") if is_reduction => Literal::Int(0),
        ("ArgMax" | "ArgMin", "keepdims") => Literal::Int(1),
        ("ArgMax" | "ArgMin" | "Gather" | "GatherElements" | "ScatterElements" | "Split", "axis") => {
            Literal::Int(0)
        }
        ("ArgMax" | "ArgMin", "select_last_index") => Literal::Int(0),
        ("Softmax" | "LogSoftmax" | "Hardmax", "axis") => Literal::Int(if opset >= 13 { -1 } else { 1 }),
        ("LayerNormalization" | "RMSNormalization", "axis") => Literal::Int(-1),
        (
            "LayerNormalization" | "RMSNormalization" | "BatchNormalization" | "InstanceNormalization",
            "epsilon",
        ) => Literal::Float(1e-5),
        ("Gelu", "approximate") => text("none"),
        ("Gemm", "alpha" | "beta") => Literal::Float(1.0),
        ("Gemm", "transA" | "transB") => Literal::Int(0),
        ("Flatten" | "QuantizeLinear" | "DequantizeLinear", "axis") => Literal::Int(1),
        ("Reshape", "allowzero") => Literal::Int(0),
        ("Shape", "start") | ("Trilu", "k") => Literal::Int(0),
        ("LeakyRelu", "alpha") => Literal::Float(0.01),
        ("Elu", "alpha") => Literal::Float(1.0),
        ("HardSigmoid", "alpha") => Literal::Float(0.2),
        ("HardSigmoid", "beta") => Literal::Float(0.5),
        ("Pad", "mode") => text("constant"),
        ("Cast", "saturate") => Literal::Int(1),
        ("CumSum", "exclusive" | "reverse") => Literal::Int(0),
        ("Mod", "fmod") => Literal::Int(0),
        ("Conv" | "ConvTranspose", "group") => Literal::Int(1),
        ("Conv" | "ConvTranspose" | "MaxPool" | "AveragePool", "auto_pad") => text("NOTSET"),
        _ => return None,
    })
}
