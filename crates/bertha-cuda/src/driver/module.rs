//! Machine code on the card.

use std::ffi::{CString, c_int};
use std::fmt;
use std::sync::Arc;

use super::context::Context;
use super::error::CudaError;
use super::sys::{self, CUfunction, CUmodule};
use super::{check, message};

/// A loaded image. Cheap to clone.
#[derive(Clone)]
pub struct Module {
    inner: Arc<Inner>,
}

struct Inner {
    context: Context,
    raw: CUmodule,
}

// SAFETY: driver modules may be used from any thread.
unsafe impl Send for Inner {}
// SAFETY: as above; they do not change after loading.
unsafe impl Sync for Inner {}

impl Module {
    /// Loads a cubin. `name` names the kernel in errors.
    ///
    /// A cubin is a program: its form is checked here, and what its kernels do with the card's memory is not. So load
    /// only machine code, and engine files with CUDA plans, from those whom you trust.
    ///
    /// # Errors
    /// [`CudaError::BadImage`] when it is no image for this card.
    pub fn load(context: &Context, cubin: &[u8], name: &str) -> Result<Self, CudaError> {
        let api = context.bind()?;
        // The driver takes no length: it follows the headers of the ELF file, which `elf` checks beforehand.
        super::super::elf::check(cubin)
            .map_err(|why| CudaError::BadImage { kernel: name.to_owned(), why })?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the image's headers and sections lie within the slice, which lives through the call.
        let status = unsafe { (api.module_load)(&mut raw, cubin.as_ptr().cast()) };
        if matches!(status, sys::CUDA_ERROR_INVALID_IMAGE | sys::CUDA_ERROR_NO_BINARY_FOR_GPU) {
            return Err(CudaError::BadImage { kernel: name.to_owned(), why: message(api, status) });
        }
        check(api, &format!("loading kernel {name}"), status)?;
        Ok(Module { inner: Arc::new(Inner { context: context.clone(), raw }) })
    }

    /// The kernel called `entry`, allowed `shared_bytes` of dynamic shared memory, and clusters of more than 8 blocks
    /// when `large_clusters` says so.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot have so much shared memory.
    pub fn kernel(
        &self,
        entry: &str,
        shared_bytes: usize,
        large_clusters: bool,
    ) -> Result<Kernel, CudaError> {
        let api = self.inner.context.bind()?;
        let name = CString::new(entry).map_err(|_| CudaError::Call {
            call: "finding a kernel".into(),
            why: "its name holds a zero".into(),
        })?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the name is zero-terminated and lives through the call; the pointer is to a local.
        check(api, &format!("finding kernel {entry}"), unsafe {
            (api.module_function)(&mut raw, self.inner.raw, name.as_ptr())
        })?;
        let set = |attribute: c_int, value: usize| {
            let value = c_int::try_from(value).unwrap_or(c_int::MAX);
            let call = format!("giving kernel {entry} {value} bytes of shared memory");
            // SAFETY: the function was found above.
            check(api, &call, unsafe { (api.function_set_attribute)(raw, attribute, value) })
        };
        // Up to 48 KiB need no permission.
        if shared_bytes > 48 * 1024 {
            set(sys::FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)?;
        }
        // In percent, for all kernels alike: neighbours with different splits of the cache could not overlap.
        set(sys::FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100)?;
        if large_clusters {
            set(sys::FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)?;
        }
        Ok(Kernel { module: self.clone(), raw })
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Module")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bind() {
            // SAFETY: loaded once, unloaded once; kernels hold the module.
            unsafe { (api.module_unload)(self.raw) };
        }
    }
}

/// A kernel of a [`Module`].
#[derive(Clone, Debug)]
pub struct Kernel {
    module: Module,
    raw: CUfunction,
}

// SAFETY: driver functions may be used from any thread.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl Kernel {
    pub(super) fn raw(&self) -> CUfunction {
        self.raw
    }

    pub(super) fn context(&self) -> &Context {
        &self.module.inner.context
    }
}
