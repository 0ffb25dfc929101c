"""One peer in its own process, told what to do by lines of JSON.

Each peer has its process so that no thread pool of another one is in it, and keeps it over all rounds. Requests are
`load`, `output`, `time` and `unload` (see `Worker`); each gets one line as the answer.
"""

import argparse
import gc
import json
import os
import sys
import time

import numpy as np


class Onnxruntime:
    """ONNX Runtime with all graph optimizations and fixed shapes; buffers are bound beforehand."""

    files = ("torch", "bertha")

    def __init__(self, threads, precision):
        if precision != "f32":
            raise ValueError(f"its CPU provider does not multiply in {precision}")
        import onnxruntime

        self.runtime, self.threads = onnxruntime, threads
        self.version = onnxruntime.__version__

    def load(self, source, inputs):
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        for dimension, size in free_dimensions(source, inputs["input_ids"].shape).items():
            options.add_free_dimension_override_by_name(dimension, size)
        session = self.runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        name = session.get_outputs()[0].name
        self.binding = session.io_binding()
        for key, value in given(inputs, [value.name for value in session.get_inputs()]).items():
            self.binding.bind_cpu_input(key, value)
        self.binding.bind_output(name)
        self.session = session

    def run(self):
        self.session.run_with_iobinding(self.binding)

    def output(self):
        self.run()
        return self.binding.copy_outputs_to_cpu()[0]

    def unload(self):
        self.session = self.binding = None


class OnnxruntimeAvx2(Onnxruntime):
    """ONNX Runtime that does not see AVX-512. It has no switch for that: a copy of its library is loaded in which the test
    of the operating system's AVX-512 state never succeeds."""

    # Of MLAS, where it picks its kernels: not rax; test al, 0xe0; je to where AVX-512 is used.
    TEST = bytes.fromhex("48f7d0a8e00f84")
    JUMP = 6

    def __init__(self, threads, precision):
        import importlib.util
        import shutil
        import tempfile
        from pathlib import Path

        package = Path(importlib.util.find_spec("onnxruntime").origin).parent
        self.folder = tempfile.TemporaryDirectory()
        copy = Path(self.folder.name) / "onnxruntime"
        shutil.copytree(package, copy)
        (library,) = copy.glob("capi/onnxruntime_pybind11_state*.so")
        code = library.read_bytes()
        if code.count(self.TEST) != 1:
            raise ValueError(f"cannot find where {library.name} looks for AVX-512")
        jump = code.index(self.TEST) + len(self.TEST) - 2
        library.write_bytes(code[:jump] + b"\x90" * self.JUMP + code[jump + self.JUMP :])
        sys.path.insert(0, self.folder.name)
        super().__init__(threads, precision)


class Openvino:
    """OpenVINO in latency mode, fixed shapes."""

    files = ("torch", "bertha")

    def __init__(self, threads, precision):
        import openvino

        self.openvino, self.version = openvino, openvino.__version__
        self.core = openvino.Core()
        self.options = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
        }

    def load(self, source, inputs):
        model = self.core.read_model(source)
        inputs = given(inputs, [port.get_any_name() for port in model.inputs])
        model.reshape({name: list(value.shape) for name, value in inputs.items()})
        self.request = self.core.compile_model(model, "CPU", self.options).create_infer_request()
        self.arrays = inputs
        for name, value in inputs.items():
            self.request.set_tensor(name, self.openvino.Tensor(value, shared_memory=True))

    def run(self):
        self.request.infer()

    def output(self):
        self.run()
        return self.request.get_output_tensor(0).data.copy()

    def unload(self):
        self.request = self.arrays = None


class TorchCompile:
    """torch.compile (inductor) with weights frozen, hence packed, into the program.

    Shapes stay free, since inductor then multiplies with oneDNN. With fixed ones it takes MKL, which needed twice the
    time on a Zen 4 (BERT-base, 32 tokens).
    """

    files = ("checkpoint",)
    backend, dynamic = "inductor", True

    def __init__(self, threads, precision):
        import torch

        torch.set_num_threads(threads)
        self.torch, self.version = torch, torch.__version__
        self.dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
        torch._inductor.config.freezing = True

    def load(self, source, inputs):
        from models import LastHiddenState, network

        self.torch._dynamo.reset()
        module = LastHiddenState(network(source)).to(self.dtype).eval()
        self.inputs = {name: self.torch.from_numpy(value) for name, value in inputs.items()}
        self.module = self.torch.compile(module, backend=self.backend, dynamic=self.dynamic, fullgraph=True)
        self.run()

    def run(self):
        with self.torch.inference_mode():
            return self.module(**self.inputs)

    def output(self):
        return self.run().float().numpy()

    def unload(self):
        self.module = self.inputs = None
        self.torch._dynamo.reset()


class Zentorch(TorchCompile):
    """torch.compile with AMD's backend, which has its own products, and fixed shapes."""

    backend, dynamic = "zentorch", False

    def __init__(self, threads, precision):
        super().__init__(threads, precision)
        import zentorch

        self.version = f"{zentorch.__version__} (torch {self.version})"


PEERS = {
    "torch.compile": TorchCompile,
    "zentorch": Zentorch,
    "onnxruntime": Onnxruntime,
    "onnxruntime-avx2": OnnxruntimeAvx2,
    "openvino": Openvino,
}


def given(inputs, names):
    """The inputs a model wants: a mask of ones and segments of zeros where it has such an input."""
    like = inputs["input_ids"]
    full = {"attention_mask": np.ones_like(like), "token_type_ids": np.zeros_like(like)} | inputs
    return {name: np.ascontiguousarray(full[name]) for name in names}


def free_dimensions(source, shape):
    """Names of the free dimensions of an ONNX file's inputs, with their sizes for inputs of this shape."""
    import onnx

    sizes = {}
    for value in onnx.load(source, load_external_data=False).graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            if dimension.dim_param:
                sizes[dimension.dim_param] = size
    return sizes


class Worker:
    """What the requests do."""

    def __init__(self, peer, threads, precision):
        self.peer = PEERS[peer](threads, precision)

    def load(self, source, inputs):
        with np.load(inputs) as arrays:
            self.peer.load(source, dict(arrays))

    def output(self, target):
        np.save(target, self.peer.output())

    def time(self, seconds, runs, warmup):
        """Milliseconds of each run, for `seconds` and at least `runs` of them."""
        for _ in range(warmup):
            self.peer.run()
        times = []
        start = time.perf_counter()
        while len(times) < runs or time.perf_counter() - start < seconds:
            before = time.perf_counter()
            self.peer.run()
            times.append((time.perf_counter() - before) * 1e3)
        return times

    def unload(self):
        self.peer.unload()
        gc.collect()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precision", choices=["f32", "bf16"], required=True)
    args = parser.parse_args()
    # Libraries print; what they print must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    try:
        worker = Worker(args.peer, args.threads, args.precision)
    except Exception as error:  # noqa: BLE001, whatever keeps a peer from running is reported as such
        return answer(error=f"{type(error).__name__}: {error}")
    answer(result=worker.peer.version)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(result=getattr(worker, request.pop("do"))(**request))
        except Exception as error:  # noqa: BLE001
            answer(error=f"{type(error).__name__}: {str(error)[:2000]}")


if __name__ == "__main__":
    main()
