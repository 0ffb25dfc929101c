//! Dense attention on the vector kernel, called with tensors.

use bertha_graph::{AttentionAttrs, DType, Dim, Graph, Node, TensorId};

use super::encoder::{Operands, floats, operand, optional};
use crate::generic::{TensorMut, TensorRef};
use crate::kernels::Context;
use crate::kernels::attention::{
    Attention, AttentionBias, AttentionShape, HeadLayout, HeadRows, Sequences, attention,
};

/// Whether the vector kernel computes all that this node asks for: f32, no cache of earlier keys, no cap on scores, the result
/// and nothing else, and a mask (if any) with a value for every key.
pub(super) fn fits(graph: &Graph, node: &Node, attrs: &AttentionAttrs) -> bool {
    let [Some(q), Some(k), Some(v), rest @ ..] = &node.inputs[..] else { return false };
    let f32s = [q, k, v].iter().all(|id| graph.tensor(**id).ty.dtype == DType::F32);
    let (mask, others) = rest.split_first().map_or((None, rest), |(mask, others)| (*mask, others));
    f32s && !attrs.is_causal
        && attrs.softcap == 0.0
        && matches!(attrs.softmax_precision, None | Some(DType::F32))
        && others.iter().all(Option::is_none)
        && node.outputs.iter().skip(1).all(Option::is_none)
        && mask.is_none_or(|mask| mask_fits(graph, mask, *k))
}

fn mask_fits(graph: &Graph, mask: TensorId, k: TensorId) -> bool {
    let mask = &graph.tensor(mask).ty;
    let dims = graph.tensor(k).ty.shape.dims();
    // Keys are the last dimension but one of `[batch, heads, keys, dim]` and of `[batch, keys, hidden]` alike.
    let keys: Option<&Dim> = dims.len().checked_sub(2).and_then(|axis| dims.get(axis));
    matches!(mask.dtype, DType::F32 | DType::Bool)
        && (1..=4).contains(&mask.shape.rank())
        && mask.shape.dims().last() == keys
}

/// Queries, keys, values or results: how many there are, and where they lie.
struct Part {
    batch: usize,
    heads: usize,
    rows: usize,
    dim: usize,
    layout: HeadLayout,
}

impl Part {
    /// `[batch, heads, rows, dim]`, or `[batch, rows, heads * dim]` with the heads told.
    fn of(shape: &[usize], heads: usize) -> Result<Self, String> {
        match *shape {
            [batch, heads, rows, dim] => {
                let layout =
                    HeadLayout { seq_stride: heads * rows * dim, head_stride: rows * dim, row_stride: dim };
                Ok(Part { batch, heads, rows, dim, layout })
            }
            [batch, rows, hidden] if heads > 0 && hidden.is_multiple_of(heads) => {
                let dim = hidden / heads;
                let layout = HeadLayout { seq_stride: rows * hidden, head_stride: dim, row_stride: hidden };
                Ok(Part { batch, heads, rows, dim, layout })
            }
            _ => Err(format!("{shape:?} does not split into {heads} heads")),
        }
    }
}

/// `softmax(scale Q K^T + mask) V` as [`bertha_graph::Op::Attention`] defines it, for nodes that [`fits`] has let through.
pub(super) fn dense(
    context: &mut Context,
    operands: &Operands<'_>,
    attrs: &AttentionAttrs,
    y: &mut TensorMut<'_>,
) -> Result<(), String> {
    let [q, k, v] = [operand(operands, 0)?, operand(operands, 1)?, operand(operands, 2)?];
    let parts = [
        Part::of(q.shape, attrs.q_heads)?,
        Part::of(k.shape, attrs.kv_heads)?,
        Part::of(v.shape, attrs.kv_heads)?,
        Part::of(y.shape, attrs.q_heads)?,
    ];
    let [queries, keys, values, results] = &parts;
    let agree = parts.iter().all(|part| part.batch == queries.batch)
        && (keys.heads, keys.rows, keys.dim) == (values.heads, values.rows, queries.dim)
        && (results.heads, results.rows, results.dim) == (queries.heads, queries.rows, values.dim)
        && keys.heads > 0
        && queries.heads.is_multiple_of(keys.heads);
    if !agree {
        let shapes = [q.shape, k.shape, v.shape, y.shape];
        return Err(format!("queries, keys, values and results do not fit together: {shapes:?}"));
    }
    let out: &mut [f32] = bytemuck::cast_slice_mut(y.bytes);
    if keys.rows == 0 {
        out.fill(0.0);
        return Ok(());
    }
    let mask = optional(operands, 3);
    let sizes = [queries.batch, queries.heads, queries.rows, keys.rows];
    let bias = mask.as_ref().map_or(Ok(AttentionBias::None), |mask| bias(mask, sizes))?;
    let shape = AttentionShape {
        heads: queries.heads,
        kv_heads: keys.heads,
        head_dim: queries.dim,
        v_head_dim: values.dim,
        scale: attrs.scale.unwrap_or_else(|| 1.0 / (queries.dim as f32).sqrt()),
    };
    let args = Attention {
        shape,
        seqs: Sequences::Dense { batch: queries.batch, q_len: queries.rows, kv_len: keys.rows },
        q: HeadRows { data: floats(&q)?, layout: queries.layout },
        k: HeadRows { data: floats(&k)?, layout: keys.layout },
        v: HeadRows { data: floats(&v)?, layout: values.layout },
        bias,
    };
    attention(context, &args, results.layout, out);
    Ok(())
}

/// The mask as rows of one value per key; where it has one for all batches, heads or queries, the stride is 0.
fn bias<'a>(mask: &TensorRef<'a>, sizes: [usize; 4]) -> Result<AttentionBias<'a>, String> {
    let misfit = || format!("a mask of {:?} does not fit scores of {sizes:?}", mask.shape);
    let missing = sizes.len().checked_sub(mask.shape.len()).ok_or_else(misfit)?;
    let mut strides = [0; 4];
    let mut stride = 1;
    for (axis, size) in sizes.iter().enumerate().rev() {
        let own = axis.checked_sub(missing).map_or(1, |axis| mask.shape[axis]);
        let whole = own == *size;
        if !whole && (own != 1 || axis == 3) {
            return Err(misfit());
        }
        strides[axis] = if whole && own > 1 { stride } else { 0 };
        stride *= own;
    }
    let [seq_stride, head_stride, row_stride, _] = strides;
    Ok(match mask.dtype {
        DType::Bool => AttentionBias::Keep { data: mask.bytes, seq_stride, head_stride, row_stride },
        _ => AttentionBias::Additive { data: floats(mask)?, seq_stride, head_stride, row_stride },
    })
}
