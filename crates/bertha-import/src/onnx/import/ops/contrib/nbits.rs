//! Products with weights of a few bits.

use bertha_graph::{Activation, DType, Op, TensorData, WeightLayout};

use crate::onnx::import::context::{NodeContext, Translated};
use crate::onnx::import::dtypes;

/// How a weight is quantised: `rows` rows of `depth` values in blocks that share a scale and a zero point.
struct Blocks {
    rows: usize,
    depth: usize,
    block: usize,
    bits: usize,
    /// Bytes of a block.
    bytes: usize,
}

impl Blocks {
    /// Blocks in a row; the last may be partly empty.
    fn per_row(&self) -> usize {
        self.depth.div_ceil(self.block)
    }
}

/// Bytes of `count` numbers of `bits` bits; `None` when they are more than there can be.
fn packed_bytes(count: usize, bits: usize) -> Option<usize> {
    Some(count.checked_mul(bits)?.div_ceil(8))
}

/// Value number `index` of numbers of `bits` bits, lowest bits first.
fn unpack(bytes: &[u8], index: usize, bits: usize) -> u8 {
    let (at, shift) = (index * bits / 8, index * bits % 8);
    let byte = bytes.get(at).copied().unwrap_or(0);
    let mask = u8::MAX >> (8 - bits);
    (byte >> shift) & mask
}

/// `a * dequantised(b)' + bias`. The weight is written out in the type of `a`: the product is computed in it, which every
/// `accuracy_level` allows.
pub(super) fn matmul_nbits(node: &mut NodeContext) -> Translated {
    let positive =
        |node: &mut NodeContext, name: &'static str, default: usize| match node.count(name, default)? {
            0 => Err(format!("attribute `{name}` is missing or 0").into()),
            count => Translated::Ok(count),
        };
    let (rows, depth) = (positive(node, "N", 0)?, positive(node, "K", 0)?);
    let (block, bits) = (positive(node, "block_size", 0)?, positive(node, "bits", 4)?);
    let too_large =
        || format!("attribute `block_size` is {block}: a block of numbers of {bits} bits would be too large");
    let bytes = packed_bytes(block, bits).ok_or_else(too_large)?;
    let blocks = Blocks { rows, depth, block, bits, bytes };
    node.int("accuracy_level")?;
    if node.flag("weight_prepacked", false)? {
        return Err(
            "attribute `weight_prepacked` is set: the weight is in the layout of one GPU kernel".into()
        );
    }
    if ![2, 4, 8].contains(&blocks.bits) {
        return Err(format!("attribute `bits` is {}; 2, 4 and 8 are supported", blocks.bits).into());
    }
    if node.has_input(4) {
        return Err("input `g_idx` (an order of the columns) is not supported".into());
    }
    let (a, bias) = (node.input(0)?, node.optional(5)?);
    let dtype = node.dtype(a);
    let weight = dequantized(node, &blocks, dtype)?;
    let weight = node.constant("weight", weight)?;
    let op = Op::Linear { layout: WeightLayout::OutIn, activation: Activation::None };
    node.emit(op, &[Some(a), Some(weight), bias])
}

/// The weight `[rows, depth]`: `(value - zero point) * scale`.
fn dequantized(node: &mut NodeContext, blocks: &Blocks, dtype: DType) -> Translated<TensorData> {
    let packed = constant(node, 1, "B")?;
    let scales = constant(node, 2, "scales")?;
    let count = blocks.rows.checked_mul(blocks.per_row()).ok_or("the weight is too large")?;
    let fits = packed.dtype() == DType::U8
        && count.checked_mul(blocks.bytes) == Some(packed.len())
        && scales.len() == count;
    if !fits {
        return Err(format!(
            "`B` is {} and `scales` {}; expected {count} blocks of {} bytes and as many scales",
            packed.ty(),
            scales.ty(),
            blocks.bytes
        )
        .into());
    }
    let zero_points = zero_points(node, blocks, count)?;
    let scales = scales.to_f64();
    let total = blocks.rows.checked_mul(blocks.depth).ok_or("the weight is too large")?;
    let mut values = Vec::with_capacity(total);
    for row in 0..blocks.rows {
        for column in 0..blocks.depth {
            let block = row * blocks.per_row() + column / blocks.block;
            let bytes = packed.bytes().get(block * blocks.bytes..).unwrap_or_default();
            let value = unpack(bytes, column % blocks.block, blocks.bits);
            values.push((f64::from(value) - zero_points[block]) * scales[block]);
        }
    }
    let shape = vec![blocks.rows, blocks.depth];
    dtypes::from_f64(dtype, shape, &values).map_err(|error| error.to_string().into())
}

/// The zero point of each block; half of the range when none is given.
fn zero_points(node: &mut NodeContext, blocks: &Blocks, count: usize) -> Translated<Vec<f64>> {
    if !node.has_input(3) {
        return Ok(vec![f64::from(1u32 << (blocks.bits - 1)); count]);
    }
    let given = constant(node, 3, "zero_points")?;
    if given.dtype() != DType::U8 {
        let values = given.to_f64();
        return match values.len() == count {
            true => Ok(values),
            false => Err(format!("`zero_points` is {}; expected {count}", given.ty()).into()),
        };
    }
    // Packed like the values, each row from a byte of its own.
    let row_bytes = packed_bytes(blocks.per_row(), blocks.bits).ok_or("the weight is too large")?;
    if blocks.rows.checked_mul(row_bytes) != Some(given.len()) {
        let rows = blocks.rows;
        return Err(
            format!("`zero_points` is {}; expected {rows} rows of {row_bytes} bytes", given.ty()).into()
        );
    }
    let rows = given.bytes().chunks_exact(row_bytes);
    let values =
        rows.flat_map(|row| (0..blocks.per_row()).map(|block| f64::from(unpack(row, block, blocks.bits))));
    Ok(values.collect())
}

fn constant(node: &mut NodeContext, index: usize, name: &str) -> Translated<TensorData> {
    node.constant_input(index)?.ok_or_else(|| format!("input `{name}` must be a constant").into())
}
