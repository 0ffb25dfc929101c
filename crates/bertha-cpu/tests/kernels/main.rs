//! Every kernel of the registry on every tier this machine supports, against f64.

mod attention;
mod bf16;
mod common;
mod conv;
mod gemm;
mod math;
mod rows;
mod streams;

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::registry::{KERNELS, KernelKind};

/// Runs a kind's test. A new kind does not compile without one.
fn check(kind: KernelKind, isa: Isa) {
    match kind {
        KernelKind::Gemm => gemm::packed(isa),
        KernelKind::Matmul => gemm::batched(isa),
        KernelKind::Attention => attention::check(isa),
        KernelKind::Conv => conv::denses(isa),
        KernelKind::DepthwiseConv => conv::depthwises(isa),
        KernelKind::LayerNorm => rows::layer_norms(isa),
        KernelKind::L2Normalize => rows::l2_normalizes(isa),
        KernelKind::Softmax => rows::softmaxes(isa),
        KernelKind::Unary => math::functions(isa),
        KernelKind::Binary => rows::arithmetic(isa),
        KernelKind::EmbeddingSum => rows::embedding_sums(isa),
        KernelKind::PoolSequences => rows::poolings(isa),
    }
}

#[test]
fn every_registered_kernel_is_right_on_every_tier_of_this_machine() {
    let mut checked = 0;
    for kernel in KERNELS {
        match Isa::from_tier(kernel.tier) {
            Ok(isa) if kernel.dtype == "bf16" && !isa.has_bf16() => {
                println!("{} skipped: this CPU has no bf16 instructions", kernel.name);
            }
            Ok(isa) => {
                println!("{}", kernel.name);
                if kernel.dtype == "bf16" {
                    bf16::check(kernel.kind, isa)
                } else {
                    check(kernel.kind, isa)
                }
                checked += 1;
            }
            Err(error) => println!("{} skipped: {error}", kernel.name),
        }
    }
    assert!(checked > 0, "the portable tier runs everywhere");
}
