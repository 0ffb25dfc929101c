//! Kernels over token rows: embedding sums, row gathers, pooling.
//!
//! All are bound by memory: one load per value and table, one store.

use half::bf16;

use super::context::Context;
use super::gemm::{PackedB, PackedDesc, PackedType, RoundRow};
use super::norm::{LayerNorm, LayerNormRow};
use super::simd::{Simd, SimdOp};
use super::views::{CuSeqlens, Rows, RowsMut};
use crate::pool::Disjoint;

/// Row numbers from user data.
#[derive(Clone, Copy, Debug)]
pub enum Ids<'a> {
    /// Unsigned.
    U32(&'a [u32]),
    /// Signed, 32 bits.
    I32(&'a [i32]),
    /// Signed, 64 bits: ONNX's.
    I64(&'a [i64]),
}

impl Ids<'_> {
    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::U32(ids) => ids.len(),
            Self::I32(ids) => ids.len(),
            Self::I64(ids) => ids.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn get(&self, index: usize) -> i64 {
        match self {
            Self::U32(ids) => i64::from(ids[index]),
            Self::I32(ids) => i64::from(ids[index]),
            Self::I64(ids) => ids[index],
        }
    }

    /// Checks that every id names one of `rows` rows.
    fn check(&self, table: usize, rows: usize) -> Result<(), IdError> {
        match (0..self.len()).find(|&i| !usize::try_from(self.get(i)).is_ok_and(|id| id < rows)) {
            Some(position) => Err(IdError { table, position, id: self.get(position), rows }),
            None => Ok(()),
        }
    }
}

/// An id that names no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("id {id} at position {position} of lookup {table} is outside the table's {rows} rows")]
pub struct IdError {
    /// Which lookup of the call.
    pub table: usize,
    /// Where in its ids.
    pub position: usize,
    /// The id.
    pub id: i64,
    /// Rows of the table.
    pub rows: usize,
}

/// A table of rows, as its values lie.
#[derive(Clone, Copy, Debug)]
pub enum Table<'a> {
    /// Row by row.
    Rows(Rows<'a>),
    /// As a product's f32 operand `[hidden, rows]`, whose columns are the table's rows: what a tied decoder multiplies with.
    /// A row's values are a panel's width apart, a cache line fetched for each, which is a small price for a table held once.
    Packed(PackedB<'a>),
}

impl<'a> From<Rows<'a>> for Table<'a> {
    fn from(rows: Rows<'a>) -> Self {
        Self::Rows(rows)
    }
}

impl Table<'_> {
    /// Rows and columns.
    fn shape(&self) -> (usize, usize) {
        match self {
            Self::Rows(rows) => (rows.rows, rows.cols),
            Self::Packed(packed) => (packed.desc().n, packed.desc().k),
        }
    }

    fn check(&self) {
        match self {
            Self::Rows(rows) => rows.check(),
            Self::Packed(packed) => {
                assert!(packed.desc().dtype == PackedType::F32, "a table's values are f32, not rounded");
            }
        }
    }
}

/// A table and which of its rows each token takes.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// `[rows, hidden]`.
    pub table: Table<'a>,
    /// One per token, or one for all tokens.
    pub ids: Ids<'a>,
}

/// `out[t]` = sum over lookups of `table[ids[t]]`, in the lookups' order, then the layer norm where there is one.
///
/// # Errors
/// When an id names no row of its table; nothing is written then.
///
/// # Panics
/// When shapes disagree.
pub fn embedding_sum(
    ctx: &mut Context,
    lookups: &[Lookup<'_>],
    norm: Option<&LayerNorm<'_>>,
    out: RowsMut<'_>,
) -> Result<(), IdError> {
    embedding_rounded(ctx, lookups, norm, out, None)
}

/// As [`embedding_sum`], and the result once more in `rounded`, for products that take bf16.
///
/// # Errors
/// As [`embedding_sum`].
///
/// # Panics
/// As [`embedding_sum`], and with `rounded` where the CPU has no bf16 instructions.
pub fn embedding_rounded(
    ctx: &mut Context,
    lookups: &[Lookup<'_>],
    norm: Option<&LayerNorm<'_>>,
    out: RowsMut<'_>,
    rounded: Option<RowsMut<'_, bf16>>,
) -> Result<(), IdError> {
    for (index, lookup) in lookups.iter().enumerate() {
        let (rows, cols) = lookup.table.shape();
        assert_eq!(cols, out.cols, "tables have the result's columns");
        assert!(lookup.ids.len() == out.rows || lookup.ids.len() == 1, "one id per token, or one for all");
        lookup.table.check();
        lookup.ids.check(index, rows)?;
    }
    if let Some(norm) = norm {
        norm.check(out.cols);
    }
    if let Some(rounded) = &rounded {
        rounded.check();
        assert_eq!((out.rows, out.cols), (rounded.rows, rounded.cols), "both results have the same shape");
    }
    let rounded = rounded.map(|rounded| (rounded.stride, rounded.cols, Disjoint::new(rounded.data)));
    let isa = ctx.isa;
    ctx.for_row_blocks(out, |first, mut block| {
        for row in 0..block.rows {
            let out = block.row(row);
            for (index, lookup) in lookups.iter().enumerate() {
                let at = if lookup.ids.len() == 1 { 0 } else { first + row };
                let id = lookup.ids.get(at) as usize;
                match &lookup.table {
                    Table::Rows(table) if index == 0 => out.copy_from_slice(table.row(id)),
                    Table::Rows(table) => isa.run(Accumulate { out, x: table.row(id) }),
                    Table::Packed(table) => {
                        let values = out.iter_mut().zip(column(table, id));
                        values.for_each(|(out, x)| *out = if index == 0 { x } else { *out + x });
                    }
                }
            }
            if lookups.is_empty() {
                out.fill(0.0);
            }
            if let Some(norm) = norm {
                isa.run(LayerNormRow { norm, x: None, residual: None, out, rounded: None, streams: false });
            }
            if let Some((stride, cols, rounded)) = &rounded {
                // SAFETY: rows do not overlap, and every row belongs to one block.
                let to = unsafe { rounded.slice((first + row) * stride, *cols) };
                isa.run_bf16(RoundRow { from: out, to });
            }
        }
    });
    Ok(())
}

/// The values of column `index` of a packed f32 operand, from the first row on.
fn column<'a>(packed: &PackedB<'a>, index: usize) -> impl Iterator<Item = f32> + use<'a> {
    let PackedDesc { k, nr, .. } = *packed.desc();
    let start = index / nr * k * nr + index % nr;
    packed.data()[start.min(packed.data().len())..].iter().step_by(nr).take(k).copied()
}

/// `out[i] = x[ids[i]]`.
///
/// # Errors
/// When an id names no row of `x`; nothing is written then.
///
/// # Panics
/// When shapes disagree.
pub fn gather_rows(ctx: &mut Context, x: Rows<'_>, ids: Ids<'_>, out: RowsMut<'_>) -> Result<(), IdError> {
    assert_eq!(ids.len(), out.rows, "one id per result row");
    embedding_sum(ctx, &[Lookup { table: x.into(), ids }], None, out)
}

/// How a sequence's rows become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// Their largest values, column by column.
    Max,
    /// The first row.
    First,
    /// The last row.
    Last,
}

impl Pooling {
    /// Every pooling.
    pub const ALL: [Self; 4] = [Self::Mean, Self::Max, Self::First, Self::Last];
}

/// One row per sequence of `x`; zeros for an empty one.
///
/// A sequence's row is summed in token order, whatever else is in the batch.
///
/// # Panics
/// When shapes disagree.
pub fn pool_sequences(ctx: &mut Context, pooling: Pooling, x: Rows<'_>, cu: CuSeqlens<'_>, out: RowsMut<'_>) {
    x.check();
    assert_eq!((out.rows, out.cols), (cu.sequences(), x.cols), "one result row per sequence");
    assert!(cu.tokens() <= x.rows, "the sequences reach beyond the rows");
    let isa = ctx.isa;
    ctx.for_row_blocks(out, |first, mut block| {
        for row in 0..block.rows {
            let (start, len) = cu.sequence(first + row);
            let out = block.row(row);
            if len == 0 {
                out.fill(0.0);
                continue;
            }
            let from = if pooling == Pooling::Last { start + len - 1 } else { start };
            out.copy_from_slice(x.row(from));
            match pooling {
                Pooling::Mean => {
                    for token in start + 1..start + len {
                        isa.run(Accumulate { out, x: x.row(token) });
                    }
                    isa.run(Divide { out, by: len as f32 });
                }
                Pooling::Max => {
                    for token in start + 1..start + len {
                        isa.run(Maximum { out, x: x.row(token) });
                    }
                }
                Pooling::First | Pooling::Last => {}
            }
        }
    });
}

/// `out = op(out, x)` over a row.
macro_rules! row_ops {
    ($($name:ident: $s:ident, $a:ident, $b:ident => $value:expr;)*) => {$(
        struct $name<'a> {
            out: &'a mut [f32],
            x: &'a [f32],
        }

        impl SimdOp for $name<'_> {
            type Output = ();

            #[inline(always)]
            fn run<S: Simd>(self, $s: S) {
                let mut outs = self.out.chunks_exact_mut(S::LANES);
                let mut xs = self.x.chunks_exact(S::LANES);
                for (out, x) in (&mut outs).zip(&mut xs) {
                    let ($a, $b) = ($s.load(out), $s.load(x));
                    $s.store(out, $value);
                }
                let out = outs.into_remainder();
                let ($a, $b) = ($s.load_first(out), $s.load_first(xs.remainder()));
                $s.store_first(out, $value);
            }
        }
    )*};
}

row_ops! {
    Accumulate: s, a, b => s.add(a, b);
    Maximum: s, a, b => s.max(b, a);
}

/// `out = out / by` over a row.
struct Divide<'a> {
    out: &'a mut [f32],
    by: f32,
}

impl SimdOp for Divide<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let by = s.splat(self.by);
        let mut outs = self.out.chunks_exact_mut(S::LANES);
        for out in &mut outs {
            let x = s.load(out);
            s.store(out, s.div(x, by));
        }
        let out = outs.into_remainder();
        let x = s.load_first(out);
        s.store_first(out, s.div(x, by));
    }
}
