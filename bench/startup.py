"""Measures how soon a fresh `bertha` process answers from an engine file, and how much memory a run takes.

    cargo build --release
    python bench/startup.py --checkpoint FOLDER [--name NAME]

FOLDER is a masked language model of BERT-base's size with a tokenizer. Start: from the process's start to its end, with the
engine file in the page cache, as after a build. Memory: the largest resident set of a process that runs batches of 1 x 128,
against the model's weights.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = "The capital of France, [MASK], contains the Eiffel Tower."


def finish(command):
    """Milliseconds that a process takes, its peak resident set in bytes, and its output."""
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    milliseconds = (time.perf_counter() - start) * 1e3
    if status != 0:
        sys.exit(f"{command} ended with status {status}")
    return milliseconds, usage.ru_maxrss * 1024, output


def measure(args, precision, folder):
    engine = folder / f"{precision}.bertha"
    subprocess.run(
        [args.bertha, "build", args.checkpoint, "--precision", precision, "-o", engine],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    threads = ["--threads", args.threads]
    fill = [args.bertha, "fill-mask", "--model", engine, "--json", *threads, TEXT]
    starts = [finish(fill)[0] for _ in range(args.runs + 1)][1:]
    bench = [args.bertha, "bench", engine, "--seq", 128, "--warmup", 1, "--runs", 5, "--seconds", 0, "--json", *threads]
    _, peak, report = finish(bench)
    inspected = json.loads(finish([args.bertha, "inspect", engine, "--json"])[2])
    held = inspected["cpu"]["packed_bytes"]
    return {
        "precision": precision,
        "start_to_answer_ms": {
            "median": statistics.median(starts),
            "min": min(starts),
            "max": max(starts),
            "runs": starts,
        },
        "peak_resident_bytes": peak,
        "weight_bytes": inspected["weight_bytes"],
        "packed_weight_bytes": held,
        "beside_packed_weights_bytes": peak - held,
        "session_bytes": json.loads(report)["memory_bytes"],
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--bertha", type=Path, default=ROOT / "target/release/bertha")
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--name", help="name of the record; without it, none is written")
    args = parser.parse_args()
    now = datetime.datetime.now(datetime.UTC)
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(args, precision, Path(folder)) for precision in args.precisions]
    for result in results:
        start = result["start_to_answer_ms"]
        print(
            f"{result['precision']}: start to answer {start['median']:.0f} ms ({start['min']:.0f} to {start['max']:.0f}); "
            f"peak {result['peak_resident_bytes'] / 1e6:.0f} MB, of which packed weights "
            f"{result['packed_weight_bytes'] / 1e6:.0f} MB; all weights {result['weight_bytes'] / 1e6:.0f} MB"
        )
    if args.name:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False)
        record = {
            "started": now.isoformat(timespec="seconds"),
            # Where things lie on this machine changes nothing about what is measured.
            "command": f"python bench/startup.py --checkpoint FOLDER --precisions {' '.join(args.precisions)} "
            f"--threads {args.threads}",
            "commit": commit.stdout.strip(),
            "threads": args.threads,
            "load_average": os.getloadavg()[0],
            "results": results,
        }
        path = ROOT / "bench/runs" / f"{now:%Y-%m-%d}-{args.name}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
