"""Ragged batches and random tensors on the card, for checks and times."""


class Batch:
    """A ragged batch on the card: counts, running sums of lengths, attention work."""

    def __init__(self, lengths):
        import torch

        self.lengths = lengths
        self.starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
        self.tokens, self.sequences = self.starts[-1], len(lengths)
        self.capacity = max(128, -(-self.tokens // 128) * 128)
        self.cu_seqlens = torch.tensor(self.starts, dtype=torch.int32, device="cuda")

    def counts(self, items=0):
        import torch

        return torch.tensor([self.tokens, self.sequences, items, max(self.lengths)], dtype=torch.int32, device="cuda")

    def work(self, queries):
        import torch

        order = sorted(range(self.sequences), key=lambda s: -self.lengths[s])
        items = [(s, block) for s in order for block in range(-(-self.lengths[s] // queries))]
        return torch.tensor(items, dtype=torch.int32, device="cuda"), len(items)


def torch_type(dtype):
    import torch

    return {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[dtype]


def random(rows, width, dtype, spread=1.0, shift=0.0, used=None):
    """Random rows; those from `used` on are NaN."""
    import torch

    x = (torch.randn(rows, width, device="cuda") * spread + shift).to(torch_type(dtype))
    if used is not None:
        x[used:] = float("nan")
    return x


def poisoned(rows, width, dtype):
    import torch

    return torch.full((rows, width), float("nan"), device="cuda", dtype=torch_type(dtype))
