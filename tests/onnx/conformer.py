"""A Conformer speech encoder with seeded random weights, exported by both PyTorch exporters.

    pip install torch onnxscript onnx onnxruntime numpy
    python tests/onnx/conformer.py OUT            # two blocks of the usual width
    python tests/onnx/conformer.py OUT --full     # twelve blocks
    python tests/onnx/conformer.py OUT --tiny     # one narrow block

Inputs: `speech` f32 [batch, frames, 80] and `speech_lengths` i32 [batch]. Outputs: `encoder_out` f32
[batch, frames / 4, hidden] and `encoder_out_mask` bool [batch, 1, frames / 4]. The architecture is that of "Conformer:
Convolution-augmented Transformer for Speech Recognition" (Gulati et al., 2020) as the speech toolkit WeNet builds it:
subsampling by two convolutions, relative positions with a bias for content and one for position and no shift, GLU,
depthwise convolution and batch normalisation, half-step feed-forward layers on both sides, swish throughout.

    conformer_legacy16.onnx   TorchScript-based exporter; layer norm in its nine parts
    conformer_legacy17.onnx   the same with LayerNormalization
    conformer_dynamo18.onnx   exporter of torch.export programs

Batch and frames are dynamic. inputs.N.npz hold inputs of several shapes, NAME.outputs.N.npz ONNX Runtime's answers for
each file; models.json lists them for the tests. The folder `conformer` beside this script is what `--tiny` writes.
"""

import argparse
import contextlib
import io
import json
import math
import pathlib
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

MELS = 80
# Frames of each row; the longest row is the length of the batch. The two convolutions need seven.
BATCHES = [[7], [53, 30], [30, 8, 31, 19]]


class RelativePositions(nn.Module):
    """The sinusoids of the first positions, beside inputs scaled by the root of their width."""

    def __init__(self, hidden, longest):
        super().__init__()
        positions = torch.arange(longest).unsqueeze(1)
        rates = torch.exp(torch.arange(0, hidden, 2) * -(math.log(10000.0) / hidden))
        table = torch.zeros(longest, hidden)
        table[:, 0::2], table[:, 1::2] = torch.sin(positions * rates), torch.cos(positions * rates)
        self.scale = math.sqrt(hidden)
        self.register_buffer("table", table.unsqueeze(0), persistent=False)

    def forward(self, x):
        return x * self.scale, self.table[:, : x.size(1)]


class Subsampling(nn.Module):
    """Two 3x3 convolutions with a stride of 2 over time and frequency, then a projection."""

    def __init__(self, hidden, longest):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, hidden, 3, 2), nn.ReLU(), nn.Conv2d(hidden, hidden, 3, 2), nn.ReLU()
        )
        self.project = nn.Linear(hidden * (((MELS - 1) // 2 - 1) // 2), hidden)
        self.positions = RelativePositions(hidden, longest)

    def forward(self, speech, mask):
        x = self.convolutions(speech.unsqueeze(1))
        batch, channels, frames, bands = x.size()
        x = self.project(x.transpose(1, 2).contiguous().view(batch, frames, channels * bands))
        return *self.positions(x), mask[:, :, 2::2][:, :, 2::2]


class RelativeAttention(nn.Module):
    """Scores of content and of position, each with a learnt bias of the query (Dai et al., 2019)."""

    def __init__(self, hidden, heads):
        super().__init__()
        self.heads, self.width = heads, hidden // heads
        self.q, self.k, self.v, self.out = (nn.Linear(hidden, hidden) for _ in range(4))
        self.position = nn.Linear(hidden, hidden, bias=False)
        self.content_bias = nn.Parameter(torch.empty(heads, self.width))
        self.position_bias = nn.Parameter(torch.empty(heads, self.width))
        nn.init.xavier_uniform_(self.content_bias)
        nn.init.xavier_uniform_(self.position_bias)

    def split(self, x):
        return x.view(x.size(0), -1, self.heads, self.width)

    def forward(self, x, mask, positions):
        q = self.split(self.q(x))
        k, v = self.split(self.k(x)).transpose(1, 2), self.split(self.v(x)).transpose(1, 2)
        p = self.split(self.position(positions)).transpose(1, 2)
        content = torch.matmul((q + self.content_bias).transpose(1, 2), k.transpose(-2, -1))
        position = torch.matmul((q + self.position_bias).transpose(1, 2), p.transpose(-2, -1))
        scores = (content + position) / math.sqrt(self.width)
        hidden = mask.unsqueeze(1).eq(0)
        weights = torch.softmax(scores.masked_fill(hidden, -float("inf")), dim=-1).masked_fill(hidden, 0.0)
        context = torch.matmul(weights, v).transpose(1, 2).contiguous()
        return self.out(context.view(x.size(0), -1, self.heads * self.width))


class ConvolutionModule(nn.Module):
    """Pointwise convolution, GLU, depthwise convolution, batch normalisation, swish, pointwise convolution."""

    def __init__(self, hidden, kernel):
        super().__init__()
        self.widen = nn.Conv1d(hidden, 2 * hidden, 1)
        self.depthwise = nn.Conv1d(hidden, hidden, kernel, padding=(kernel - 1) // 2, groups=hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.mix = nn.Conv1d(hidden, hidden, 1)
        # As after training; the initial statistics would make the normalisation an identity.
        nn.init.normal_(self.norm.running_mean, std=0.3)
        nn.init.uniform_(self.norm.running_var, 0.2, 2.0)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.normal_(self.norm.bias, std=0.1)

    def forward(self, x, mask):
        x = x.transpose(1, 2).masked_fill(~mask, 0.0)
        x = nn.functional.glu(self.widen(x), dim=1)
        x = nn.functional.silu(self.norm(self.depthwise(x)))
        return self.mix(x).masked_fill(~mask, 0.0).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, hidden, heads, ffn, kernel):
        super().__init__()

        def feed_forward():
            return nn.Sequential(nn.Linear(hidden, ffn), nn.SiLU(), nn.Linear(ffn, hidden))

        self.first, self.second = feed_forward(), feed_forward()
        self.attention = RelativeAttention(hidden, heads)
        self.convolution = ConvolutionModule(hidden, kernel)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, eps=1e-5) for _ in range(5))
        for norm in self.norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)

    def forward(self, x, mask, positions):
        x = x + 0.5 * self.first(self.norms[0](x))
        x = x + self.attention(self.norms[1](x), mask, positions)
        x = x + self.convolution(self.norms[2](x), mask)
        x = x + 0.5 * self.second(self.norms[3](x))
        return self.norms[4](x)


class Conformer(nn.Module):
    def __init__(self, hidden, heads, ffn, kernel, blocks, longest):
        super().__init__()
        self.register_buffer("mean", torch.randn(MELS))
        self.register_buffer("inverse_deviation", torch.rand(MELS) + 0.5)
        self.subsampling = Subsampling(hidden, longest)
        self.blocks = nn.ModuleList(Block(hidden, heads, ffn, kernel) for _ in range(blocks))
        self.norm = nn.LayerNorm(hidden, eps=1e-5)

    def forward(self, speech, speech_lengths):
        frames = torch.arange(speech.size(1), device=speech.device)
        mask = (frames.unsqueeze(0) < speech_lengths.unsqueeze(1)).unsqueeze(1)
        x, positions, mask = self.subsampling((speech - self.mean) * self.inverse_deviation, mask)
        for block in self.blocks:
            x = block(x, mask, positions)
        return self.norm(x), mask


def sample(lengths, seed):
    rng = np.random.default_rng(seed)
    speech = rng.standard_normal((len(lengths), max(lengths), MELS), dtype=np.float32)
    return {"speech": speech, "speech_lengths": np.array(lengths, np.int32)}


def export(model, path, exporter, opset):
    inputs = tuple(torch.from_numpy(array) for array in sample([67, 40], 0).values())
    names = {"input_names": ["speech", "speech_lengths"], "output_names": ["encoder_out", "encoder_out_mask"]}
    axes = {"speech": {0: "batch", 1: "frames"}, "speech_lengths": {0: "batch"}}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if exporter == "legacy":
            outputs = {"encoder_out": {0: "batch", 1: "steps"}, "encoder_out_mask": {0: "batch", 2: "steps"}}
            # Without PRESERVE the exporter folds batch normalisations into the convolutions before them.
            keep = torch.onnx.TrainingMode.PRESERVE
            torch.onnx.export(
                model, inputs, path, opset_version=opset, dynamo=False, training=keep,
                dynamic_axes={**axes, **outputs}, **names,
            )  # fmt: skip
        else:
            batch, frames = torch.export.Dim("batch"), torch.export.Dim("frames", min=7)
            shapes = ({0: batch, 1: frames}, {0: batch})
            torch.onnx.export(
                model, inputs, path, opset_version=opset, dynamo=True, dynamic_shapes=shapes,
                external_data=False, **names,
            )  # fmt: skip
    onnx.checker.check_model(onnx.load(path))


def evaluate(model, path):
    """Saves ONNX Runtime's answers for each batch, checks that they are PyTorch's, and lists the files."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    cases = []
    for number, lengths in enumerate(BATCHES):
        inputs = sample(lengths, number + 1)
        outputs = dict(zip(["encoder_out", "encoder_out_mask"], session.run(None, inputs)))
        with torch.no_grad():
            expected = model(*(torch.from_numpy(array) for array in inputs.values()))
        difference = np.abs(outputs["encoder_out"] - expected[0].numpy()).max()
        if difference > 1e-4 or (outputs["encoder_out_mask"] != expected[1].numpy()).any():
            raise SystemExit(f"{path}: ONNX Runtime differs from PyTorch by {difference:.1e}")
        files = {"inputs": f"inputs.{number}.npz", "outputs": f"{path.stem}.outputs.{number}.npz"}
        for kind, arrays in [("inputs", inputs), ("outputs", outputs)]:
            np.savez_compressed(path.parent / files[kind], **arrays)
        cases.append({"name": f"{path.stem} {lengths}", "model": path.name, "witness": "onnxruntime", **files})
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, help="folder to write to")
    parser.add_argument("--full", action="store_true", help="12 blocks with feed-forward layers of 2048")
    parser.add_argument("--tiny", action="store_true", help="one block of width 16")
    parser.add_argument("--legacy-opsets", type=int, nargs="*", default=[16, 17])
    parser.add_argument("--dynamo-opsets", type=int, nargs="*", default=[18])
    arguments = parser.parse_args()
    sizes = {"hidden": 256, "heads": 4, "ffn": 512, "kernel": 15, "blocks": 2, "longest": 5000}
    if arguments.full:
        sizes |= {"ffn": 2048, "blocks": 12}
    if arguments.tiny:
        sizes |= {"hidden": 16, "heads": 2, "ffn": 32, "kernel": 5, "blocks": 1, "longest": 32}
    torch.manual_seed(0)
    model = Conformer(**sizes).eval()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cases = []
    for exporter, opsets in [("legacy", arguments.legacy_opsets), ("dynamo", arguments.dynamo_opsets)]:
        for opset in opsets:
            path = arguments.out / f"conformer_{exporter}{opset}.onnx"
            export(model, path, exporter, opset)
            cases += evaluate(model, path)
            print(f"{path}: {path.stat().st_size:,} bytes")
    (arguments.out / "models.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
