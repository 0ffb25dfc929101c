"""Compiles the kernels of crates/bertha-cuda/kernels with NVRTC and runs them through the driver API.

    cubin, report = compile("layer_norm.cu", {"ELEMENT_F16": 1, "HIDDEN": 768}, "90a")
    kernel = Kernel("layer_norm.cu", {...})          # for the card at hand
    kernel(grid, block, shared, [tensor, 3, 1e-12])  # on torch's current stream; int is i32, float is f32

Compiling needs no GPU: the wheels of nvidia-cuda-nvrtc and cuda-bindings do. A kernel is the one `extern "C"` function
of its file; its name is the file's. With the environment variable KERNEL_CACHE, a folder, what was compiled once is
taken from there: it can be filled on a machine without a GPU.
"""

import ctypes
import hashlib
import os
import pathlib
import pickle
import re

KERNELS = pathlib.Path(__file__).resolve().parents[2] / "crates" / "bertha-cuda" / "kernels"


def _preload():
    """NVRTC looks for its built-in functions by name: wheels keep them where the loader does not look."""
    try:
        import nvidia.cu13
    except ImportError:
        return
    for folder in nvidia.cu13.__path__:
        for path in sorted(pathlib.Path(folder, "lib").glob("libnvrtc-builtins.so.*")):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


_preload()
from cuda.bindings import driver, nvrtc  # noqa: E402


class CompileError(Exception):
    pass


def checked(result):
    status, *values = result
    if int(status) != 0:
        raise RuntimeError(f"{status!r}")
    return values[0] if len(values) == 1 else values


def compile(file, macros, architecture):
    """The cubin of a kernel file for `architecture` ("75", "90a"), and a report: registers, spilled bytes, shared."""
    source = (KERNELS / file).read_text()
    headers = {path.name: path.read_text() for path in sorted(KERNELS.glob("*.cuh"))}
    cache = os.environ.get("KERNEL_CACHE")
    if cache:
        key = repr((source, headers, sorted(macros.items()), architecture)).encode()
        cached = pathlib.Path(cache, hashlib.sha256(key).hexdigest()[:32])
        if cached.exists():
            return pickle.loads(cached.read_bytes())
    program = checked(
        nvrtc.nvrtcCreateProgram(
            source.encode(),
            file.encode(),
            len(headers),
            [text.encode() for text in headers.values()],
            [name.encode() for name in headers],
        )
    )
    options = [f"--gpu-architecture=sm_{architecture}", "--std=c++17", "--ptxas-options=-v"]
    options += [f"-D{name}={value}" for name, value in macros.items()]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    size = checked(nvrtc.nvrtcGetProgramLogSize(program))
    log = b" " * size
    checked(nvrtc.nvrtcGetProgramLog(program, log))
    log = log.decode(errors="replace").rstrip(" \n\0")
    if int(status) != 0:
        raise CompileError(f"{file} {macros} sm_{architecture}\n{log}")
    cubin = b" " * checked(nvrtc.nvrtcGetCUBINSize(program))
    checked(nvrtc.nvrtcGetCUBIN(program, cubin))
    nvrtc.nvrtcDestroyProgram(program)
    used = re.search(r"Used (\d+) registers", log)
    report = {
        "registers": int(used.group(1)) if used else -1,
        "spilled": sum(int(n) for n in re.findall(r"(\d+) bytes spill", log)),
        "stack": sum(int(n) for n in re.findall(r"(\d+) bytes stack frame", log)),
        "shared": sum(int(n) for n in re.findall(r"(\d+) bytes smem", log)),
        "warnings": [line for line in log.splitlines() if re.search("warning|serialized", line)],
    }
    if cache:
        unfinished = cached.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(pickle.dumps((cubin, report)))
        unfinished.rename(cached)
    return cubin, report


class Kernel:
    """A kernel on the card that torch uses."""

    def __init__(self, file, macros):
        import torch

        torch.cuda.init()
        torch.zeros(1, device="cuda")  # makes the primary context current
        major, minor = torch.cuda.get_device_capability()
        architecture = f"{major}{minor}" + ("a" if major == 9 else "")
        cubin, self.report = compile(file, macros, architecture)
        self.module = checked(driver.cuModuleLoadData(cubin))
        self.function = checked(driver.cuModuleGetFunction(self.module, pathlib.Path(file).stem.encode()))
        self.cubin = cubin
        self.shared_limit = 48 * 1024

    def __call__(self, grid, block, shared, arguments, pdl=False):
        import torch

        if shared > self.shared_limit:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            checked(driver.cuFuncSetAttribute(self.function, attribute, shared))
            self.shared_limit = shared
        grid = (grid,) if isinstance(grid, int) else tuple(grid)
        grid = grid + (1,) * (3 - len(grid))
        values, types = [], []
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                values.append(argument.data_ptr())
                types.append(ctypes.c_void_p)
            elif argument is None:
                values.append(0)
                types.append(ctypes.c_void_p)
            elif isinstance(argument, float):
                values.append(argument)
                types.append(ctypes.c_float)
            else:
                values.append(int(argument))
                types.append(ctypes.c_int)
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = block, 1, 1
        config.sharedMemBytes = shared
        config.hStream = torch.cuda.current_stream().cuda_stream
        if pdl:
            attribute = driver.CUlaunchAttribute()
            attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            value = driver.CUlaunchAttributeValue()
            value.programmaticStreamSerializationAllowed = 1
            attribute.value = value
            config.attrs = [attribute]
            config.numAttrs = 1
        checked(driver.cuLaunchKernelEx(config, self.function, (tuple(values), tuple(types)), 0))
