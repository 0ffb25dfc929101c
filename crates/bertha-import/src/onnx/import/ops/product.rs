//! Matrix products.

use bertha_graph::Op;

use super::super::context::{NodeContext, Translated};

pub(super) fn matmul(node: &mut NodeContext) -> Translated {
    node.emit_plain(Op::MatMul)
}

pub(super) fn gemm(node: &mut NodeContext) -> Translated {
    let op = gemm_op(node)?;
    node.emit_plain(op)
}

/// The op that a node's attributes say.
pub(super) fn gemm_op(node: &mut NodeContext) -> Translated<Op> {
    Ok(Op::Gemm {
        alpha: node.float_or("alpha", 1.0)?,
        beta: node.float_or("beta", 1.0)?,
        trans_a: node.flag("transA", false)?,
        trans_b: node.flag("transB", false)?,
    })
}

pub(super) fn matmul_integer(node: &mut NodeContext) -> Translated {
    node.emit_plain(Op::MatMulInteger)
}

pub(super) fn qlinear_matmul(node: &mut NodeContext) -> Translated {
    node.emit_plain(Op::QLinearMatMul)
}
