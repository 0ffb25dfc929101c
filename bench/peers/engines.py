"""Handles on what is measured: a peer in its worker process, and Bertha through its own binary."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from worker import given


class Failed(Exception):
    """An engine could not do what it was asked."""


class Peer:
    """A peer in a process of its own."""

    def __init__(self, name, threads, precision, log):
        self.name = name
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        worker = [sys.executable, Path(__file__).with_name("worker.py"), name]
        command = [*worker, "--threads", str(threads), "--precision", precision]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        self.version = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name}: the process ended with {self.process.wait()}")
        fields = json.loads(line)
        if "error" in fields:
            raise Failed(f"{self.name}: {fields['error']}")
        return fields["result"]

    def ask(self, do, **fields):
        print(json.dumps({"do": do} | fields), file=self.process.stdin, flush=True)
        return self.answer()

    def load(self, source, inputs, lengths):
        """`source` for a batch in the file `inputs`, padded from `lengths`."""
        self.ask("load", source=str(source), inputs=str(inputs))

    def output(self, scratch):
        target = scratch / f"{self.name}.npy"
        self.ask("output", target=str(target))
        return np.load(target)

    def time(self, budget):
        return float(
            np.median(self.ask("time", seconds=budget.seconds, runs=budget.runs, warmup=budget.warmup))
        )

    def unload(self):
        self.ask("unload")

    def prioritize(self, nice):
        """Gives every thread of the process this niceness; threads made later inherit it."""
        for thread in os.listdir(f"/proc/{self.process.pid}/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), nice)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Bertha:
    """The `bertha` binary. `bench` times itself, after its own warm-up, without the start of the process."""

    name = "bertha"

    def __init__(self, binary, threads, isa):
        self.binary, self.threads, self.nice = binary, threads, None
        self.environment = os.environ | ({"BERTHA_ISA": isa} if isa else {})
        self.version = self.call("--version").split()[-1]

    def call(self, *arguments):
        command = [str(argument) for argument in (self.binary, *arguments)]
        raised = None if self.nice is None else lambda: os.setpriority(os.PRIO_PROCESS, 0, self.nice)
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, preexec_fn=raised, env=self.environment
        )
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def load(self, source, inputs, lengths):
        self.source, self.inputs, self.lengths = source, inputs, lengths

    def output(self, scratch):
        full, target = scratch / "bertha-inputs.npz", scratch / "bertha.npz"
        with np.load(self.inputs) as inputs:
            np.savez(full, **given(dict(inputs), ["input_ids", "attention_mask", "token_type_ids"]))
        self.call("run", self.source, "--inputs", full, "--outputs", target, "--threads", self.threads)
        with np.load(target) as outputs:
            return outputs[outputs.files[0]]

    def time(self, budget):
        batch = len(self.lengths)
        if len(set(self.lengths)) == 1:
            shape = ["--batch", batch, "--seq", self.lengths[0]]
        else:
            path = self.inputs.with_suffix(".lengths")
            path.write_text("".join(f"{length}\n" for length in self.lengths))
            shape = ["--batch", batch, "--lengths", path]
        how = ["--warmup", budget.warmup, "--runs", budget.runs, "--seconds", budget.seconds]
        report = self.call("bench", self.source, *shape, *how, "--threads", self.threads, "--json")
        return json.loads(report)["latency_ms"]["median"]

    def unload(self):
        self.source = None

    def prioritize(self, nice):
        self.nice = nice

    def close(self):
        pass
