//! The packed right-hand operand.
//!
//! Layout: B, `[k, n]`, is cut into panels of `nr` columns (a tile's width), the last filled up with zero columns.
//! Panel after panel, each is stored row by row: value (kk, j) of B lies at `(j / nr) * k * nr + kk * nr + j % nr`.
//! So a tile kernel reads a panel front to back, and the panel after it follows in memory. Packed once when an engine is
//! built and copied from its file when it is loaded.
//!
//! What is stored are words of 32 bits: f32 values, or pairs of bf16 values of neighbouring kk (the even one in the lower
//! half), where kk above counts pairs; an odd k is filled up with a zero. 8-bit types would store fours.

use half::bf16;

use super::super::simd::Simd;
use super::tile::{self, NV};
use crate::isa::Tier;

/// Types of a packed operand's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackedType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point with the exponent of f32.
    Bf16,
}

impl PackedType {
    /// The name in kernel names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Values in a word of 32 bits.
    #[must_use]
    pub const fn per_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }
}

/// What a packed operand is and which kernel reads it: everything but the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PackedDesc {
    /// The tier whose kernel reads the layout.
    pub tier: Tier,
    /// Type of the values.
    pub dtype: PackedType,
    /// Rows of B.
    pub k: usize,
    /// Columns of B.
    pub n: usize,
    /// Columns per panel.
    pub nr: usize,
}

/// Why bytes are no packed operand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The panel width is not what this version's kernel of the tier reads.
    #[error(
        "packed for panels of {found} columns, but the {tier} kernel reads {expected}: build the engine again"
    )]
    PanelWidth {
        /// The tier.
        tier: Tier,
        /// Width in the descriptor.
        found: usize,
        /// Width this version reads.
        expected: usize,
    },
    /// The sizes multiply beyond the address space.
    #[error("a packed operand of {k} x {n} does not fit in memory")]
    TooLarge {
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
    },
    /// Bytes that do not start where an f32 can.
    #[error("a packed operand starts at an address that is no multiple of 4: the file is not aligned")]
    Unaligned,
    /// The number of values is not the descriptor's.
    #[error("a packed operand of {k} x {n} has {expected} values, not {found}")]
    Length {
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
        /// Values the descriptor asks for.
        expected: usize,
        /// Values given.
        found: usize,
    },
}

impl PackedDesc {
    /// The layout of a `[k, n]` f32 operand for `tier`'s kernel.
    #[must_use]
    pub const fn new(tier: Tier, k: usize, n: usize) -> Self {
        Self::with_type(tier, PackedType::F32, k, n)
    }

    /// The layout of a `[k, n]` operand of `dtype` for `tier`'s kernel.
    #[must_use]
    pub const fn with_type(tier: Tier, dtype: PackedType, k: usize, n: usize) -> Self {
        Self { tier, dtype, k, n, nr: tile::nr(tier) }
    }

    /// Words of a column.
    #[must_use]
    pub const fn words(&self) -> usize {
        self.k.div_ceil(self.dtype.per_word())
    }

    /// Panels of the operand.
    #[must_use]
    pub const fn panels(&self) -> usize {
        self.n.div_ceil(self.nr)
    }

    /// Words of the packed operand, the last panel's zero columns included.
    ///
    /// # Errors
    /// When the descriptor is not one this version's kernels read, or its size overflows.
    pub fn packed_len(&self) -> Result<usize, PackError> {
        let expected = tile::nr(self.tier);
        if self.nr != expected {
            return Err(PackError::PanelWidth { tier: self.tier, found: self.nr, expected });
        }
        self.panels()
            .checked_mul(self.nr)
            .and_then(|columns| columns.checked_mul(self.words()))
            .filter(|&values| values <= isize::MAX as usize / size_of::<f32>())
            .ok_or(PackError::TooLarge { k: self.k, n: self.n })
    }

    /// Name of the kernel that reads it: `avx512-f32-gemm-14x32`.
    #[must_use]
    pub fn kernel_name(&self) -> String {
        format!("{}-{}-gemm-{}x{}", self.tier, self.dtype.name(), tile::max_mr(self.tier), self.nr)
    }
}

/// A packed operand: descriptor and values, wherever they lie.
#[derive(Clone, Copy, Debug)]
pub struct PackedB<'a> {
    desc: PackedDesc,
    data: &'a [f32],
}

impl<'a> PackedB<'a> {
    /// The operand `data` holds, words in f32's clothes, which [`pack_b`] wrote for the same descriptor (any other values are a different
    /// matrix, never a fault).
    ///
    /// # Errors
    /// When `data` has not the descriptor's length or the descriptor is not one this version reads.
    pub fn new(desc: PackedDesc, data: &'a [f32]) -> Result<Self, PackError> {
        let expected = desc.packed_len()?;
        if data.len() != expected {
            return Err(PackError::Length { k: desc.k, n: desc.n, expected, found: data.len() });
        }
        Ok(Self { desc, data })
    }

    /// The operand in `bytes`, as an engine file holds them: words in this machine's byte order. Aligned to a cache line
    /// it is read fastest; to 4 bytes it must be.
    ///
    /// # Errors
    /// As [`PackedB::new`], and when the bytes are not aligned for f32.
    pub fn from_bytes(desc: PackedDesc, bytes: &'a [u8]) -> Result<Self, PackError> {
        let expected = desc.packed_len()?;
        if bytes.len() != expected * size_of::<f32>() {
            let found = bytes.len() / size_of::<f32>();
            return Err(PackError::Length { k: desc.k, n: desc.n, expected, found });
        }
        Self::new(desc, bytemuck::try_cast_slice(bytes).map_err(|_| PackError::Unaligned)?)
    }

    /// The descriptor.
    #[must_use]
    pub const fn desc(&self) -> &PackedDesc {
        &self.desc
    }

    /// The packed words.
    #[must_use]
    pub const fn data(&self) -> &'a [f32] {
        self.data
    }
}

/// A matrix in memory with any strides: value (row, col) lies at `row * row_stride + col * col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a> {
    /// The values.
    pub data: &'a [f32],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Distance from row to row.
    pub row_stride: usize,
    /// Distance from column to column.
    pub col_stride: usize,
}

impl<'a> Strided<'a> {
    /// A row-major `[rows, cols]` matrix: an ONNX MatMul's or Gemm's right operand.
    #[must_use]
    pub const fn row_major(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transpose of a row-major `[cols, rows]` matrix: a torch Linear's weight `[out, in]`, read as `[in, out]`.
    #[must_use]
    pub const fn transposed(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: 1, col_stride: rows }
    }

    /// Values from the first to the last, or 0 for an empty matrix.
    #[must_use]
    pub const fn span(&self) -> usize {
        if self.rows == 0 || self.cols == 0 {
            0
        } else {
            (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride + 1
        }
    }

    pub(super) fn check(&self) {
        assert!(self.data.len() >= self.span(), "a matrix reaches beyond its values");
    }
}

/// Packs `b`, `[k, n]`, into `out`; see the module's comment for the layout.
///
/// # Panics
/// When the shapes do not fit the descriptor or `out` has not its length.
pub fn pack_b(desc: &PackedDesc, b: Strided<'_>, out: &mut [f32]) {
    assert_eq!((b.rows, b.cols), (desc.k, desc.n), "the matrix has the descriptor's shape");
    assert_eq!(Ok(out.len()), desc.packed_len(), "the output has the descriptor's length");
    b.check();
    if desc.k == 0 {
        return;
    }
    for (panel, out) in out.chunks_exact_mut(desc.words() * desc.nr).enumerate() {
        match desc.dtype {
            PackedType::F32 => pack_panel_for(b, panel * desc.nr, desc.nr, out),
            PackedType::Bf16 => pack_panel_bf16(b, panel * desc.nr, desc.nr, out),
        }
    }
}

/// [`pack_panel_for`], rounding to bf16, in pairs of rows.
fn pack_panel_bf16(b: Strided<'_>, first: usize, nr: usize, out: &mut [f32]) {
    let cols = nr.min(b.cols - first);
    let value = |row: usize, col: usize| {
        let at = row * b.row_stride + (first + col) * b.col_stride;
        if row < b.rows { bf16::from_f32(b.data[at]) } else { bf16::ZERO }
    };
    for (pair, out) in out.chunks_exact_mut(nr).enumerate() {
        for (col, word) in out.iter_mut().enumerate() {
            *word = if col < cols { bf16_pair(value(2 * pair, col), value(2 * pair + 1, col)) } else { 0.0 };
        }
    }
}

/// The word of two neighbouring bf16 values.
fn bf16_pair(even: bf16, odd: bf16) -> f32 {
    f32::from_bits(u32::from(even.to_bits()) | u32::from(odd.to_bits()) << 16)
}

/// Packs columns `first .. first + nr` (as far as they exist) of `b` into one panel, `[b.rows][nr]`, for any tier on any
/// machine: what a build does once. [`pack_panel`] is its fast equal for operands packed in every run.
fn pack_panel_for(b: Strided<'_>, first: usize, nr: usize, out: &mut [f32]) {
    let cols = nr.min(b.cols - first);
    if b.col_stride == 1 {
        for (row, out) in out.chunks_exact_mut(nr).enumerate().take(b.rows) {
            let start = row * b.row_stride + first;
            out[..cols].copy_from_slice(&b.data[start..start + cols]);
            out[cols..].fill(0.0);
        }
    } else {
        pack_transposed(b, first, cols, nr, out);
    }
}

/// [`pack_panel_for`] where columns are far apart: in blocks of rows, so that the reads of a column are short runs and the
/// writes stay in the first-level cache.
fn pack_transposed(b: Strided<'_>, first: usize, cols: usize, nr: usize, out: &mut [f32]) {
    const ROWS: usize = 16;
    for (block, out) in out.chunks_mut(ROWS * nr).enumerate() {
        let rows = out.len() / nr;
        for col in 0..cols {
            let mut at = block * ROWS * b.row_stride + (first + col) * b.col_stride;
            for row in 0..rows {
                out[row * nr + col] = b.data[at];
                at += b.row_stride;
            }
        }
        for row in out.chunks_exact_mut(nr) {
            row[cols..].fill(0.0);
        }
    }
}

/// Packs columns `first .. first + NR` (as far as they exist) of `b` into one panel of the tier at hand, `[b.rows][NR]`.
///
/// # Panics
/// When the panel or `b` is too short.
#[inline(always)]
pub(crate) fn pack_panel<S: Simd>(s: S, b: Strided<'_>, first: usize, out: &mut [f32]) {
    let nr = NV * S::LANES;
    b.check();
    assert!(first < b.cols && out.len() >= b.rows * nr);
    if b.col_stride != 1 && b.row_stride != 1 {
        return pack_panel_for(b, first, nr, &mut out[..b.rows * nr]);
    }
    for j in 0..NV {
        let col = first + j * S::LANES;
        let cols = b.cols.saturating_sub(col).min(S::LANES);
        // A vector of columns that do not exist reads nothing, from a place that does.
        let from = b.data.as_ptr().wrapping_add(if cols == 0 { 0 } else { col * b.col_stride });
        let to = out.as_mut_ptr().wrapping_add(j * S::LANES);
        // SAFETY: `b` holds all its values and `out` has `b.rows` rows of `nr` (both checked above); rows and columns
        // below stay within `b.rows` and `first + cols <= b.cols`.
        unsafe {
            if b.col_stride == 1 {
                for row in 0..b.rows {
                    let x = s.load_first_ptr(from.wrapping_add(row * b.row_stride), cols);
                    s.store_ptr(to.add(row * nr), x);
                }
            } else {
                // Rows of the transposed block are columns of `b`.
                let mut row = 0;
                while row < b.rows {
                    let rows = (b.rows - row).min(S::LANES);
                    s.transpose(from.wrapping_add(row), b.col_stride, (cols, rows), to.add(row * nr), nr);
                    row += rows;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::kernels::simd::SimdOp;

    /// [`pack_panel`] as an operation.
    struct Pack<'a>(Strided<'a>, usize, &'a mut [f32]);

    impl SimdOp for Pack<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            pack_panel(s, self.0, self.1, self.2);
        }
    }

    #[test]
    fn both_ways_of_packing_agree() {
        for isa in Isa::available() {
            let nr = tile::nr(isa.tier());
            for (rows, cols) in [(1, 1), (5, 40), (16, 32), (33, 17), (64, 50), (7, 95)] {
                let data: Vec<f32> = (0..(rows + 3) * (cols + 3) * 2).map(|i| i as f32).collect();
                for (row_stride, col_stride) in
                    [(cols, 1), (cols + 3, 1), (1, rows), (1, rows + 2), (2, 2 * rows)]
                {
                    let b = Strided { data: &data, rows, cols, row_stride, col_stride };
                    let b = Strided { data: &data[..b.span()], ..b };
                    for first in (0..cols).step_by(nr) {
                        let mut want = vec![f32::NAN; rows * nr];
                        let mut got = want.clone();
                        pack_panel_for(b, first, nr, &mut want);
                        isa.run(Pack(b, first, &mut got));
                        assert_eq!(got, want, "{isa}: {rows} x {cols}, strides {row_stride}, {col_stride}");
                    }
                }
            }
        }
    }
}
