"""What NVIDIA's libraries reach on this card for an encoder's shapes, as the yardstick for kernels of our own.

    python bench/gpu/library_limits.py OUT.json

FP16 matrix products (cuBLASLt through torch) for the four weights of a BERT-base layer, flash attention for heads of
64, and the copy bandwidth. Times are device times of CUDA graph replays: a graph holds one call for each of 12 layers'
own weights and buffers, so nothing is found in the cache that a real forward pass would not find there; the time of a
call is the median replay over 12. Random data; every product is checked against float64 first.
"""

import json
import sys

import torch
from replays import microseconds

HIDDEN, FFN, HEADS, LAYERS = 768, 3072, 12, 12
WEIGHTS = {"qkv": (HIDDEN, 3 * HIDDEN), "out": (HIDDEN, HIDDEN), "ffn1": (HIDDEN, FFN), "ffn2": (FFN, HIDDEN)}
TOKENS = [16, 32, 64, 128, 256, 384, 512, 1024, 4096, 4224, 8448, 16384]
BATCHES = [(1, 32), (1, 128), (1, 384), (8, 128), (32, 128), (32, 384), (128, 128)]


def products(results):
    for name, (k, n) in WEIGHTS.items():
        weights = [torch.randn(n, k, device="cuda", dtype=torch.float16) * k**-0.5 for _ in range(LAYERS)]
        for m in TOKENS:
            copies = LAYERS if m <= 4224 else 3
            x = [torch.randn(m, k, device="cuda", dtype=torch.float16) for _ in range(copies)]
            y = [torch.empty(m, n, device="cuda", dtype=torch.float16) for _ in range(copies)]

            def call():
                for layer in range(copies):
                    torch.mm(x[layer], weights[layer].t(), out=y[layer])

            call()
            exact = x[0][:64].double() @ weights[0].double().t()
            error = ((y[0][:64].double() - exact).norm() / exact.norm()).item()
            assert error < 2e-3, (name, m, error)
            time, spread = microseconds(call, copies)
            tflops = 2 * m * n * k / time / 1e6
            results["products"].append(
                {"weight": name, "m": m, "n": n, "k": k, "us": time, "spread_us": spread, "tflops": tflops}
            )


def attention(results):
    for batch, seq in BATCHES:
        shape = (batch, HEADS, seq, HIDDEN // HEADS)
        qkv = [torch.randn(3, *shape, device="cuda", dtype=torch.float16) for _ in range(6)]

        def call():
            for q, k, v in qkv:
                torch.nn.functional.scaled_dot_product_attention(q, k, v)

        time, spread = microseconds(call, len(qkv))
        tflops = 4 * batch * HEADS * seq * seq * 64 / time / 1e6
        results["attention"].append(
            {"batch": batch, "seq": seq, "us": time, "spread_us": spread, "tflops": tflops}
        )


def copy(results):
    a = torch.randn(1 << 29, device="cuda")
    b = torch.empty_like(a)
    time, _ = microseconds(lambda: b.copy_(a), 1)
    results["copy_tb_per_s"] = 2 * a.numel() * 4 / time / 1e6


def layer_sums(results):
    """Sum of the library's times for a whole encoder: what a chain of library calls cannot beat."""
    by_key = {(row["weight"], row["m"]): row["us"] for row in results["products"]}
    for row in results["attention"]:
        tokens = row["batch"] * row["seq"]
        parts = [by_key.get((name, tokens)) for name in WEIGHTS]
        if None not in parts:
            total = LAYERS * (sum(parts) + row["us"]) / 1e3
            results["encoder_ms"][f"{row['batch']}x{row['seq']}"] = total


def main():
    torch.manual_seed(0)
    properties = torch.cuda.get_device_properties(0)
    results = {
        "card": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "command": "python bench/gpu/library_limits.py",
        "products": [],
        "attention": [],
        "encoder_ms": {},
    }
    with torch.inference_mode():
        copy(results)
        products(results)
        attention(results)
    layer_sums(results)
    with open(sys.argv[1], "w") as out:
        json.dump(results, out, indent=1)
    print(results["card"], f"copy {results['copy_tb_per_s']:.2f} TB/s")
    for row in results["products"]:
        print(f"{row['weight']:>5} m={row['m']:<6} {row['us']:8.2f} us {row['tflops']:7.1f} TFLOP/s")
    for row in results["attention"]:
        print(f"attention {row['batch']}x{row['seq']:<4} {row['us']:8.2f} us {row['tflops']:7.1f} TFLOP/s")
    for shape, time in results["encoder_ms"].items():
        print(f"encoder {shape:>8}: {time:.3f} ms in products and attention alone")


if __name__ == "__main__":
    main()
