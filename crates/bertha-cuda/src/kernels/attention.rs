//! `attention.cu`, `attention_sm90a.cu` and `attention_f32.cu`: which variant for which batch.

use crate::arch::Arch;

use super::{KernelSpec, Launch, LaunchArg, Operand, Rows, Setting};
use crate::program::{Attention, Storage};

/// Widths of heads that there are kernels for.
pub(crate) fn takes_head_dim(head_dim: usize) -> bool {
    (8..=128).contains(&head_dim) && head_dim.is_multiple_of(8)
}

/// Queries by keys of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    /// Tiles of 16 queries of each warp.
    row_tiles: usize,
    /// Warps along the queries.
    warps_q: usize,
    /// Warps along the keys.
    warps_k: usize,
    /// Keys at a time.
    keys: usize,
    /// Whether there may be more keys than that.
    online: bool,
}

impl Variant {
    const fn queries(&self) -> usize {
        16 * self.row_tiles * self.warps_q
    }

    fn shared_bytes(&self, step: &Attention) -> usize {
        let dim = step.head_dim.next_multiple_of(16);
        let row = 2 * (dim + 8);
        let buffers = 1 + usize::from(self.online);
        let bias = step.relative.map_or(0, |relative| {
            let longest = if self.online { relative.longest.next_multiple_of(16) } else { self.keys };
            4 * (longest + self.queries())
        });
        let tiles = self.queries() * row + buffers * 2 * self.keys * row + bias;
        if self.warps_k == 1 {
            return tiles;
        }
        let merged = self.warps_k * self.warps_q * 128 * self.row_tiles * (dim / 2 + 4);
        tiles.max(self.queries() * row + merged)
    }
}

/// The variant for a setting. Queries are split finely while there are fewer blocks than multiprocessors; the whole
/// sequence is taken at once where registers hold its scores and nothing is won by going through it in parts (measured
/// on an H100: up to 128 keys a warp); beyond 256 keys, two tiles of queries a warp share what it reads of the keys.
fn variant(step: &Attention, setting: &Setting) -> Variant {
    let few_blocks =
        |queries: usize| setting.tokens.div_ceil(queries) * step.heads < setting.planned_multiprocessors;
    // Scores that a thread keeps are keys of one warp over two; wide heads need the registers for their results.
    let most_keys = if step.head_dim > 64 { 128 } else { 256 };
    let mut variants = Vec::new();
    for (row_tiles, warps_q, warps_k) in [(1, 1, 4), (1, 2, 2), (2, 4, 1), (1, 4, 1)] {
        if warps_k > 1 && !few_blocks(32 * warps_q) {
            continue;
        }
        let tall = row_tiles > 1;
        if tall && (setting.longest <= 256 || step.head_dim > 64 || few_blocks(128)) {
            continue;
        }
        if !tall && setting.longest <= most_keys.min(128 * warps_k) {
            let keys = setting.longest.next_multiple_of(16 * warps_k);
            variants.push(Variant { row_tiles, warps_q, warps_k, keys, online: false });
        }
        let parts = if warps_k > 1 { [128, 64] } else { [64, 32] };
        variants.extend(parts.map(|keys| Variant { row_tiles, warps_q, warps_k, keys, online: true }));
    }
    let smallest = Variant { row_tiles: 1, warps_q: 2, warps_k: 1, keys: 32, online: true };
    let fits = |variant: &Variant| variant.shared_bytes(step) <= setting.arch.shared_bytes();
    variants.into_iter().find(fits).unwrap_or(smallest)
}

/// Queries of a block of `attention_f32.cu`.
const QUERIES_F32: usize = 32;
const KEYS_F32: usize = 64;
const THREADS_F32: usize = 128;

/// Rows of queries in an item of the work list.
pub(crate) fn query_block(storage: Storage, step: &Attention, setting: &Setting) -> usize {
    if storage == Storage::F32 {
        return QUERIES_F32;
    }
    match hopper_variant(step, setting) {
        Some(hopper) => hopper.queries(),
        None => variant(step, setting).queries(),
    }
}

/// Queries by keys of a block of `attention_sm90a.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HopperVariant {
    /// Of 64 queries each.
    warpgroups: usize,
    /// Keys at a time.
    keys: usize,
    /// How many times as many keys stay in shared memory; 0 when any number passes through.
    blocks: usize,
    /// Warpgroups that share the same queries, each with its own blocks of keys.
    key_groups: usize,
    /// Blocks of threads that must fit the registers of a multiprocessor, as many as keep clear of spills.
    per_multiprocessor: usize,
}

impl HopperVariant {
    const fn queries(&self) -> usize {
        64 * self.warpgroups
    }

    fn shared_bytes(&self, step: &Attention) -> usize {
        let row = 2 * step.head_dim;
        let (buffers, longest) = match self.blocks {
            0 => (2, step.relative.map_or(0, |relative| relative.longest.next_multiple_of(64))),
            blocks => (blocks, blocks * self.keys),
        };
        let bias = step.relative.map_or(0, |_| 4 * (longest + self.queries()));
        let merged = (self.key_groups - 1) * 2048;
        1024 + self.queries() * row + buffers * 2 * self.keys * row + merged + bias
    }

    const fn threads(&self) -> usize {
        128 * self.warpgroups * self.key_groups
    }
}

/// As measured on an H100: one warpgroup a block, but two beyond 128 keys when there are blocks enough for every
/// multiprocessor, so that keys and values are fetched half as often. Where every block has a multiprocessor to itself, a
/// warpgroup for each block of keys.
fn hopper_variant(step: &Attention, setting: &Setting) -> Option<HopperVariant> {
    if setting.arch != Arch::Sm90a || !matches!(step.head_dim, 32 | 64) {
        return None;
    }
    let many = setting.tokens / 128 * step.heads > 2 * setting.planned_multiprocessors;
    let few = setting.tokens.div_ceil(64) * step.heads <= setting.planned_multiprocessors;
    let warpgroups = if many && step.head_dim == 64 { 2 } else { 1 };
    let (warpgroups, keys, blocks, per_multiprocessor) = match setting.longest {
        0..=32 => (1, 32, 1, 4),
        33..=64 => (1, 64, 1, 4),
        65..=128 => (1, 128, 1, 4),
        129..=256 if few => (1, 128, 2, 1),
        257..=384 if few => (1, 128, 3, 1),
        129..=256 => (warpgroups, 128, 2, if step.head_dim == 64 { 4 / warpgroups } else { 3 }),
        257..=384 => (warpgroups, 128, 3, 2),
        _ if step.head_dim == 32 => (1, 64, 0, 4),
        _ => (1, 128, 0, 3),
    };
    // The bias takes registers too.
    let per_multiprocessor = if step.relative.is_some() { 1 } else { per_multiprocessor };
    let key_groups = if few && blocks > 1 { blocks } else { 1 };
    Some(HopperVariant { warpgroups, keys, blocks, key_groups, per_multiprocessor })
}

/// Kernel, threads and shared memory on Hopper's warpgroup products.
fn kernel_hopper(storage: Storage, step: &Attention, variant: HopperVariant) -> (KernelSpec, usize, usize) {
    let kernel = KernelSpec::file("attention_sm90a")
        .element(storage)
        .with("HEAD_DIM", step.head_dim)
        .with("KEYS", variant.keys)
        .with("WARPGROUPS", variant.warpgroups)
        .with("BLOCKS", variant.blocks)
        .with("KEY_GROUPS", variant.key_groups)
        .with("BLOCKS_PER_SM", variant.per_multiprocessor);
    (kernel, variant.threads(), variant.shared_bytes(step))
}

/// Kernel, threads and shared memory in f32.
fn kernel_f32(step: &Attention) -> (KernelSpec, usize, usize) {
    let dim = step.head_dim.next_multiple_of(16);
    let shared = ((QUERIES_F32 + KEYS_F32) * (dim + 4) + KEYS_F32 * dim + QUERIES_F32 * (KEYS_F32 + 4)) * 4;
    let kernel = KernelSpec::file("attention_f32").element(Storage::F32).with("HEAD_DIM", step.head_dim);
    (kernel, THREADS_F32, shared)
}

/// Kernel, threads and shared memory in 16-bit types.
fn kernel_16(storage: Storage, step: &Attention, setting: &Setting) -> (KernelSpec, usize, usize) {
    let variant = variant(step, setting);
    let kernel = KernelSpec::file("attention")
        .element(storage)
        .with("HEAD_DIM", step.head_dim)
        .with("KEYS", variant.keys)
        .with("ROW_TILES", variant.row_tiles)
        .with("WARPS_Q", variant.warps_q)
        .with("WARPS_K", variant.warps_k)
        .with("ONLINE", u8::from(variant.online));
    (kernel, 32 * variant.warps_q * variant.warps_k, variant.shared_bytes(step))
}

/// The launch of an attention.
pub(crate) fn launch(storage: Storage, step: &Attention, setting: &Setting) -> Launch {
    let width = step.heads * step.head_dim;
    let (stride, k, v) = match step.kv {
        Some((k, v)) => {
            (width, LaunchArg::Address(Operand::Tensor(k)), LaunchArg::Address(Operand::Tensor(v)))
        }
        // Side by side in one tensor, read where they lie.
        None => {
            let part = |part: usize| {
                LaunchArg::AddressAt(Operand::Tensor(step.q), (part * width * storage.bytes()) as u64)
            };
            (3 * width, part(1), part(2))
        }
    };
    let (kernel, threads, shared) = match (storage, hopper_variant(step, setting)) {
        (Storage::F32, _) => kernel_f32(step),
        (_, Some(variant)) => kernel_hopper(storage, step, variant),
        (_, None) => kernel_16(storage, step, setting),
    };
    let kernel = kernel
        .with("RELATIVE_BIAS", u8::from(step.relative.is_some()))
        .with("BIAS_MAX", step.relative.map_or(0, |relative| relative.longest))
        .with("Q_STRIDE", stride)
        .with("K_STRIDE", stride)
        .with("V_STRIDE", stride)
        .with("OUT_STRIDE", width);
    let mut config = setting.config(step.heads, threads as u32, shared);
    config.grid[1] =
        super::work_capacity(setting, query_block(storage, step, setting)).try_into().unwrap_or(u32::MAX);
    let args = vec![
        LaunchArg::Address(Operand::Tensor(step.y)),
        LaunchArg::Address(Operand::Tensor(step.q)),
        k,
        v,
        LaunchArg::Address(Operand::CuSeqlens),
        LaunchArg::Address(Operand::WorkList),
        LaunchArg::Address(step.relative.map_or(Operand::Null, |relative| Operand::Weight(relative.bias))),
        LaunchArg::Float(step.scale),
        LaunchArg::Address(Operand::Batch(Rows::Tokens)),
    ];
    Launch { kernel, config, args }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::buckets;

    #[test]
    fn every_head_and_length_has_a_variant_that_fits_every_card() {
        for arch in Arch::ALL {
            for head_dim in (1..=200).filter(|head_dim| takes_head_dim(*head_dim)) {
                let step =
                    Attention { q: 0, kv: None, y: 1, heads: 12, head_dim, scale: 0.125, relative: None };
                // Turing's shared memory is too small for wide heads in f32; building a plan says so.
                if arch != Arch::Sm75 || head_dim <= 80 {
                    assert!(kernel_f32(&step).2 <= arch.shared_bytes(), "{arch} {head_dim}");
                }
                for tokens in buckets::token_buckets() {
                    for longest in buckets::length_classes() {
                        let setting = Setting { tokens, longest, ..Setting::typical(arch) };
                        if let Some(hopper) = hopper_variant(&step, &setting) {
                            assert!(hopper.shared_bytes(&step) <= arch.shared_bytes());
                            let all = hopper.blocks * hopper.keys;
                            assert!(all == 0 || all >= longest, "{hopper:?} for {longest}");
                            assert!(hopper.key_groups == 1 || hopper.key_groups <= hopper.blocks);
                            assert!(hopper.key_groups == 1 || hopper.warpgroups == 1);
                            assert!(hopper.threads() <= 512);
                        }
                        let variant = variant(&step, &setting);
                        assert!(
                            variant.shared_bytes(&step) <= arch.shared_bytes(),
                            "{arch} {head_dim} {variant:?}"
                        );
                        assert!(variant.online || variant.keys >= longest, "{variant:?} for {longest}");
                        assert!(variant.keys <= 256 && variant.keys.is_multiple_of(16 * variant.warps_k));
                        assert!(variant.warps_q * variant.warps_k <= 8);
                    }
                }
            }
        }
    }
}
