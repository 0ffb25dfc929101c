//! Launching kernels.

use std::ffi::c_void;

use super::check;
use super::error::CudaError;
use super::module::Kernel;
use super::stream::Stream;
use super::sys::{self, CUlaunchAttribute, CUlaunchConfig};
use super::tensor_map::TensorMap;

/// How many blocks of how many threads, and what else a launch asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block, in one dimension.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// Blocks of a cluster along x and y; 1 and 1 for none.
    pub cluster: [u32; 2],
    /// Programmatic dependent launch: the kernel may start before the one in front of it is done, because it waits by
    /// itself (`griddepcontrol.wait`).
    pub overlaps: bool,
}

/// A kernel's argument.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A device pointer.
    Pointer(u64),
    /// `int`.
    Int(i32),
    /// `long long`.
    Long(i64),
    /// `float`.
    Float(f32),
    /// `double`.
    Double(f64),
    /// A tensor map by value (`__grid_constant__`).
    Map(TensorMap),
}

impl Arg {
    /// Where the value lies, for the driver.
    fn as_ptr(&self) -> *mut c_void {
        let pointer: *const c_void = match self {
            Arg::Pointer(value) => std::ptr::from_ref(value).cast(),
            Arg::Int(value) => std::ptr::from_ref(value).cast(),
            Arg::Long(value) => std::ptr::from_ref(value).cast(),
            Arg::Float(value) => std::ptr::from_ref(value).cast(),
            Arg::Double(value) => std::ptr::from_ref(value).cast(),
            Arg::Map(value) => std::ptr::from_ref(value).cast(),
        };
        pointer.cast_mut()
    }
}

/// The most arguments of a kernel.
pub(crate) const MOST_ARGS: usize = 64;

impl Stream {
    /// Queues a kernel.
    ///
    /// # Safety
    /// Number and types of `args` must be the kernel's; every pointer among them must lead to live device memory of
    /// the size that the kernel accesses under this configuration, until the stream has passed this point (or, in a
    /// captured graph, until the graph is dropped).
    ///
    /// # Errors
    /// When the driver refuses the configuration.
    pub unsafe fn launch(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        args: &[Arg],
    ) -> Result<(), CudaError> {
        let api = kernel.context().bind()?;
        let mut pointers = [std::ptr::null_mut::<c_void>(); MOST_ARGS];
        if args.len() > MOST_ARGS {
            let why = format!("{} arguments", args.len());
            return Err(CudaError::Call { call: "launching a kernel".into(), why });
        }
        for (pointer, arg) in pointers.iter_mut().zip(args) {
            *pointer = arg.as_ptr();
        }
        let none = CUlaunchAttribute { id: 0, pad: 0, value: [0; 16] };
        let mut attributes = [none; 2];
        let mut count = 0;
        let mut add = |id, words: &[u32]| {
            attributes[count].id = id;
            attributes[count].value[..words.len()].copy_from_slice(words);
            count += 1;
        };
        let [x, y] = config.cluster;
        if x * y > 1 {
            add(sys::LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, &[x, y, 1]);
        }
        if config.overlaps {
            add(sys::LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, &[1]);
        }
        let raw = CUlaunchConfig {
            grid: config.grid,
            block: [config.block, 1, 1],
            shared_bytes: config.shared_bytes,
            stream: self.raw(),
            attributes: attributes.as_mut_ptr(),
            attribute_count: count as u32,
        };
        // SAFETY: configuration, attributes and arguments live through the call, which copies them; the caller answers
        // for the arguments themselves.
        let status = unsafe { (api.launch)(&raw, kernel.raw(), pointers.as_mut_ptr(), std::ptr::null_mut()) };
        check(api, "launching a kernel", status)
    }
}
