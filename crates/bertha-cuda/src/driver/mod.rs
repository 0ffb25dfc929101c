//! A thin safe layer over the CUDA driver: what sessions need, no more.
//!
//! Handles are owned: dropping one frees what it stands for, and each keeps alive what it needs ([`Context`] below
//! everything). Kernels are launched through [`Stream::launch`], which is unsafe, because only the caller knows whether
//! arguments and kernel agree.

mod context;
mod error;
mod launch;
mod memory;
mod module;
mod stream;
mod sys;
mod tensor_map;

pub use context::{Context, Device, devices, driver_version};
pub use error::CudaError;
pub(crate) use launch::MOST_ARGS;
pub use launch::{Arg, LaunchConfig};
pub use memory::{DeviceBuffer, PinnedBuffer};
pub use module::{Kernel, Module};
pub use stream::{Event, Graph, Stream};
pub use tensor_map::{TensorMap, TensorMapDesc};

use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

use libloading::Library;

use sys::{Api, CUDA_SUCCESS, CUresult};

/// The driver's library names, by platform.
const LIBRARIES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };

/// The oldest driver interface in use: CUDA 12.4, where all launch attributes and graph calls are there.
const OLDEST_DRIVER: i32 = 12_040;

/// The driver, loaded and started once for the process.
fn api() -> Result<&'static Api, CudaError> {
    static API: OnceLock<Result<Api, CudaError>> = OnceLock::new();
    API.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn load() -> Result<Api, CudaError> {
    let library = LIBRARIES
        .iter()
        // SAFETY: the driver's library has no initialisers with effects beyond its own state.
        .find_map(|name| unsafe { Library::new(*name) }.ok())
        .ok_or_else(|| CudaError::NoDriver { looked_for: LIBRARIES.join(", ") })?;
    let api = Api::from_library(library)?;
    // SAFETY: a plain call; 0 is the only defined flag.
    let status = unsafe { (api.init)(0) };
    if status != CUDA_SUCCESS {
        let why = message(&api, status);
        // 100 is CUDA_ERROR_NO_DEVICE: the driver runs, and there is nothing to drive.
        return Err(if status == 100 { CudaError::NoDevice } else { CudaError::DriverBroken { why } });
    }
    let mut version = 0;
    // SAFETY: the pointer is to a local that lives through the call.
    unsafe { (api.driver_version)(&mut version) };
    if version < OLDEST_DRIVER {
        let what = format!("it is for CUDA {}.{}", version / 1000, version % 1000 / 10);
        return Err(CudaError::OldDriver { what });
    }
    Ok(api)
}

/// The driver's words for a status.
fn message(api: &Api, status: CUresult) -> String {
    let mut text: *const c_char = std::ptr::null();
    // SAFETY: the driver sets the pointer to a static string or to null.
    let found = unsafe { (api.error_string)(status, &mut text) } == CUDA_SUCCESS && !text.is_null();
    if !found {
        return format!("error {status}");
    }
    // SAFETY: a static, zero-terminated string of the driver's.
    let words = unsafe { CStr::from_ptr(text) };
    format!("{} (error {status})", words.to_string_lossy())
}

/// Turns a status into an error that names the call.
fn check(api: &Api, call: &str, status: CUresult) -> Result<(), CudaError> {
    if status == CUDA_SUCCESS {
        return Ok(());
    }
    Err(CudaError::Call { call: call.to_owned(), why: message(api, status) })
}
