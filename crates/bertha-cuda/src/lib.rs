//! Target and runtime for NVIDIA GPUs. The kernels are CUDA C++ in `kernels/`, specialised by macros.
