//! Matrix products.

use bertha_graph::Op;

use super::super::context::{NodeContext, Translated};

pub(super) fn matmul(node: &mut NodeContext) -> Translated {
    node.emit_plain(Op::MatMul)
}

pub(super) fn gemm(node: &mut NodeContext) -> Translated {
    let op = Op::Gemm {
        alpha: node.float_or("alpha", 1.0)?,
        beta: node.float_or("beta", 1.0)?,
        trans_a: node.flag("transA", false)?,
        trans_b: node.flag("transB", false)?,
    };
    node.emit_plain(op)
}

pub(super) fn matmul_integer(node: &mut NodeContext) -> Translated {
    node.emit_plain(Op::MatMulInteger)
}

pub(super) fn qlinear_matmul(node: &mut NodeContext) -> Translated {
    node.emit_plain(Op::QLinearMatMul)
}
