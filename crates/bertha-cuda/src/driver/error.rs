//! What can go wrong on the way to the card, in one sentence each, with the remedy.

/// Why the GPU, its driver or its compiler did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// There is no driver library.
    #[error(
        "there is no NVIDIA driver on this machine ({looked_for} was not found); install one, or use --device cpu"
    )]
    NoDriver {
        /// The library names that were tried.
        looked_for: String,
    },
    /// The driver is there and does not start.
    #[error("the NVIDIA driver does not start: {why}; see whether `nvidia-smi` works, or use --device cpu")]
    DriverBroken {
        /// What the driver says.
        why: String,
    },
    /// The driver lacks something that Bertha needs.
    #[error("the NVIDIA driver is too old: {what}; install one for CUDA 12.4 or newer (550 or later)")]
    OldDriver {
        /// What is missing.
        what: String,
    },
    /// The driver sees no card.
    #[error(
        "the NVIDIA driver sees no GPU; look at `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use --device cpu"
    )]
    NoDevice,
    /// There are fewer cards than the number asked for.
    #[error("there is no GPU number {index}: this machine has {count}, counted from 0")]
    NoSuchDevice {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The card is older than the oldest that kernels are written for.
    #[error("{name} has compute capability {major}.{minor}, and Bertha's kernels need 7.5 (Turing) or newer")]
    UnsupportedDevice {
        /// The card.
        name: String,
        /// Compute capability, major.
        major: u32,
        /// Compute capability, minor.
        minor: u32,
    },
    /// Machine code for another card.
    #[error("the kernels are for {built}, and the card is {card}; build again with `--target cuda:{card}`")]
    WrongArchitecture {
        /// What the engine holds.
        built: String,
        /// What the machine has.
        card: String,
    },
    /// A kernel image that the driver refuses.
    #[error("the driver refuses the machine code of kernel {kernel}: {why}; build the engine again")]
    BadImage {
        /// The kernel.
        kernel: String,
        /// What the driver says.
        why: String,
    },
    /// The card's memory is full.
    #[error(
        "the GPU has no {wanted_mib} MiB left for {what} ({free_mib} MiB are free); use smaller batches, f16 weights, or free memory"
    )]
    OutOfMemory {
        /// What it was for.
        what: String,
        /// MiB asked for, rounded up.
        wanted_mib: u64,
        /// MiB that were free.
        free_mib: u64,
    },
    /// A driver call failed.
    #[error("{call} failed on the GPU: {why}")]
    Call {
        /// What was being done.
        call: String,
        /// What the driver says.
        why: String,
    },
    /// The compiler's library is not there.
    #[error(
        "NVRTC, the compiler of CUDA kernels, was not found ({looked_in}); install the CUDA toolkit or `pip install nvidia-cuda-nvrtc`, or set BERTHA_NVRTC to libnvrtc's path"
    )]
    NoNvrtc {
        /// Where it was looked for.
        looked_in: String,
    },
    /// The compiler's library is there and cannot be used.
    #[error("NVRTC at {path} cannot be used: {why}")]
    BadNvrtc {
        /// The library.
        path: String,
        /// Why not.
        why: String,
    },
    /// A kernel does not compile.
    #[error("kernel {kernel} does not compile for {arch}: {log}")]
    Compile {
        /// The kernel.
        kernel: String,
        /// The architecture.
        arch: String,
        /// What the compiler says.
        log: String,
    },
}
