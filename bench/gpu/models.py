"""Measures whole models on a GPU beside PyTorch, in one run and in turns: the time from inputs on the card to the last
hidden state on the card.

    python bench/gpu/models.py run --bertha target/release/bertha --name NAME   # a record and a plot in bench/runs
    python bench/gpu/models.py table RECORD.json                                # no card needed
    python bench/gpu/models.py plot RECORD.json PLOT.svg

Shapes come in the order of their weight. When the time is over that `--limit` gives, what is left is left out, and the
record, which is written after each shape, says so. `--device cpu --precision f32` tries all of it without a card.
"""

import argparse
import contextlib
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import models_report as report
from encoder import CONFIGS, Encoder

ROOT = Path(__file__).resolve().parents[2]
SHAPES = (
    "bert-base:1x128 bert-base:32x128 bert-large:1x128 bert-large:32x128 bert-base:1x32 bert-base:8x128 bert-base:1x384 "
    "bert-base:128x128 bert-large:1x384 bert-base:32x384"
).split()
# Engines of PyTorch and the mode in which each is compiled. Replays of a graph that was captured around all of it stand
# in for the modes that capture by themselves.
# Autotuning products takes more than 40 s a shape, and finds little that is faster than cuBLAS: by request only.
PEERS = {"torch": None, "torch.compile": "default", "torch.compile, autotuned": "max-autotune-no-cudagraphs"}
USUAL_PEERS = ["torch", "torch.compile"]
# How many shapes come before the throughput on ragged batches.
RAGGED_AFTER = 4
# Longest time that one engine of one shape may take to get ready.
SETUP_LIMIT = 60


def parsed(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure", allow_abbrev=False)
    add = run.add_argument
    add("--bertha", type=Path, default=ROOT / "target/release/bertha", help="the binary to measure")
    add("--shapes", nargs="+", type=report.Shape.parse, default=[report.Shape.parse(one) for one in SHAPES])
    add("--peers", nargs="*", choices=PEERS, default=USUAL_PEERS, help="what of PyTorch to measure beside it")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--precision", choices=["f16", "bf16", "f32"], default="f16")
    add(
        "--budgets",
        nargs="*",
        type=int,
        default=[8448, 4224],
        help="tokens of a batch for the throughput of bert-large on lengths like SQuAD's, measured after the fourth shape",
    )
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=0.2, help="time of each engine in a round, at least")
    add("--limit", type=float, default=230, help="seconds that all of it may take")
    add("--runs", type=Path, default=ROOT / "bench/runs", help="where record and plot go")
    add("--name", help="name of the record; without it, none is written")
    for name, words in (("table", "print a record's table"), ("plot", "draw a record")):
        command = commands.add_parser(name, help=words)
        command.add_argument("record", type=Path)
        if name == "plot":
            command.add_argument("output", type=Path)
    return parser.parse_args(arguments)


class TimeIsUp(BaseException):
    """No Exception, since compilers swallow those of a single kernel and go on."""


@contextlib.contextmanager
def at_most(seconds):
    """Raises TimeIsUp in what runs longer."""

    def stop(*_):
        raise TimeIsUp(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    # Again and again, in case a handler along the way swallows one.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01), 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- Bertha -----------------------------------------------------------------------------------------------------------


class Bertha:
    """Engine files built at the start, one process for each round."""

    def __init__(self, args, folder):
        self.args, self.folder, self.builds, self.notes = args, folder, {}, []

    def build(self, models):
        """Builds one engine after another, since a build may time kernels."""
        for model in models:
            start = time.perf_counter()
            command = [self.args.bertha, "build", f"random:{model}", "-o", self.path(model)]
            command += ["--target", self.args.device, "--precision", self.args.precision]
            # Should choosing kernels by time fail, those by rule are worth a record too.
            for more in ([], ["--no-timing"]):
                try:
                    self.said(command + more)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    self.notes.append(f"{model}: {error}"[:1000])
                    print(f"building {self.notes[-1]}", flush=True)
                    continue
                self.builds[model] = time.perf_counter() - start
                break

    def path(self, model):
        return self.folder / f"{model}.bertha"

    def said(self, command):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=SETUP_LIMIT)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command[:3]))}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def measure(self, shape):
        """Medians in milliseconds: on the card, and from the caller's memory to the caller's memory."""
        args = self.args
        command = [args.bertha, "bench", self.path(shape.model), "--device", args.device, "--json"]
        command += ["--batch", shape.batch, "--seq", shape.seq, "--seconds", args.seconds, "--runs", 20]
        command += ["--warmup", 10]
        if args.device == "cuda":
            command += ["--precision", args.precision]
        told = json.loads(self.said(command))
        whole = told["latency_ms"]["median"]
        return told.get("device_ms", {"median": whole})["median"], whole

    def throughput(self, model, budget):
        """Sequences a second on lengths like SQuAD's: on the card, and with two sessions in flight."""
        args = self.args
        command = [args.bertha, "bench", self.path(model), "--device", args.device, "--json", "--runs", 2]
        command += ["--lengths", "squad", "--token-budget", budget, "--seconds", 1.2, "--warmup", 1]
        if args.device == "cuda":
            command += ["--sessions", 2, "--precision", args.precision]
        told = json.loads(self.said(command))
        keys = ["batches", "sequences", "tokens", "sequences_per_second", "device_sequences_per_second", "in_flight"]
        return {"model": model, "token_budget": budget} | {key: told[key] for key in keys if key in told}


# ---- PyTorch ----------------------------------------------------------------------------------------------------------


class Peer:
    """One shape in one of PyTorch's forms: on a card a captured graph."""

    def __init__(self, encoder, ids, mode, seconds):
        import torch

        self.seconds = seconds
        forward = encoder.run if mode is None else encoder.compiled(mode)

        def call():
            self.output = forward(ids)

        start = time.perf_counter()
        with torch.inference_mode():
            if ids.is_cuda:
                from replays import graph_of

                graph = graph_of(call)
                self.replay = graph.replay
                graph.replay()
                torch.cuda.synchronize()
            else:
                call()
                self.replay = call
        self.setup_seconds = time.perf_counter() - start
        self.on_card = ids.is_cuda

    def measure(self):
        """Median milliseconds, by events around a replay where there is a card."""
        import torch

        times, end = [], time.perf_counter() + self.seconds
        with torch.inference_mode():
            for _ in range(5):
                self.replay()
            while len(times) < 20 or time.perf_counter() < end:
                times.append(self.once())
        return statistics.median(times)

    def once(self):
        import torch

        if not self.on_card:
            start = time.perf_counter()
            self.replay()
            return (time.perf_counter() - start) * 1e3
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def peers_of(shape, encoder, args, deadline, notes):
    """The forms of PyTorch that get ready in time and agree with the plain one."""
    import torch

    with torch.inference_mode():
        ids = encoder.ids(shape.batch, shape.seq)
    found, plain = {}, None
    for name in args.peers:
        left = min(SETUP_LIMIT, deadline - time.perf_counter())
        try:
            with at_most(left):
                peer = Peer(encoder, ids, PEERS[name], args.seconds)
        except (Exception, TimeIsUp) as error:
            notes["left_out"][name] = f"{type(error).__name__}: {error}"[:500]
            continue
        notes["setup_seconds"][name] = round(peer.setup_seconds, 2)
        output = peer.output.double()
        plain = output if plain is None else plain
        error = ((output - plain).norm() / plain.norm()).item()
        notes["error_to_first"][name] = error
        # Written so that NaN is left out too.
        if error < {"f16": 5e-3, "bf16": 4e-2, "f32": 1e-4}[args.precision]:
            found[name] = peer
        else:
            notes["left_out"][name] = f"differs by {error:.1e} from {args.peers[0]}"
    return found


# ---- the run ----------------------------------------------------------------------------------------------------------


def one_shape(shape, bertha, encoder, args, deadline):
    notes = {"setup_seconds": {}, "error_to_first": {}, "left_out": {}}
    # Half of what is left, at most, for getting one shape ready.
    ready = time.perf_counter() + (deadline - time.perf_counter()) / 2
    peers = peers_of(shape, encoder, args, ready, notes)
    rounds = {name: [] for name in ("bertha", "bertha, end to end", *peers)}
    for turn in range(args.rounds):
        # The order turns with the rounds: whom one follows must not matter.
        order = ["bertha", *peers]
        turn %= len(order)
        for name in order[turn:] + order[:turn]:
            if name != "bertha":
                rounds[name].append(peers[name].measure())
            elif "bertha" not in notes["left_out"]:
                try:
                    device, whole = bertha.measure(shape)
                    rounds["bertha"].append(device)
                    rounds["bertha, end to end"].append(whole)
                except Exception as error:
                    notes["left_out"]["bertha"] = str(error)
    return report.result(shape, {name: times for name, times in rounds.items() if times}, notes)


def line(one):
    times = ", ".join(f"{name} {ms:.4f}" for name, ms in one["median_ms"].items())
    gone = "".join(f"; without {name}: {why}" for name, why in one["left_out"].items())
    return f"{one['model']} {one['batch']}x{one['seq']}: {times} ms, floor {one['floor_ms']:.4f}{gone}"


def machine(args):
    import torch

    found = {"torch": torch.__version__, "bertha": output_of(str(args.bertha), "--version")}
    if args.device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,power.draw", "--format=csv,noheader"]
        found |= {"card": torch.cuda.get_device_name(), "nvidia_smi": output_of(*query), "cuda": torch.version.cuda}
    return found


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=20).stdout.strip()
    except OSError:
        return ""


# Arguments that say where things lie on this machine: they change nothing about what is measured.
PLACES = ("--bertha", "--runs")


def write(record, args):
    if not args.name:
        return None
    args.runs.mkdir(parents=True, exist_ok=True)
    path = args.runs / f"{record['started'][:10]}-{args.name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def ragged(record, bertha, args, deadline):
    """Adds the throughput on ragged batches, for as many budgets as there is time for."""
    model = "bert-large"
    record["ragged"] = []
    for budget in args.budgets if model in bertha.builds else []:
        if deadline - time.perf_counter() < 12:
            print(f"no time for batches of {budget} tokens", flush=True)
            break
        try:
            found = bertha.throughput(model, budget)
        except Exception as error:
            found = {"model": model, "token_budget": budget, "failed": str(error)}
        record["ragged"].append(found)
        print(f"{model} on lengths like SQuAD's: {found}", flush=True)


def run(args):
    import torch

    started = time.perf_counter()
    deadline = started + args.limit
    words = sys.argv[1:]
    kept = [word for at, word in enumerate(words) if word not in PLACES and (at == 0 or words[at - 1] not in PLACES)]
    record = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python bench/gpu/models.py " + " ".join(kept),
        "precision": args.precision,
        "rates": {"flop_per_second": report.FLOP_PER_SECOND, "bytes_per_second": report.BYTES_PER_SECOND},
        "machine": machine(args),
        "results": [],
    }
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[args.precision]
    encoders, path = {}, None
    with tempfile.TemporaryDirectory() as folder:
        bertha = Bertha(args, Path(folder))
        bertha.build(dict.fromkeys(shape.model for shape in args.shapes))
        record["build_seconds"], record["build_failures"] = bertha.builds, bertha.notes
        print(f"{time.perf_counter() - started:5.0f} s built: {bertha.builds}", flush=True)
        longest = 0.0
        for at, shape in enumerate(args.shapes):
            if at == RAGGED_AFTER:
                ragged(record, bertha, args, deadline)
            begun = time.perf_counter()
            if deadline - begun < longest:
                record["left_out"] = [str(shape) for shape in args.shapes[at:]]
                print(f"no time for {', '.join(record['left_out'])}", flush=True)
                break
            if shape.model not in encoders:
                with torch.inference_mode():
                    encoders[shape.model] = Encoder(CONFIGS[shape.model], args.device, dtype)
            one = one_shape(shape, bertha, encoders[shape.model], args, deadline)
            record["results"].append(one)
            record["seconds"] = round(time.perf_counter() - started, 1)
            longest = max(longest, 0.8 * (time.perf_counter() - begun))
            print(f"{record['seconds']:5.0f} s {line(one)}", flush=True)
            # After each shape, so that a run that is cut short leaves what it found.
            path = write(record, args)
        if "ragged" not in record:
            ragged(record, bertha, args, deadline)
        path = write(record, args)
    print("\n" + report.table(record))
    if path:
        report.plot(record, path.with_suffix(".svg"))
        print(f"\n{path}")


def main():
    args = parsed()
    if args.command == "run":
        run(args)
    elif args.command == "table":
        print(report.table(json.loads(args.record.read_text())))
    else:
        report.plot(json.loads(args.record.read_text()), args.output)
    # Compilation leaves worker processes that need not be waited for.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
