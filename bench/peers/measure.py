"""The measurement: all engines on one shape, first checked, then timed in turns."""

import json
import os
import statistics
import sys
from dataclasses import asdict, dataclass

import numpy as np

import engines


@dataclass(frozen=True)
class Budget:
    """How long an engine is timed in one round: at least so many seconds and runs, after the warm-up."""

    seconds: float
    runs: int
    warmup: int


class Measurement:
    """One model, one shape, one number of threads."""

    def __init__(self, model, shape, threads):
        self.model, self.shape, self.threads = model, shape, threads
        self.rounds = {}
        self.errors = {}
        self.failures = {}
        self.sources = {}

    def check(self, handles, reference, scratch, tolerance):
        """Compares each engine with the reference at the positions that are not padding. Returns those that agree."""
        lengths = np.array(self.shape.lengths)
        real = np.arange(self.shape.seq)[None, :] < lengths[:, None]
        scale = np.abs(reference[real]).max()
        agreeing = []
        for handle in handles:
            try:
                error = float(np.abs(handle.output(scratch)[real] - reference[real]).max() / scale)
            except engines.Failed as failure:
                self.fail(handle, str(failure))
                continue
            self.errors[handle.name] = error
            if error < tolerance:
                agreeing.append(handle)
            else:
                self.fail(handle, f"differs from the reference by {error:.1e}, over {tolerance:.0e}")
        return agreeing

    def fail(self, handle, why):
        self.failures[handle.name] = why
        print(f"{self.model.name} {self.shape.name}: {handle.name} is left out: {why}", file=sys.stderr)

    def time(self, handles, rounds, budget):
        """Times the engines in turns, A B C A B C, so that a change of the machine's speed meets all of them."""
        for handle in handles:
            self.rounds[handle.name] = []
        for index in range(rounds):
            # The order turns with the rounds: whom one follows must not matter.
            turn = index % len(handles)
            for handle in handles[turn:] + handles[:turn]:
                self.rounds[handle.name].append(handle.time(budget))

    def median(self, name):
        return statistics.median(self.rounds[name])

    def peers(self):
        return [name for name in self.rounds if name != "bertha"]

    def best_peer(self):
        return min(self.peers(), key=self.median, default=None)

    def ratio(self, name):
        """How many times Bertha's time a peer takes: median, least and most over the rounds."""
        pairs = zip(self.rounds[name], self.rounds["bertha"], strict=True)
        ratios = [peer / bertha for peer, bertha in pairs]
        return statistics.median(ratios), min(ratios), max(ratios)

    def record(self, floor):
        fields = {
            "model": asdict(self.model),
            "shape": self.shape.name,
            "lengths": self.shape.lengths,
            "tokens": self.shape.tokens,
            "threads": self.threads,
            "gflop": self.model.flops(self.shape.lengths) / 1e9,
            "floor_ms": floor,
            "relative_error": self.errors,
            "left_out": self.failures,
            "sources": self.sources,
            "rounds_ms": self.rounds,
            "median_ms": {name: self.median(name) for name in self.rounds},
        }
        if "bertha" in self.rounds:
            ratios = {name: dict(zip(("median", "min", "max"), self.ratio(name))) for name in self.peers()}
            fields |= {"ratio_to_bertha": ratios, "best_peer": self.best_peer()}
        return fields


def reference(path, inputs):
    """The last hidden state in f64 by PyTorch, without any compiler."""
    import torch

    from models import LastHiddenState, network

    module = LastHiddenState(network(path).double())
    with torch.inference_mode():
        return module(**{name: torch.from_numpy(value) for name, value in inputs.items()}).numpy()


def faster(handle, sources, inputs, lengths, budget):
    """The one of several files with the same model that a peer runs faster; a file that it cannot run is no choice."""
    if len(sources) == 1:
        return sources[0]
    times = {}
    failure = None
    for source in sources:
        try:
            handle.load(source, inputs, lengths)
            times[source] = handle.time(budget)
            handle.unload()
        except engines.Failed as error:
            failure = error
    if not times:
        raise failure
    return min(times, key=times.get)


def load_average():
    return os.getloadavg()[0]


def stolen_ticks():
    """Ticks of all cores that the hypervisor gave to others, and ticks in all."""
    with open("/proc/stat") as stat:
        ticks = [int(field) for field in stat.readline().split()[1:9]]
    return ticks[7], sum(ticks)


def dump(path, record):
    path.write_text(json.dumps(record, indent=1) + "\n")
