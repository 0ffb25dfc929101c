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
import json
import pathlib
import subprocess
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gemm_variants import (GUARD_ROWS, LAYERS, SHAPES, SHARED_LIMIT, Large, Norms, Small, ceil_div, check_variants, compiled, epilogue, fold,
                           large_timed, layer_norm_f64, norm_timed, resources_of, row_stats, small_timed)


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
        norms = Norms()
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
            list(pool.map(resources_of, {v.name: v for _, _, v in variants}.values()))
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


def compile_all(only, jobs):
    timed = list(large_timed()) + list(small_timed()) + list(norm_timed())
    variants = {v.name: v for v in list(check_variants()) + [v for _, _, v in timed]}
    variants = [v for name, v in variants.items() if only in name]
    for variant, found in compiled(variants, jobs):
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
