"""Checks and times the portable CUDA kernels against float64 and against torch, on the card at hand.

    python bench/gpu/portable.py compile [ARCH ..]   # no GPU needed: registers and spills of every variant used here
    python bench/gpu/portable.py check               # every kernel on ragged and odd shapes; exits with 1 on an error
    python bench/gpu/portable.py check GROUP [PART]  # one group of kernels; of attention those whose variant has PART
    python bench/gpu/portable.py check GROUP [PART] --small   # so little work that it ends under compute-sanitizer
    python bench/gpu/portable.py time OUT.json [PART] # CUDA graph replays, beside torch in the same run; PART: attention,
                                                     # rows, gemm or f32

Checks: outputs start as NaN and what lies beyond the batch's rows must still be NaN afterwards; inputs beyond the
batch's rows are NaN. References are float64 of the same rounded inputs; the error is ||out - ref|| / ||ref||.
"""

import concurrent.futures
import subprocess
import sys

import nvrtc
from portable_variants import (
    ACTIVATIONS,
    POOLS,
    ROW_WIDTHS,
    attention_f32_variants,
    attention_file,
    attention_launch,
    attention_sm90a_variants,
    attention_variants,
    every_variant,
    f32_launch,
    gemm_f32_variants,
    gemm_variants,
    mma_launch,
    pool_macros,
    query_block,
    row_macros,
)
from ragged import Batch, poisoned, random

TOLERANCE = {"f16": 6e-4, "bf16": 5e-3, "f32": 2e-6}
SMALL = "--small" in sys.argv
LENGTHS = [33, 1, 17] if SMALL else [384, 1, 129, 5, 31, 127, 512, 32, 64, 128, 16, 17, 2]
ROW_COUNTS = (33,) if SMALL else (1, 31, 129, 300)
GROUPS = ["rows", "gemm", "gemm_f32", "attention", "attention_f32", "attention_sm90a"]

# ---- checks -----------------------------------------------------------------------------------------------------------


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


def exact_layer_norm(x, gamma, beta, epsilon):
    mean = x.mean(1, keepdim=True)
    variance = ((x - mean) ** 2).mean(1, keepdim=True)
    return (x - mean) / (variance + epsilon).sqrt() * gamma.double() + beta.double()


def check_rows(checks):
    import torch

    batch = Batch(LENGTHS)
    counts, tokens, capacity = batch.counts(), batch.tokens, batch.capacity
    for dtype, hidden in ROW_WIDTHS:
        if SMALL and hidden not in (32, 771, 770, 1024):
            continue
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
        m = row_macros(dtype, hidden, RESIDUAL=0, OUTPUT_F32=1)
        x, out = random(capacity, hidden, dtype, 1, 0, tokens), poisoned(capacity, hidden, "f32")
        arguments = [out, x, None, gamma, beta, 1e-12, counts]
        nvrtc.Kernel("layer_norm.cu", m)(7, m["ROW_THREADS"] * m["ROWS"], 0, arguments)
        checks.compare(f"layer_norm:{hidden} f32", "f32", out, exact_layer_norm(x[:tokens].double(), gamma, beta, 1e-12), tokens)
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
    deferred = dtype != "f32" and hidden % 64 == 0 and hidden <= 1024
    for positions, stats in [(-1, 0), (1, 0)] + [(-1, 1)] * deferred:
        more = {"TABLES": 3, "LAYER_NORM": 1 - stats, "STATS": stats, "POSITIONS": positions, "POSITION_OFFSET": 2}
        m = row_macros(dtype, hidden, **more)
        at = [i[: batch.tokens].long() for i in ids]
        if positions == 1:
            at[1] = places
        exact = sum(t.double()[i] for t, i in zip(tables, at))
        exact = exact if stats else exact_layer_norm(exact, gamma, beta, 1e-12)
        pairs_of_row = torch.full((batch.capacity, max(hidden // 64, 1), 2), float("nan"), device="cuda")
        out = poisoned(batch.capacity, hidden, dtype)
        pairs = [tensor for pair in zip(ids, tables) for tensor in pair]
        arguments = [out, *pairs, gamma, beta, 1e-12, batch.cu_seqlens, batch.counts(), pairs_of_row]
        nvrtc.Kernel("embedding.cu", m)(-(-batch.capacity // m["ROWS"]), m["ROW_THREADS"] * m["ROWS"], 0, arguments)
        checks.compare(f"embedding:{hidden} {positions} {stats}", dtype, out, exact, batch.tokens)
        if stats:
            chunks = exact.view(batch.tokens, -1, 64)
            means = chunks.mean(2, keepdim=True)
            wanted = torch.cat([means, ((chunks - means) ** 2).sum(2, keepdim=True)], 2)
            checks.compare(f"embedding_stats:{hidden}", "f32", pairs_of_row, wanted, batch.tokens)


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
        if SMALL and m["N"] * m["K"] > 130 * 776:
            continue
        n, k, out_type = m["N"], m["K"], "f32" if m.get("OUTPUT_F32") else dtype
        kernel = nvrtc.Kernel(file, m)
        w = random(n, k, dtype, k**-0.5)
        bias = torch.randn(n, device="cuda") if m["BIAS"] else None
        for rows in ROW_COUNTS:
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
        if part not in name or SMALL and heads > 4 and not (m["RELATIVE_BIAS"] or "WARPGROUPS" in m):
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
        for spread, shift in [(1, 0), (6, 0), (0.01, 0), (1, 4)][: 1 if SMALL else 4]:
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
    sys.argv = [word for word in sys.argv if word != "--small"]
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "compile":
        good = compile_all(sys.argv[2:] or ["75", "80", "86", "89", "90a", "120"])
    elif command == "check":
        good = check(*sys.argv[2:4]) if len(sys.argv) > 2 else check_all()
    elif command == "time":
        import portable_times

        portable_times.time_all(*sys.argv[2:4])
        good = True
    else:
        print(__doc__)
        good = False
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
