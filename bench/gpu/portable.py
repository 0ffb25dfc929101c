"""Checks and times the portable CUDA kernels against float64 and against torch, on the card at hand.

    python bench/gpu/portable.py compile [ARCH ..]   # no GPU needed: registers and spills of every variant used here
    python bench/gpu/portable.py check               # every kernel on ragged and odd shapes; exits with 1 on an error
    python bench/gpu/portable.py check GROUP [PART]  # one group of kernels; of attention those whose variant has PART
    python bench/gpu/portable.py time OUT.json [PART] # CUDA graph replays, beside torch in the same run; PART: attention,
                                                     # rows, gemm or f32

Checks: outputs start as NaN and what lies beyond the batch's rows must still be NaN afterwards; inputs beyond the
batch's rows are NaN. References are float64 of the same rounded inputs; the error is ||out - ref|| / ||ref||.
"""

import concurrent.futures
import json
import statistics
import subprocess
import sys

import nvrtc

ACTIVATIONS = {"none": 0, "relu": 1, "tanh": 2, "gelu_erf": 3, "gelu_tanh": 4, "silu": 5}
POOLS = {"cls": 0, "mean": 1, "max": 2, "mean_sqrt_len": 3, "weighted_mean": 4, "last_token": 5}
TOLERANCE = {"f16": 6e-4, "bf16": 5e-3, "f32": 2e-6}
LENGTHS = [384, 1, 129, 5, 31, 127, 512, 32, 64, 128, 16, 17, 2]
GROUPS = ["rows", "gemm", "gemm_f32", "attention", "attention_f32", "attention_sm90a"]

# ---- variants: what the host decides, and how it computes launches ---------------------------------------------------


def element(dtype):
    return {f"ELEMENT_{dtype.upper()}": 1}


def row_macros(dtype, hidden, **more):
    threads = 32 if hidden <= 1024 else 128 if hidden <= 4096 else 256
    return {**element(dtype), "HIDDEN": hidden, "ROW_THREADS": threads, "ROWS": 4 if threads == 32 else 1, **more}


def pool_macros(dtype, hidden, kind, normalise, output_f32):
    threads = 128 if hidden <= 4096 else 256
    slices = 1 if kind in ("cls", "last_token") else 4 if threads == 128 else 2
    return {
        **element(dtype), "HIDDEN": hidden, "ROW_THREADS": threads, "SLICES": slices, "POOL": POOLS[kind],
        "NORMALISE": normalise, "OUTPUT_F32": output_f32,
    }  # fmt: skip


# BLOCK_M, BLOCK_N, BLOCK_K, WARPS_M, WARPS_N, WARPS_K, STAGES
MMA_TILES = {
    "128x128": (128, 128, 32, 2, 4, 1, 4),
    "128x128k64": (128, 128, 64, 2, 2, 1, 3),
    "128x256": (128, 256, 32, 2, 4, 1, 3),
    "128x256k64": (128, 256, 64, 2, 4, 1, 3),
    "128x64": (128, 64, 64, 4, 2, 1, 4),
    "64x64": (64, 64, 64, 2, 2, 1, 4),
    "64x64/2": (64, 64, 64, 2, 2, 2, 4),
    "32x64/4": (32, 64, 64, 1, 2, 4, 4),
    "32x32/4": (32, 32, 64, 1, 2, 4, 6),
    "16x64/4": (16, 64, 64, 1, 2, 4, 4),
    "16x32/4": (16, 32, 64, 1, 2, 4, 6),
}


def mma_macros(dtype, tile, n, k, **more):
    names = ["BLOCK_M", "BLOCK_N", "BLOCK_K", "WARPS_M", "WARPS_N", "WARPS_K", "STAGES"]
    macros = {**element(dtype), "N": n, "K": k, **dict(zip(names, MMA_TILES[tile])), "ACTIVATION": 0, "BIAS": 0}
    return {**macros, "RESIDUAL": 0, **more}


def mma_launch(m, capacity):
    grid = (-(-m["N"] // m["BLOCK_N"]), -(-capacity // m["BLOCK_M"]))
    stages = m["STAGES"] * (m["BLOCK_M"] + m["BLOCK_N"]) * m["BLOCK_K"] * 2
    parts = (m["WARPS_K"] - 1) * m["BLOCK_M"] * m["BLOCK_N"] * 4
    return grid, 32 * m["WARPS_M"] * m["WARPS_N"] * m["WARPS_K"], max(stages, parts)


# BLOCK_M, BLOCK_N, BLOCK_K, THREAD_M, THREAD_N, K_PARTS
F32_TILES = {"128x128": (128, 128, 16, 8, 8, 1), "64x64": (64, 64, 16, 4, 4, 1), "32x32/4": (32, 32, 32, 4, 4, 4)}


def f32_macros(tile, n, k, **more):
    names = ["BLOCK_M", "BLOCK_N", "BLOCK_K", "THREAD_M", "THREAD_N", "K_PARTS"]
    macros = {"ELEMENT_F32": 1, "N": n, "K": k, **dict(zip(names, F32_TILES[tile])), "ACTIVATION": 0, "BIAS": 0}
    return {**macros, "RESIDUAL": 0, **more}


def f32_launch(m, capacity):
    grid = (-(-m["N"] // m["BLOCK_N"]), -(-capacity // m["BLOCK_M"]))
    threads = m["BLOCK_M"] // m["THREAD_M"] * (m["BLOCK_N"] // m["THREAD_N"]) * m["K_PARTS"]
    buffers = 2 * m["BLOCK_K"] * (m["BLOCK_M"] + m["BLOCK_N"] + 8)
    return grid, threads, 4 * max(buffers, (m["K_PARTS"] - 1) * m["BLOCK_M"] * m["BLOCK_N"])


# KEYS, ROW_TILES, WARPS_Q, WARPS_K, ONLINE, BLOCKS_PER_SM
ATTENTION = {
    "32q32k": (32, 1, 2, 1, 0, 1),
    "32q64k": (64, 1, 2, 1, 0, 1),
    "64q64k": (64, 1, 4, 1, 0, 1),
    "64q128k": (128, 1, 4, 1, 0, 4),
    "128q128k": (128, 1, 8, 1, 0, 2),
    "128q128k r2": (128, 2, 4, 1, 0, 2),
    "64q256k": (256, 1, 4, 1, 0, 1),
    "16q128k/4": (128, 1, 1, 4, 0, 1),
    "16q128k/8": (128, 1, 1, 8, 0, 1),
    "32q128k/4": (128, 1, 2, 4, 0, 1),
    "16q384k/8": (384, 1, 1, 8, 0, 1),
    "32q384k/4": (384, 1, 2, 4, 0, 1),
    "16q online 128k/8": (128, 1, 1, 8, 1, 1),
    "64q online 64k": (64, 1, 4, 1, 1, 3),
    "64q online 32k": (32, 1, 4, 1, 1, 4),
    "128q online 64k": (64, 1, 8, 1, 1, 1),
    "128q online 32k": (32, 1, 8, 1, 1, 2),
    "128q online 32k r2": (32, 2, 4, 1, 1, 2),
    "128q online 64k r2": (64, 2, 4, 1, 1, 2),
    "128q online 128k": (128, 1, 8, 1, 1, 1),
}

# On Hopper's warpgroup products: KEYS, WARPGROUPS, BLOCKS, BLOCKS_PER_SM
ATTENTION_SM90A = {
    "wg 64q32k": (32, 1, 1, 4),
    "wg 64q64k": (64, 1, 1, 4),
    "wg 64q128k": (128, 1, 1, 4),
    "wg 128q128k": (128, 2, 1, 2),
    "wg 64q 2x64k": (64, 1, 2, 5),
    "wg 64q256k": (256, 1, 1, 2),
    "wg 64q 2x128k": (128, 1, 2, 4),
    "wg 128q 2x128k": (128, 2, 2, 2),
    "wg 256q 2x128k": (128, 4, 2, 1),
    "wg 64q 3x128k": (128, 1, 3, 2),
    "wg 128q 3x128k": (128, 2, 3, 2),
    "wg 64q 6x64k": (64, 1, 6, 3),
    "wg 128q 6x64k": (64, 2, 6, 2),
    "wg 192q 3x128k": (128, 3, 3, 1),
    "wg 256q 4x128k": (128, 4, 4, 1),
    "wg 64q ring 64k": (64, 1, 0, 4),
    "wg 64q ring 128k": (128, 1, 0, 3),
    "wg 128q ring 64k": (64, 2, 0, 2),
}


def attention_macros(dtype, variant, heads, dim, packed=True, bias_max=0):
    names = ["KEYS", "ROW_TILES", "WARPS_Q", "WARPS_K", "ONLINE", "BLOCKS_PER_SM"]
    if variant in ATTENTION_SM90A:
        names = ["KEYS", "WARPGROUPS", "BLOCKS", "BLOCKS_PER_SM"]
    width = heads * dim
    strides = {name: 3 * width if packed else width for name in ["Q_STRIDE", "K_STRIDE", "V_STRIDE"]}
    bias = {"RELATIVE_BIAS": int(bias_max > 0), "BIAS_MAX": bias_max}
    fixed = dict(zip(names, {**ATTENTION, **ATTENTION_SM90A}[variant])) if dtype != "f32" else {}
    if dtype != "f32" and (dim > 64 or bias_max):
        fixed["BLOCKS_PER_SM"] = 1
    return {**element(dtype), "HEAD_DIM": dim, **fixed, **strides, "OUT_STRIDE": width, **bias}


def attention_launch(m, heads, items):
    dim = -(-m["HEAD_DIM"] // 16) * 16
    if "ELEMENT_F32" in m:
        return (heads, items), 128, 4 * (96 * (dim + 4) + 64 * dim + 32 * 68)
    queries = query_block(m)
    if "WARPGROUPS" in m:
        row = 2 * dim
        longest = m["BLOCKS"] * m["KEYS"] or -(-m["BIAS_MAX"] // 64) * 64
        shared = 1024 + queries * row + (m["BLOCKS"] or 2) * 2 * m["KEYS"] * row
        return (heads, items), 128 * m["WARPGROUPS"], shared + m["RELATIVE_BIAS"] * 4 * (longest + queries)
    row = 2 * (dim + 8)
    longest = -(-m["BIAS_MAX"] // 16) * 16 if m["ONLINE"] else m["KEYS"]
    shared = queries * row + (1 + m["ONLINE"]) * 2 * m["KEYS"] * row
    shared += m["RELATIVE_BIAS"] * 4 * (longest + queries)
    merge = m["WARPS_K"] * m["WARPS_Q"] * 128 * m["ROW_TILES"] * (dim // 2 + 4)
    return (heads, items), 32 * m["WARPS_Q"] * m["WARPS_K"], max(shared, queries * row + (merge if m["WARPS_K"] > 1 else 0))


def query_block(m):
    if "WARPGROUPS" in m:
        return 64 * m["WARPGROUPS"]
    return 32 if "ELEMENT_F32" in m else 16 * m["ROW_TILES"] * m["WARPS_Q"]


def attention_file(m):
    return "attention_f32.cu" if "ELEMENT_F32" in m else "attention_sm90a.cu" if "WARPGROUPS" in m else "attention.cu"


# ---- batches and checks ----------------------------------------------------------------------------------------------


class Batch:
    """A ragged batch on the card: counts, running sums of lengths, attention work."""

    def __init__(self, lengths):
        import torch

        self.lengths = lengths
        self.starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
        self.tokens, self.sequences = self.starts[-1], len(lengths)
        self.capacity = max(128, -(-self.tokens // 128) * 128)
        self.cu_seqlens = torch.tensor(self.starts, dtype=torch.int32, device="cuda")

    def counts(self, items=0):
        import torch

        return torch.tensor([self.tokens, self.sequences, items, max(self.lengths)], dtype=torch.int32, device="cuda")

    def work(self, queries):
        import torch

        order = sorted(range(self.sequences), key=lambda s: -self.lengths[s])
        items = [(s, block) for s in order for block in range(-(-self.lengths[s] // queries))]
        return torch.tensor(items, dtype=torch.int32, device="cuda"), len(items)


class Checks:
    def __init__(self):
        self.worst = {}
        self.failures = []
        self.count = 0

    def compare(self, what, dtype, out, reference, rows, scale=1.0):
        """`out` holds `rows` rows that mean something; those after them were NaN and must still be."""
        import torch

        self.count += 1
        got = out[:rows].double()
        if rows == 0 or got.numel() == 0:
            error = 0.0
        else:
            error = ((got - reference).norm() / reference.norm().clamp_min(1e-300)).item()
        untouched = bool(torch.isnan(out[rows:]).all())
        limit = TOLERANCE[dtype] * scale
        key = f"{what.split(':')[0]} {dtype}"
        self.worst[key] = max(self.worst.get(key, 0.0), error if error == error else float("inf"))
        if not error < limit or not untouched:
            self.failures.append(f"{what} {dtype}: error {error:.3g} (limit {limit:.1g}), rows beyond untouched: {untouched}")

    def finish(self, group):
        for key, error in self.worst.items():
            print(f"{group}: {key:40} worst error {error:.2e}")
        for failure in self.failures[:40]:
            print(f"{group}: FAILED {failure}")
        print(f"{group}: {self.count} checks, {len(self.failures)} failures")
        return not self.failures


def torch_type(dtype):
    import torch

    return {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[dtype]


def random(rows, width, dtype, spread=1.0, shift=0.0, used=None):
    """Random rows; those from `used` on are NaN."""
    import torch

    x = (torch.randn(rows, width, device="cuda") * spread + shift).to(torch_type(dtype))
    if used is not None:
        x[used:] = float("nan")
    return x


def poisoned(rows, width, dtype):
    import torch

    return torch.full((rows, width), float("nan"), device="cuda", dtype=torch_type(dtype))


def exact_layer_norm(x, gamma, beta, epsilon):
    mean = x.mean(1, keepdim=True)
    variance = ((x - mean) ** 2).mean(1, keepdim=True)
    return (x - mean) / (variance + epsilon).sqrt() * gamma.double() + beta.double()


ROW_WIDTHS = [("f16", 768), ("bf16", 768), ("f32", 768), ("f16", 32), ("f16", 384), ("f16", 771), ("f32", 771),
              ("bf16", 770), ("f16", 1024), ("f16", 3072), ("f32", 8192)]  # fmt: skip


def row_variants():
    for dtype, hidden in ROW_WIDTHS:
        for residual in (0, 1):
            yield "layer_norm.cu", row_macros(dtype, hidden, RESIDUAL=residual)
        for positions in (-1, 1):
            more = {"TABLES": 3, "LAYER_NORM": 1, "POSITIONS": positions, "POSITION_OFFSET": 2}
            yield "embedding.cu", row_macros(dtype, hidden, **more)
        yield "gather_rows.cu", row_macros(dtype, hidden, ROWS_CU_SEQLENS=1)
        for i, kind in enumerate(POOLS):
            yield "pool.cu", pool_macros(dtype, hidden, kind, i % 2, i // 2 % 2)


def check_rows(checks):
    import torch

    batch = Batch(LENGTHS)
    counts, tokens, capacity = batch.counts(), batch.tokens, batch.capacity
    for dtype, hidden in ROW_WIDTHS:
        gamma, beta = torch.randn(hidden, device="cuda"), torch.randn(hidden, device="cuda")
        for residual in (0, 1):
            m = row_macros(dtype, hidden, RESIDUAL=residual)
            kernel = nvrtc.Kernel("layer_norm.cu", m)
            # Ordinary, huge and tiny values, and a mean far above the spread.
            for spread, shift, epsilon in [(1, 0, 1e-12), (3000, 0, 1e-5), (1e-3, 0, 1e-5), (1, 50, 1e-12)]:
                x = random(capacity, hidden, dtype, spread, shift, tokens)
                r = random(capacity, hidden, dtype, spread, 0, tokens) if residual else None
                exact = x[:tokens].double() + (r[:tokens].double() if residual else 0)
                exact = exact_layer_norm(exact, gamma, beta, epsilon)
                for grid in (-(-capacity // m["ROWS"]), 7):
                    out = poisoned(capacity, hidden, dtype)
                    kernel(grid, m["ROW_THREADS"] * m["ROWS"], 0, [out, x, r, gamma, beta, epsilon, counts])
                    checks.compare(f"layer_norm:{hidden} {spread} {shift}", dtype, out, exact, tokens, 1 + shift / 5)
        check_embedding(checks, batch, dtype, hidden, gamma, beta)
        check_pool(checks, batch, dtype, hidden)
        m = row_macros(dtype, hidden, ROWS_CU_SEQLENS=1)
        x, out = random(capacity, hidden, dtype, 1, 0, tokens), poisoned(32, hidden, dtype)
        nvrtc.Kernel("gather_rows.cu", m)(-(-32 // m["ROWS"]), m["ROW_THREADS"] * m["ROWS"], 0,
                                          [out, x, batch.cu_seqlens, 0, counts])  # fmt: skip
        checks.compare(f"gather_rows:{hidden}", dtype, out, x[batch.cu_seqlens[:-1].long()].double(), batch.sequences)


def check_embedding(checks, batch, dtype, hidden, gamma, beta):
    import torch

    rows = [1000, 600, 2]
    tables = [random(r, hidden, dtype) for r in rows]
    ids = [torch.randint(0, r, (batch.capacity,), dtype=torch.int32, device="cuda") for r in rows]
    places = torch.cat([torch.arange(n, device="cuda") for n in batch.lengths]) + 2
    for positions in (-1, 1):
        more = {"TABLES": 3, "LAYER_NORM": 1, "POSITIONS": positions, "POSITION_OFFSET": 2}
        m = row_macros(dtype, hidden, **more)
        at = [i[: batch.tokens].long() for i in ids]
        if positions == 1:
            at[1] = places
        exact = exact_layer_norm(sum(t.double()[i] for t, i in zip(tables, at)), gamma, beta, 1e-12)
        out = poisoned(batch.capacity, hidden, dtype)
        pairs = [tensor for pair in zip(ids, tables) for tensor in pair]
        arguments = [out, *pairs, gamma, beta, 1e-12, batch.cu_seqlens, batch.counts()]
        nvrtc.Kernel("embedding.cu", m)(-(-batch.capacity // m["ROWS"]), m["ROW_THREADS"] * m["ROWS"], 0, arguments)
        checks.compare(f"embedding:{hidden} {positions}", dtype, out, exact, batch.tokens)


def exact_pool(x, kind):
    import torch

    n = len(x)
    weights = torch.arange(1, n + 1, device="cuda", dtype=torch.float64)
    return {
        "cls": lambda: x[0], "mean": lambda: x.mean(0), "max": lambda: x.max(0).values,
        "mean_sqrt_len": lambda: x.sum(0) / n**0.5, "last_token": lambda: x[-1],
        "weighted_mean": lambda: (x * weights[:, None]).sum(0) / weights.sum(),
    }[kind]()  # fmt: skip


def check_pool(checks, batch, dtype, hidden):
    import torch

    x = random(batch.capacity, hidden, dtype, 1, 0.5, batch.tokens)
    parts = [x[a:b].double() for a, b in zip(batch.starts, batch.starts[1:])]
    for i, kind in enumerate(POOLS):
        normalise, wide = i % 2, i // 2 % 2
        m = pool_macros(dtype, hidden, kind, normalise, wide)
        exact = torch.stack([exact_pool(part, kind) for part in parts])
        if normalise:
            exact = exact / exact.norm(dim=1, keepdim=True)
        out_type = "f32" if wide else dtype
        out = poisoned(batch.sequences + 3, hidden, out_type)
        kernel = nvrtc.Kernel("pool.cu", m)
        shared = (m["SLICES"] - 1) * hidden * 4
        kernel(batch.sequences + 3, m["ROW_THREADS"] * m["SLICES"], shared,
               [out, x, batch.cu_seqlens, 1e-12, batch.counts()])  # fmt: skip
        checks.compare(f"pool {kind}:{hidden}", out_type, out, exact, batch.sequences)


# N, K, activation, bias, residual, f32 result
GEMM_CASES = [(768, 768, "none", 1, 1, 0), (3072, 768, "gelu_erf", 1, 0, 0), (768, 3072, "none", 1, 1, 1),
              (130, 776, "gelu_tanh", 1, 0, 0), (33, 72, "silu", 0, 1, 0), (771, 771, "relu", 1, 1, 0),
              (2, 768, "tanh", 1, 0, 1)]  # fmt: skip


def gemm_variants():
    for tile in MMA_TILES:
        for n, k, act, bias, residual, wide in GEMM_CASES:
            if k % 8 != 0 and tile in ("128x128k64", "128x256k64"):
                continue  # spills
            more = {"ACTIVATION": ACTIVATIONS[act], "BIAS": bias, "RESIDUAL": residual, "OUTPUT_F32": wide}
            yield "gemm_mma.cu", mma_macros("f16", tile, n, k, **more)
        more = {"ACTIVATION": 3, "BIAS": 1, "RESIDUAL": 1, "OUTPUT_F32": 0}
        yield "gemm_mma.cu", mma_macros("bf16", tile, 768, 768, **more)


def gemm_f32_variants():
    for tile in F32_TILES:
        for n, k, act, bias, residual, _ in GEMM_CASES:
            more = {"ACTIVATION": ACTIVATIONS[act], "BIAS": bias, "RESIDUAL": residual}
            yield "gemm_f32.cu", f32_macros(tile, n, k, **more)


def exact_activation(x, name):
    import torch

    return {
        "none": lambda: x, "relu": lambda: x.clamp_min(0), "tanh": lambda: x.tanh(), "silu": lambda: x * x.sigmoid(),
        "gelu_erf": lambda: torch.nn.functional.gelu(x),
        "gelu_tanh": lambda: torch.nn.functional.gelu(x, approximate="tanh"),
    }[name]()  # fmt: skip


def check_gemms(checks, variants, launch):
    import torch

    names = {value: name for name, value in ACTIVATIONS.items()}
    for file, m in variants:
        dtype = next(d for d in TOLERANCE if f"ELEMENT_{d.upper()}" in m)
        n, k, out_type = m["N"], m["K"], "f32" if m.get("OUTPUT_F32") else dtype
        kernel = nvrtc.Kernel(file, m)
        w = random(n, k, dtype, k**-0.5)
        bias = torch.randn(n, device="cuda") if m["BIAS"] else None
        for rows in (1, 31, 129, 300):
            batch = Batch([rows])
            a = random(batch.capacity, k, dtype, 1, 0, rows)
            r = random(batch.capacity, n, dtype, 1, 0, rows) if m["RESIDUAL"] else None
            exact = a[:rows].double() @ w.double().t() + (bias.double() if m["BIAS"] else 0)
            exact = exact_activation(exact, names[m["ACTIVATION"]]) + (r[:rows].double() if m["RESIDUAL"] else 0)
            outs = []
            for _ in range(2):
                out = poisoned(batch.capacity, n, out_type)
                grid, block, shared = launch(m, batch.capacity)
                kernel(grid, block, shared, [out, a, w, bias, r, batch.counts()], pdl=True)
                outs.append(out)
            tile = f"{m['BLOCK_M']}x{m['BLOCK_N']}"
            checks.compare(f"{file} {tile}: {n}x{k} {rows} rows", out_type if out_type == dtype else "f16", outs[0], exact,
                           rows, 1.0 if dtype != "f32" else 2.0)  # fmt: skip
            if not torch.equal(outs[0][:rows], outs[1][:rows]):
                checks.failures.append(f"{file} {m}: two runs differ")


# element type, heads, head dim, packed, relative bias
ATTENTION_CASES = [("f16", 12, 64, True, False), ("bf16", 12, 64, True, False), ("f16", 12, 32, False, False),
                   ("f16", 3, 40, True, False), ("f16", 2, 128, True, False), ("f16", 2, 8, False, False),
                   ("f16", 12, 64, True, True)]  # fmt: skip


def attention_variants():
    for case, (dtype, heads, dim, packed, bias) in enumerate(ATTENTION_CASES):
        for variant, (keys, tiles, _, warps_k, _, _) in ATTENTION.items():
            spills = dim > 64 and tiles * keys // warps_k > 64
            if (case == 0 or tiles == 1 or dim <= 64) and not spills:
                yield variant, heads, packed, attention_macros(dtype, variant, heads, dim, packed, 512 * bias)


def attention_sm90a_variants():
    for dtype, heads, dim, packed, bias in ATTENTION_CASES:
        for variant in ATTENTION_SM90A:
            if dim in (32, 64):
                yield variant, heads, packed, attention_macros(dtype, variant, heads, dim, packed, 512 * bias)


def attention_f32_variants():
    for heads, dim, packed, bias in [(12, 64, True, False), (4, 32, False, False), (3, 40, True, True), (2, 128, True, False)]:
        yield "f32", heads, packed, attention_macros("f32", "", heads, dim, packed, 512 * bias)


def exact_attention(q, k, v, starts, heads, scale, bias):
    """q, k, v: [tokens, heads, dim] in f64; bias: [heads, 2 * max - 1] or None."""
    import torch

    out = torch.empty_like(q)
    for a, b in zip(starts, starts[1:]):
        scores = torch.einsum("ihd,jhd->hij", q[a:b], k[a:b]) * scale
        if bias is not None:
            at = torch.arange(b - a, device="cuda")
            scores += bias.double()[:, at[None, :] - at[:, None] + bias.shape[1] // 2]
        out[a:b] = torch.einsum("hij,jhd->ihd", scores.softmax(2), v[a:b])
    return out


def check_attention(checks, variants, part):
    import torch

    for name, heads, packed, m in variants:
        if part not in name:
            continue
        dtype = next(d for d in TOLERANCE if f"ELEMENT_{d.upper()}" in m)
        dim, width, scale = m["HEAD_DIM"], heads * m["HEAD_DIM"], m["HEAD_DIM"] ** -0.5
        limit = m["BLOCKS"] * m["KEYS"] or 10**9 if "BLOCKS" in m else 10**9 if m.get("ONLINE", 1) else m["KEYS"]
        batch = Batch([n for n in LENGTHS if n <= limit] + [min(limit, 48)])
        work, items = batch.work(query_block(m))
        file = attention_file(m)
        kernel = nvrtc.Kernel(file, m)
        grid, block, shared = attention_launch(m, heads, items + 3)
        bias = torch.randn(heads, 2 * 512 - 1, device="cuda") * 2 if m["RELATIVE_BIAS"] else None
        # Ordinary scores, sharp ones, flat ones; and large values of one sign.
        for spread, shift in [(1, 0), (6, 0), (0.01, 0), (1, 4)]:
            tensors = [random(batch.capacity, width, dtype, spread, shift, batch.tokens) for _ in range(3)]
            if packed:
                whole = torch.cat(tensors, 1)
                tensors = [whole[:, i * width : (i + 1) * width] for i in range(3)]
            out = poisoned(batch.capacity, width, dtype)
            arguments = [out, *tensors, batch.cu_seqlens, work, bias, scale, batch.counts(items)]
            kernel(grid, block, shared, arguments, pdl=True)
            q, k, v = (t[: batch.tokens].double().reshape(-1, heads, dim) for t in tensors)
            exact = exact_attention(q, k, v, batch.starts, heads, scale, bias).reshape(-1, width)
            # Exponentials are rounded to the element type before the second product: sharp rows show it.
            checks.compare(f"{file} {name} hd {dim}{' bias' if bias is not None else ''}: {spread}+{shift}", dtype, out, exact,
                           batch.tokens, 2.0 if spread < 6 else 4.0)  # fmt: skip


def check(group, part=""):
    import torch

    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    checks = Checks()
    if group == "rows":
        check_rows(checks)
    elif group == "gemm":
        check_gemms(checks, gemm_variants(), mma_launch)
    elif group == "gemm_f32":
        check_gemms(checks, gemm_f32_variants(), f32_launch)
    elif group == "attention":
        check_attention(checks, attention_variants(), part)
    elif group == "attention_f32":
        check_attention(checks, attention_f32_variants(), part)
    elif group == "attention_sm90a" and torch.cuda.get_device_capability()[0] == 9:
        check_attention(checks, attention_sm90a_variants(), part)
    torch.cuda.synchronize()
    return checks.finish(group)


def check_all():
    """One process a group, side by side: an illegal access or a hang takes only its own group along."""
    processes = {g: subprocess.Popen([sys.executable, __file__, "check", g], text=True, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT) for g in GROUPS}  # fmt: skip
    good = True
    for group, process in processes.items():
        try:
            output, _ = process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            process.kill()
            output = f"{group}: FAILED, no answer in 90 s\n"
        print(output[-6000:], flush=True)
        good &= process.returncode == 0
    return good


# ---- times -----------------------------------------------------------------------------------------------------------


def microseconds(call, calls, replays=40):
    """Median device time of one of the `calls` launches that `call` makes, by replays of a graph of them."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    for _ in range(3):
        graph.replay()
    times = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)


# batch shapes by name, the variants worth timing for them
TIMED = {
    "1x32": ([32], ["32q32k", "16q128k/4", "wg 64q32k"]),
    "1x128": ([128], ["16q128k/4", "16q128k/8", "32q128k/4", "64q128k", "wg 64q128k"]),
    "1x384": ([384], ["16q384k/8", "32q384k/4", "wg 64q 3x128k", "wg 128q 3x128k", "wg 64q ring 128k"]),
    "8x128": ([128] * 8, ["64q128k", "32q128k/4", "wg 64q128k", "wg 128q128k"]),
    "32x32": ([32] * 32, ["32q32k", "wg 64q32k"]),
    "128x32": ([32] * 128, ["32q32k", "64q64k", "wg 64q32k"]),
    "32x128": ([128] * 32, ["64q128k", "128q128k", "wg 64q128k", "wg 128q128k", "wg 64q 2x64k"]),
    "128x128": ([128] * 128, ["64q128k", "128q128k", "128q128k r2", "wg 64q128k", "wg 128q128k", "wg 64q 2x64k"]),
    "16x256": ([256] * 16, ["64q256k", "64q online 64k", "128q online 64k r2", "wg 64q256k", "wg 64q 2x128k",
                            "wg 128q 2x128k", "wg 256q 2x128k", "wg 64q ring 128k"]),
    "32x384": ([384] * 32, ["64q online 64k", "128q online 64k", "128q online 32k r2", "128q online 64k r2",
                            "wg 64q 3x128k", "wg 128q 3x128k", "wg 64q 6x64k", "wg 128q 6x64k", "wg 192q 3x128k", "wg 256q 4x128k",
                            "wg 64q ring 128k", "wg 128q ring 64k"]),
    "32 ragged 8-128": ([8 + i * 37 % 121 for i in range(32)], ["64q128k", "64q online 64k", "wg 64q128k", "wg 128q128k"]),
}  # fmt: skip


def time_attention(results):
    """`in_cache`: one set of buffers, as right after the product that wrote q, k and v; else many in turn."""
    import torch

    cases = [(64, shape, False) for shape in TIMED]
    cases += [(64, shape, True) for shape in ("8x128", "32x128", "32 ragged 8-128")]
    cases += [(32, shape, False) for shape in ("1x128", "32x128", "32x384")]
    for dim, shape, in_cache in cases:
        lengths, variants = TIMED[shape]
        heads, batch = 12, Batch(lengths)
        width, copies = heads * dim, 12 if batch.tokens <= 4096 else 4
        inputs = [random(batch.capacity, 3 * width, "f16") for _ in range(copies)]
        outs = [poisoned(batch.capacity, width, "f16") for _ in range(copies)]
        if in_cache:
            inputs, outs = inputs[:1] * copies, outs[:1] * copies
        flops = sum(4 * heads * n * n * dim for n in lengths)
        row = {"shape": shape, "head_dim": dim, "in_cache": in_cache, "us": {}}
        for variant in variants:
            m = attention_macros("f16", variant, heads, dim)
            kernel = nvrtc.Kernel(attention_file(m), m)
            work, items = batch.work(query_block(m))
            grid, block, shared = attention_launch(m, heads, items)
            counts = batch.counts(items)
            for pdl in (False, True):

                def call():
                    for x, y in zip(inputs, outs):
                        parts = [x[:, i * width :] for i in range(3)]
                        arguments = [y, *parts, batch.cu_seqlens, work, None, dim**-0.5, counts]
                        kernel(grid, block, shared, arguments, pdl=pdl)

                row["us"][variant + (" pdl" if pdl else "")] = microseconds(call, copies)
        if len(set(lengths)) == 1:
            b, s = len(lengths), lengths[0]
            dense = [torch.randn(3, b, heads, s, dim, device="cuda", dtype=torch.float16) for _ in range(copies)]
            if in_cache:
                dense = dense[:1] * copies

            def call():
                for q, k, v in dense:
                    torch.nn.functional.scaled_dot_product_attention(q, k, v)

            row["us"]["torch"] = microseconds(call, copies)
        best = min(us for name, us in row["us"].items() if name != "torch")
        row["best_tflops"] = flops / best / 1e6
        results["attention"].append(row)
        line = ", ".join(f"{name} {us:.2f}" for name, us in row["us"].items())
        where = ", in cache" if in_cache else ""
        print(f"attention {shape} hd {dim}{where} (best {row['best_tflops']:.0f} TFLOP/s): {line}", flush=True)


def time_gemm(results):
    import torch

    weights = {"qkv": (2304, 768), "out": (768, 768), "ffn1": (3072, 768), "ffn2": (768, 3072)}
    tiles = {32: ["16x64/4", "16x32/4", "32x64/4", "32x32/4"], 128: ["32x64/4", "32x32/4", "64x64/2", "64x64"],
             384: ["32x64/4", "64x64", "64x64/2", "128x64"], 4224: ["128x128", "128x128k64", "128x256k64"]}  # fmt: skip
    for name, (n, k) in weights.items():
        w = [random(n, k, "f16", k**-0.5) for _ in range(12)]
        bias = torch.randn(n, device="cuda")
        for tokens, candidates in tiles.items():
            batch = Batch([tokens])
            counts = batch.counts()
            x = [random(batch.capacity, k, "f16") for _ in range(12)]
            y = [poisoned(batch.capacity, n, "f16") for _ in range(12)]
            row = {"weight": name, "tokens": tokens, "n": n, "k": k, "us": {}}
            for tile in candidates:
                m = mma_macros("f16", tile, n, k, BIAS=1, ACTIVATION=3 if name == "ffn1" else 0)
                kernel = nvrtc.Kernel("gemm_mma.cu", m)
                grid, block, shared = mma_launch(m, tokens)

                def call():
                    for i in range(12):
                        kernel(grid, block, shared, [y[i], x[i], w[i], bias, None, counts], pdl=True)

                row["us"][tile] = microseconds(call, 12)
            views = [(a[:tokens], b[:tokens]) for a, b in zip(x, y)]

            def call():
                for i, (a, b) in enumerate(views):
                    torch.mm(a, w[i].t(), out=b)

            row["us"]["torch mm"] = microseconds(call, 12)
            results["gemm"].append(row)
            line = ", ".join(f"{key} {us:.2f}" for key, us in row["us"].items())
            best = 2 * tokens * n * k / min(us for key, us in row["us"].items() if key != "torch mm") / 1e6
            print(f"gemm {name} {tokens} (best {best:.0f} TFLOP/s): {line}", flush=True)


def time_rows(results):
    import torch

    gamma, beta = torch.randn(768, device="cuda"), torch.randn(768, device="cuda")
    for tokens in (32, 128, 1024, 4224, 16384):
        batch = Batch([tokens])
        counts, copies = batch.counts(), 12 if tokens <= 4224 else 4
        x, r, y = ([random(batch.capacity, 768, "f16") for _ in range(copies)] for _ in range(3))
        us = {}
        for rows, most in [(4, 10**9), (4, 132 * 4), (1, 10**9), (8, 132 * 2)]:
            m = {**row_macros("f16", 768, RESIDUAL=1), "ROWS": rows}
            kernel = nvrtc.Kernel("layer_norm.cu", m)

            def call():
                for i in range(copies):
                    arguments = [y[i], x[i], r[i], gamma, beta, 1e-12, counts]
                    kernel(min(-(-tokens // rows), most), 32 * rows, 0, arguments, pdl=True)

            us[f"{rows} rows{', at most %d blocks' % most if most < 10**9 else ''}"] = microseconds(call, copies)
        m = row_macros("f16", 768, RESIDUAL=0)
        kernel = nvrtc.Kernel("layer_norm.cu", m)

        def call():
            for i in range(copies):
                kernel(-(-tokens // 4), 128, 0, [y[i], x[i], None, gamma, beta, 1e-12, counts], pdl=True)

        us["no residual"] = microseconds(call, copies)

        def call():
            for i in range(copies):
                kernel(-(-tokens // 4), 128, 0, [y[0], x[0], None, gamma, beta, 1e-12, counts], pdl=True)

        us["no residual, in cache"] = microseconds(call, copies)
        g, b = gamma.half(), beta.half()

        def call():
            for i in range(copies):
                torch.nn.functional.layer_norm(x[i] + r[i], (768,), g, b, 1e-12)

        us["torch add, layer_norm"] = microseconds(call, copies)
        m = row_macros("f16", 768, TABLES=3, LAYER_NORM=1, POSITIONS=-1, POSITION_OFFSET=2)
        kernel = nvrtc.Kernel("embedding.cu", m)
        tables = [random(rows, 768, "f16") for rows in (30522, 512, 2)]
        ids = [torch.randint(0, len(t), (batch.capacity,), dtype=torch.int32, device="cuda") for t in tables]
        pairs = [tensor for pair in zip(ids, tables) for tensor in pair]

        def call():
            for i in range(copies):
                arguments = [y[i], *pairs, gamma, beta, 1e-12, batch.cu_seqlens, counts]
                kernel(-(-tokens // 4), 128, 0, arguments, pdl=True)

        us["embedding"] = microseconds(call, copies)
        results["rows"].append({"tokens": tokens, "us": us})
        print(f"rows {tokens}: " + ", ".join(f"{key} {value:.2f}" for key, value in us.items()), flush=True)


def time_f32(results):
    import torch

    for n, k in [(2304, 768), (768, 3072)]:
        for tokens, tiles in [(128, ["32x32/4", "64x64"]), (4224, ["128x128", "64x64"])]:
            batch = Batch([tokens])
            counts, us = batch.counts(), {}
            x, w = [random(batch.capacity, k, "f32") for _ in range(4)], [random(n, k, "f32") for _ in range(4)]
            y, bias = [poisoned(batch.capacity, n, "f32") for _ in range(4)], torch.randn(n, device="cuda")
            for tile in tiles:
                m = f32_macros(tile, n, k, BIAS=1)
                kernel = nvrtc.Kernel("gemm_f32.cu", m)
                grid, block, shared = f32_launch(m, tokens)

                def call():
                    for i in range(4):
                        kernel(grid, block, shared, [y[i], x[i], w[i], bias, None, counts], pdl=True)

                us[tile] = microseconds(call, 4)
            views = [(a[:tokens], b[:tokens]) for a, b in zip(x, y)]

            def call():
                for i, (a, b) in enumerate(views):
                    torch.mm(a, w[i].t(), out=b)

            us["torch mm"] = microseconds(call, 4)
            results["gemm_f32"].append({"tokens": tokens, "n": n, "k": k, "us": us})
            print(f"gemm f32 {n}x{k} {tokens}: " + ", ".join(f"{key} {value:.2f}" for key, value in us.items()), flush=True)
    for shape in ("1x128", "32x128"):
        batch, m = Batch(TIMED[shape][0]), attention_macros("f32", "", 12, 64)
        work, items = batch.work(32)
        counts, us = batch.counts(items), {}
        inputs, outs = ([random(batch.capacity, width, "f32") for _ in range(4)] for width in (2304, 768))
        kernel = nvrtc.Kernel("attention_f32.cu", m)
        grid, block, shared = attention_launch(m, 12, items)

        def call():
            for x, y in zip(inputs, outs):
                parts = [x[:, i * 768 :] for i in range(3)]
                kernel(grid, block, shared, [y, *parts, batch.cu_seqlens, work, None, 0.125, counts], pdl=True)

        us["kernel"] = microseconds(call, 4)
        dense = [torch.randn(3, batch.sequences, 12, max(batch.lengths), 64, device="cuda") for _ in range(4)]

        def call():
            for q, k, v in dense:
                torch.nn.functional.scaled_dot_product_attention(q, k, v)

        us["torch"] = microseconds(call, 4)
        results["attention_f32"].append({"shape": shape, "us": us})
        print(f"attention f32 {shape}: " + ", ".join(f"{key} {value:.2f}" for key, value in us.items()), flush=True)


def time_variants():
    """What `time` compiles, for filling a cache."""
    for dim, shapes in ((64, TIMED), (32, ["1x128", "32x128", "32x384"])):
        for shape in shapes:
            for variant in TIMED[shape][1]:
                m = attention_macros("f16", variant, 12, dim)
                yield attention_file(m), m
    for n, k, act in [(2304, 768, 0), (768, 768, 0), (3072, 768, 3), (768, 3072, 0)]:
        for tile in MMA_TILES:
            yield "gemm_mma.cu", mma_macros("f16", tile, n, k, BIAS=1, ACTIVATION=act)
    for n, k in [(2304, 768), (768, 3072)]:
        for tile in F32_TILES:
            yield "gemm_f32.cu", f32_macros(tile, n, k, BIAS=1)
    for rows in (1, 4, 8):
        yield "layer_norm.cu", {**row_macros("f16", 768, RESIDUAL=1), "ROWS": rows}
    yield "layer_norm.cu", row_macros("f16", 768, RESIDUAL=0)
    yield "embedding.cu", row_macros("f16", 768, TABLES=3, LAYER_NORM=1, POSITIONS=-1, POSITION_OFFSET=2)


TIMES = {"attention": time_attention, "rows": time_rows, "gemm": time_gemm, "f32": time_f32}


def time_all(path, part=""):
    import torch

    torch.manual_seed(2)
    results = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
               "command": "python bench/gpu/portable.py time", "attention": [], "gemm": [], "rows": [],
               "gemm_f32": [], "attention_f32": []}  # fmt: skip
    try:
        with torch.inference_mode():
            for name, measure in TIMES.items():
                if part in ("", name):
                    measure(results)
    finally:
        with open(path, "w") as out:
            json.dump(results, out, indent=1)


def every_variant():
    seen = set()
    attention = [("attention.cu", m) for _, _, _, m in attention_variants()]
    attention += [("attention_f32.cu", m) for _, _, _, m in attention_f32_variants()]
    attention += [("attention_sm90a.cu", m) for _, _, _, m in attention_sm90a_variants()]
    for file, m in [*row_variants(), *gemm_variants(), *gemm_f32_variants(), *attention, *time_variants()]:
        key = (file, tuple(sorted(m.items())))
        if key not in seen:
            seen.add(key)
            yield file, m


def compile_one(job):
    file, macros, architecture = job
    try:
        return job, nvrtc.compile(file, macros, architecture)[1]
    except nvrtc.CompileError as error:
        return job, {"error": str(error)}


def compile_all(architectures):
    jobs = [
        (file, m, a)
        for a in architectures
        for file, m in every_variant()
        if not (a == "75" and "ELEMENT_BF16" in m) and (a == "90a" or "sm90a" not in file)
    ]
    bad, most = 0, {}
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for (file, m, a), report in pool.map(compile_one, jobs, chunksize=4):
            if "error" in report or report["spilled"] or report["warnings"]:
                bad += 1
                print(f"sm_{a} {file} {m}: {report}")
            else:
                most[file, a] = max(most.get((file, a), 0), report["registers"])
    for (file, a), registers in sorted(most.items()):
        print(f"sm_{a} {file}: at most {registers} registers, no spills")
    print(f"{len(jobs)} variants, {bad} with errors, spills or warnings")
    return bad == 0


def main():
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "compile":
        good = compile_all(sys.argv[2:] or ["75", "80", "86", "89", "90a", "120"])
    elif command == "check":
        good = check(*sys.argv[2:4]) if len(sys.argv) > 2 else check_all()
    elif command == "time":
        time_all(*sys.argv[2:4])
        good = True
    else:
        print(__doc__)
        good = False
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
