//! Devices, and contexts on them.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::sync::Arc;

use super::error::CudaError;
use super::sys::{self, Api, CUcontext, CUdevice};
use super::{api, check};

/// A card, as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Dynamic shared memory that a block can have, in bytes.
    pub shared_bytes: usize,
    /// Bytes of the second-level cache.
    pub l2_bytes: usize,
    /// Highest clock of the multiprocessors, in kHz.
    pub clock_khz: usize,
    raw: CUdevice,
}

/// The CUDA version that the driver supports, as (major, minor).
///
/// # Errors
/// When there is no usable driver.
pub fn driver_version() -> Result<(u32, u32), CudaError> {
    let api = api()?;
    let mut version = 0;
    // SAFETY: the pointer is to a local that lives through the call.
    check(api, "asking for the driver's version", unsafe { (api.driver_version)(&mut version) })?;
    let version = version.unsigned_abs();
    Ok((version / 1000, version % 1000 / 10))
}

/// All cards of the machine; never an empty list.
///
/// # Errors
/// When there is no usable driver, or it sees no card.
pub fn devices() -> Result<Vec<Device>, CudaError> {
    let api = api()?;
    let mut count = 0;
    // SAFETY: the pointer is to a local that lives through the call.
    check(api, "counting GPUs", unsafe { (api.device_count)(&mut count) })?;
    if count <= 0 {
        return Err(CudaError::NoDevice);
    }
    (0..count).map(|index| describe(api, index)).collect()
}

fn describe(api: &Api, index: c_int) -> Result<Device, CudaError> {
    let mut raw = 0;
    // SAFETY: the pointer is to a local that lives through the call.
    check(api, "opening a GPU", unsafe { (api.device_get)(&mut raw, index) })?;
    let mut name = [0 as c_char; 256];
    // SAFETY: the driver writes at most as many bytes as it is told there are, the last one zero.
    check(api, "asking for the GPU's name", unsafe {
        (api.device_name)(name.as_mut_ptr(), name.len() as c_int, raw)
    })?;
    // SAFETY: zero-terminated by the call above; the array started as zeros.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let attribute = |which: c_int| -> Result<usize, CudaError> {
        let mut value = 0;
        // SAFETY: the pointer is to a local that lives through the call.
        check(api, "asking what the GPU has", unsafe { (api.device_attribute)(&mut value, which, raw) })?;
        Ok(usize::try_from(value).unwrap_or(0))
    };
    let mut memory_bytes = 0;
    // SAFETY: the pointer is to a local that lives through the call.
    check(api, "asking for the GPU's memory", unsafe { (api.device_total_memory)(&mut memory_bytes, raw) })?;
    Ok(Device {
        index: usize::try_from(index).unwrap_or(0),
        name,
        capability: (
            attribute(sys::ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
            attribute(sys::ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
        ),
        memory_bytes,
        multiprocessors: attribute(sys::ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: attribute(sys::ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        l2_bytes: attribute(sys::ATTRIBUTE_L2_CACHE_SIZE)?,
        clock_khz: attribute(sys::ATTRIBUTE_CLOCK_RATE)?,
        raw,
    })
}

impl Device {
    /// The card number `index`.
    ///
    /// # Errors
    /// When there is no usable driver or no such card.
    pub fn get(index: usize) -> Result<Self, CudaError> {
        let mut all = devices()?;
        let count = all.len();
        if index >= count {
            return Err(CudaError::NoSuchDevice { index, count });
        }
        Ok(all.swap_remove(index))
    }
}

/// The card's primary context, shared with everything else in the process that uses the card. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    api: &'static Api,
    raw: CUcontext,
    device: Device,
}

// SAFETY: driver contexts may be used from any thread that made them current, which `bind` does before each call.
unsafe impl Send for Inner {}
// SAFETY: as above; the driver locks internally.
unsafe impl Sync for Inner {}

impl Context {
    /// Starts the card's context, or joins it.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn new(device: Device) -> Result<Self, CudaError> {
        let api = api()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is to a local that lives through the call; the device came from the driver.
        check(api, "starting the GPU", unsafe { (api.primary_retain)(&mut raw, device.raw) })?;
        Ok(Context { inner: Arc::new(Inner { api, raw, device }) })
    }

    /// The card.
    pub fn device(&self) -> &Device {
        &self.inner.device
    }

    /// Makes the context current on this thread and hands out the functions that need it.
    pub(super) fn bind(&self) -> Result<&'static Api, CudaError> {
        let api = self.inner.api;
        // SAFETY: the context lives as long as `self`.
        check(api, "choosing the GPU", unsafe { (api.context_set_current)(self.inner.raw) })?;
        Ok(api)
    }

    /// Bytes of the card's memory that are free, and all of them.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        let api = self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the pointers are to locals that live through the call.
        check(api, "asking for free memory", unsafe { (api.memory_info)(&mut free, &mut total) })?;
        Ok((free, total))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Context").field(&self.inner.device.name).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: retained once in `new`, released once here; nothing that needs it is alive any more.
        unsafe { (self.api.primary_release)(self.device.raw) };
    }
}
