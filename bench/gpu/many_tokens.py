"""Times whole encoder layers at many tokens: products with deferred norms and attention in a chain, as a session runs them.

    python bench/gpu/many_tokens.py compile            compiles every variant into the cache (no device; --jobs)
    python bench/gpu/many_tokens.py time OUT.json      a layer by the rules, without each of its kernels, each kernel alone,
                                                       without norms, with other tiles and with clusters

Times: replays of a CUDA graph of 12 layers of own weights with programmatic edges; every form once a round, in turns, so that
they share what the card's power allows; medians. `--only "base 32x128"` keeps one case.
"""

import argparse
import ctypes
import json
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import nvrtc_driver as nd
from few_tokens import HEADS, PARTS, features_of
from gemm_variants import LAYERS, MULTIPROCESSORS, SHAPES, Norms, ceil_div, large, pointer, print_faults

# Model, sequences, length.
CASES = {f"{m} {s}x{n}": (m, s, n)
         for m, s, n in [("base", 8, 128), ("base", 32, 128), ("large", 32, 128), ("base", 32, 384), ("base", 128, 128)]}


def product(model, part, tokens, tile, deferred=True, defer=None, **more):
    """A variant; without `defer` its epilogue is postponed where the rule of sm90a.rs does so."""
    n, k = SHAPES[f"{model} {part}"]
    many = ceil_div(tokens, 128) * ceil_div(n, tile) > 2 * MULTIPROCESSORS
    if tile >= 192 and part in ("qkv", "ffn1") and (many if defer is None else defer):
        more["DEFER"] = 1
    return large(n, k, tile, buffers=2 if tile == 256 else tile // 64, **features_of(part, deferred), **more)


def rule_tile(model, part, tokens):
    """What sm90a.rs chooses for these cases."""
    if tokens <= 1024:
        return 64 if part in ("out", "ffn2") else 192
    return 256 if model == "large" or part == "qkv" and tokens > 12288 else 192


class Layers:
    """Buffers and launches of 12 layers."""

    def __init__(self, model, sequences, length):
        import torch

        self.model, self.tokens = model, sequences * length
        self.capacity = ceil_div(self.tokens, 128) * 128
        self.heads, self.hidden = HEADS[model], SHAPES[f"{model} out"][0]
        half = {"device": "cuda", "dtype": torch.float16}
        shapes = {part: SHAPES[f"{model} {part}"] for part in PARTS}
        self.w = [{p: torch.randn(*s, **half) * s[1] ** -0.5 for p, s in shapes.items()} for _ in range(LAYERS)]
        self.bias = {p: torch.randn(s[0], device="cuda") for p, s in shapes.items()}
        self.gamma = torch.ones(self.hidden, device="cuda")
        widths = {"x": self.hidden, "context": self.hidden, "out": self.hidden, "qkv": 3 * self.hidden, "ffn1": shapes["ffn1"][0]}
        self.t = {name: torch.randn(self.capacity, width, **half) for name, width in widths.items()}
        chunk = torch.tensor([0.0, 64.0], device="cuda")
        self.stats = {name: chunk.repeat(self.capacity, self.hidden // 64, 1) for name in ("x", "out")}
        self.attention = self.load_attention(sequences, length)
        self.loaded = {}

    def load_attention(self, sequences, length):
        """The variant that attention.rs chooses for lengths of 65 to 128 and of 257 to 384."""
        import torch

        groups, keys, blocks, on_one = (1, 128, 1, 4) if length <= 128 else (2, 128, 3, 2)
        queries, width = 64 * groups, 3 * self.hidden
        per = ceil_div(length, queries)
        self.cu_seqlens = torch.arange(0, self.tokens + 1, length, dtype=torch.int32, device="cuda")
        self.work = torch.tensor([[s, i] for s in range(sequences) for i in range(per)], dtype=torch.int32, device="cuda")
        self.batch = torch.tensor([self.tokens, sequences, sequences * per, length], dtype=torch.int32, device="cuda")
        macros = {"ELEMENT_F16": 1, "HEAD_DIM": 64, "KEYS": keys, "WARPGROUPS": groups, "BLOCKS": blocks, "KEY_GROUPS": 1,
                  "BLOCKS_PER_SM": on_one, "RELATIVE_BIAS": 0, "BIAS_MAX": 0, "Q_STRIDE": width, "K_STRIDE": width,
                  "V_STRIDE": width, "OUT_STRIDE": self.hidden}
        cubin, _ = nd.compile_kernel("attention_sm90a.cu", macros)
        kernel = nd.Kernel(cubin, "attention_sm90a", 128 * groups, 1024 + queries * 128 + blocks * 2 * keys * 128)
        q = self.t["qkv"].data_ptr()
        qkv = [ctypes.c_void_p(q + part * self.hidden * 2) for part in range(3)]
        arguments = [pointer(self.t["context"]), *qkv, pointer(self.cu_seqlens), pointer(self.work), ctypes.c_void_p(None),
                     ctypes.c_float(0.125), pointer(self.batch)]
        return kernel, (self.heads, sequences * per, 1), arguments

    def tensors(self, part):
        """What a product reads, writes and adds, and its norms."""
        t, stats = self.t, self.stats
        norms = {"qkv": Norms(stats["x"]), "out": Norms(stats["x"], self.gamma, stats["out"]), "ffn1": Norms(stats["out"]),
                 "ffn2": Norms(stats["out"], self.gamma, stats["x"])}[part]
        a, d, r = {"qkv": ("x", "qkv", None), "out": ("context", "out", "x"), "ffn1": ("out", "ffn1", None),
                   "ffn2": ("ffn1", "x", "out")}[part]
        return t[a], t[d], t[r] if r else None, norms

    def graph(self, variants, leave):
        from replays import graph_of

        launches = []
        for layer in range(LAYERS):
            for part in (p for p in PARTS if p not in leave):
                v = variants[part]
                if v.name not in self.loaded:
                    self.loaded[v.name] = v.load()
                a, d, r, norms = self.tensors(part)
                arguments = v.arguments(a, self.w[layer][part], d, self.bias[part], r, self.batch, self.capacity, None, norms)
                launches.append((self.loaded[v.name], v.grid(self.capacity), arguments))
                if part == "qkv" and "attention" not in leave:
                    launches.append(self.attention)
            if "qkv" in leave and "attention" not in leave:
                launches.append(self.attention)

        def call():
            for kernel, grid, arguments in launches:
                kernel.launch(grid, arguments)

        return graph_of(call)


def forms(model, tokens):
    """Name, the four products, what is left out."""
    base = {p: product(model, p, tokens, rule_tile(model, p, tokens)) for p in PARTS}
    steps = (*PARTS, "attention")
    yield "by the rules", base, ()
    for step in steps:
        yield f"without {step}", base, (step,)
        yield f"{step} alone", base, tuple(s for s in steps if s != step)
    yield "without norms", {p: product(model, p, tokens, rule_tile(model, p, tokens), deferred=False) for p in PARTS}, ()
    for part in PARTS:
        n = SHAPES[f"{model} {part}"][0]
        for tile in (t for t in (64, 128, 192, 256) if n % t == 0 and (t > 128 or tokens <= 1024)):
            for defer in (False, True) if tile >= 192 and part in ("qkv", "ffn1") and tokens > 1024 else (False,):
                changed = product(model, part, tokens, tile, defer=defer)
                if changed.name != base[part].name:
                    yield f"{part} {tile}{' deferred' * defer}", {**base, part: changed}, ()
    for kind in ("CLUSTER_M", "CLUSTER_N"):
        pairs = {p: product(model, p, tokens, rule_tile(model, p, tokens), **{kind: 2}) for p in PARTS
                 if kind == "CLUSTER_M" or SHAPES[f"{model} {p}"][0] // rule_tile(model, p, tokens) % 2 == 0}
        yield f"{kind} 2", {**base, **pairs}, ()
    yield "by the rules, again", base, ()


def cases(only):
    return {name: case for name, case in CASES.items() if only in name}


def run_time(out, only):
    import torch

    results = {"card": torch.cuda.get_device_name(), "cases": []}
    for name, (model, sequences, length) in cases(only).items():
        layers = Layers(model, sequences, length)
        graphs = {form: layers.graph(*rest) for form, *rest in forms(model, sequences * length)}
        times = {form: [] for form in graphs}
        for turn in range(24 if layers.tokens < 8192 else 14):
            for form, graph in graphs.items():
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                graph.replay()
                end.record()
                end.synchronize()
                if turn > 2:
                    times[form].append(start.elapsed_time(end) * 1e3 / LAYERS)
        us = {form: round(statistics.median(t), 2) for form, t in times.items()}
        results["cases"].append({"case": name, "us_a_layer": us})
        for form, time in us.items():
            print(f"{name} {form:>22} {time:8.2f}  {time - us['by the rules']:+7.2f}", flush=True)
        pathlib.Path(out).write_text(json.dumps(results, indent=1))
        del graphs, layers
        torch.cuda.empty_cache()


def run_compile(only, jobs):
    every = [v for m, s, n in cases(only).values() for _, variants, _ in forms(m, s * n) for v in variants.values()]
    print_faults(every, jobs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compile", "time"])
    parser.add_argument("out", nargs="?")
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.what == "compile":
        run_compile(arguments.only, arguments.jobs)
    else:
        run_time(arguments.out, arguments.only)


if __name__ == "__main__":
    main()
