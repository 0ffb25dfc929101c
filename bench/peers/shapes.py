"""What is measured: models, batches, and the least time a machine could take for them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Model:
    """A BERT encoder: its last hidden state is the output."""

    name: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocabulary: int = 4096
    positions: int = 512

    def flops(self, lengths):
        """Floating-point operations for sequences of these lengths, two for each multiply-add.

        Per layer: four H x H products and two H x F ones for each token, and two S x S x H ones for each sequence.
        """
        tokens, squares = sum(lengths), sum(length * length for length in lengths)
        products = 2 * tokens * (4 * self.hidden**2 + 2 * self.hidden * self.ffn)
        return self.layers * (products + 4 * squares * self.hidden)


@dataclass(frozen=True)
class Shape:
    """One batch, by the lengths of its sequences."""

    name: str
    lengths: tuple

    @property
    def batch(self):
        return len(self.lengths)

    @property
    def seq(self):
        """Columns of the padded batch."""
        return max(self.lengths)

    @property
    def tokens(self):
        return sum(self.lengths)

    @property
    def padded(self):
        return self.tokens < self.batch * self.seq

    def inputs(self, model, seed=1):
        """`input_ids` and, when there is padding, `attention_mask`: `[batch, seq]`, int64."""
        random = np.random.default_rng(seed)
        mask = np.arange(self.seq)[None, :] < np.array(self.lengths)[:, None]
        ids = random.integers(0, model.vocabulary, mask.shape, dtype=np.int64) * mask
        return {"input_ids": ids} | ({"attention_mask": mask.astype(np.int64)} if self.padded else {})


def ragged_lengths(count, low=8, high=128, mean=50, seed=23):
    """`count` lengths between `low` and `high`, both of which occur, drawn from a beta distribution around `mean`."""
    share = (mean - low) / (high - low)
    drawn = low + (high - low) * np.random.default_rng(seed).beta(3 * share, 3 * (1 - share), count)
    lengths = np.rint(drawn).astype(int)
    lengths[lengths.argmin()], lengths[lengths.argmax()] = low, high
    return tuple(int(length) for length in lengths)


def dense(batch, seq):
    return Shape(f"{batch}x{seq}", (seq,) * batch)


MODELS = {
    model.name: model
    for model in (
        Model("bert-base", layers=12, hidden=768, heads=12, ffn=3072),
        Model("minilm-l6", layers=6, hidden=384, heads=12, ffn=1536),
        Model("tiny", layers=2, hidden=64, heads=4, ffn=128, vocabulary=200),
    )
}
SHAPES = {
    shape.name: shape
    for shape in (
        dense(1, 16),
        dense(1, 32),
        dense(1, 128),
        dense(1, 384),
        dense(8, 128),
        Shape("ragged-32", ragged_lengths(32)),
    )
}
QUICK = ("1x32", "1x128")


def floor_ms(model, shape, gflops):
    """The least time at `gflops` multiply-add throughput of all threads. Padding is not counted."""
    return model.flops(shape.lengths) / gflops / 1e6
