"""Times whole encoder layers at few tokens: products, attention and layer norms in a chain, as a session runs them.

    python bench/gpu/few_tokens.py compile            compiles every candidate into the cache (no device; --jobs)
    python bench/gpu/few_tokens.py time OUT.json      each model and number of tokens: layers with layer norm kernels and
                                                      with deferred ones; then each product's tile and split in place

Times: replays of a CUDA graph of 12 layers of own weights with programmatic edges; the median over the layers.
`--only TEXT` keeps the cases whose name ("base m128") has it, `--rounds N` says how often the search goes through the
products.
"""

import argparse
import ctypes
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import nvrtc_driver as nd
from gemm import batch_of, median_time
from gemm_variants import (GELU, LAYERS, MULTIPROCESSORS, NORM_OUT, SHAPES, SHARED_LIMIT, Norms, Small, ceil_div, large, pointer,
                           print_faults, small)

CASES = [("base", 32), ("base", 128), ("base", 384), ("large", 128), ("large", 384), ("large", 32)]
HEADS = {"base": 12, "large": 16}
PARTS = ("qkv", "out", "ffn1", "ffn2")
# What a multiprocessor can hold twice.
HALF = 115712


def features_of(part, deferred):
    """What follows the product in a layer."""
    if part in ("out", "ffn2"):
        return NORM_OUT if deferred else {"residual": True}
    norm = {"norm": "input"} if deferred else {}
    return {**norm, **(GELU if part == "ffn1" else {})}


def depths(n, k, tile, features, split, groups, rest):
    """Depths of the ring: a block's whole part of K, the most that lets two blocks share a multiprocessor, and 4."""
    longest = ceil_div(k // 64, split)

    def fits(depth, limit):
        variant = small(n, k, tile, features, split, stages=depth, GROUPS=groups, **rest)
        tile_of_sums = ceil_div(tile // groups // 8, split) * groups * 8 * (features + 4) * 4
        return variant.shared() <= limit and tile_of_sums <= depth * (features + tile) * 128

    half = max((d for d in range(2, longest + 1) if fits(d, HALF)), default=longest)
    return sorted({d for d in (longest, half, min(4, longest)) if fits(d, SHARED_LIMIT)})


def candidates(model, part, tokens, deferred=True):
    """Tiles and splits worth trying."""
    n, k = SHAPES[f"{model} {part}"]
    rest = features_of(part, deferred)
    for tile in (16, 32, 64, 128, 192):
        if tile > max(32, tokens) or tokens % tile and tile != 128 or tile * 4 < tokens:
            continue
        for features in (64, 128):
            for split in (1, 2, 3, 4, 6, 8):
                blocks = split * ceil_div(n, features) * ceil_div(tokens, tile)
                most = 150 if tokens <= 128 else 288
                if split > k // 64 or not 64 <= blocks <= most and not (split == 8 and 48 <= blocks <= most):
                    continue
                for groups in (1, 2):
                    # Two of 16 tokens lose to one of 32 everywhere.
                    if tile // groups not in (16, 32, 64, 96, 128) or groups == 2 and tile == 32:
                        continue
                    for depth in depths(n, k, tile, features, split, groups, rest):
                        yield small(n, k, tile, features, split, stages=depth, GROUPS=groups, **rest)
    if tokens > 128:
        for tile in (64, 128):
            yield large(n, k, tile, **rest)


SPLITS = (1, 2, 3, 4, 6, 8)


def first_rule(model, part, tokens, deferred=True):
    """The tactics before two blocks were to share a multiprocessor: as many blocks along K as let the whole grid run."""
    n, k = SHAPES[f"{model} {part}"]
    rest = features_of(part, deferred)
    if tokens > 256:
        return large(n, k, 128 if part == "ffn1" else 64, **rest)
    widest = 64 if n <= 1024 and k <= 1024 else 128
    tile = min(next(t for t in (32, 64, 128) if tokens <= t), widest)
    across = n // 64 * ceil_div(tokens, tile)
    split = max(s for s in SPLITS if s * across <= MULTIPROCESSORS or s == 1)
    return small(n, k, tile, 64, split, stages=max(depths(n, k, tile, 64, split, 1, rest)), GROUPS=1, **rest)


def rule(model, part, tokens):
    """The tactics of small_sm90a.rs."""
    n, k = SHAPES[f"{model} {part}"]
    rest = features_of(part, True)
    if tokens > 512 or tokens > 192 and n > 1024:
        return large(n, k, 64 if n == 2304 else 128, **rest)
    square = n <= 1024 and k <= 1024
    half, most = MULTIPROCESSORS * 11 / 20, MULTIPROCESSORS * 3 / 4
    tiles = (16, 32, 64, 96, 128, 192)

    def blocks(tile):
        return n // 64 * ceil_div(tokens, tile)

    def largest(most):
        return max(s for s in SPLITS if s * across <= most or s == 1)

    if square and tokens > 32:
        tile = next(t for t in tiles if 4 * t >= tokens and 2 * blocks(t) <= most)
    elif tokens <= 192:
        tile = next(t for t in tiles if tokens <= t)
    elif tokens > 384:
        tile = 256
    else:
        tile = 192 if ceil_div(tokens, 192) * 192 <= ceil_div(tokens, 128) * 128 else 128
    across = blocks(tile)
    split = largest(half if square or tokens <= 32 else most)
    if split == 1 and 2 * across <= MULTIPROCESSORS:
        split = largest(MULTIPROCESSORS)
    groups = 2 if tile == 192 or tile == 128 and split <= 3 else 1
    longest = ceil_div(k // 64, split)
    whole = longest in depths(n, k, tile, 64, split, groups, rest)
    return small(n, k, tile, 64, split, stages=longest if whole else 4, GROUPS=groups, **rest)


def attention_forms(tokens):
    """Keys of a block, blocks, groups of keys, blocks on a multiprocessor."""
    if tokens <= 32:
        return [(32, 1, 1, 4)]
    if tokens <= 128:
        return [(128, 1, 1, 4), (64, 2, 2, 1)]
    return [(128, 3, 1, 2), (128, 3, 3, 1), (64, 6, 3, 1)]


class Layers:
    """Buffers and launches of 12 layers."""

    def __init__(self, model, tokens):
        import torch

        self.model, self.tokens, self.batch = model, tokens, batch_of(tokens)
        self.capacity = ceil_div(tokens, 128) * 128
        self.heads = HEADS[model]
        self.hidden = SHAPES[f"{model} out"][0]
        half = {"device": "cuda", "dtype": torch.float16}
        shapes = {part: SHAPES[f"{model} {part}"] for part in PARTS}
        self.w = [{p: torch.randn(*s, **half) * s[1] ** -0.5 for p, s in shapes.items()} for _ in range(LAYERS)]
        self.bias = {p: torch.randn(s[0], device="cuda") for p, s in shapes.items()}
        self.gamma, self.beta = torch.ones(self.hidden, device="cuda"), torch.zeros(self.hidden, device="cuda")
        wide = {"qkv": 3 * self.hidden, "ffn1": shapes["ffn1"][0]}
        names = ("x", "context", "out", "ffn2", "x_norm", "out_norm")
        self.t = {name: torch.randn(self.capacity, self.hidden, **half) for name in names}
        self.t |= {name: torch.randn(self.capacity, width, **half) for name, width in wide.items()}
        self.stats = {name: torch.ones(self.capacity, self.hidden // 64, 2, device="cuda") for name in ("x", "out")}
        self.cu_seqlens = torch.tensor([0, tokens], dtype=torch.int32, device="cuda")
        blocks = ceil_div(tokens, 64)
        self.work = torch.tensor([[0, i] for i in range(blocks)], dtype=torch.int32, device="cuda")
        self.counts = torch.tensor([tokens, 1, blocks, tokens], dtype=torch.int32, device="cuda")
        self.loaded = {}
        self.attentions = {form: self.load_attention(form) for form in attention_forms(tokens)}
        self.attention = self.attentions[attention_forms(tokens)[0]]
        self.norm = self.load_norm()

    def load_attention(self, form):
        keys, blocks, groups, on_one = form
        width = 3 * self.hidden
        macros = {"ELEMENT_F16": 1, "HEAD_DIM": 64, "KEYS": keys, "WARPGROUPS": 1, "BLOCKS": blocks,
                  "KEY_GROUPS": groups, "BLOCKS_PER_SM": on_one, "RELATIVE_BIAS": 0, "BIAS_MAX": 0, "Q_STRIDE": width,
                  "K_STRIDE": width, "V_STRIDE": width, "OUT_STRIDE": self.hidden}
        cubin, _ = nd.compile_kernel("attention_sm90a.cu", macros)
        shared = 1024 + 64 * 128 + blocks * 2 * keys * 128 + (groups - 1) * 2048
        kernel = nd.Kernel(cubin, "attention_sm90a", 128 * groups, shared)
        q = self.t["qkv"].data_ptr()
        qkv = [ctypes.c_void_p(q + part * self.hidden * 2) for part in range(3)]
        arguments = [pointer(self.t["context"]), *qkv, pointer(self.cu_seqlens), pointer(self.work), ctypes.c_void_p(None),
                     ctypes.c_float(0.125), pointer(self.counts)]
        return kernel, (self.heads, ceil_div(self.tokens, 64), 1), arguments

    def load_norm(self):
        macros = {"ELEMENT_F16": 1, "HIDDEN": self.hidden, "ROW_THREADS": 32, "ROWS": 4, "RESIDUAL": 0}
        cubin, _ = nd.compile_kernel("layer_norm.cu", macros)
        return nd.Kernel(cubin, "layer_norm", 128, 0)

    def norm_launch(self, x, y):
        arguments = [pointer(self.t[y]), pointer(self.t[x]), ctypes.c_void_p(None), pointer(self.gamma), pointer(self.beta),
                     ctypes.c_float(1e-5), pointer(self.batch)]
        return self.norm, (ceil_div(self.tokens, 4), 1, 1), arguments

    def tensors(self, part, deferred):
        """What a product reads, writes and adds, and its norms."""
        t, stats = self.t, self.stats
        x, out = ("x", "out") if deferred else ("x_norm", "out_norm")
        norms = {"qkv": Norms(stats["x"]), "out": Norms(stats["x"], self.gamma, stats["out"]), "ffn1": Norms(stats["out"]),
                 "ffn2": Norms(stats["out"], self.gamma, stats["x"])}[part]
        a, d, r = {"qkv": (x, "qkv", None), "out": ("context", "out", x), "ffn1": (out, "ffn1", None),
                   "ffn2": ("ffn1", "x", out)}[part]
        return t[a], t[d], t[r] if r else None, norms if deferred else None

    def time(self, variants, deferred=True, attention=True, prefetch=True):
        """Microseconds of a layer with these variants of the four products."""
        for variant in variants.values():
            if variant.name not in self.loaded:
                self.loaded[variant.name] = variant.load()
        kernels = {p: self.loaded[v.name] for p, v in variants.items()}
        launches = self.launches(variants, kernels, deferred, attention, prefetch)

        def call():
            for kernel, grid, arguments in launches:
                kernel.launch(grid, arguments)

        return median_time(call, LAYERS)[0]

    def launches(self, variants, kernels, deferred, attention, prefetch):
        launches = []
        for layer in range(LAYERS):
            for place, part in enumerate(PARTS):
                following = self.w[layer][PARTS[place + 1]] if place < 3 else self.w[(layer + 1) % LAYERS]["qkv"]
                a, d, r, norms = self.tensors(part, deferred)
                variant = variants[part]
                arguments = variant.arguments(a, self.w[layer][part], d, self.bias[part], r, self.batch, self.capacity,
                                              following if prefetch else None, norms)
                launches.append((kernels[part], variant.grid(self.capacity_of(variant)), arguments))
                if part == "qkv" and attention:
                    launches.append(self.attention)
                if part == "out" and not deferred:
                    launches.append(self.norm_launch("out", "out_norm"))
                if part == "ffn2" and not deferred:
                    launches.append(self.norm_launch("x", "x_norm"))
        return launches

    def capacity_of(self, variant):
        return self.tokens if isinstance(variant, Small) else self.capacity


def short(variant):
    p = variant.parameters
    if not isinstance(variant, Small):
        return f"large {p['TILE_N']}"
    return "/".join(str(p[k]) for k in ("TOKENS", "FEATURES", "SPLIT", "GROUPS", "STAGES"))


def cases(only):
    return [(m, t) for m, t in CASES if only in f"{m} m{t}"]


def run_time(out, only, rounds):
    import torch

    results = {"card": torch.cuda.get_device_name(), "columns": "tokens/features/split/groups/stages", "cases": []}
    for model, tokens in cases(only):
        layers = Layers(model, tokens)
        result = {"model": model, "tokens": tokens, "tried": {}}
        for name, deferred in {"layer norm kernels": False, "deferred": True}.items():
            result[name] = layers.time({p: first_rule(model, p, tokens, deferred) for p in PARTS}, deferred)
        best = {p: rule(model, p, tokens) for p in PARTS}
        result["rule"] = {p: short(v) for p, v in best.items()}
        options = {"by the rule": {}, "without attention": {"attention": False}, "without prefetch": {"prefetch": False}}
        result |= {name: layers.time(best, **option) for name, option in options.items()}
        time = result["by the rule"]
        print(f"{model} m={tokens}: layer norm kernels {result['layer norm kernels']:.2f} us a layer, deferred {result['deferred']:.2f}, "
              f"by the rule {time:.2f}, without attention {result['without attention']:.2f}, without prefetch "
              f"{result['without prefetch']:.2f}", flush=True)
        for turn in range(rounds):
            for part in PARTS:
                tried = []
                for candidate in candidates(model, part, tokens):
                    us = layers.time({**best, part: candidate})
                    tried.append((us, short(candidate), candidate))
                tried.sort(key=lambda row: row[0])
                result["tried"][f"{turn} {part}"] = [row[:2] for row in tried]
                if tried and tried[0][0] < time:
                    time, best[part] = tried[0][0], tried[0][2]
                print(f"   {turn} {part}: " + " | ".join(f"{us:.2f} {name}" for us, name, _ in tried[:6]), flush=True)
        for form, attention in layers.attentions.items():
            layers.attention = attention
            us = layers.time(best)
            result["tried"][f"attention {form}"] = us
            print(f"   attention of {form[1]}x{form[0]} keys in {form[2]} groups {us:.2f}", flush=True)
        result |= {"best": time, "chosen": {p: short(v) for p, v in best.items()},
                   "again": layers.time(best), "best, no attention": layers.time(best, attention=False)}
        results["cases"].append(result)
        print(f"   best {time:.2f} us ({result['again']:.2f} again, {result['best, no attention']:.2f} without attention)", flush=True)
        pathlib.Path(out).write_text(json.dumps(results, indent=1))


def run_compile(only, jobs):
    variants = []
    for model, tokens in cases(only):
        for part in PARTS:
            variants += [*candidates(model, part, tokens), rule(model, part, tokens)]
            variants += [first_rule(model, part, tokens, deferred) for deferred in (False, True)]
    print_faults(variants, jobs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compile", "time"])
    parser.add_argument("out", nargs="?")
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.what == "compile":
        run_compile(arguments.only, arguments.jobs)
    else:
        run_time(arguments.out, arguments.only, arguments.rounds)


if __name__ == "__main__":
    main()
