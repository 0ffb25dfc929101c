"""A BERT encoder in PyTorch with random weights, as one would write it to be fast: one product for queries, keys and
values, attention by scaled_dot_product_attention, no mask, no pooler."""

from dataclasses import dataclass

VOCABULARY, POSITIONS, EPSILON = 30_522, 512, 1e-12


@dataclass(frozen=True)
class Config:
    name: str
    layers: int
    hidden: int
    heads: int

    @property
    def ffn(self):
        return 4 * self.hidden


CONFIGS = {
    one.name: one
    for one in (
        Config("bert-base", layers=12, hidden=768, heads=12),
        Config("bert-large", layers=24, hidden=1024, heads=16),
    )
}


def embed(ids, words, positions, types, gamma, beta):
    """Last embedding, `[batch, seq, hidden]`."""
    import torch
    from torch.nn import functional

    at = torch.arange(ids.shape[1], device=ids.device)
    x = words[ids] + positions[at] + types[torch.zeros_like(ids)]
    return functional.layer_norm(x, gamma.shape, gamma, beta, EPSILON)


def layer(x, heads, weights):
    """One layer, `[batch, seq, hidden]` to the same."""
    from torch.nn import functional

    batch, seq, hidden = x.shape
    qkv = functional.linear(x, weights["qkv"], weights["qkv_bias"])
    q, k, v = qkv.view(batch, seq, 3, heads, hidden // heads).permute(2, 0, 3, 1, 4)
    attended = functional.scaled_dot_product_attention(q, k, v)
    attended = attended.transpose(1, 2).reshape(batch, seq, hidden)
    x = x + functional.linear(attended, weights["out"], weights["out_bias"])
    x = functional.layer_norm(x, (hidden,), weights["gamma1"], weights["beta1"], EPSILON)
    inner = functional.gelu(functional.linear(x, weights["ffn1"], weights["ffn1_bias"]))
    x = x + functional.linear(inner, weights["ffn2"], weights["ffn2_bias"])
    return functional.layer_norm(x, (hidden,), weights["gamma2"], weights["beta2"], EPSILON)


class Encoder:
    """The weights, and runs of them with `embed` and `layer` or with compiled forms of these."""

    def __init__(self, config, device, dtype):
        import torch

        torch.manual_seed(0)
        self.config, self.device = config, device
        hidden, ffn = config.hidden, config.ffn

        def random(*shape, spread=0.05, shift=0.0):
            return (torch.randn(*shape, device=device) * spread + shift).to(dtype)

        self.tables = [random(rows, hidden) for rows in (VOCABULARY, POSITIONS, 2)]
        self.tables += [random(hidden, shift=1.0), random(hidden)]
        sizes = {"qkv": (3 * hidden, hidden), "out": (hidden, hidden), "ffn1": (ffn, hidden), "ffn2": (hidden, ffn)}
        self.layers = []
        for _ in range(config.layers):
            weights = {name: random(*size, spread=size[1] ** -0.5) for name, size in sizes.items()}
            weights |= {f"{name}_bias": random(size[0]) for name, size in sizes.items()}
            for norm in "12":
                weights |= {f"gamma{norm}": random(hidden, shift=1.0), f"beta{norm}": random(hidden)}
            self.layers.append(weights)

    def ids(self, batch, seq):
        import torch

        return torch.randint(0, VOCABULARY, (batch, seq), device=self.device)

    def run(self, ids, embed=embed, layer=layer):
        """The last hidden state."""
        x = embed(ids, *self.tables)
        for weights in self.layers:
            x = layer(x, self.config.heads, weights)
        return x

    def compiled(self, mode):
        """A function like `run` whose layer is compiled once and runs for all layers; nothing between two layers could
        be fused that is not within one."""
        import torch

        torch._dynamo.reset()
        fast = [torch.compile(part, mode=mode, dynamic=False, fullgraph=True) for part in (embed, layer)]
        return lambda ids: self.run(ids, *fast)
