"""Checks and times the Hopper linear layers (gemm_sm90a.cu, gemm_small_sm90a.cu) beside cuBLASLt.

    python bench/gpu/gemm.py compile            compiles every variant, prints registers and spills (needs no device)
    python bench/gpu/gemm.py check OUT.json     every variant against float64, each in a process of its own
    python bench/gpu/gemm.py time OUT.json      device times in one run with torch's (cuBLASLt)
    python bench/gpu/gemm.py time-norms OUT.json
                                                what deferred layer norms add to the products of many tokens
    python bench/gpu/gemm.py chain OUT.json --times TIME.json
                                                the four products of 12 layers, each needing the one before: tries the
                                                fastest variants of TIME.json in place and keeps the best of each

Checks: fresh random inputs, outputs poisoned with NaN, rows past the batch's tokens filled with NaN, rows behind the
capacity watched for writes, ragged token counts. Times: replays of a CUDA graph of 12 dependent launches (programmatic
edges) over 12 layers' own weights and buffers; the median over 12. `--only TEXT` keeps the variants whose name has it.
"""

import argparse
import ctypes
import json
import pathlib
import subprocess
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import nvrtc_driver as nd

LAYERS = 12
MULTIPROCESSORS = 132
SHARED_LIMIT = 232448
GUARD_ROWS = 8
SHAPES = {
    "base qkv": (2304, 768), "base out": (768, 768), "base ffn1": (3072, 768), "base ffn2": (768, 3072),
    "large qkv": (3072, 1024), "large out": (1024, 1024), "large ffn1": (4096, 1024), "large ffn2": (1024, 4096),
}


def ceil_div(a, b):
    return -(-a // b)


class Variant:
    """One compiled kernel: its macros and the launch arithmetic of its header."""

    def __init__(self, n, k, element="f16", activation="NONE", residual=False, f32=False, norm=None, stats=False, **macros):
        """`norm`: "input" or "residual", which of the two holds rows before their layer norm; `stats`: writes its own."""
        self.norm, self.stats = norm, stats
        self.n, self.k, self.element, self.activation, self.residual, self.f32 = n, k, element, activation, residual, f32
        self.parameters = macros
        self.macros = {"N": n, "K": k, f"ELEMENT_{element.upper()}": None, "ACTIVATION": f"ACTIVATION_{activation}"}
        self.macros.update(macros)
        if residual:
            self.macros["RESIDUAL"] = None
        if f32:
            self.macros["OUTPUT_F32"] = None
        if norm:
            self.macros[f"NORM_{norm.upper()}"] = None
        if stats:
            self.macros["STATS_OUTPUT"] = None

    @property
    def name(self):
        flags = [self.element, self.activation.lower()] + ["residual"] * self.residual + ["f32"] * self.f32
        flags += [f"norm-{self.norm}"] * bool(self.norm) + ["stats"] * self.stats
        short = "_".join(f"{k.lower().replace('_', '')}{v}" for k, v in self.parameters.items())
        return f"{self.kind} {self.n}x{self.k} {short} {' '.join(flags)}"

    def compile(self):
        return nd.compile_kernel(self.source, self.macros)

    def load(self):
        return nd.Kernel(self.compile()[0], self.source.removesuffix(".cu"), self.block(), self.shared(), self.cluster())


class Large(Variant):
    kind, source = "large", "gemm_sm90a.cu"

    def get(self, key, default=1):
        return self.parameters.get(key, default)

    def block(self):
        return 384

    def cluster(self):
        return (self.get("CLUSTER_M") * self.get("CLUSTER_N"), 1, 1)

    def shared(self):
        stages, tile = self.parameters["STAGES"], self.parameters["TILE_N"]
        return stages * (128 + tile) * 128 + 2 * self.parameters["STORE_BUFFERS"] * 8192 + 16 * stages + (2080 if self.norm else 0)

    def grid(self, capacity):
        size = self.cluster()[0]
        units = ceil_div(ceil_div(capacity, 128), self.get("CLUSTER_M"))
        units *= ceil_div(ceil_div(self.n, self.parameters["TILE_N"]), self.get("CLUSTER_N"))
        return (size * min(MULTIPROCESSORS // size, units), 1, 1)

    def arguments(self, a, w, d, bias, residual, batch, capacity, following, norms=None):
        a_map = nd.tensor_map(a, capacity, self.k, 128 // self.get("CLUSTER_N"))
        w_map = nd.tensor_map(w, self.n, self.k, self.parameters["TILE_N"] // self.get("CLUSTER_M"))
        d_map = a_map if self.f32 else nd.tensor_map(d, capacity, self.n, 64)
        r_map = nd.tensor_map(residual, capacity, self.n, 128) if self.residual else a_map
        return [a_map, w_map, d_map, r_map, pointer(bias), pointer(d), pointer(batch), ctypes.c_int(capacity),
                *norm_arguments(norms)]


class Small(Variant):
    kind, source = "small", "gemm_small_sm90a.cu"

    def block(self):
        return 2 * self.parameters["FEATURES"] * self.parameters.get("GROUPS", 1) + (64 if self.norm else 32)

    def cluster(self):
        return (self.parameters["SPLIT"], self.parameters["SHARE"], 1)

    def shared(self):
        p = self.parameters
        groups = p.get("GROUPS", 1)
        owned = ceil_div(p["TOKENS"] // groups // 8, p["SPLIT"]) * groups
        ring = p["STAGES"] * (p["FEATURES"] + p["TOKENS"]) * 128
        return ring + owned * (p["FEATURES"] * 32 * (p["SPLIT"] - 1) + 64 * bool(self.norm)) + 16 * p["STAGES"] + 8

    def grid(self, capacity):
        p = self.parameters
        features = ceil_div(ceil_div(self.n, p["FEATURES"]), p["SHARE"]) * p["SHARE"]
        return (p["SPLIT"], features, ceil_div(capacity, p["TOKENS"]))

    def arguments(self, a, w, d, bias, residual, batch, capacity, following, norms=None):
        p = self.parameters
        a_map = nd.tensor_map(a, capacity, self.k, p["TOKENS"] // p["SHARE"])
        w_map = nd.tensor_map(w, self.n, self.k, p["FEATURES"])
        size = following.numel() * following.element_size() if following is not None else 0
        return [a_map, w_map, pointer(bias), pointer(residual), pointer(d), pointer(batch), pointer(following),
                ctypes.c_uint(size), *norm_arguments(norms)]


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr() if tensor is not None else None)


class Norms:
    """What deferred layer norms need of a launch: statistics of the rows read, gamma, statistics to write."""

    epsilon = 1e-5

    def __init__(self, stats=None, gamma=None, output=None):
        self.stats, self.gamma, self.output = stats, gamma, output


def norm_arguments(norms):
    norms = norms or Norms()
    return [pointer(norms.stats), pointer(norms.gamma), ctypes.c_float(norms.epsilon), pointer(norms.output)]


def row_stats(x):
    """{mean, M2} of each chunk of 64 columns of the rows of a matrix, in f32, as row_stats.cuh has them."""
    import torch

    chunks = x.double().view(x.shape[0], -1, 64)
    mean = chunks.mean(2)
    return torch.stack([mean, ((chunks - mean[..., None]) ** 2).sum(2)], 2).float().contiguous()


def layer_norm_f64(x, gamma, beta):
    import torch

    return torch.nn.functional.layer_norm(x.double(), x.shape[1:], gamma.double(), beta.double(), Norms.epsilon)


def fold(w, bias, gamma, beta):
    """Weight and bias of a layer whose input is normalised by others: gamma W with centred rows, and bias + W beta."""
    scaled = w.double() * gamma.double()
    return (scaled - scaled.mean(1, keepdim=True)).to(w.dtype), (bias.double() + w.double() @ beta.double()).float()


# ---- the variants ------------------------------------------------------------------------------------------------------


def large(n, k, tile, stages=None, buffers=None, **rest):
    buffers = min(tile // 64, 3) if buffers is None else buffers
    if tile == 256 and buffers == 3:
        buffers = 2
    most = (SHARED_LIMIT - 2 * buffers * 8192) // ((128 + tile) * 128 + 16)
    return Large(n, k, TILE_N=tile, STAGES=stages or min(most, 8), STORE_BUFFERS=buffers, **rest)


def small(n, k, tokens, features, split, share=1, stages=None, **rest):
    longest = ceil_div(ceil_div(k, 64), split)
    return Small(n, k, TOKENS=tokens, FEATURES=features, SPLIT=split, SHARE=share, STAGES=stages or longest, **rest)


NORM_OUT = {"residual": True, "norm": "residual", "stats": True}
GELU = {"activation": "GELU_ERF"}


def epilogue(shape):
    """What follows the product in BERT."""
    return GELU if shape.endswith("ffn1") else {"residual": True} if not shape.endswith("qkv") else {}


def check_variants():
    """Every feature of both kernels at least once."""
    yield large(768, 768, 192)
    yield large(768, 768, 192, residual=True)
    yield large(2304, 768, 256, **GELU)
    yield large(3072, 768, 128, element="bf16", **GELU)
    yield large(768, 3072, 192, CLUSTER_N=2, residual=True)
    yield large(768, 768, 192, CLUSTER_M=2, residual=True, **GELU)
    yield large(1024, 1024, 256, CLUSTER_M=2, buffers=1)
    yield large(1000, 328, 128, stages=4, f32=True, buffers=0, activation="TANH", residual=True)
    yield large(1000, 328, 192, CLUSTER_M=2, residual=True)
    yield large(768, 768, 128, residual=True, **GELU)
    yield large(768, 3072, 64, residual=True)
    yield large(3072, 768, 192, DEFER=1, **GELU)
    yield large(3072, 768, 192, norm="input", DEFER=1, **GELU)
    yield large(2304, 768, 192, norm="input", DEFER=1)
    yield large(3072, 1024, 256, norm="input", DEFER=1)
    yield large(3072, 768, 256, DEFER=1, element="bf16", **GELU)
    yield large(1000, 328, 128, DEFER=1, activation="TANH")
    yield large(3072, 768, 256, residual=True)
    yield large(2304, 768, 192, norm="input")
    yield large(3072, 768, 256, norm="input", DEFER=1, **GELU)
    yield large(3072, 768, 256, norm="input", element="bf16", **GELU)
    yield large(4096, 1024, 256, norm="input", DEFER=1, element="bf16", **GELU)
    yield large(3072, 1024, 192, norm="input", CLUSTER_M=2)
    yield large(1000, 384, 128, norm="input", f32=True, buffers=0, activation="TANH")
    yield large(768, 768, 192, **NORM_OUT)
    yield large(768, 3072, 192, element="bf16", **NORM_OUT)
    yield large(1024, 1024, 256, **NORM_OUT)
    yield large(1024, 4096, 256, CLUSTER_N=2, **NORM_OUT)
    yield large(384, 328, 256, CLUSTER_M=2, **NORM_OUT)
    yield large(768, 3072, 64, **NORM_OUT)
    yield large(320, 768, 128, residual=True, stats=True)
    yield large(768, 768, 192, norm="input", stats=True, residual=True)
    yield small(768, 768, 128, 64, 4, residual=True)
    yield small(768, 768, 128, 64, 6)
    yield small(2304, 768, 128, 64, 3)
    yield small(3072, 768, 128, 128, 4, element="bf16", **GELU)
    yield small(768, 3072, 128, 64, 8, residual=True)
    yield small(768, 3072, 128, 64, 8, stages=3, residual=True)
    yield small(768, 3072, 64, 64, 8, share=2 // 2, **GELU)
    yield small(3072, 768, 128, 64, 2, share=4, **GELU)
    yield small(768, 3072, 128, 64, 4, share=2, stages=4, residual=True)
    yield small(2304, 768, 32, 64, 3)
    yield small(768, 768, 8, 64, 8, residual=True)
    yield small(768, 768, 16, 64, 6, residual=True)
    yield small(1000, 328, 64, 64, 4, f32=True, activation="TANH", residual=True)
    yield small(1000, 328, 96, 64, 1, residual=True)
    yield small(1024, 4096, 128, 64, 8, residual=True)
    yield small(2304, 768, 128, 64, 3, share=2, GROUPS=2, norm="input")
    yield small(768, 3072, 128, 64, 4, share=2, stages=5, GROUPS=2, **NORM_OUT)
    yield small(2304, 768, 64, 64, 2, norm="input", element="bf16")
    yield small(3072, 768, 128, 64, 2, stages=4, GROUPS=2, norm="input", **GELU)
    yield small(3072, 1024, 128, 128, 3, stages=4, GROUPS=2, norm="input", **GELU)
    yield small(1000, 384, 64, 64, 4, f32=True, GROUPS=4, norm="input", activation="TANH")
    yield small(768, 768, 64, 64, 4, GROUPS=2, **NORM_OUT)
    yield small(768, 768, 32, 64, 8, **NORM_OUT)
    yield small(768, 3072, 128, 64, 8, stages=4, GROUPS=2, **NORM_OUT)
    yield small(768, 3072, 64, 128, 8, stages=3, GROUPS=2, element="bf16", **NORM_OUT)
    yield small(1024, 4096, 128, 64, 6, stages=4, GROUPS=4, **NORM_OUT)
    yield small(320, 328, 64, 64, 3, GROUPS=2, **NORM_OUT)
    yield small(768, 768, 192, 64, 1, stages=6, GROUPS=2, residual=True, stats=True)
    yield small(768, 3072, 192, 64, 4, stages=4, GROUPS=2, **NORM_OUT)
    yield small(1024, 4096, 192, 64, 3, stages=4, GROUPS=2, **NORM_OUT)
    yield small(768, 768, 192, 64, 3, GROUPS=2, **NORM_OUT)
    yield small(768, 768, 8, 64, 2, norm="input", stats=True, residual=True)
    yield small(768, 3072, 128, 128, 2, stages=4, **NORM_OUT)
    yield small(768, 3072, 256, 64, 4, stages=4, **NORM_OUT)
    yield small(1024, 4096, 256, 64, 3, stages=4, **NORM_OUT)
    yield small(768, 3072, 256, 64, 4, stages=4, element="bf16", **NORM_OUT)
    yield small(768, 768, 96, 64, 2, **NORM_OUT)
    yield small(768, 768, 16, 64, 2, **NORM_OUT)


LARGE_TOKENS = [384, 1024, 4096, 4224, 16384]
SMALL_TOKENS = [32, 128, 384]


def large_timed():
    """(shape name, tokens, variant)"""
    for shape, (n, k) in SHAPES.items():
        for tokens in LARGE_TOKENS:
            tiles = [64, 128, 192, 256] if tokens <= 1024 else [128, 192, 256]
            forms = [(tile, {}) for tile in tiles]
            if shape.endswith(("qkv", "ffn1")) and tokens > 1024:
                forms.append((256, {"DEFER": 1}))
            for tile, rest in forms:
                if n % tile or tokens < 1024 and tile > 128:
                    continue
                clusters = [{}]
                if n // tile % 2 == 0:
                    clusters.append({"CLUSTER_N": 2})
                if ceil_div(tokens, 128) % 2 == 0:
                    clusters.append({"CLUSTER_M": 2})
                for cluster in clusters:
                    yield shape, tokens, large(n, k, tile, **rest, **cluster, **epilogue(shape))


def norm_timed():
    """Every shape as it is and with what deferred layer norms add to it, in the tiles that are good for it."""
    for shape, (n, k) in SHAPES.items():
        added = NORM_OUT if shape.endswith(("out", "ffn2")) else {"norm": "input"}
        for tokens in (1024, 4224, 16384):
            forms = [(tile, {}) for tile in ((64, 128, 192) if tokens == 1024 else (192, 256))]
            if shape.endswith(("qkv", "ffn1")) and tokens > 1024:
                forms.append((256, {"DEFER": 1}))
            for tile, rest in forms:
                if n % tile == 0:
                    yield shape, tokens, large(n, k, tile, **rest, **epilogue(shape))
                    yield shape, tokens, large(n, k, tile, **rest, **{**epilogue(shape), **added})


def small_configurations(n, k, tokens):
    """What is worth trying: 48 to 200 blocks, a block's part of K held whole or in a ring of 4 or 6."""
    for tile in {t for t in (32, 64, 128) if t <= max(tokens, 32)} if tokens <= 128 else {128}:
        for features in (64, 128):
            for split in (1, 2, 3, 4, 6, 8):
                longest = ceil_div(ceil_div(k, 64), split)
                blocks = split * ceil_div(n, features) * ceil_div(tokens, tile)
                if split > ceil_div(k, 64) or not 48 <= blocks <= 200 or features == 128 and tile == 32:
                    continue
                for stages in {min(longest, 4), min(longest, 6), longest}:
                    yield dict(tokens=tile, features=features, split=split, stages=stages)


def small_timed():
    for shape, (n, k) in SHAPES.items():
        for tokens in SMALL_TOKENS:
            for configuration in small_configurations(n, k, tokens):
                variant = small(n, k, **configuration, **epilogue(shape))
                if variant.shared() <= SHARED_LIMIT:
                    yield shape, tokens, variant


# ---- on the device -----------------------------------------------------------------------------------------------------


def torch_type(element):
    import torch

    return {"f16": torch.float16, "bf16": torch.bfloat16}[element]


def activation_f64(x, name):
    import torch

    if name == "GELU_ERF":
        return torch.nn.functional.gelu(x)
    if name == "TANH":
        return torch.tanh(x)
    assert name == "NONE", name
    return x


def batch_of(tokens):
    import torch

    return torch.tensor([tokens, 1, 0, tokens], dtype=torch.int32, device="cuda")


def check_stats(stats, rows, tokens, capacity, element):
    """Statistics written beside `rows`, against those of the rows: they may be of the values before rounding."""
    if not (stats[capacity:] == 7.0).all():
        raise AssertionError(f"{tokens} tokens: statistics behind the capacity")
    want = row_stats(rows)
    step = 2.0**-10 if element == "f16" else 2.0**-7
    size = (want[..., 1] / 64 + want[..., 0] ** 2).sqrt()
    mean = ((stats[:tokens, :, 0] - want[..., 0]).abs() / size).max().item()
    squares = ((stats[:tokens, :, 1] - want[..., 1]).abs() / (64 * size**2)).max().item()
    if not (mean < step and squares < step):
        raise AssertionError(f"{tokens} tokens: statistics differ by {mean:.3g} and {squares:.3g} of the size")


def check_variant(variant, tokens=None):
    """Largest relative error over the token counts; raises on anything wrong."""
    import torch

    torch.zeros(1, device="cuda")
    kernel = variant.load()
    dtype = torch_type(variant.element)
    out_type = torch.float32 if variant.f32 else dtype
    worst = 0.0
    counts = tokens or [1, 5, 77, 127, 128, 129, 300] + ([1000, 4224] if variant.kind == "large" else [512])
    for tokens in counts:
        capacity = ceil_div(tokens, 128) * 128
        a = torch.randn(capacity, variant.k, device="cuda").to(dtype)
        w = (torch.randn(variant.n, variant.k, device="cuda") * variant.k**-0.5).to(dtype)
        bias = torch.randn(variant.n, device="cuda")
        residual = torch.randn(capacity, variant.n, device="cuda").to(dtype) if variant.residual else None
        norms, output_stats = Norms(), None
        read = variant.k if variant.norm == "input" else variant.n
        gamma, beta = torch.rand(read, device="cuda") + 0.5, torch.randn(read, device="cuda") * 0.2
        # Spreads and means that differ from row to row; a few channels stand out.
        def shape_rows(x):
            rows = x.float() * (torch.rand(capacity, 1, device="cuda") * 4 + 0.1) + torch.randn(capacity, 1, device="cuda")
            rows[:, 5] *= 20
            return rows.to(dtype)
        if variant.norm == "input":
            a = shape_rows(a)
            exact = layer_norm_f64(a, gamma, beta) @ w.double().t() + bias.double()
            norms.stats = row_stats(a)
            w, bias = fold(w, bias, gamma, beta)
        else:
            exact = a.double() @ w.double().t() + bias.double()
        exact = activation_f64(exact, variant.activation)
        if residual is not None and variant.norm == "residual":
            residual = shape_rows(residual)
            exact += layer_norm_f64(residual, gamma, beta)
            norms.stats, norms.gamma, bias = row_stats(residual), gamma, bias + beta
        elif residual is not None:
            exact += residual.double()
        if residual is not None:
            residual[tokens:] = float("nan")
        if norms.stats is not None:
            norms.stats[tokens:] = float("nan")
        if variant.stats:
            norms.output = torch.full((capacity + GUARD_ROWS, variant.n // 64, 2), float("nan"), device="cuda")
            norms.output[capacity:] = 7.0
        a[tokens:] = float("nan")
        whole = torch.full((capacity + GUARD_ROWS, variant.n), float("nan"), device="cuda", dtype=out_type)
        whole[capacity:] = 7.0
        following = torch.randn(1 << 18, device="cuda").to(dtype)
        batch = batch_of(tokens)
        arguments = variant.arguments(a, w, whole, bias, residual, batch, capacity, following, norms)
        results = []
        for _ in range(3):
            whole[:capacity] = float("nan")
            kernel.launch(variant.grid(capacity), arguments)
            torch.cuda.synchronize()
            results.append(whole[:tokens].clone())
        if not (whole[capacity:] == 7.0).all():
            raise AssertionError(f"{tokens} tokens: writes behind the capacity")
        if variant.stats:
            check_stats(norms.output, results[0], tokens, capacity, variant.element)
        if variant.kind == "small" and not whole[tokens:capacity].isnan().all():
            raise AssertionError(f"{tokens} tokens: writes rows past the tokens")
        if not all(torch.equal(results[0], r) for r in results[1:]):
            raise AssertionError(f"{tokens} tokens: not the same on every run")
        difference = results[0].double() - exact[:tokens]
        error = (difference.norm() / exact[:tokens].norm()).item()
        largest = (difference.abs() / (exact[:tokens].abs() + 1)).max().item()
        limit = 6e-4 if variant.element == "f16" else 5e-3
        if variant.norm == "input":
            limit *= 1.5  # the weight is rounded again
        if not (error < limit and largest < 8 * limit):
            bad = (~(difference.abs() < 0.1)).nonzero()
            raise AssertionError(f"{tokens} tokens: error {error:.3g}, largest {largest:.3g}, first bad {bad[:3].tolist()}, "
                                 f"{len(bad)} of {difference.numel()} bad")
        worst = max(worst, error)
    return worst


def median_time(call, calls):
    """Median and spread of the middle half, microseconds of one of `calls` launches, by graph replay."""
    # Imported here: what needs no card runs without torch too.
    from replays import microseconds

    return microseconds(call, calls)


class Buffers:
    """12 layers' weights and buffers of one shape."""

    def __init__(self, n, k, tokens, element="f16"):
        import torch

        dtype = torch_type(element)
        copies = LAYERS if tokens <= 4224 else 3
        capacity = ceil_div(tokens, 128) * 128
        self.capacity, self.copies, self.batch = capacity, copies, batch_of(tokens)
        self.a = [torch.randn(capacity, k, device="cuda").to(dtype) for _ in range(copies)]
        self.w = [(torch.randn(n, k, device="cuda") * k**-0.5).to(dtype) for _ in range(copies)]
        self.d = [torch.empty(capacity, n, device="cuda", dtype=dtype) for _ in range(copies)]
        self.r = [torch.randn(capacity, n, device="cuda").to(dtype) for _ in range(copies)]
        self.bias = torch.randn(n, device="cuda")
        self.bias16 = self.bias.to(dtype)
        self.tokens = tokens
        self.gamma = torch.rand(n, device="cuda") + 0.5
        self.stats = {"input": [row_stats(a) for a in self.a], "residual": [row_stats(r) for r in self.r], None: [None] * copies}
        self.output_stats = [torch.empty(capacity, ceil_div(n, 64), 2, device="cuda") for _ in range(copies)]

    def norms(self, variant, i):
        return Norms(self.stats[variant.norm][i], self.gamma, self.output_stats[i])


def time_library(buffers, shape):
    """cuBLASLt through torch: the bare product, and with what it can fuse of the epilogue."""
    import torch

    def bare():
        for i in range(buffers.copies):
            torch.mm(buffers.a[i][:buffers.tokens], buffers.w[i].t(), out=buffers.d[i][:buffers.tokens])

    def fused():
        for i in range(buffers.copies):
            if shape.endswith("ffn1"):
                torch._addmm_activation(buffers.bias16, buffers.a[i], buffers.w[i].t(), use_gelu=True)
            else:
                torch.addmm(buffers.bias16, buffers.a[i], buffers.w[i].t())

    return median_time(bare, buffers.copies)[0], median_time(fused, buffers.copies)[0]


def time_variant(variant, buffers, prefetch):
    kernel = variant.load()
    count = buffers.copies
    arguments = [
        variant.arguments(buffers.a[i], buffers.w[i], buffers.d[i], buffers.bias, buffers.r[i] if variant.residual else None,
                          buffers.batch, buffers.capacity, buffers.w[(i + 1) % count] if prefetch else None,
                          buffers.norms(variant, i))
        for i in range(count)
    ]
    grid = variant.grid(buffers.capacity)

    def call():
        for i in range(count):
            kernel.launch(grid, arguments[i])

    return (*median_time(call, count), kernel.max_clusters())


def run_times(out, only, variants, jobs):
    import torch

    if jobs > 1:
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            list(pool.map(compile_one, {v.name: v for _, _, v in variants}.values()))
    torch.manual_seed(0)
    results = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "library": [], "ours": [], "failed": []}
    groups = {}
    for shape, tokens, variant in variants:
        if only in f"{shape} m{tokens} {variant.name}":
            groups.setdefault((tokens, shape), []).append(variant)
    with torch.inference_mode():
        for (tokens, shape), variants in groups.items():
            n, k = SHAPES[shape]
            buffers = Buffers(n, k, tokens)
            bare, fused = time_library(buffers, shape)
            results["library"].append({"shape": shape, "m": tokens, "n": n, "k": k, "us": bare, "fused_us": fused})
            rows = []
            for variant in variants:
                for prefetch in [variant.kind == "small"]:
                    try:
                        time, spread, clusters = time_variant(variant, buffers, prefetch)
                    except RuntimeError as error:
                        results["failed"].append({"name": variant.name, "error": str(error)})
                        if "too large" not in str(error) and "INVALID_CLUSTER" not in str(error):
                            raise
                        continue
                    rows.append({"shape": shape, "m": tokens, "n": n, "k": k, "name": variant.name, "us": time,
                                 "spread_us": spread, "clusters": clusters, "prefetch": prefetch, **variant.parameters})
            rows.sort(key=lambda r: r["us"])
            results["ours"] += rows
            flops = 2 * tokens * n * k
            short = lambda r: " ".join(r["name"].split()[2:3]) + "+" * r["prefetch"] + " norm" * ("norm" in r["name"])
            best = " | ".join(f"{r['us']:.2f} {short(r)}" for r in rows[:6])
            print(f"{shape:>10} m={tokens:<6} lib {bare:7.2f} us {flops / bare / 1e6:5.0f} TF fused {fused:7.2f}; ours {best}"
                  f" = {bare / rows[0]['us']:.2f}x {flops / rows[0]['us'] / 1e6:.0f} TF; worst {rows[-1]['us']:.2f}", flush=True)
            pathlib.Path(out).write_text(json.dumps(results, indent=1))
            del buffers
            torch.cuda.empty_cache()
        copy = torch.randn(1 << 29, device="cuda")
        other = torch.empty_like(copy)
        time, _ = median_time(lambda: other.copy_(copy), 1)
        results["copy_tb_per_s"] = 2 * copy.numel() * 4 / time / 1e6
    pathlib.Path(out).write_text(json.dumps(results, indent=1))
    print(f"copy {results['copy_tb_per_s']:.2f} TB/s")


def variant_of(row):
    """The variant of a row of the times."""
    kind = Small if row["name"].startswith("small") else Large
    keys = ("TOKENS", "FEATURES", "SPLIT", "SHARE", "GROUPS", "STAGES", "TILE_N", "STORE_BUFFERS", "CLUSTER_M", "CLUSTER_N", "DEFER", "GROUP_M")
    return kind(row["n"], row["k"], **{k: row[k] for k in keys if k in row}, **epilogue(row["shape"]))


class Chain:
    """12 layers of the four products, each reading what the one before wrote (attention left out: the output product
    reads the first part of the qkv product's output as if it were the attention's)."""

    def __init__(self, model, tokens):
        import torch

        self.model, self.tokens, self.batch = model, tokens, batch_of(tokens)
        self.capacity = ceil_div(tokens, 128) * 128
        self.names = [f"{model} {part}" for part in ("qkv", "out", "ffn1", "ffn2")]
        hidden = SHAPES[self.names[1]][0]
        half = {"device": "cuda", "dtype": torch.float16}
        self.w = [[torch.randn(*SHAPES[name], **half) * SHAPES[name][1] ** -0.5 for name in self.names] for _ in range(LAYERS)]
        self.bias = {name: torch.randn(SHAPES[name][0], device="cuda") for name in self.names}
        self.x, self.y = torch.randn(self.capacity, hidden, **half), torch.empty(self.capacity, hidden, **half)
        self.q = torch.empty(self.capacity, 3 * hidden, **half)
        self.f = torch.empty(self.capacity, SHAPES[self.names[2]][0], **half)
        attention = self.q.view(-1)[: self.capacity * hidden].view(self.capacity, hidden)
        self.steps = [(self.x, self.q, None), (attention, self.y, self.x), (self.y, self.f, None), (self.f, self.x, self.y)]

    def library(self):
        import torch

        t = self.tokens

        def call():
            for layer in range(LAYERS):
                for (a, d, _), w in zip(self.steps, self.w[layer]):
                    torch.mm(a[:t], w.t(), out=d[:t])

        return median_time(call, LAYERS)[0]

    def ours(self, variants, prefetch=True):
        """Microseconds of a layer with one variant for each product."""
        kernels = [v.load() for v in variants]
        launches = []
        for layer in range(LAYERS):
            for part, (variant, (a, d, r)) in enumerate(zip(variants, self.steps)):
                following = self.w[layer][part + 1] if part < 3 else self.w[(layer + 1) % LAYERS][0]
                arguments = variant.arguments(a, self.w[layer][part], d, self.bias[self.names[part]], r, self.batch,
                                              self.capacity, following if prefetch else None)
                launches.append((kernels[part], variant.grid(self.capacity), arguments))

        def call():
            for kernel, grid, arguments in launches:
                kernel.launch(grid, arguments)

        return median_time(call, LAYERS, 20)[0]


def run_chain(out, times, only):
    import torch

    rows = json.loads(pathlib.Path(times).read_text())["ours"]
    results = {"card": torch.cuda.get_device_name(), "chains": []}
    for model, tokens in [("base", 32), ("base", 128), ("base", 384), ("base", 1024), ("base", 4224), ("large", 32), ("large", 128), ("large", 1024), ("large", 4224)]:
        if only not in f"{model} m{tokens}" or not any(r["m"] == tokens for r in rows):
            continue
        chain = Chain(model, tokens)
        library = chain.library()
        choices = []
        for name in chain.names:
            seen = {}
            for row in sorted((r for r in rows if r["shape"] == name and r["m"] == tokens), key=lambda r: r["us"]):
                seen.setdefault(row["name"], row)
            choices.append([variant_of(row) for row in list(seen.values())[:24 if tokens <= 128 else 6]])
        best = [c[0] for c in choices]
        time = first = chain.ours(best)
        for _ in range(2 if tokens <= 128 else 1):
            for part in range(4):
                for candidate in choices[part]:
                    tried = chain.ours(best[:part] + [candidate] + best[part + 1:])
                    if tried < time:
                        time, best[part] = tried, candidate
        without = chain.ours(best, prefetch=False)
        results["chains"].append({"model": model, "m": tokens, "library_us": library, "ours_us": time, "first_us": first,
                                  "without_prefetch_us": without, "variants": [v.name for v in best]})
        print(f"{model} m={tokens}: a layer's products {library:.2f} us by cuBLASLt, ours {time:.2f} (best alone {first:.2f}, "
              f"no prefetch {without:.2f}) = {library / time:.2f}x", flush=True)
        for v in best:
            print("   ", v.name)
        pathlib.Path(out).write_text(json.dumps(results, indent=1))


def run_checks(out, only):
    """Each variant in its own process, several at once, with a limit."""
    variants = [v for v in check_variants() if only in v.name]

    def one(index):
        command = [sys.executable, __file__, "check-one", str(index)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=90)
            lines = (done.stdout + done.stderr).strip().splitlines() or ["nothing printed"]
            return done.returncode == 0, lines[-1]
        except subprocess.TimeoutExpired:
            return False, "hangs"

    every = list(check_variants())
    indexes = [i for i, v in enumerate(every) if v.name in {w.name for w in variants}]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(one, indexes))
    rows = [{"name": every[i].name, "right": ok, "says": text} for i, (ok, text) in zip(indexes, outcomes)]
    for row in rows:
        print("ok   " if row["right"] else "WRONG", row["name"], ":", row["says"][:300], flush=True)
    pathlib.Path(out).write_text(json.dumps(rows, indent=1))
    return all(row["right"] for row in rows)


def compile_one(variant):
    return nd.resources(variant.compile()[1])


def compile_all(only, jobs):
    timed = list(large_timed()) + list(small_timed()) + list(norm_timed())
    variants = {v.name: v for v in list(check_variants()) + [v for _, _, v in timed]}
    variants = [v for name, v in variants.items() if only in name]
    with ProcessPoolExecutor(jobs) as pool:
        for variant, found in zip(variants, pool.map(compile_one, variants)):
            assert variant.shared() <= SHARED_LIMIT, variant.name
            note = " ".join(found["warnings"])
            print(f"{variant.name}: {found['registers']} registers, {found['spills']} bytes spilled, stack {found['stack']}, "
                  f"{variant.shared()} bytes shared {note}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compile", "check", "check-one", "time", "time-norms", "chain"])
    parser.add_argument("out", nargs="?")
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile")
    parser.add_argument("--tokens", type=int, nargs="+", help="token counts that `check-one` runs, instead of its own")
    parser.add_argument("--times", help="what `time` wrote, for `chain`")
    arguments = parser.parse_args()
    if arguments.what == "compile":
        compile_all(arguments.only, arguments.jobs)
    elif arguments.what == "check":
        sys.exit(0 if run_checks(arguments.out, arguments.only) else 1)
    elif arguments.what == "check-one":
        import torch

        torch.manual_seed(int(arguments.out))
        try:
            print(f"error {check_variant(list(check_variants())[int(arguments.out)], arguments.tokens):.3g}")
        except Exception as error:
            traceback.print_exc()
            print(f"{type(error).__name__}: {error}")
            sys.exit(1)
    elif arguments.what == "chain":
        run_chain(arguments.out, arguments.times, arguments.only)
    else:
        variants = norm_timed() if arguments.what == "time-norms" else list(small_timed()) + list(large_timed())
        run_times(arguments.out, arguments.only, list(variants), arguments.jobs)


if __name__ == "__main__":
    main()
