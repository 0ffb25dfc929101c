//! The list of kernels: one line each, for every tier it is compiled for. The test suite walks it.

use crate::isa::Tier;

/// What a kernel computes; every kind has its test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelKind {
    /// [`super::gemm::gemm`].
    Gemm,
    /// [`super::gemm::matmul`].
    Matmul,
    /// [`super::attention::attention`], and [`super::attention_bf16::attention_bf16`].
    Attention,
    /// [`super::conv::dense`].
    Conv,
    /// [`super::conv::depthwise`].
    DepthwiseConv,
    /// [`super::norm::layer_norm`].
    LayerNorm,
    /// [`super::norm::l2_normalize`].
    L2Normalize,
    /// [`super::softmax::softmax`].
    Softmax,
    /// [`super::elementwise::unary`].
    Unary,
    /// [`super::elementwise::binary`].
    Binary,
    /// [`super::tokens::embedding_sum`] and [`super::tokens::gather_rows`].
    EmbeddingSum,
    /// [`super::tokens::pool_sequences`].
    PoolSequences,
}

/// A kernel on one tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Tier, type, function and, where it has one, tile: `avx512-f32-gemm-14x32`.
    pub name: &'static str,
    /// What it computes.
    pub kind: KernelKind,
    /// The tier it needs.
    pub tier: Tier,
    /// Type of its operands. `bf16` needs a CPU with such instructions: see [`crate::isa::Isa::has_bf16`].
    pub dtype: &'static str,
    /// Rows and columns of its register tile.
    pub tile: Option<(usize, usize)>,
}

macro_rules! registry {
    (
        every_tier { $($kind:ident $dtype:literal $function:literal $(tile $at:tt)?;)* }
        with_bf16_instructions { $($bf16_kind:ident $bf16_function:literal $(tile $bf16_at:tt)?;)* }
    ) => {
        &[
            $(
                kernel!($kind, Avx512, "avx512", $dtype, $function $(, $at 14 32)?),
                kernel!($kind, Avx2, "avx2", $dtype, $function $(, $at 6 16)?),
                kernel!($kind, Portable, "portable", $dtype, $function $(, $at 4 8)?),
            )*
            $(kernel!($bf16_kind, Avx512, "avx512", "bf16", $bf16_function $(, $bf16_at 14 32)?),)*
        ]
    };
}

macro_rules! kernel {
    ($kind:ident, $tier:ident, $isa:literal, $dtype:literal, $function:literal) => {
        Kernel {
            name: concat!($isa, "-", $dtype, "-", $function),
            kind: KernelKind::$kind,
            tier: Tier::$tier,
            dtype: $dtype,
            tile: None,
        }
    };
    ($kind:ident, $tier:ident, $isa:literal, $dtype:literal, $function:literal, @ $mr:literal $nr:literal) => {
        Kernel {
            name: concat!($isa, "-", $dtype, "-", $function, "-", $mr, "x", $nr),
            kind: KernelKind::$kind,
            tier: Tier::$tier,
            dtype: $dtype,
            tile: Some(($mr, $nr)),
        }
    };
}

/// Every kernel on every tier, supported here or not.
pub static KERNELS: &[Kernel] = registry! {
    every_tier {
        Gemm "f32" "gemm" tile @;
        Matmul "f32" "matmul" tile @;
        Attention "f32" "attention" tile @;
        Conv "f32" "conv";
        DepthwiseConv "f32" "depthwise-conv";
        LayerNorm "f32" "layer-norm";
        L2Normalize "f32" "l2-normalize";
        Softmax "f32" "softmax";
        Unary "f32" "unary";
        Binary "f32" "binary";
        EmbeddingSum "f32" "embedding-sum";
        PoolSequences "f32" "pool-sequences";
    }
    with_bf16_instructions {
        Gemm "gemm" tile @;
        Attention "attention" tile @;
    }
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::kernels::gemm::{PackedDesc, PackedType, tile};

    #[test]
    fn names_are_unique_and_tell_tier_type_and_tile() {
        let names: HashSet<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        assert_eq!(names.len(), KERNELS.len());
        for kernel in KERNELS {
            assert!(
                kernel.name.starts_with(&format!("{}-{}-", kernel.tier, kernel.dtype)),
                "{}",
                kernel.name
            );
            if let Some(size) = kernel.tile {
                assert_eq!(size, (tile::max_mr(kernel.tier), tile::nr(kernel.tier)), "{}", kernel.name);
            }
            if kernel.kind == KernelKind::Gemm {
                let dtype = if kernel.dtype == "bf16" { PackedType::Bf16 } else { PackedType::F32 };
                assert_eq!(kernel.name, PackedDesc::with_type(kernel.tier, dtype, 1, 1).kernel_name());
            }
        }
    }
}
