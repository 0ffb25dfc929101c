//! The hot kernels, called with tensors.
//!
//! Lowering chose these kernels by element type and shape; what is left to check here is what depends on data: ids,
//! offsets, and shapes that only a run knows.

use bertha_graph::{Activation, DType, PoolKind, RelativeBuckets};
use half::bf16;
use smallvec::SmallVec;

use super::packed::PackedWeight;
use super::program::RightForm;
use crate::generic::{TensorMut, TensorRef};
use crate::kernels::attention::{
    Attention, AttentionBias, AttentionShape, HeadLayout, HeadRows, Sequences, attention,
};
use crate::kernels::attention_bf16::{Mixed, attention_bf16};
use crate::kernels::elementwise::{BinaryOp, Right, UnaryOp, binary, unary};
use crate::kernels::gemm::{self, Epilogue, Left, MatmulOperand, MatmulShape, PackedType, Product};
use crate::kernels::norm::{self, LayerNorm};
use crate::kernels::softmax;
use crate::kernels::tokens::{self, IdError, Ids, Lookup, Pooling, Table, pool_sequences};
use crate::kernels::{Context, CuSeqlens, Rows, RowsMut};

pub(super) type Operands<'a> = [Option<TensorRef<'a>>];

/// Why a kernel did not run, and which operand is to blame where that is known.
pub(super) struct Refusal {
    pub(super) why: String,
    pub(super) operand: Option<usize>,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Refusal { why, operand: None }
    }
}

/// Number `index` of the operands, which the op requires.
pub(super) fn operand<'a>(operands: &Operands<'a>, index: usize) -> Result<TensorRef<'a>, String> {
    optional(operands, index).ok_or_else(|| format!("operand {index} is missing"))
}

pub(super) fn optional<'a>(operands: &Operands<'a>, index: usize) -> Option<TensorRef<'a>> {
    operands.get(index).copied().flatten()
}

pub(super) fn floats<'a>(tensor: &TensorRef<'a>) -> Result<&'a [f32], String> {
    if tensor.dtype != DType::F32 {
        return Err(format!("expected f32, found {}", tensor.dtype));
    }
    Ok(bytemuck::cast_slice(tensor.bytes))
}

/// All but the last dimension as rows. Where a program leaves padding after each row, there are more values than the
/// shape says, and rows are further apart.
fn rows<'a>(tensor: &TensorRef<'a>) -> Result<Rows<'a>, String> {
    let data = floats(tensor)?;
    let (rows, cols, stride) = matrix(tensor.shape, data.len());
    Ok(Rows { data, rows, cols, stride })
}

fn rows_mut<'a>(tensor: &'a mut TensorMut<'_>) -> Result<RowsMut<'a>, String> {
    if tensor.dtype != DType::F32 {
        return Err(format!("its result is {}, not f32", tensor.dtype));
    }
    let data: &mut [f32] = bytemuck::cast_slice_mut(tensor.bytes);
    let (rows, cols, stride) = matrix(tensor.shape, data.len());
    Ok(RowsMut { data, rows, cols, stride })
}

/// [`rows`] of a tensor that a program keeps as bf16.
fn bf16_rows<'a>(tensor: &TensorRef<'a>) -> Result<Rows<'a, bf16>, String> {
    if tensor.dtype != DType::BF16 {
        return Err(format!("expected bf16, found {}", tensor.dtype));
    }
    let data: &[bf16] = bytemuck::cast_slice(tensor.bytes);
    let (rows, cols, stride) = matrix(tensor.shape, data.len());
    Ok(Rows { data, rows, cols, stride })
}

fn bf16_rows_mut<'a>(tensor: &'a mut TensorMut<'_>) -> Result<RowsMut<'a, bf16>, String> {
    if tensor.dtype != DType::BF16 {
        return Err(format!("its result is {}, not bf16", tensor.dtype));
    }
    let data: &mut [bf16] = bytemuck::cast_slice_mut(tensor.bytes);
    let (rows, cols, stride) = matrix(tensor.shape, data.len());
    Ok(RowsMut { data, rows, cols, stride })
}

/// Rows and columns of a tensor: all but the last dimension, and the last.
fn matrix_shape(shape: &[usize]) -> (usize, usize) {
    shape.split_last().map_or((1, 1), |(cols, rows)| (rows.iter().product(), *cols))
}

/// Rows, columns and distance of rows of a tensor that takes up `len` places.
fn matrix(shape: &[usize], len: usize) -> (usize, usize, usize) {
    let (rows, cols) = matrix_shape(shape);
    (rows, cols, len.checked_div(rows).unwrap_or(cols))
}

fn same_shape(x: &TensorRef<'_>, y: &TensorMut<'_>) -> Result<(), String> {
    if x.shape == y.shape { Ok(()) } else { Err(format!("shapes {:?} and {:?} differ", x.shape, y.shape)) }
}

/// Offsets of a ragged batch over `tokens` rows.
fn offsets<'a>(tensor: &TensorRef<'a>, tokens: usize) -> Result<CuSeqlens<'a>, String> {
    if tensor.dtype != DType::I32 {
        return Err(format!("cu_seqlens must be i32, found {}", tensor.dtype));
    }
    // Read as unsigned: a negative offset becomes a huge one, which the checks refuse.
    let cu =
        CuSeqlens::new(bytemuck::cast_slice(tensor.bytes)).map_err(|error| format!("cu_seqlens: {error}"))?;
    if cu.tokens() != tokens {
        return Err(format!("cu_seqlens ends with {}, but there are {tokens} tokens", cu.tokens()));
    }
    Ok(cu)
}

pub(super) fn embedding_sum(
    context: &mut Context,
    operands: &Operands<'_>,
    packed: &[Option<PackedWeight>],
    y: &mut TensorMut<'_>,
) -> Result<(), Refusal> {
    let lookups = lookups(operands, packed)?;
    tokens::embedding_sum(context, &lookups, None, rows_mut(y)?).map_err(no_such_row)
}

/// Also writes the result rounded, where a program wants that beside it.
pub(super) fn embedding_layer_norm(
    context: &mut Context,
    operands: &Operands<'_>,
    packed: &[Option<PackedWeight>],
    epsilon: f32,
    results: &mut [Option<TensorMut<'_>>],
) -> Result<(), Refusal> {
    let (y, rounded) = match results {
        [Some(y)] => (y, None),
        [Some(y), rounded] => (y, rounded.as_mut()),
        _ => return Ok(()),
    };
    let pairs = operands.len().saturating_sub(2);
    let lookups = lookups(&operands[..pairs], packed)?;
    let (gamma, beta) = (operand(operands, pairs)?, operand(operands, pairs + 1)?);
    let norm = LayerNorm { gamma: floats(&gamma)?, beta: floats(&beta)?, eps: epsilon };
    let rounded = rounded.map(|rounded| bf16_rows_mut(rounded)).transpose()?;
    tokens::embedding_rounded(context, &lookups, Some(&norm), rows_mut(y)?, rounded).map_err(no_such_row)
}

fn lookups<'a>(
    pairs: &Operands<'a>,
    packed: &'a [Option<PackedWeight>],
) -> Result<SmallVec<[Lookup<'a>; 4]>, String> {
    let mut lookups = SmallVec::new();
    for pair in 0..pairs.len() / 2 {
        let (ids, table) = (operand(pairs, 2 * pair)?, operand(pairs, 2 * pair + 1)?);
        let ids = Ids::I32(bytemuck::cast_slice(ids.bytes));
        let table = match packed.get(pair) {
            Some(Some(packed)) => Table::Packed(packed.operand()?),
            _ => rows(&table)?.into(),
        };
        lookups.push(Lookup { table, ids });
    }
    Ok(lookups)
}

fn no_such_row(error: IdError) -> Refusal {
    let IdError { table, position, id, rows } = error;
    let why = format!("{id} at position {position} is not one of the {rows} rows of its table");
    Refusal { why, operand: Some(2 * table) }
}

/// Also writes the result rounded, where a program wants that beside it.
pub(super) fn layer_norm(
    context: &mut Context,
    operands: &Operands<'_>,
    epsilon: f32,
    results: &mut [Option<TensorMut<'_>>],
) -> Result<(), String> {
    let (y, rounded) = match results {
        [Some(y)] => (y, None),
        [Some(y), rounded] => (y, rounded.as_mut()),
        _ => return Ok(()),
    };
    let x = operand(operands, 0)?;
    let (gamma, beta) = (operand(operands, 1)?, operand(operands, 2)?);
    same_shape(&x, y)?;
    let norm = LayerNorm { gamma: floats(&gamma)?, beta: floats(&beta)?, eps: epsilon };
    let y = rows_mut(y)?;
    if norm.gamma.len() != y.cols || norm.beta.len() != y.cols {
        return Err(format!("gamma and beta must have {} values", y.cols));
    }
    match rounded {
        None => norm::layer_norm(context, &norm, Some(rows(&x)?), None, y),
        Some(rounded) => norm::layer_norm_rounded(context, &norm, rows(&x)?, y, bf16_rows_mut(rounded)?),
    }
    Ok(())
}

pub(super) fn linear(
    context: &mut Context,
    operands: &Operands<'_>,
    weight: &PackedWeight,
    activation: Activation,
    y: &mut TensorMut<'_>,
) -> Result<(), String> {
    let x = operand(operands, 0)?;
    let bias = optional(operands, 1).map(|bias| floats(&bias)).transpose()?;
    let residual = optional(operands, 2).map(|residual| rows(&residual)).transpose()?;
    let desc = *weight.desc();
    let is_bf16 = desc.dtype == PackedType::Bf16;
    let ((x_rows, x_cols), (y_rows, y_cols)) = (matrix_shape(x.shape), matrix_shape(y.shape));
    let fits = (x_cols, y_rows, y_cols) == (desc.k, x_rows, desc.n)
        && bias.is_none_or(|bias| bias.len() == desc.n)
        && residual.is_none_or(|residual| (residual.rows, residual.cols) == (y_rows, y_cols));
    if !fits {
        return Err(format!("{x_rows} x {x_cols} values do not fit a weight of {} x {}", desc.k, desc.n));
    }
    let epilogue = Epilogue { bias, activation: kernel_activation(activation), residual };
    let left = match x.dtype {
        DType::BF16 if is_bf16 => Left::Bf16(bf16_rows(&x)?),
        _ => Left::F32(rows(&x)?),
    };
    let product = match y.dtype {
        DType::BF16 if is_bf16 => Product::Bf16(bf16_rows_mut(y)?),
        _ => Product::F32(rows_mut(y)?),
    };
    gemm::gemm(context, left, &weight.operand()?, product, &epilogue);
    Ok(())
}

const fn kernel_activation(activation: Activation) -> gemm::Activation {
    match activation {
        Activation::None => gemm::Activation::None,
        Activation::Relu => gemm::Activation::Relu,
        Activation::Tanh => gemm::Activation::Tanh,
        Activation::GeluErf => gemm::Activation::GeluErf,
        Activation::GeluTanh => gemm::Activation::GeluTanh,
        Activation::Silu => gemm::Activation::Silu,
    }
}

/// The product of two run-time operands, broadcast over all but the last two dimensions.
pub(super) fn matmul(
    context: &mut Context,
    operands: &Operands<'_>,
    y: &mut TensorMut<'_>,
) -> Result<(), String> {
    let (a, b) = (operand(operands, 0)?, operand(operands, 1)?);
    let ([a_batch @ .., m, k], [b_batch @ .., b_k, n]) = (a.shape, b.shape) else {
        return Err(format!("expected matrices, found {:?} and {:?}", a.shape, b.shape));
    };
    let batch_shape = y.shape.get(..y.shape.len().saturating_sub(2)).unwrap_or_default();
    let batch: usize = batch_shape.iter().product();
    let shape = MatmulShape { batch, m: *m, n: *n, k: *k };
    if k != b_k || y.bytes.len() != batch * m * n * DType::F32.size() {
        return Err(format!("shapes {:?} and {:?} do not multiply to {:?}", a.shape, b.shape, y.shape));
    }
    let a_offsets = matrix_offsets(a_batch, batch_shape, m * k)?;
    let b_offsets = matrix_offsets(b_batch, batch_shape, k * n)?;
    let a = MatmulOperand { data: floats(&a)?, offsets: &a_offsets, row_stride: *k, col_stride: 1 };
    let b = MatmulOperand { data: floats(&b)?, offsets: &b_offsets, row_stride: *n, col_stride: 1 };
    let c: &mut [f32] = bytemuck::cast_slice_mut(y.bytes);
    gemm::matmul(context, shape, a, b, c, &Epilogue::default());
    Ok(())
}

/// Where the matrix for each index of `to` starts in a tensor whose leading dimensions `from` broadcast to `to`; one
/// entry when it is the same for all.
fn matrix_offsets(from: &[usize], to: &[usize], matrix: usize) -> Result<SmallVec<[usize; 64]>, String> {
    if from.iter().all(|dim| *dim == 1) {
        return Ok(smallvec::smallvec![0]);
    }
    let mut offsets: SmallVec<[usize; 64]> = smallvec::smallvec![0];
    let mut stride = matrix;
    let padded = to.len() - from.len().min(to.len());
    // From the innermost dimension out: every index repeats what is there, shifted by its stride or (broadcast) by 0.
    let mut inner = 1;
    for (axis, dim) in to.iter().enumerate().rev() {
        let own = axis.checked_sub(padded).and_then(|axis| from.get(axis)).copied().unwrap_or(1);
        if own != 1 && own != *dim {
            return Err(format!("dimensions {from:?} do not broadcast to {to:?}"));
        }
        let step = if own == 1 { 0 } else { stride };
        for index in 1..*dim {
            for at in 0..inner {
                offsets.push(offsets[at] + index * step);
            }
        }
        inner *= dim;
        stride *= own;
    }
    Ok(offsets)
}

pub(super) fn ragged_attention(
    context: &mut Context,
    operands: &Operands<'_>,
    shape: (usize, f32),
    relative: Option<RelativeBuckets>,
    bias_memory: &mut Vec<f32>,
    y: &mut TensorMut<'_>,
) -> Result<(), String> {
    let (heads, scale) = shape;
    let (y_rows, width) = matrix_shape(y.shape);
    let misfit = || format!("queries, keys and values must be [tokens, {heads} * head_dim]");
    let first = operand(operands, 0)?;
    let (q_rows, _) = matrix_shape(first.shape);
    let cu = offsets(&operand(operands, 3)?, q_rows)?;
    if y_rows != q_rows || heads == 0 || !width.is_multiple_of(heads) {
        return Err(misfit());
    }
    let head_dim = width / heads;
    let longest = cu.longest().max(1);
    let bias = match (relative, optional(operands, 4)) {
        (Some(buckets), Some(table)) => {
            expand_relative_bias(buckets, &rows(&table)?, heads, longest, bias_memory)?;
            AttentionBias::Relative { table: bias_memory, max: longest }
        }
        _ => AttentionBias::None,
    };
    let shape = AttentionShape { heads, kv_heads: heads, head_dim, v_head_dim: head_dim, scale };
    let seqs = Sequences::Ragged(cu);
    if first.dtype == DType::BF16 {
        let [q, k, v] = queries_keys_values(operands, bf16_rows, (width, head_dim))?.ok_or_else(misfit)?;
        let args = Attention { shape, seqs, q, k, v, bias };
        let stride = matrix(y.shape, y.bytes.len() / y.dtype.size()).2;
        let out = match y.dtype {
            DType::BF16 => Mixed::Bf16(bf16_rows_mut(y)?.data),
            _ => Mixed::F32(rows_mut(y)?.data),
        };
        attention_bf16(context, &args, HeadLayout::ragged(head_dim, stride), out);
        return Ok(());
    }
    let [q, k, v] = queries_keys_values(operands, rows, (width, head_dim))?.ok_or_else(misfit)?;
    let args = Attention { shape, seqs, q, k, v, bias };
    let y = rows_mut(y)?;
    attention(context, &args, HeadLayout::ragged(head_dim, y.stride), y.data);
    Ok(())
}

/// Queries, keys and values of `width` columns: side by side in the first operand, read where they lie, or the first
/// three; `None` where they do not fit together.
fn queries_keys_values<'a, T>(
    operands: &Operands<'a>,
    rows: impl Fn(&TensorRef<'a>) -> Result<Rows<'a, T>, String>,
    (width, head_dim): (usize, usize),
) -> Result<Option<[HeadRows<'a, T>; 3]>, String> {
    let part = |rows: &Rows<'a, T>, start: usize| HeadRows {
        data: rows.data.get(start..).unwrap_or_default(),
        layout: HeadLayout::ragged(head_dim, rows.stride),
    };
    let q = rows(&operand(operands, 0)?)?;
    Ok(match (optional(operands, 1), optional(operands, 2)) {
        (None, None) if q.cols == 3 * width => Some([0, 1, 2].map(|index| part(&q, index * width))),
        (Some(k), Some(v)) if q.cols == width => {
            let (k, v) = (rows(&k)?, rows(&v)?);
            let fit = [&k, &v].iter().all(|other| (other.rows, other.cols) == (q.rows, width));
            fit.then(|| [part(&q, 0), part(&k, 0), part(&v, 0)])
        }
        _ => None,
    })
}

/// Writes the bias of every head for every distance, `[heads, 2 * longest - 1]`, from the model's table
/// `[buckets, heads]`. Entry `key - query + longest - 1` of a head is what a key adds as seen from a query.
fn expand_relative_bias(
    buckets: RelativeBuckets,
    table: &Rows<'_>,
    heads: usize,
    longest: usize,
    expanded: &mut Vec<f32>,
) -> Result<(), String> {
    if (table.rows, table.cols) != (buckets.buckets, heads) {
        let (rows, cols) = (table.rows, table.cols);
        return Err(format!("the bias table must be [{}, {heads}], found [{rows}, {cols}]", buckets.buckets));
    }
    let width = 2 * longest - 1;
    expanded.clear();
    expanded.resize(heads * width, 0.0);
    for distance in 0..width {
        // One of query and key is 0, the other the distance.
        let (query, key) =
            if distance < longest { (longest - 1 - distance, 0) } else { (0, distance + 1 - longest) };
        let bucket = buckets.bucket(query, key);
        for head in 0..heads {
            expanded[head * width + distance] = table.data[bucket * heads + head];
        }
    }
    Ok(())
}

pub(super) fn function(
    context: &mut Context,
    operands: &Operands<'_>,
    function: UnaryOp,
    y: &mut TensorMut<'_>,
) -> Result<(), String> {
    let x = operand(operands, 0)?;
    same_shape(&x, y)?;
    unary(context, function, Some(rows(&x)?), rows_mut(y)?);
    Ok(())
}

pub(super) fn arithmetic(
    context: &mut Context,
    operands: &Operands<'_>,
    op: BinaryOp,
    right: RightForm,
    y: &mut TensorMut<'_>,
) -> Result<(), String> {
    let (a, b) = (operand(operands, 0)?, operand(operands, 1)?);
    same_shape(&a, y)?;
    let values = floats(&b)?;
    let right = match right {
        RightForm::Same => {
            same_shape(&b, y)?;
            Right::Matrix(rows(&b)?)
        }
        RightForm::Row if y.shape.last() == Some(&values.len()) => Right::Row(values),
        RightForm::Scalar if values.len() == 1 => Right::Scalar(values[0]),
        RightForm::Row | RightForm::Scalar => {
            return Err(format!("{:?} does not broadcast to {:?}", b.shape, y.shape));
        }
    };
    binary(context, op, Some(rows(&a)?), right, rows_mut(y)?);
    Ok(())
}

pub(super) fn softmax(
    context: &mut Context,
    operands: &Operands<'_>,
    y: &mut TensorMut<'_>,
) -> Result<(), String> {
    let x = operand(operands, 0)?;
    same_shape(&x, y)?;
    softmax::softmax(context, Some(rows(&x)?), rows_mut(y)?);
    Ok(())
}

pub(super) fn pool(
    context: &mut Context,
    operands: &Operands<'_>,
    kind: PoolKind,
    y: &mut TensorMut<'_>,
) -> Result<(), String> {
    let x = rows(&operand(operands, 0)?)?;
    let cu = offsets(&operand(operands, 1)?, x.rows)?;
    let mut y = rows_mut(y)?;
    if (y.rows, y.cols) != (cu.sequences(), x.cols) {
        return Err(format!("expected a result of [{}, {}]", cu.sequences(), x.cols));
    }
    let pooling = match kind {
        PoolKind::Cls => Pooling::First,
        PoolKind::Mean | PoolKind::MeanSqrtLen => Pooling::Mean,
        PoolKind::Max => Pooling::Max,
        PoolKind::LastToken => Pooling::Last,
        PoolKind::WeightedMean => {
            weighted_mean(&x, cu, &mut y);
            return Ok(());
        }
    };
    pool_sequences(context, pooling, x, cu, RowsMut { data: &mut *y.data, ..y });
    if kind == PoolKind::MeanSqrtLen {
        for sequence in 0..cu.sequences() {
            // The sum over sqrt(length) is the mean times sqrt(length).
            let factor = (cu.sequence(sequence).1 as f32).sqrt();
            y.row(sequence).iter_mut().for_each(|value| *value *= factor);
        }
    }
    Ok(())
}

/// The mean of each sequence's rows, weighted by 1, 2, 3, ...; zeros for an empty one.
fn weighted_mean(x: &Rows<'_>, cu: CuSeqlens<'_>, y: &mut RowsMut<'_>) {
    for sequence in 0..cu.sequences() {
        let (start, length) = cu.sequence(sequence);
        let total = (length * (length + 1) / 2).max(1) as f64;
        for column in 0..x.cols {
            let weighted = (0..length).map(|row| f64::from(x.row(start + row)[column]) * (row + 1) as f64);
            y.row(sequence)[column] = (weighted.sum::<f64>() / total) as f32;
        }
    }
}

pub(super) fn l2_normalize(
    context: &mut Context,
    operands: &Operands<'_>,
    epsilon: f32,
    y: &mut TensorMut<'_>,
) -> Result<(), String> {
    let x = operand(operands, 0)?;
    same_shape(&x, y)?;
    y.bytes.copy_from_slice(x.bytes);
    norm::l2_normalize(context, epsilon, rows_mut(y)?);
    Ok(())
}
