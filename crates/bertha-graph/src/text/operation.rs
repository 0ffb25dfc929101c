//! Operations and their attributes.

use crate::op::{AttentionAttrs, BinaryOp, ConvAttrs, ConvPadding, Op, ReduceOp, RelativeBuckets, UnaryOp};
use crate::plugin::{PluginOp, PluginSet};

use super::attributes::{Attribute, Attributes};

/// The attributes of an operation, all of them, in a fixed order. The branches of an `If` are printed as graphs.
pub(super) fn attributes(op: &Op) -> Attributes {
    let none = Attributes::default();
    let axis_only = |axis: i64| Attributes::default().with("axis", Attribute::int(axis));
    match op {
        Op::Unary(_)
        | Op::Binary(_)
        | Op::Clip
        | Op::Where
        | Op::Squeeze
        | Op::Unsqueeze
        | Op::Slice
        | Op::Expand
        | Op::Tile
        | Op::Range
        | Op::MatMul
        | Op::MatMulInteger
        | Op::QLinearMatMul
        | Op::DynamicQuantizeLinear
        | Op::If { .. }
        | Op::EmbeddingSum => none,
        Op::Gelu(kind) => none.with("kind", Attribute::word(kind)),
        Op::Cast { to } => none.with("to", Attribute::dtype(*to)),
        Op::Reshape { allow_zero } => none.with("allow_zero", Attribute::bool(*allow_zero)),
        Op::Transpose { perm } => {
            none.with("perm", Attribute::List(perm.iter().map(Attribute::int).collect()))
        }
        Op::Concat { axis } | Op::Gather { axis } | Op::GatherElements { axis } | Op::Softmax { axis } => {
            axis_only(*axis)
        }
        Op::Split { axis, parts } => axis_only(*axis).with("parts", Attribute::int(parts)),
        Op::GatherNd { batch_dims } => none.with("batch_dims", Attribute::int(batch_dims)),
        Op::Pad { mode } => none.with("mode", Attribute::word(mode)),
        Op::Shape { start, end } => none
            .with("start", Attribute::int(start))
            .with("end", end.map_or_else(Attribute::none, Attribute::int)),
        Op::ConstantOfShape { value } => none.with("value", Attribute::Tensor(value.clone())),
        Op::Reduce { keep_dims, noop_with_empty_axes, .. } => none
            .with("keep_dims", Attribute::bool(*keep_dims))
            .with("noop_with_empty_axes", Attribute::bool(*noop_with_empty_axes)),
        Op::CumSum { exclusive, reverse } => {
            none.with("exclusive", Attribute::bool(*exclusive)).with("reverse", Attribute::bool(*reverse))
        }
        Op::EmbeddingLayerNorm { epsilon } => none.with("epsilon", Attribute::float(*epsilon)),
        Op::LayerNorm { axis, epsilon } => axis_only(*axis).with("epsilon", Attribute::float(*epsilon)),
        Op::Gemm { alpha, beta, trans_a, trans_b } => none
            .with("alpha", Attribute::float(*alpha))
            .with("beta", Attribute::float(*beta))
            .with("trans_a", Attribute::bool(*trans_a))
            .with("trans_b", Attribute::bool(*trans_b)),
        Op::Conv(attrs) => conv_attributes(attrs),
        Op::QuantizeLinear { axis, block_size, to } | Op::DequantizeLinear { axis, block_size, to } => {
            axis_only(*axis).with("block_size", Attribute::int(block_size)).with("to", Attribute::dtype(*to))
        }
        Op::RotaryEmbedding { interleaved, heads, rotary_dim } => none
            .with("interleaved", Attribute::bool(*interleaved))
            .with("heads", Attribute::int(heads))
            .with("rotary_dim", Attribute::int(rotary_dim)),
        Op::Attention(attrs) => attention_attributes(attrs),
        Op::Linear { layout, activation } => {
            none.with("layout", Attribute::word(layout)).with("activation", Attribute::word(activation))
        }
        Op::RaggedAttention { heads, scale, relative } => none
            .with("heads", Attribute::int(heads))
            .with("scale", Attribute::float(*scale))
            .with("relative", relative.map_or_else(Attribute::none, buckets_attribute)),
        Op::Pool(kind) => none.with("kind", Attribute::word(kind)),
        Op::L2Normalize { epsilon } => none.with("epsilon", Attribute::float(*epsilon)),
        Op::Plugin(plugin) => plugin_attributes(plugin),
    }
}

fn conv_attributes(attrs: &ConvAttrs) -> Attributes {
    let list = |values: &[usize]| Attribute::List(values.iter().map(Attribute::int).collect());
    let pads = match &attrs.padding {
        ConvPadding::Explicit(pads) => list(pads),
        ConvPadding::SameUpper => Attribute::Word("same_upper".into()),
        ConvPadding::SameLower => Attribute::Word("same_lower".into()),
    };
    Attributes::default()
        .with("groups", Attribute::int(attrs.groups))
        .with("strides", list(&attrs.strides))
        .with("dilations", list(&attrs.dilations))
        .with("pads", pads)
}

fn attention_attributes(attrs: &AttentionAttrs) -> Attributes {
    Attributes::default()
        .with("q_heads", Attribute::int(attrs.q_heads))
        .with("kv_heads", Attribute::int(attrs.kv_heads))
        .with("scale", attrs.scale.map_or_else(Attribute::none, Attribute::float))
        .with("is_causal", Attribute::bool(attrs.is_causal))
        .with("softcap", Attribute::float(attrs.softcap))
        .with("scores_mode", Attribute::int(attrs.scores_mode))
        .with("softmax_precision", attrs.softmax_precision.map_or_else(Attribute::none, Attribute::dtype))
}

fn buckets_attribute(relative: RelativeBuckets) -> Attribute {
    Attribute::Map(
        Attributes::default()
            .with("buckets", Attribute::int(relative.buckets))
            .with("max_distance", Attribute::int(relative.max_distance)),
    )
}

fn plugin_attributes(plugin: &PluginOp) -> Attributes {
    let mut fields = Attributes::default();
    for (name, field) in plugin.fields().iter() {
        fields.set(name, Attribute::field(field));
    }
    Attributes::default()
        .with("name", Attribute::Text(plugin.def().name().to_owned()))
        .with("version", Attribute::int(plugin.def().version()))
        .with("fields", Attribute::Map(fields))
}

/// The operation of this name with these attributes, every one of which it must have.
pub(super) fn operation(
    mnemonic: &str,
    mut attributes: Attributes,
    plugins: &PluginSet,
) -> Result<Op, String> {
    let built = match mnemonic {
        "plugin" => plugin(&mut attributes, plugins).map(|plugin| Some(Op::Plugin(plugin))),
        _ => build(mnemonic, &mut attributes),
    };
    let op = match built {
        Ok(Some(op)) => op,
        Ok(None) => return Err(format!("unknown operation `{mnemonic}`")),
        Err(why) => return Err(format!("{mnemonic}: {why}")),
    };
    attributes.finish().map_err(|why| format!("{mnemonic}: {why}"))?;
    Ok(op)
}

fn build(mnemonic: &str, from: &mut Attributes) -> Result<Option<Op>, String> {
    if let Some(op) = UnaryOp::ALL.into_iter().find(|op| op.mnemonic() == mnemonic) {
        return Ok(Some(Op::Unary(op)));
    }
    if let Some(op) = BinaryOp::ALL.into_iter().find(|op| op.mnemonic() == mnemonic) {
        return Ok(Some(Op::Binary(op)));
    }
    if let Some(op) = ReduceOp::ALL.into_iter().find(|op| op.mnemonic() == mnemonic) {
        let (keep_dims, noop_with_empty_axes) = (from.bool("keep_dims")?, from.bool("noop_with_empty_axes")?);
        return Ok(Some(Op::Reduce { op, keep_dims, noop_with_empty_axes }));
    }
    Ok(Some(match mnemonic {
        "gelu" => Op::Gelu(from.word("kind")?),
        "clip" => Op::Clip,
        "where" => Op::Where,
        "cast" => Op::Cast { to: from.dtype("to")? },
        "reshape" => Op::Reshape { allow_zero: from.bool("allow_zero")? },
        "transpose" => Op::Transpose { perm: sizes(from, "perm")? },
        "squeeze" => Op::Squeeze,
        "unsqueeze" => Op::Unsqueeze,
        "concat" => Op::Concat { axis: from.number("axis")? },
        "split" => Op::Split { axis: from.number("axis")?, parts: from.number("parts")? },
        "slice" => Op::Slice,
        "gather" => Op::Gather { axis: from.number("axis")? },
        "gather_elements" => Op::GatherElements { axis: from.number("axis")? },
        "gather_nd" => Op::GatherNd { batch_dims: from.number("batch_dims")? },
        "expand" => Op::Expand,
        "tile" => Op::Tile,
        "pad" => Op::Pad { mode: from.word("mode")? },
        "shape" => Op::Shape {
            start: from.number("start")?,
            end: from.optional("end")?.map(Attribute::number).transpose()?,
        },
        "constant_of_shape" => Op::ConstantOfShape {
            value: match from.take("value")? {
                Attribute::Tensor(value) => value,
                other => return Err(format!("attribute `value`: expected a tensor, found {other}")),
            },
        },
        "range" => Op::Range,
        "cumsum" => Op::CumSum { exclusive: from.bool("exclusive")?, reverse: from.bool("reverse")? },
        "softmax" => Op::Softmax { axis: from.number("axis")? },
        "layer_norm" => Op::LayerNorm { axis: from.number("axis")?, epsilon: from.f32("epsilon")? },
        _ => return build_product(mnemonic, from),
    }))
}

fn build_product(mnemonic: &str, from: &mut Attributes) -> Result<Option<Op>, String> {
    Ok(Some(match mnemonic {
        "matmul" => Op::MatMul,
        "gemm" => Op::Gemm {
            alpha: from.f32("alpha")?,
            beta: from.f32("beta")?,
            trans_a: from.bool("trans_a")?,
            trans_b: from.bool("trans_b")?,
        },
        "matmul_integer" => Op::MatMulInteger,
        "qlinear_matmul" => Op::QLinearMatMul,
        "conv" => Op::Conv(ConvAttrs {
            groups: from.number("groups")?,
            strides: sizes(from, "strides")?,
            dilations: sizes(from, "dilations")?,
            padding: match from.take("pads")? {
                Attribute::Word(word) if word == "same_upper" => ConvPadding::SameUpper,
                Attribute::Word(word) if word == "same_lower" => ConvPadding::SameLower,
                pads => ConvPadding::Explicit(size_list("pads", pads)?),
            },
        }),
        "quantize_linear" => Op::QuantizeLinear {
            axis: from.number("axis")?,
            block_size: from.number("block_size")?,
            to: from.dtype("to")?,
        },
        "dequantize_linear" => Op::DequantizeLinear {
            axis: from.number("axis")?,
            block_size: from.number("block_size")?,
            to: from.dtype("to")?,
        },
        "dynamic_quantize_linear" => Op::DynamicQuantizeLinear,
        _ => return build_encoder(mnemonic, from),
    }))
}

fn build_encoder(mnemonic: &str, from: &mut Attributes) -> Result<Option<Op>, String> {
    Ok(Some(match mnemonic {
        "rotary_embedding" => Op::RotaryEmbedding {
            interleaved: from.bool("interleaved")?,
            heads: from.number("heads")?,
            rotary_dim: from.number("rotary_dim")?,
        },
        "attention" => Op::Attention(AttentionAttrs {
            q_heads: from.number("q_heads")?,
            kv_heads: from.number("kv_heads")?,
            scale: from.optional("scale")?.map(Attribute::f32).transpose()?,
            is_causal: from.bool("is_causal")?,
            softcap: from.f32("softcap")?,
            scores_mode: from.number("scores_mode")?,
            softmax_precision: match from.optional("softmax_precision")? {
                None => None,
                Some(Attribute::Word(word)) => Some(word.parse()?),
                Some(other) => {
                    return Err(format!(
                        "attribute `softmax_precision`: expected an element type, found {other}"
                    ));
                }
            },
        }),
        "embedding_sum" => Op::EmbeddingSum,
        "embedding_layer_norm" => Op::EmbeddingLayerNorm { epsilon: from.f32("epsilon")? },
        "linear" => Op::Linear { layout: from.word("layout")?, activation: from.word("activation")? },
        "ragged_attention" => Op::RaggedAttention {
            heads: from.number("heads")?,
            scale: from.f32("scale")?,
            relative: from.optional("relative")?.map(buckets).transpose()?,
        },
        "pool" => Op::Pool(from.word("kind")?),
        "l2_normalize" => Op::L2Normalize { epsilon: from.f32("epsilon")? },
        _ => return Ok(None),
    }))
}

/// Takes out a list of sizes or positions.
fn sizes(from: &mut Attributes, name: &str) -> Result<Vec<usize>, String> {
    let value = from.take(name)?;
    size_list(name, value)
}

fn size_list(name: &str, value: Attribute) -> Result<Vec<usize>, String> {
    match value {
        Attribute::List(values) => values.into_iter().map(Attribute::number).collect(),
        other => Err(format!("attribute `{name}`: expected a list, found {other}")),
    }
}

fn buckets(value: Attribute) -> Result<RelativeBuckets, String> {
    let Attribute::Map(mut from) = value else {
        return Err(format!(
            "attribute `relative`: expected {{buckets: ..., max_distance: ...}}, found {value}"
        ));
    };
    let relative =
        RelativeBuckets { buckets: from.number("buckets")?, max_distance: from.number("max_distance")? };
    from.finish()?;
    Ok(relative)
}

fn plugin(from: &mut Attributes, plugins: &PluginSet) -> Result<PluginOp, String> {
    let name = match from.take("name")? {
        Attribute::Text(name) => name,
        other => return Err(format!("attribute `name`: expected a text, found {other}")),
    };
    let version = from.number("version")?;
    let def = plugins.find(&name, version).ok_or_else(|| plugins.missing(&name, version))?;
    match from.take("fields")? {
        Attribute::Map(fields) => def.op(fields.into_fields()?),
        other => Err(format!("attribute `fields`: expected {{...}}, found {other}")),
    }
}
