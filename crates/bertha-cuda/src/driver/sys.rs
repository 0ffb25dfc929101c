//! The part of the CUDA driver API that Bertha calls, loaded from the driver's shared library at run time.
//!
//! Names, types and values are those of `cuda.h`. Nothing here is safe to call by itself; the modules beside this one
//! wrap it.

use std::ffi::{c_char, c_int, c_uint, c_void};

use libloading::Library;

use super::error::CudaError;

pub(crate) type CUresult = c_int;
pub(crate) type CUdevice = c_int;
pub(crate) type CUdeviceptr = u64;

macro_rules! handles {
    ($($name:ident)*) => { $( pub(crate) type $name = *mut c_void; )* };
}
handles! { CUcontext CUstream CUevent CUmodule CUfunction CUgraph CUgraphExec }

pub(crate) const CUDA_SUCCESS: CUresult = 0;
pub(crate) const CUDA_ERROR_INVALID_IMAGE: CUresult = 200;
pub(crate) const CUDA_ERROR_NO_BINARY_FOR_GPU: CUresult = 209;
pub(crate) const CUDA_ERROR_OUT_OF_MEMORY: CUresult = 2;
pub(crate) const CUDA_ERROR_NOT_READY: CUresult = 600;

pub(crate) const ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: c_int = 97;
pub(crate) const ATTRIBUTE_MULTIPROCESSOR_COUNT: c_int = 16;
pub(crate) const ATTRIBUTE_CLOCK_RATE: c_int = 13;
pub(crate) const ATTRIBUTE_L2_CACHE_SIZE: c_int = 38;
pub(crate) const ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: c_int = 75;
pub(crate) const ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: c_int = 76;

pub(crate) const FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
pub(crate) const FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: c_int = 9;
pub(crate) const FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED: c_int = 14;

pub(crate) const STREAM_NON_BLOCKING: c_uint = 1;
pub(crate) const CAPTURE_MODE_THREAD_LOCAL: c_int = 1;

pub(crate) const LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION: c_int = 4;
pub(crate) const LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: c_int = 6;

/// `CUlaunchAttribute`: an id, padding up to 8 bytes, and a union of 64 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct CUlaunchAttribute {
    pub(crate) id: c_int,
    pub(crate) pad: c_int,
    /// The union as 32-bit words: a cluster's x, y and z, or a flag in the first.
    pub(crate) value: [u32; 16],
}

/// `CUlaunchConfig`.
#[repr(C)]
pub(crate) struct CUlaunchConfig {
    pub(crate) grid: [c_uint; 3],
    pub(crate) block: [c_uint; 3],
    pub(crate) shared_bytes: c_uint,
    pub(crate) stream: CUstream,
    pub(crate) attributes: *mut CUlaunchAttribute,
    pub(crate) attribute_count: c_uint,
}

macro_rules! driver_api {
    ($( $name:ident = $symbol:literal ( $($arg:ty),* $(,)? ); )*) => {
        /// The driver's functions. They stay valid as long as the library is loaded, which is as long as this lives.
        pub(crate) struct Api {
            $( pub(crate) $name: unsafe extern "C" fn($($arg),*) -> CUresult, )*
            _library: Library,
        }

        impl Api {
            /// Looks every function up.
            ///
            /// # Errors
            /// [`CudaError::OldDriver`] with the name of the first function that is missing.
            pub(crate) fn from_library(library: Library) -> Result<Self, CudaError> {
                $(
                    // SAFETY: the signature is the one that `cuda.h` declares for this versioned symbol.
                    let $name = unsafe {
                        *library
                            .get::<unsafe extern "C" fn($($arg),*) -> CUresult>($symbol)
                            .map_err(|_| CudaError::OldDriver {
                                what: format!("it lacks {}", String::from_utf8_lossy($symbol)),
                            })?
                    };
                )*
                Ok(Api { $( $name, )* _library: library })
            }
        }
    };
}

driver_api! {
    init = b"cuInit" (c_uint);
    driver_version = b"cuDriverGetVersion" (*mut c_int);
    error_string = b"cuGetErrorString" (CUresult, *mut *const c_char);
    device_count = b"cuDeviceGetCount" (*mut c_int);
    device_get = b"cuDeviceGet" (*mut CUdevice, c_int);
    device_name = b"cuDeviceGetName" (*mut c_char, c_int, CUdevice);
    device_attribute = b"cuDeviceGetAttribute" (*mut c_int, c_int, CUdevice);
    device_total_memory = b"cuDeviceTotalMem_v2" (*mut usize, CUdevice);
    primary_retain = b"cuDevicePrimaryCtxRetain" (*mut CUcontext, CUdevice);
    primary_release = b"cuDevicePrimaryCtxRelease_v2" (CUdevice);
    context_set_current = b"cuCtxSetCurrent" (CUcontext);
    memory_alloc = b"cuMemAlloc_v2" (*mut CUdeviceptr, usize);
    memory_free = b"cuMemFree_v2" (CUdeviceptr);
    memory_info = b"cuMemGetInfo_v2" (*mut usize, *mut usize);
    host_alloc = b"cuMemHostAlloc" (*mut *mut c_void, usize, c_uint);
    host_free = b"cuMemFreeHost" (*mut c_void);
    copy_to_device = b"cuMemcpyHtoD_v2" (CUdeviceptr, *const c_void, usize);
    copy_to_device_async = b"cuMemcpyHtoDAsync_v2" (CUdeviceptr, *const c_void, usize, CUstream);
    copy_to_host_async = b"cuMemcpyDtoHAsync_v2" (*mut c_void, CUdeviceptr, usize, CUstream);
    fill_async = b"cuMemsetD8Async" (CUdeviceptr, u8, usize, CUstream);
    stream_create = b"cuStreamCreate" (*mut CUstream, c_uint);
    stream_destroy = b"cuStreamDestroy_v2" (CUstream);
    stream_synchronize = b"cuStreamSynchronize" (CUstream);
    stream_begin_capture = b"cuStreamBeginCapture_v2" (CUstream, c_int);
    stream_end_capture = b"cuStreamEndCapture" (CUstream, *mut CUgraph);
    graph_instantiate = b"cuGraphInstantiateWithFlags" (*mut CUgraphExec, CUgraph, u64);
    graph_launch = b"cuGraphLaunch" (CUgraphExec, CUstream);
    graph_destroy = b"cuGraphDestroy" (CUgraph);
    graph_exec_destroy = b"cuGraphExecDestroy" (CUgraphExec);
    event_create = b"cuEventCreate" (*mut CUevent, c_uint);
    event_destroy = b"cuEventDestroy_v2" (CUevent);
    event_record = b"cuEventRecord" (CUevent, CUstream);
    event_query = b"cuEventQuery" (CUevent);
    event_synchronize = b"cuEventSynchronize" (CUevent);
    event_elapsed = b"cuEventElapsedTime" (*mut f32, CUevent, CUevent);
    module_load = b"cuModuleLoadData" (*mut CUmodule, *const c_void);
    module_unload = b"cuModuleUnload" (CUmodule);
    module_function = b"cuModuleGetFunction" (*mut CUfunction, CUmodule, *const c_char);
    function_set_attribute = b"cuFuncSetAttribute" (CUfunction, c_int, c_int);
    launch = b"cuLaunchKernelEx" (*const CUlaunchConfig, CUfunction, *mut *mut c_void, *mut *mut c_void);
    tensor_map_encode = b"cuTensorMapEncodeTiled" (
        *mut c_void, c_int, c_uint, *mut c_void, *const u64, *const u64, *const c_uint, *const c_uint, c_int, c_int,
        c_int, c_int,
    );
}
