"""The portable CUDA kernels as the host sees them: macros, grids, shared memory, and the variants that are checked and timed."""

ACTIVATIONS = {"none": 0, "relu": 1, "tanh": 2, "gelu_erf": 3, "gelu_tanh": 4, "silu": 5}
POOLS = {"cls": 0, "mean": 1, "max": 2, "mean_sqrt_len": 3, "weighted_mean": 4, "last_token": 5}

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

# On Hopper's warpgroup products: KEYS, WARPGROUPS, BLOCKS, BLOCKS_PER_SM, KEY_GROUPS
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
    "wg 64q 2x64k groups 2": (64, 1, 2, 1, 2),
    "wg 64q 2x128k groups 2": (128, 1, 2, 1, 2),
    "wg 64q 4x64k groups 2": (64, 1, 4, 1, 2),
    "wg 64q 3x128k groups 3": (128, 1, 3, 1, 3),
    "wg 64q 6x64k groups 3": (64, 1, 6, 1, 3),
}


def attention_macros(dtype, variant, heads, dim, packed=True, bias_max=0):
    names = ["KEYS", "ROW_TILES", "WARPS_Q", "WARPS_K", "ONLINE", "BLOCKS_PER_SM"]
    if variant in ATTENTION_SM90A:
        names = ["KEYS", "WARPGROUPS", "BLOCKS", "BLOCKS_PER_SM", "KEY_GROUPS"]
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
        groups = m.get("KEY_GROUPS", 1)
        shared += (groups - 1) * 2048 + m["RELATIVE_BIAS"] * 4 * (longest + queries)
        return (heads, items), 128 * m["WARPGROUPS"] * groups, shared
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


# ---- variants that are checked

ROW_WIDTHS = [("f16", 768), ("bf16", 768), ("f32", 768), ("f16", 32), ("f16", 384), ("f16", 771), ("f32", 771),
              ("bf16", 770), ("f16", 1024), ("f16", 3072), ("f32", 8192)]  # fmt: skip


def row_variants():
    for dtype, hidden in ROW_WIDTHS:
        for residual in (0, 1):
            yield "layer_norm.cu", row_macros(dtype, hidden, RESIDUAL=residual)
        yield "layer_norm.cu", row_macros(dtype, hidden, RESIDUAL=0, OUTPUT_F32=1)
        for positions in (-1, 1):
            more = {"TABLES": 3, "LAYER_NORM": 1, "POSITIONS": positions, "POSITION_OFFSET": 2}
            yield "embedding.cu", row_macros(dtype, hidden, **more)
        if dtype != "f32" and hidden % 64 == 0 and hidden <= 1024:
            yield "embedding.cu", row_macros(dtype, hidden, TABLES=3, LAYER_NORM=0, STATS=1, POSITIONS=-1)
        yield "gather_rows.cu", row_macros(dtype, hidden, ROWS_CU_SEQLENS=1)
        for i, kind in enumerate(POOLS):
            yield "pool.cu", pool_macros(dtype, hidden, kind, i % 2, i // 2 % 2)


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


# ---- variants that are timed

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
