//! What a GEMM does to its result before anyone else reads it.

use half::bf16;

use super::super::math::{Function, GeluErf, GeluTanh, Identity, Relu, Silu, Tanh};
use super::super::simd::{Simd, SimdOp};
use super::super::views::Rows;

/// The function applied to every value of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The value itself.
    #[default]
    None,
    /// max(x, 0).
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// x Phi(x), with the error function.
    GeluErf,
    /// The GELU with the hyperbolic tangent.
    GeluTanh,
    /// x sigmoid(x).
    Silu,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Self; 6] =
        [Self::None, Self::Relu, Self::Tanh, Self::GeluErf, Self::GeluTanh, Self::Silu];
}

/// `activation(A B + bias) + residual`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One value per column, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Added last: as many rows as the result, at least as many columns.
    pub residual: Option<Rows<'a>>,
}

impl Epilogue<'_> {
    /// Whether the product is the result.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.bias.is_none() && self.activation == Activation::None && self.residual.is_none()
    }

    pub(super) fn check(&self, m: usize, n: usize) {
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), n, "one bias per column");
        }
        if let Some(residual) = self.residual {
            assert!(residual.rows == m && residual.cols >= n, "the residual has the result's shape");
        }
    }
}

/// Where a tile's results go.
#[derive(Clone, Copy)]
pub(super) enum TileOutput {
    /// To where the sums are.
    InPlace,
    /// To another place, whose rows are this far apart and start at vectors: past the caches.
    Streamed(*mut f32, usize),
    /// Rounded, to another place, whose rows are this far apart.
    Bf16(*mut bf16, usize),
    /// As both of the above.
    StreamedBf16(*mut bf16, usize),
}

/// The epilogue on one tile, right after its last store, while it is in the first-level cache: a load and a store per
/// vector, against at least K multiply-adds, and no copy of every activation in every tile kernel.
///
/// Tile: `rows` x `cols` at `c`; `bias` and `residual` point at the tile's first column (and row), or are null.
pub(super) struct EpilogueTile {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) c: *mut f32,
    pub(super) c_stride: usize,
    pub(super) bias: *const f32,
    pub(super) residual: *const f32,
    pub(super) residual_stride: usize,
    pub(super) activation: Activation,
    pub(super) output: TileOutput,
}

impl SimdOp for EpilogueTile {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.activation {
            Activation::None => self.apply::<S, Identity>(s),
            Activation::Relu => self.apply::<S, Relu>(s),
            Activation::Tanh => self.apply::<S, Tanh>(s),
            Activation::GeluErf => self.apply::<S, GeluErf>(s),
            Activation::GeluTanh => self.apply::<S, GeluTanh>(s),
            Activation::Silu => self.apply::<S, Silu>(s),
        }
    }
}

impl EpilogueTile {
    #[inline(always)]
    fn apply<S: Simd, F: Function>(&self, s: S) {
        for row in 0..self.rows {
            // SAFETY: whoever makes an EpilogueTile promises `rows` rows of `cols` values at `c`, `residual` (unless
            // null) and the output with their strides, and `cols` values at `bias` (unless null).
            unsafe {
                let c = self.c.add(row * self.c_stride);
                let output = match self.output {
                    TileOutput::InPlace => TileOutput::InPlace,
                    TileOutput::Streamed(out, stride) => TileOutput::Streamed(out.add(row * stride), 0),
                    TileOutput::Bf16(out, stride) => TileOutput::Bf16(out.add(row * stride), 0),
                    TileOutput::StreamedBf16(out, stride) => {
                        TileOutput::StreamedBf16(out.add(row * stride), 0)
                    }
                };
                let residual = if self.residual.is_null() {
                    self.residual
                } else {
                    self.residual.add(row * self.residual_stride)
                };
                let mut col = 0;
                while col + S::LANES <= self.cols {
                    let mut x = s.load_ptr(c.add(col));
                    if !self.bias.is_null() {
                        x = s.add(x, s.load_ptr(self.bias.add(col)));
                    }
                    x = F::apply(s, x);
                    if !residual.is_null() {
                        x = s.add(x, s.load_ptr(residual.add(col)));
                    }
                    match output {
                        TileOutput::InPlace => s.store_ptr(c.add(col), x),
                        TileOutput::Streamed(out, _) => s.stream_ptr(out.add(col), x),
                        TileOutput::Bf16(out, _) => s.store_bf16_ptr(out.add(col), S::LANES, x),
                        TileOutput::StreamedBf16(out, _) => s.stream_bf16_ptr(out.add(col), x),
                    }
                    col += S::LANES;
                }
                let left = self.cols - col;
                if left > 0 {
                    let mut x = s.load_first_ptr(c.add(col), left);
                    if !self.bias.is_null() {
                        x = s.add(x, s.load_first_ptr(self.bias.add(col), left));
                    }
                    x = F::apply(s, x);
                    if !residual.is_null() {
                        x = s.add(x, s.load_first_ptr(residual.add(col), left));
                    }
                    match output {
                        TileOutput::InPlace => s.store_first_ptr(c.add(col), left, x),
                        TileOutput::Streamed(out, _) => s.store_first_ptr(out.add(col), left, x),
                        TileOutput::Bf16(out, _) | TileOutput::StreamedBf16(out, _) => {
                            s.store_bf16_ptr(out.add(col), left, x);
                        }
                    }
                }
            }
        }
    }
}
