//! Ops that move elements, and the attribute forms that older operator sets had for their parameters.

use bertha_graph::{Op, PadMode, TensorId};

use super::super::context::{IDENTITY, NodeContext, Translated};
use super::elementwise::scalar;

pub(super) fn reshape(node: &mut NodeContext) -> Translated {
    let allow_zero = node.flag("allowzero", false)?;
    node.emit_plain(Op::Reshape { allow_zero })
}

/// The default permutation reverses the dimensions.
pub(super) fn transpose(node: &mut NodeContext) -> Translated {
    let x = node.input(0)?;
    let perm = match node.ints("perm")? {
        None => (0..node.rank(x)).rev().collect(),
        Some(perm) => perm
            .into_iter()
            .map(|dim| {
                usize::try_from(dim).map_err(|_| format!("attribute `perm` has a negative entry {dim}"))
            })
            .collect::<Result<Vec<_>, _>>()?,
    };
    node.emit(Op::Transpose { perm }, &[Some(x)])
}

/// Axes: an attribute before version 13, an input from then on.
fn axes(node: &mut NodeContext, since: i64) -> Translated<Option<TensorId>> {
    if node.opset >= since {
        return node.optional(1);
    }
    refuse_second_input(node)?;
    match node.ints("axes")? {
        None => Ok(None),
        Some(axes) => Ok(Some(node.int_vector("axes", axes)?)),
    }
}

/// Ops that became parameters' inputs late must not have them early.
fn refuse_second_input(node: &NodeContext) -> Translated {
    match node.has_input(1) {
        true => Err(format!("operator set {} does not have a second input here", node.opset).into()),
        false => Ok(()),
    }
}

pub(super) fn squeeze(node: &mut NodeContext) -> Translated {
    let (x, axes) = (node.input(0)?, axes(node, 13)?);
    node.emit(Op::Squeeze, &[Some(x), axes])
}

pub(super) fn unsqueeze(node: &mut NodeContext) -> Translated {
    let (x, axes) = (node.input(0)?, axes(node, 13)?.ok_or("the axes are missing")?);
    node.emit(Op::Unsqueeze, &[Some(x), Some(axes)])
}

pub(super) fn concat(node: &mut NodeContext) -> Translated {
    let axis = node.int("axis")?.ok_or("attribute `axis` is missing")?;
    let inputs: Vec<_> =
        (0..node.node.input.len()).map(|index| node.input(index).map(Some)).collect::<Translated<_>>()?;
    node.emit(Op::Concat { axis }, &inputs)
}

/// Sizes: an attribute before version 13, an input from then on; from version 18 on `num_outputs` may stand for them.
pub(super) fn split(node: &mut NodeContext) -> Translated {
    let axis = node.int_or("axis", 0)?;
    let parts = node.node.output.len();
    let x = node.input(0)?;
    let sizes = if node.opset >= 13 {
        node.optional(1)?
    } else {
        refuse_second_input(node)?;
        match node.ints("split")? {
            None => None,
            Some(sizes) => Some(node.int_vector("split", sizes)?),
        }
    };
    if node.opset >= 18 {
        let count = node.count("num_outputs", parts)?;
        if count != parts {
            return Err(
                format!("attribute `num_outputs` is {count}, but the node has {parts} outputs").into()
            );
        }
    }
    node.emit(Op::Split { axis, parts }, &[Some(x), sizes])
}

/// Bounds: attributes before version 10, inputs from then on.
pub(super) fn slice(node: &mut NodeContext) -> Translated {
    if node.opset >= 10 {
        if !(node.has_input(1) && node.has_input(2)) {
            return Err("starts and ends are missing".into());
        }
        return node.emit_plain(Op::Slice);
    }
    refuse_second_input(node)?;
    let x = node.input(0)?;
    let starts = node.ints("starts")?.ok_or("attribute `starts` is missing")?;
    let ends = node.ints("ends")?.ok_or("attribute `ends` is missing")?;
    let (starts, ends) = (node.int_vector("starts", starts)?, node.int_vector("ends", ends)?);
    let axes = match node.ints("axes")? {
        None => None,
        Some(axes) => Some(node.int_vector("axes", axes)?),
    };
    node.emit(Op::Slice, &[Some(x), Some(starts), Some(ends), axes])
}

pub(super) fn gather(node: &mut NodeContext) -> Translated {
    let axis = node.int_or("axis", 0)?;
    node.emit_plain(Op::Gather { axis })
}

pub(super) fn gather_elements(node: &mut NodeContext) -> Translated {
    let axis = node.int_or("axis", 0)?;
    node.emit_plain(Op::GatherElements { axis })
}

pub(super) fn gather_nd(node: &mut NodeContext) -> Translated {
    let batch_dims = if node.opset >= 12 { node.count("batch_dims", 0)? } else { 0 };
    node.emit_plain(Op::GatherNd { batch_dims })
}

pub(super) fn expand(node: &mut NodeContext) -> Translated {
    node.emit_plain(Op::Expand)
}

pub(super) fn tile(node: &mut NodeContext) -> Translated {
    node.emit_plain(Op::Tile)
}

/// Pads and the value: attributes before version 11, inputs from then on; axes came with version 18.
pub(super) fn pad(node: &mut NodeContext) -> Translated {
    let mode = match node.string("mode")?.as_deref() {
        None | Some("constant") => PadMode::Constant,
        Some("reflect") => PadMode::Reflect,
        Some("edge") => PadMode::Edge,
        Some("wrap") if node.opset >= 19 => PadMode::Wrap,
        Some(other) => return Err(format!("attribute `mode` is `{other}`, which is not a way to pad").into()),
    };
    if node.opset >= 11 {
        if !node.has_input(1) {
            return Err("pads are missing".into());
        }
        let mut inputs = node.inputs()?;
        if let Some(value) = inputs.get_mut(2).filter(|_| mode != PadMode::Constant) {
            *value = None; // the other modes copy elements; exporters give a value all the same
        }
        return node.emit(Op::Pad { mode }, &inputs);
    }
    refuse_second_input(node)?;
    let x = node.input(0)?;
    let pads = node.ints("pads")?.ok_or("attribute `pads` is missing")?;
    let value = node.float_or("value", 0.0)?;
    if pads.iter().all(|pad| *pad == 0) {
        return node.emit(IDENTITY, &[Some(x)]);
    }
    let pads = node.int_vector("pads", pads)?;
    let value = match mode {
        PadMode::Constant => Some(node.constant("value", scalar(node.dtype(x), f64::from(value))?)?),
        PadMode::Reflect | PadMode::Edge | PadMode::Wrap => None,
    };
    node.emit(Op::Pad { mode }, &[Some(x), Some(pads), value])
}
