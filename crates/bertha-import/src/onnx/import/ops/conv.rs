//! Convolutions and what comes with them.

use bertha_graph::{BinaryOp, ConvAttrs, ConvPadding, DType, Op, TensorId, UnaryOp};

use super::super::context::{NodeContext, Translated};
use super::elementwise::{scalar, some};

pub(super) fn conv(node: &mut NodeContext) -> Translated {
    let (x, weight) = (node.input(0)?, node.input(1)?);
    let kernel: Vec<Option<i64>> =
        node.ty(weight).shape.dims().iter().skip(2).map(|dim| dim.as_const()).collect();
    let dimensions = node.rank(x).saturating_sub(2);
    if let Some(given) = node.ints("kernel_shape")? {
        let fits = given.len() == kernel.len()
            && given.iter().zip(&kernel).all(|(given, kernel)| kernel.is_none_or(|kernel| kernel == *given));
        if !fits {
            let weight = node.ty(weight);
            return Err(format!("attribute `kernel_shape` is {given:?}, but the weight is {weight}").into());
        }
    }
    let (pads, auto_pad) = (sizes(node, "pads")?, node.string("auto_pad")?);
    let padding = match auto_pad.as_deref() {
        None | Some("NOTSET") => ConvPadding::Explicit(pads.unwrap_or_else(|| vec![0; 2 * dimensions])),
        Some("VALID") => ConvPadding::Explicit(vec![0; 2 * dimensions]),
        Some("SAME_UPPER") => ConvPadding::SameUpper,
        Some("SAME_LOWER") => ConvPadding::SameLower,
        Some(other) => {
            return Err(format!("attribute `auto_pad` is `{other}`, which is not a way to pad").into());
        }
    };
    let attrs = ConvAttrs {
        groups: node.count("group", 1)?,
        strides: sizes(node, "strides")?.unwrap_or_else(|| vec![1; dimensions]),
        dilations: sizes(node, "dilations")?.unwrap_or_else(|| vec![1; dimensions]),
        padding,
    };
    node.emit_plain(Op::Conv(attrs))
}

/// An attribute that lists sizes.
fn sizes(node: &mut NodeContext, name: &'static str) -> Translated<Option<Vec<usize>>> {
    let Some(values) = node.ints(name)? else { return Ok(None) };
    let sizes = values.iter().map(|value| usize::try_from(*value)).collect::<Result<_, _>>();
    sizes.map(Some).map_err(|_| format!("attribute `{name}` is {values:?}, with an entry below 0").into())
}

/// `(x - mean) / sqrt(variance + epsilon) * scale + bias` with statistics from training, computed as one product and one
/// sum: `factor = scale / sqrt(variance + epsilon)`, `x * factor + (bias - mean * factor)`.
pub(super) fn batch_normalization(node: &mut NodeContext) -> Translated {
    let epsilon = node.float_or("epsilon", 1e-5)?;
    node.float("momentum")?; // a matter of training
    if node.flag("training_mode", false)? || (1..5).any(|output| node.has_output(output)) {
        return Err("computes statistics as in training; export the model for inference".into());
    }
    if node.opset < 9 && !node.flag("spatial", true)? {
        return Err("attribute `spatial` is 0: statistics for each position are not supported".into());
    }
    let x = node.input(0)?;
    let (rank, dtype) = (node.rank(x), node.dtype(x));
    // Statistics may be of a wider type than `x`; the factors are worked out in theirs.
    let mean = node.input(3)?;
    let wide = node.dtype(mean);
    let [scale, bias, mean, variance] = [1, 2, 3, 4].map(|index| vector(node, index, wide));
    let (scale, bias, mean, variance) = (scale?, bias?, mean?, variance?);
    let epsilon = node.constant("epsilon", scalar(wide, f64::from(epsilon))?)?;
    let sum = node.binary("variance_epsilon", BinaryOp::Add, variance, epsilon)?;
    let deviation = node.step("deviation", Op::Unary(UnaryOp::Sqrt), &[Some(sum)])?;
    let factor = node.binary("factor", BinaryOp::Div, scale, deviation)?;
    let shift = node.binary("mean_factor", BinaryOp::Mul, mean, factor)?;
    let shift = node.binary("shift", BinaryOp::Sub, bias, shift)?;
    let (factor, shift) =
        (along_channels(node, "factors", factor, rank)?, along_channels(node, "shifts", shift, rank)?);
    let x = node.cast("x", x, wide)?;
    let product = node.binary("product", BinaryOp::Mul, x, factor)?;
    if dtype == wide {
        return node.emit(Op::Binary(BinaryOp::Add), &some([product, shift]));
    }
    let sum = node.binary("sum", BinaryOp::Add, product, shift)?;
    node.emit(Op::Cast { to: dtype }, &[Some(sum)])
}

/// Operand `index`, one value for each channel, in the type `to`.
fn vector(node: &mut NodeContext, index: usize, to: DType) -> Translated<TensorId> {
    let operand = node.input(index)?;
    if node.rank(operand) != 1 {
        let ty = node.ty(operand);
        return Err(format!("input {index} is {ty}; expected one value for each channel").into());
    }
    node.cast(&format!("operand_{index}"), operand, to)
}

/// A vector with as many dimensions of 1 after it as `x` has after its channels.
fn along_channels(
    node: &mut NodeContext,
    suffix: &str,
    vector: TensorId,
    rank: usize,
) -> Translated<TensorId> {
    match rank {
        0 => Err("x is a scalar; expected batch and channels".into()),
        // Without channels, all is one channel.
        1 | 2 => Ok(vector),
        _ => {
            let axes = node.int_vector(&format!("{suffix}_axes"), (1..rank as i64 - 1).collect())?;
            node.step(suffix, Op::Unsqueeze, &some([vector, axes]))
        }
    }
}
