"""The variants of the Hopper linear layers (gemm_sm90a.cu, gemm_small_sm90a.cu): macros, the launch arithmetic of the kernels'
headers, and which are checked and timed. No device is needed here; gemm.py, few_tokens.py and many_tokens.py run them.
"""

import ctypes
from concurrent.futures import ProcessPoolExecutor

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


def resources_of(variant):
    return nd.resources(variant.compile()[1])


def compiled(variants, jobs):
    """Each variant with what the compiler says of its registers, spills and stack; so many processes compile."""
    variants = list(variants)
    with ProcessPoolExecutor(jobs) as pool:
        yield from zip(variants, pool.map(resources_of, variants))


def print_faults(variants, jobs):
    """Compiles variants, each name once, and prints those with spills, a stack frame or warnings."""
    variants = {v.name: v for v in variants}.values()
    for variant, found in compiled(variants, jobs):
        if found["spills"] or found["stack"] or found["warnings"]:
            print(variant.name, found)
    print(len(variants), "variants compiled")
