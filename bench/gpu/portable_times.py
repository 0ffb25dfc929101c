"""Times of the portable CUDA kernels beside torch: `python bench/gpu/portable.py time` says how."""

import json

import nvrtc
from portable_variants import (
    TIMED,
    attention_file,
    attention_launch,
    attention_macros,
    f32_launch,
    f32_macros,
    mma_launch,
    mma_macros,
    query_block,
    row_macros,
)
from ragged import Batch, poisoned, random


def microseconds(call, calls):
    """Median device time of one of the `calls` launches that `call` makes."""
    # Imported here: what needs no card runs without torch too.
    from replays import microseconds as median_and_spread

    return median_and_spread(call, calls)[0]


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
                arguments = [y[i], *pairs, gamma, beta, 1e-12, batch.cu_seqlens, counts, None]
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
