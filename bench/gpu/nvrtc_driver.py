"""Compiles the CUDA kernels with NVRTC and launches them through the driver API, for the harnesses beside this file.

NVRTC comes from cuda.bindings (a wheel; no device needed to compile), the driver from libcuda through ctypes. Launches go
to torch's current stream, so torch.cuda.graph captures them. Compiled kernels are kept in a folder by the hash of
everything that went into them.
"""

import ctypes
import functools
import hashlib
import os
import pathlib
import re

KERNELS = pathlib.Path(__file__).resolve().parents[2] / "crates" / "bertha-cuda" / "kernels"
CACHE = pathlib.Path(os.environ.get("BERTHA_CUBINS", "/tmp/bertha-cubins"))


def nvrtc_check(result):
    if result[0].value != 0:
        raise RuntimeError(f"NVRTC: {result[0]}")
    return result[1] if len(result) == 2 else None


def sources(name):
    """Everything a kernel's text depends on, for the hash."""
    return (KERNELS / name).read_bytes() + b"".join(p.read_bytes() for p in sorted(KERNELS.glob("*.cuh")))


def compile_kernel(name, macros, architecture="sm_90a"):
    """The cubin of kernels/NAME with the macros (a dict; None or True: defined without a value), and NVRTC's log."""
    options = [f"--gpu-architecture={architecture}", f"--include-path={KERNELS}", "--std=c++17"]
    options += ["--ptxas-options=-v", "--device-as-default-execution-space"]
    options += [f"-D{k}" if v in (None, True) else f"-D{k}={v}" for k, v in sorted(macros.items())]
    key = hashlib.sha256(sources(name) + repr([o for o in options if "include-path" not in o]).encode()).hexdigest()[:24]
    path = CACHE / f"{name.removesuffix('.cu')}-{key}.cubin"
    log_path = path.with_suffix(".log")
    if path.exists() and log_path.exists():
        return path.read_bytes(), log_path.read_text()
    from cuda.bindings import nvrtc

    program = nvrtc_check(nvrtc.nvrtcCreateProgram((KERNELS / name).read_bytes(), name.encode(), 0, [], []))
    compiled = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
    size = nvrtc_check(nvrtc.nvrtcGetProgramLogSize(program))
    buffer = b" " * size
    nvrtc_check(nvrtc.nvrtcGetProgramLog(program, buffer))
    log = buffer.rstrip(b"\0 ").decode()
    if compiled[0].value != 0:
        raise RuntimeError(f"{name} {macros}:\n{log}")
    cubin = b" " * nvrtc_check(nvrtc.nvrtcGetCUBINSize(program))
    nvrtc_check(nvrtc.nvrtcGetCUBIN(program, cubin))
    CACHE.mkdir(parents=True, exist_ok=True)
    for target, contents in ((path, cubin), (log_path, log.encode())):
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        partial.write_bytes(contents)
        partial.replace(target)
    return cubin, log


def resources(log):
    """Registers, spilled bytes and the stack frame (arrays in local memory) from ptxas' report."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    stack = re.search(r"(\d+) bytes stack frame", log)
    warnings = [line for line in log.splitlines() if "warning" in line.lower() or "C75" in line]
    return {
        "registers": int(registers.group(1)) if registers else None,
        "spills": sum(map(int, spills.groups())) if spills else None,
        "stack": int(stack.group(1)) if stack else None,
        "warnings": warnings,
    }


# ---- the driver ------------------------------------------------------------------------------------------------------


class LaunchAttribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_uint * 16)]


class LaunchConfig(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(LaunchAttribute)),
        ("count", ctypes.c_uint),
    ]


CLUSTER_DIMENSION, PROGRAMMATIC_STREAM_SERIALIZATION = 4, 6
MAX_DYNAMIC_SHARED, SHARED_CARVEOUT, NON_PORTABLE_CLUSTER = 8, 9, 14


@functools.cache
def driver():
    return ctypes.CDLL("libcuda.so.1")


def check(status, what):
    if status != 0:
        name = ctypes.c_char_p()
        driver().cuGetErrorName(status, ctypes.byref(name))
        raise RuntimeError(f"{what}: {name.value.decode() if name.value else status}")


class TensorMap(ctypes.Structure):
    _fields_ = [("opaque", ctypes.c_uint64 * 16)]


def tensor_map(tensor, rows, columns, box_rows, box_columns=64):
    """The map of a row-major 16-bit matrix, 128-byte swizzle, zeros outside, as the kernels' headers ask for."""
    import torch

    data_type = {torch.float16: 6, torch.bfloat16: 9}[tensor.dtype]
    aligned = (ctypes.c_char * 256)()
    address = (ctypes.addressof(aligned) + 63) & ~63
    dims = (ctypes.c_uint64 * 2)(columns, rows)
    strides = (ctypes.c_uint64 * 1)(columns * 2)
    box = (ctypes.c_uint32 * 2)(box_columns, box_rows)
    steps = (ctypes.c_uint32 * 2)(1, 1)
    swizzle_128, promotion_256 = 3, 3
    status = driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(address), data_type, 2, ctypes.c_void_p(tensor.data_ptr()), dims, strides, box, steps, 0,
        swizzle_128, promotion_256, 0,
    )
    check(status, f"cuTensorMapEncodeTiled rows {rows} columns {columns} box {box_rows}")
    return TensorMap.from_buffer_copy((ctypes.c_char * 128).from_address(address))


class Kernel:
    """A loaded kernel with its launch shape."""

    def __init__(self, cubin, name, block, shared, cluster=(1, 1, 1)):
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        check(driver().cuModuleLoadData(ctypes.byref(module), cubin), "cuModuleLoadData")
        check(driver().cuModuleGetFunction(ctypes.byref(function), module, name.encode()), "cuModuleGetFunction")
        check(driver().cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED, shared), f"{shared} bytes of shared memory")
        # All kernels ask for all of it: a multiprocessor that has to divide its memory anew waits until it is empty.
        check(driver().cuFuncSetAttribute(function, SHARED_CARVEOUT, 100), "shared memory carve-out")
        if cluster[0] * cluster[1] * cluster[2] > 8:
            check(driver().cuFuncSetAttribute(function, NON_PORTABLE_CLUSTER, 1), "non-portable cluster")
        self.function, self.block, self.shared, self.cluster = function, block, shared, cluster

    def config(self, grid, stream, dependent):
        attributes = []
        if self.cluster != (1, 1, 1):
            attribute = LaunchAttribute(id=CLUSTER_DIMENSION)
            attribute.value[:3] = self.cluster
            attributes.append(attribute)
        if dependent:
            attribute = LaunchAttribute(id=PROGRAMMATIC_STREAM_SERIALIZATION)
            attribute.value[0] = 1
            attributes.append(attribute)
        array = (LaunchAttribute * max(1, len(attributes)))(*attributes)
        return LaunchConfig(
            grid=(ctypes.c_uint * 3)(*grid), block=(ctypes.c_uint * 3)(self.block, 1, 1), shared=self.shared,
            stream=stream, attributes=array, count=len(attributes),
        )

    def launch(self, grid, arguments, dependent=True):
        """Puts a launch on torch's current stream; `arguments` are ctypes values, `dependent` makes the edge a
        programmatic one."""
        import torch

        config = self.config(grid, torch.cuda.current_stream().cuda_stream, dependent)
        pointers = (ctypes.c_void_p * len(arguments))(*[ctypes.addressof(a) for a in arguments])
        check(driver().cuLaunchKernelEx(ctypes.byref(config), self.function, pointers, None), "cuLaunchKernelEx")

    def max_clusters(self):
        """How many of its clusters the card holds at once."""
        config = self.config(self.cluster, None, False)
        count = ctypes.c_int()
        status = driver().cuOccupancyMaxActiveClusters(ctypes.byref(count), self.function, ctypes.byref(config))
        return count.value if status == 0 else None
