"""Measures Bertha beside other engines on this machine's processor.

    cargo build --release && cargo build --release -p bertha-cpu --example gemm_peak
    python bench/peers/run.py --quick

Everything runs the same random weights in one precision, the same shape and the same number of threads. The outputs are compared
with PyTorch's in f64 first; an engine that differs is not timed. The engines are timed in turns, round by round.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import engines
import measure
import models
import report
import shapes
from worker import PEERS

ROOT = Path(__file__).resolve().parents[2]
# Tokens from which a single run is long enough to be a round.
LONG = 1000


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help=f"BERT-base at {', '.join(shapes.QUICK)}, all cores, three rounds",
    )
    add("--models", nargs="+", choices=shapes.MODELS, default=["bert-base", "minilm-l6"])
    add("--shapes", nargs="+", choices=shapes.SHAPES, default=list(shapes.SHAPES))
    add("--threads", nargs="+", type=int, default=[1, 2])
    add("--peers", nargs="+", choices=PEERS, help="all but onnxruntime-avx2, which is for --isa avx2")
    add("--precision", choices=["f32", "bf16"], default="f32", help="what all engines multiply in")
    add("--isa", choices=["portable", "avx2", "avx512"], help="the instruction set Bertha is held to")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=0.6, help="time of each engine in a round, at least")
    add("--tolerance", type=float, help="largest error, relative to the largest output (f32 1e-4, bf16 0.1)")
    add("--check-only", action="store_true", help="compare outputs and time nothing")
    add("--nice", type=int, help="niceness of the engines while they are timed (below 0 needs privileges)")
    add(
        "--quiet",
        help="a command that keeps the machine quiet from when it prints a line until its input ends; it gets the "
        "number of this process, and runs while engines are timed",
    )
    add("--bertha", type=Path, default=ROOT / "target/release/bertha", help="the binary to measure")
    add(
        "--peak",
        type=float,
        help="GFLOP/s of one core (else of the example gemm_peak, built beside the binary)",
    )
    add("--work", type=Path, default=ROOT / "target/bench-peers", help="where models and engines are kept")
    add("--runs", type=Path, default=ROOT / "bench/runs", help="where the record goes")
    add("--name", help="name of the record; without it, none is written")
    args = parser.parse_args()
    if args.quick:
        args.models, args.shapes, args.threads, args.rounds = ["bert-base"], shapes.QUICK, [os.cpu_count()], 3
    if args.peers is None:
        args.peers = [name for name in PEERS if name != "onnxruntime-avx2"]
    if args.tolerance is None:
        args.tolerance = {"f32": 1e-4, "bf16": 0.1}[args.precision]
    if not args.bertha.exists():
        parser.error(f"{args.bertha} is not there: cargo build --release")
    args.bertha = args.bertha.resolve()
    return args


def sources(name, model, shape, args):
    """The forms of `model` that the engine called `name` can choose from."""
    path = models.checkpoint(model, args.work)
    exported = {
        "torch": lambda: models.torch_export(path, masked=shape.padded),
        "bertha": lambda: models.bertha_export(path, args.bertha),
        "checkpoint": lambda: path,
    }
    if name == "bertha":
        target = path / f"bertha-{args.precision}-{args.isa or 'best'}.bertha"
        return [models.bertha_engine(exported["bertha"](), target, args.bertha, args.precision, args.isa)]
    return [exported[file]() for file in PEERS[name].files]


def start_engines(threads, args, log):
    """The engines that can run here, Bertha first."""
    handles = [engines.Bertha(args.bertha, threads, args.isa)]
    for name in args.peers:
        try:
            handles.append(engines.Peer(name, threads, args.precision, log))
        except engines.Failed as failure:
            print(f"{name} cannot run here: {failure}", file=sys.stderr)
    return handles


# Arguments that say where things lie on this machine: they change nothing about what is measured.
PLACES = ["--bertha", "--work", "--runs", "--quiet"]


def repeatable(words):
    """The arguments without those that only say where things lie."""
    kept, skip = [], False
    for word in words:
        if not skip and word not in PLACES and not word.startswith(tuple(f"{place}=" for place in PLACES)):
            kept.append(word)
        skip = word in PLACES
    return kept


@contextlib.contextmanager
def quiet(command):
    """Holds the quiet that a command makes."""
    if not command:
        yield
        return
    call = [*shlex.split(command), str(os.getpid())]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            yield
        finally:
            process.stdin.close()


def one(model, shape, threads, handles, args):
    """Measures all engines on one shape."""
    measurement = measure.Measurement(model, shape, threads)
    long = shape.tokens >= LONG
    budget = measure.Budget(0 if long else args.seconds, runs=1 if long else 3, warmup=1 if long else 2)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        inputs = shape.inputs(model)
        np.savez(scratch / "inputs.npz", **inputs)
        given = scratch / "inputs.npz", shape.lengths
        loaded = []
        for handle in handles:
            try:
                choices = sources(handle.name, model, shape, args)
                source = measure.faster(handle, choices, *given, measure.Budget(0.2, runs=2, warmup=1))
                handle.load(source, *given)
                measurement.sources[handle.name] = source.name
                loaded.append(handle)
            except engines.Failed as failure:
                measurement.fail(handle, str(failure))
        expected = measure.reference(models.checkpoint(model, args.work), inputs)
        agreeing = measurement.check(loaded, expected, scratch, args.tolerance)
        if not args.check_only:
            for handle in agreeing:
                if args.nice is not None:
                    handle.prioritize(args.nice)
            with quiet(args.quiet):
                measurement.time(agreeing, min(args.rounds, 3) if long else args.rounds, budget)
        for handle in loaded:
            if args.nice is not None:
                handle.prioritize(0)
            handle.unload()
    return measurement


def core_peak(args):
    """GFLOP/s of one core's multiply-adds, measured now."""
    if args.peak:
        return args.peak
    example = args.bertha.parent / "examples/gemm_peak"
    if not example.exists():
        sys.exit(
            f"{example} is not there: cargo build --release -p bertha-cpu --example gemm_peak, or give --peak"
        )
    isa = args.isa or json.loads(output_of(str(args.bertha), "doctor", "--json"))["used"]
    command = [example, "1", isa, args.precision]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        words = process.stdout.readline().split()
        process.terminate()
    return float(words[words.index("peak") + 1])


def output_of(*command):
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def machine(args):
    doctor = json.loads(output_of(str(args.bertha), "doctor", "--json"))
    return {
        "cpu": doctor["cpu"],
        "isa": doctor["used"],
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def write_record(args, start, versions, peak, measurements):
    """Writes what is measured so far."""
    started, load, ticks = start
    stolen, total = (after - before for before, after in zip(ticks, measure.stolen_ticks()))
    record = {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.datetime.now(datetime.UTC) - started).total_seconds()),
        "command": "python bench/peers/run.py " + " ".join(repeatable(sys.argv[1:])),
        "commit": output_of("git", "rev-parse", "HEAD"),
        "uncommitted_changes": bool(output_of("git", "status", "--porcelain", "--untracked-files=no")),
        "machine": machine(args),
        "versions": versions,
        "precision": args.precision,
        "isa_of_bertha": args.isa or "the best",
        "peak_gflops_per_core": peak,
        "load_average": {"before": load, "after": measure.load_average()},
        "stolen_share": stolen / max(total, 1),
        "results": [item.record(report.floor(item, peak)) for item in measurements],
    }
    args.runs.mkdir(parents=True, exist_ok=True)
    path = args.runs / f"{started:%Y-%m-%d}-{args.name}.json"
    measure.dump(path, record)
    report.plot(measurements, peak, path.with_suffix(".svg"))
    return path


def main():
    args = arguments()
    start = datetime.datetime.now(datetime.UTC), measure.load_average(), measure.stolen_ticks()
    peak, versions, measurements, path = core_peak(args), {}, [], None
    args.work.mkdir(parents=True, exist_ok=True)
    with (args.work / "peers.log").open("w") as log:
        for threads in args.threads:
            handles = start_engines(threads, args, log)
            versions |= {handle.name: handle.version for handle in handles}
            for model in (shapes.MODELS[name] for name in args.models):
                for shape in (shapes.SHAPES[name] for name in args.shapes):
                    measurement = one(model, shape, threads, handles, args)
                    measurements.append(measurement)
                    print(report.line(measurement, peak), flush=True)
                    if args.name:
                        # After each shape, so that a run that is cut short leaves what it found.
                        path = write_record(args, start, versions, peak, measurements)
            for handle in handles:
                handle.close()
    print("\n" + report.table(measurements, peak))
    if path:
        print(f"\n{path}")


if __name__ == "__main__":
    main()
