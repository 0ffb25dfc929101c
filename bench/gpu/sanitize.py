"""Runs every CUDA kernel on little work under compute-sanitizer: for memory accesses, races in shared memory, barriers.

    python bench/gpu/sanitize.py OUT.json --bertha target/release/bertha             # racecheck and memcheck
    python bench/gpu/sanitize.py OUT.json --tools synccheck --only "selftest f16"
    python bench/gpu/sanitize.py OUT.json --list                                     # the jobs; no GPU needed

A job is a process of its own with a limit: the self test's models in each precision (the kernels as lowering chooses them),
each variant of gemm_variants.py, each group of portable.py (the kernels that are chosen on other cards). Only Bertha's kernels are
instrumented. OUT.json has what the tool said of each job; a job that did not end is no finding, and is told apart.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
GROUPS = ["rows", "gemm", "gemm_f32", "attention_f32", "attention_sm90a"]
# Parts of the names of attention.cu's variants that together are all of them.
ATTENTION_PARTS = ["k/4", "k/8", "online", "q32k", "q64k", "q128k", "q256k"]
# Names of our kernels; "cast" and "map" are generated.
KERNELS = ["gemm", "attention", "layer_norm", "embedding", "pool", "gather_rows", "cast", "map"]


def jobs(bertha):
    """Names and commands."""
    for precision in ("f32", "f16", "bf16"):
        command = [str(bertha), "selftest", "--quick", "--precision", precision]
        yield f"selftest {precision}", command
    sys.path.insert(0, str(HERE))
    import gemm_variants

    for index, variant in enumerate(gemm_variants.check_variants()):
        yield f"gemm {variant.name}", [sys.executable, str(HERE / "gemm.py"), "check-one", str(index), "--tokens", "129"]
    check = [sys.executable, str(HERE / "portable.py"), "check"]
    for group in GROUPS:
        yield f"portable {group}", [*check, group, "--small"]
    for part in ATTENTION_PARTS:
        yield f"portable attention {part}", [*check, "attention", part, "--small"]


def run(tool, name, command, limit):
    """One job under one tool."""
    filters = [word for kernel in KERNELS for word in ("--kernel-name", f"kernel_substring={kernel}")]
    options = ["--tool", tool, "--error-exitcode", "99", *filters]
    if tool == "racecheck":
        options += ["--racecheck-report", "all"]
    start = time.perf_counter()
    process = subprocess.Popen(
        ["compute-sanitizer", *options, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=limit)
        ended = True
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        ended = False
    summary = [line.strip("= ") for line in output.splitlines() if "SUMMARY" in line]
    clean = bool(summary) and all(re.search(r"\b0 (hazards|errors)", line) for line in summary)
    verdict = "did not end" if not ended else "clean" if clean and process.returncode == 0 else "FINDINGS"
    found = {
        "tool": tool,
        "job": name,
        "verdict": verdict,
        "seconds": round(time.perf_counter() - start, 1),
        "summary": summary,
    }
    return found if verdict == "clean" else found | {"output": output[-3000:]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("out", type=Path)
    add("--bertha", type=Path, default=HERE.parents[1] / "target/release/bertha")
    add("--tools", nargs="+", default=["racecheck", "memcheck"], choices=["racecheck", "memcheck", "synccheck", "initcheck"])
    add("--only", nargs="+", default=[""], help="jobs whose name has one of these")
    add("--each", type=float, default=60, help="seconds that a job may take")
    add("--limit", type=float, default=200, help="seconds after which no job is started")
    add("--at-once", type=int, default=max(1, min(8, (os.cpu_count() or 2) // 2)))
    add("--list", action="store_true", help="name the jobs and run none")
    args = parser.parse_args()
    chosen = [(tool, *job) for tool in args.tools for job in jobs(args.bertha) if any(text in job[0] for text in args.only)]
    if args.list:
        for tool, name, command in chosen:
            print(f"{tool} {name}: {' '.join(command)}")
        return 0
    start, results = time.perf_counter(), []

    def one(job):
        left = args.limit - (time.perf_counter() - start)
        tool, name, command = job
        if left < 5:
            found = {"tool": tool, "job": name, "verdict": "not started"}
        else:
            found = run(tool, name, command, min(args.each, left))
        results.append(found)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{found['verdict']:11} {tool} {name} {found.get('seconds', '')} {' '.join(found.get('summary', []))}", flush=True)

    with ThreadPoolExecutor(args.at_once) as pool:
        list(pool.map(one, chosen))
    counts = {}
    for found in results:
        counts[found["verdict"]] = counts.get(found["verdict"], 0) + 1
    print(counts)
    return 1 if "FINDINGS" in counts else 0


if __name__ == "__main__":
    sys.exit(main())
