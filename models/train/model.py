"""BERT with a masked-LM head, written for speed of training: unpadded batches, stacked layer weights, tied decoder.

`to_hugging_face` and `from_hugging_face` translate between this module's stacked parameters and the tensor names of
`transformers.BertForMaskedLM`.
"""

import torch
import torch.nn.functional as F
from torch import nn

from common import HEADS, HIDDEN, INTERMEDIATE, LAYER_NORM_EPS, LAYERS, POSITIONS, VOCAB_SIZE

PADDED_VOCAB = 30528  # a multiple of 64, for aligned matrix products; the added rows are cut off on export


def padded_attention(q, k, v, cu, longest):
    """Reference for devices without variable-length attention: pad the segments, attend, and take the padding out.

    q, k, v: [tokens, heads, head size]; cu: int32 [segments + 1].
    """
    cu = cu.long()
    sizes = cu[1:] - cu[:-1]
    kept = sizes > 0
    cu, sizes = cu[:-1][kept], sizes[kept]
    place = torch.arange(min(longest, int(sizes.max())), device=q.device)
    real = place < sizes[:, None]
    source = (cu[:, None] + place).clamp(max=len(q) - 1)
    q, k, v = (x[source].transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None, :])
    return out.transpose(1, 2)[real]


def attention(q, k, v, cu, longest):
    """Bidirectional attention within each segment, scaled by 1/sqrt(head size)."""
    if q.is_cuda and q.dtype == torch.bfloat16:
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn(q, k, v, cu, cu, longest, longest)
    return padded_attention(q, k, v, cu, longest)


class MaskedLM(nn.Module):
    """Parameters are float32; `dtype` is what the forward pass computes in (layer norms and the loss in float32)."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.dtype = dtype

        def zeros(*shape):
            return nn.Parameter(torch.zeros(shape))

        self.words = zeros(PADDED_VOCAB, HIDDEN)
        self.positions = zeros(POSITIONS, HIDDEN)
        self.types = zeros(2, HIDDEN)
        self.norm_embeddings = zeros(2, HIDDEN)  # of a layer norm: weight, bias
        self.qkv, self.qkv_bias = zeros(LAYERS, 3, HIDDEN, HIDDEN), zeros(LAYERS, 3, HIDDEN)
        self.out, self.out_bias = zeros(LAYERS, HIDDEN, HIDDEN), zeros(LAYERS, HIDDEN)
        self.norm_attention = zeros(LAYERS, 2, HIDDEN)
        self.up, self.up_bias = zeros(LAYERS, INTERMEDIATE, HIDDEN), zeros(LAYERS, INTERMEDIATE)
        self.down, self.down_bias = zeros(LAYERS, HIDDEN, INTERMEDIATE), zeros(LAYERS, HIDDEN)
        self.norm_output = zeros(LAYERS, 2, HIDDEN)
        self.head, self.head_bias = zeros(HIDDEN, HIDDEN), zeros(HIDDEN)
        self.norm_head = zeros(2, HIDDEN)
        self.decoder_bias = zeros(PADDED_VOCAB)

    def matrices(self) -> list[nn.Parameter]:
        """The hidden layers' matrices: what Muon updates."""
        return [self.qkv, self.out, self.up, self.down, self.head]

    def _linear(self, x, weight, bias):
        return F.linear(x, weight.to(self.dtype), bias.to(self.dtype))

    def _norm(self, x, parameters):
        return F.layer_norm(x.float(), (HIDDEN,), parameters[0], parameters[1], LAYER_NORM_EPS).to(self.dtype)

    def encode(self, ids, positions, cu, longest):
        """Hidden states [tokens, hidden]."""
        x = F.embedding(ids, self.words) + F.embedding(positions, self.positions) + self.types[0]
        x = self._norm(x, self.norm_embeddings)
        layers = zip(
            *(p.unbind(0) for p in (self.qkv, self.qkv_bias, self.out, self.out_bias, self.norm_attention)),
            *(p.unbind(0) for p in (self.up, self.up_bias, self.down, self.down_bias, self.norm_output)),
            strict=True,
        )
        for qkv, qkv_bias, out, out_bias, norm_attention, up, up_bias, down, down_bias, norm_output in layers:
            y = self._linear(x, qkv.reshape(3 * HIDDEN, HIDDEN), qkv_bias.reshape(-1))
            q, k, v = y.view(-1, 3, HEADS, HIDDEN // HEADS).unbind(1)
            y = attention(q, k, v, cu, longest).reshape(-1, HIDDEN)
            x = self._norm(x + self._linear(y, out, out_bias), norm_attention)
            y = self._linear(F.gelu(self._linear(x, up, up_bias)), down, down_bias)
            x = self._norm(x + y, norm_output)
        return x

    def logits(self, hidden):
        """Scores over the padded vocabulary, [n, PADDED_VOCAB], for some hidden states [n, hidden]."""
        y = self._norm(F.gelu(self._linear(hidden, self.head, self.head_bias)), self.norm_head)
        return self._linear(y, self.words, self.decoder_bias)

    def losses(self, ids, positions, cu, longest, index, labels):
        """Cross entropy (nats) and hit (float) at each of the positions `index`, against `labels`."""
        logits = self.logits(self.encode(ids, positions, cu, longest)[index]).float()
        return F.cross_entropy(logits, labels, reduction="none"), (logits.detach().argmax(-1) == labels).float()

    def training_loss(self, ids, positions, cu, longest, index, labels, filled):
        """Mean cross entropy over the filled slots of `index`."""
        logits = self.logits(self.encode(ids, positions, cu, longest)[index]).float()
        loss = F.cross_entropy(logits, labels, reduction="none")
        return (loss * filled).sum() / filled.sum().clamp(min=1)


def _names(model: MaskedLM):
    """Yield (Hugging Face name, view of the parameter that holds it)."""
    embeddings = "bert.embeddings"
    yield f"{embeddings}.word_embeddings.weight", model.words.data[:VOCAB_SIZE]
    yield f"{embeddings}.position_embeddings.weight", model.positions.data
    yield f"{embeddings}.token_type_embeddings.weight", model.types.data
    yield from _norm_names(f"{embeddings}.LayerNorm", model.norm_embeddings.data)
    for i in range(LAYERS):
        layer = f"bert.encoder.layer.{i}"
        for j, part in enumerate(("query", "key", "value")):
            yield f"{layer}.attention.self.{part}.weight", model.qkv.data[i, j]
            yield f"{layer}.attention.self.{part}.bias", model.qkv_bias.data[i, j]
        yield f"{layer}.attention.output.dense.weight", model.out.data[i]
        yield f"{layer}.attention.output.dense.bias", model.out_bias.data[i]
        yield from _norm_names(f"{layer}.attention.output.LayerNorm", model.norm_attention.data[i])
        yield f"{layer}.intermediate.dense.weight", model.up.data[i]
        yield f"{layer}.intermediate.dense.bias", model.up_bias.data[i]
        yield f"{layer}.output.dense.weight", model.down.data[i]
        yield f"{layer}.output.dense.bias", model.down_bias.data[i]
        yield from _norm_names(f"{layer}.output.LayerNorm", model.norm_output.data[i])
    yield "cls.predictions.transform.dense.weight", model.head.data
    yield "cls.predictions.transform.dense.bias", model.head_bias.data
    yield from _norm_names("cls.predictions.transform.LayerNorm", model.norm_head.data)
    yield "cls.predictions.bias", model.decoder_bias.data[:VOCAB_SIZE]


def _norm_names(name: str, parameters: torch.Tensor):
    yield f"{name}.weight", parameters[0]
    yield f"{name}.bias", parameters[1]


def to_hugging_face(model: MaskedLM) -> dict[str, torch.Tensor]:
    """Copies of all tensors under the names of BertForMaskedLM; the decoder is tied and has no tensor of its own."""
    return {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in _names(model)}


@torch.no_grad()
def from_hugging_face(model: MaskedLM, tensors: dict[str, torch.Tensor]) -> None:
    """Fill the model. A checkpoint without the head (a BertModel) gets a new one: identity, then a plain layer norm."""
    bare = "cls.predictions.bias" not in tensors
    for name, tensor in _names(model):
        key = name.removeprefix("bert.") if name not in tensors else name
        if key in tensors:
            tensor.copy_(tensors[key])
        elif not (bare and name.startswith("cls.")):
            raise KeyError(f"the start checkpoint has no tensor {name}")
    model.decoder_bias[VOCAB_SIZE:] = -20.0
    if bare:
        model.head.copy_(torch.eye(HIDDEN))
        model.norm_head[0] = 1.0
