//! Descriptions of matrices for Hopper's copy engine (TMA).

use std::ffi::c_void;

use super::check;
use super::context::Context;
use super::error::CudaError;

/// `CUtensorMap`: opaque to all but the driver and the copy engine.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub struct TensorMap([u64; 16]);

/// A row-major matrix of 16-bit elements and the boxes that are copied of it, in the 128-byte swizzle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMapDesc {
    /// Whether the elements are `bf16`, not `f16`.
    pub bf16: bool,
    /// Rows; reads beyond give zeros, writes beyond are dropped.
    pub rows: u64,
    /// Columns, a multiple of 8.
    pub columns: u64,
    /// Columns and rows of a box; 64 columns are the 128 bytes of the swizzle.
    pub box_size: [u32; 2],
}

const FLOAT16: i32 = 6;
const BFLOAT16: i32 = 9;
const SWIZZLE_128B: i32 = 3;
const L2_PROMOTION_256B: i32 = 3;

impl TensorMapDesc {
    /// The map of the matrix at `address`, which must be a multiple of 16.
    ///
    /// # Errors
    /// When the driver refuses the sizes.
    pub fn encode(&self, context: &Context, address: u64) -> Result<TensorMap, CudaError> {
        let api = context.bind()?;
        let mut map = TensorMap([0; 16]);
        let dims = [self.columns, self.rows];
        let strides = [self.columns * 2];
        let steps = [1u32, 1];
        let element = if self.bf16 { BFLOAT16 } else { FLOAT16 };
        // SAFETY: the arrays have as many entries as the rank, 2, calls for (one stride fewer), and live through the
        // call; the map is 128 bytes, aligned to 128. The driver stores the address without reading from it.
        let status = unsafe {
            (api.tensor_map_encode)(
                std::ptr::from_mut(&mut map).cast::<c_void>(),
                element,
                2,
                address as *mut c_void,
                dims.as_ptr(),
                strides.as_ptr(),
                self.box_size.as_ptr(),
                steps.as_ptr(),
                0,
                SWIZZLE_128B,
                L2_PROMOTION_256B,
                0,
            )
        };
        check(api, &format!("describing a matrix ({self:?})"), status)?;
        Ok(map)
    }
}
