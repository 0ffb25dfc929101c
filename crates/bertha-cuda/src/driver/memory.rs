//! Memory on the card, and memory of the host that the card can read and write by itself.

use std::ffi::c_void;

use super::context::Context;
use super::error::CudaError;
use super::stream::Stream;
use super::sys::{CUDA_ERROR_OUT_OF_MEMORY, CUdeviceptr};
use super::{check, message};

/// Bytes on the card.
#[derive(Debug)]
pub struct DeviceBuffer {
    context: Context,
    address: CUdeviceptr,
    bytes: usize,
}

impl DeviceBuffer {
    /// Room for `bytes`, aligned to at least 256, contents undefined. `what` names it in the error.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], or what else the driver says.
    pub fn new(context: &Context, bytes: usize, what: &str) -> Result<Self, CudaError> {
        let api = context.bind()?;
        let mut address = 0;
        // The driver refuses empty allocations; one unit keeps the rest simple.
        // SAFETY: the pointer is to a local that lives through the call.
        let status = unsafe { (api.memory_alloc)(&mut address, bytes.max(256)) };
        if status == CUDA_ERROR_OUT_OF_MEMORY {
            let free = context.memory().map_or(0, |(free, _)| free);
            return Err(CudaError::OutOfMemory {
                what: what.to_owned(),
                wanted_mib: (bytes as u64).div_ceil(1 << 20),
                free_mib: (free >> 20) as u64,
            });
        }
        check(api, &format!("allocating {what}"), status)?;
        Ok(DeviceBuffer { context: context.clone(), address, bytes })
    }

    /// A copy of `data` on the card.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn from_slice(context: &Context, data: &[u8], what: &str) -> Result<Self, CudaError> {
        let buffer = Self::new(context, data.len(), what)?;
        buffer.write(0, data)?;
        Ok(buffer)
    }

    /// Copies `data` to the bytes from `offset` on and waits for it.
    ///
    /// # Errors
    /// When the range lies outside of the buffer, or the driver refuses.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<(), CudaError> {
        self.check_range(offset, data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        let api = self.context.bind()?;
        // SAFETY: the range was checked; the source is a live slice; the call returns when the source has been read.
        check(api, "copying to the GPU", unsafe {
            (api.copy_to_device)(self.address + offset as u64, data.as_ptr().cast(), data.len())
        })
    }

    /// The address on the card.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fills everything with one byte, in the stream's order.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn fill(&self, stream: &Stream, byte: u8) -> Result<(), CudaError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let api = self.context.bind()?;
        // SAFETY: the range is the whole allocation.
        check(api, "filling memory", unsafe {
            (api.fill_async)(self.address, byte, self.bytes, stream.raw())
        })
    }

    /// Copies from pinned memory, in the stream's order.
    ///
    /// The caller keeps `source` unchanged until the stream has passed this point.
    ///
    /// # Errors
    /// When `bytes` is more than either side has, or the driver refuses.
    pub fn copy_from(&self, stream: &Stream, source: &PinnedBuffer, bytes: usize) -> Result<(), CudaError> {
        self.check_range(0, bytes)?;
        source.check_range(0, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let api = self.context.bind()?;
        // SAFETY: both ranges were checked; a pinned buffer waits for the card before it is freed.
        check(api, "copying to the GPU", unsafe {
            (api.copy_to_device_async)(self.address, source.pointer, bytes, stream.raw())
        })
    }

    fn check_range(&self, offset: usize, bytes: usize) -> Result<(), CudaError> {
        check_range("device", self.bytes, offset, bytes)
    }
}

fn check_range(side: &str, size: usize, offset: usize, bytes: usize) -> Result<(), CudaError> {
    if offset.checked_add(bytes).is_some_and(|end| end <= size) {
        return Ok(());
    }
    let why = format!("{bytes} bytes at {offset} do not fit a {side} buffer of {size}");
    Err(CudaError::Call { call: "copying".into(), why })
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bind() {
            // SAFETY: allocated by `new`, freed once; the driver waits for work that uses it.
            unsafe { (api.memory_free)(self.address) };
        }
    }
}

/// Page-locked memory of the host: copies from and to it run beside the processor's work.
#[derive(Debug)]
pub struct PinnedBuffer {
    context: Context,
    pointer: *mut c_void,
    bytes: usize,
}

// SAFETY: the memory belongs to this value alone; the raw pointer is what keeps it from being `Send` by itself.
unsafe impl Send for PinnedBuffer {}
// SAFETY: shared references only read.
unsafe impl Sync for PinnedBuffer {}

impl PinnedBuffer {
    /// Room for `bytes`, zeroed.
    ///
    /// # Errors
    /// When the system has no such memory.
    pub fn new(context: &Context, bytes: usize) -> Result<Self, CudaError> {
        let api = context.bind()?;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: the pointer is to a local that lives through the call; 0 asks for nothing special.
        let status = unsafe { (api.host_alloc)(&mut pointer, bytes.max(64), 0) };
        if status != 0 || pointer.is_null() {
            let call = format!("allocating {bytes} bytes of page-locked host memory");
            return Err(CudaError::Call { call, why: message(api, status) });
        }
        // SAFETY: freshly allocated, at least this large.
        unsafe { std::ptr::write_bytes(pointer.cast::<u8>(), 0, bytes.max(64)) };
        Ok(PinnedBuffer { context: context.clone(), pointer, bytes })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: allocated with this size, initialised, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.pointer.cast(), self.bytes) }
    }

    /// The bytes, for writing.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), self.bytes) }
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `bytes` from `address` on the card to `offset` here, in the stream's order.
    ///
    /// # Safety
    /// `address` must be the start of at least `bytes` bytes of live device memory, and nothing may read this buffer
    /// until the stream has passed this point.
    ///
    /// # Errors
    /// When the range lies outside of the buffer, or the driver refuses.
    pub unsafe fn copy_from_device(
        &mut self,
        stream: &Stream,
        address: u64,
        offset: usize,
        bytes: usize,
    ) -> Result<(), CudaError> {
        self.check_range(offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let api = self.context.bind()?;
        // SAFETY: the range here was checked; the caller answers for the other side.
        check(api, "copying from the GPU", unsafe {
            (api.copy_to_host_async)(self.pointer.byte_add(offset), address, bytes, stream.raw())
        })
    }

    fn check_range(&self, offset: usize, bytes: usize) -> Result<(), CudaError> {
        check_range("host", self.bytes, offset, bytes)
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bind() {
            // SAFETY: allocated by `new`, freed once; the driver waits for copies that use it.
            unsafe { (api.host_free)(self.pointer) };
        }
    }
}
