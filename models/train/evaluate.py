"""Held-out loss and accuracy, and the cloze table."""

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from common import CLS, MASK, SEP
from data import MAX_SEGMENT, Corpus, choose_words, compact, continuation_table, fit, lay_out, read_ids_of
from model import MaskedLM

MASK_RATE = 0.15
BATCH_TOKENS = 16384
CHUNK = 126


def held_out_batches(folder: Path, vocabulary: list[str], tokens: int, seed: int = 1) -> dict[str, list[tuple]]:
    """The same masked batches every time: `articles`, in runs of sentences of up to 126 ids, and single `sentences`.

    Whole words are chosen with probability 0.15 and all replaced by [MASK]. Each batch is what `MaskedLM.losses` takes,
    with the mask of filled slots added.
    """
    corpus = Corpus.parse(read_ids_of(folder, "held-out"), (1,), 1)
    flat = torch.from_numpy(corpus.ids.astype(np.int32))
    continues = continuation_table(vocabulary)
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    length = corpus.end - corpus.start
    alone = np.flatnonzero((length >= 5) & (length <= 80))
    result = {}
    for kind in ("articles", "sentences"):
        result[kind] = []
        capacity = BATCH_TOKENS // (70 if kind == "articles" else 20)
        for _ in range(max(1, tokens // BATCH_TOKENS)):
            first = rng.choice(len(length) if kind == "articles" else alone, capacity)
            end = corpus.chunk_end(first, np.full(capacity, CHUNK)) if kind == "articles" else corpus.end[first]
            begin, sizes = fit(corpus.start[first], end - corpus.start[first] + 2, BATCH_TOKENS)
            batch = lay_out(flat, torch.from_numpy(begin), torch.from_numpy(sizes), BATCH_TOKENS)
            draw = torch.rand(BATCH_TOKENS, generator=generator)
            chosen = choose_words(batch, continues, torch.full((BATCH_TOKENS,), MASK_RATE), draw)
            index, filled = compact(chosen, BATCH_TOKENS // 5)
            ids = torch.where(chosen, MASK, batch.ids)
            result[kind].append((ids, batch.positions, batch.cu_seqlens, index, batch.ids[index], filled))
    return result


@torch.no_grad()
def held_out_scores(model: MaskedLM, batches: dict[str, list[tuple]], device) -> dict[str, float]:
    """Mean cross entropy in nats and share of hits over the masked wordpieces, by kind of batch and together."""
    scores, losses, hits, counts = {}, 0.0, 0.0, 0
    for kind, members in batches.items():
        loss, hit, count = 0.0, 0.0, 0
        for member in members:
            ids, positions, cu, index, labels, filled = (x.to(device) for x in member)
            each_loss, each_hit = model.losses(ids, positions, cu, MAX_SEGMENT, index, labels)
            loss += (each_loss * filled).sum().item()
            hit += (each_hit * filled).sum().item()
            count += int(filled.sum())
        scores[f"{kind}_loss"], scores[f"{kind}_accuracy"], scores[f"{kind}_masked"] = loss / count, hit / count, count
        losses, hits, counts = losses + loss, hits + hit, counts + count
    scores["loss"], scores["accuracy"] = losses / counts, hits / counts
    return scores


@torch.no_grad()
def fill(model: MaskedLM, tokenizer: Tokenizer, text: str, count: int, device) -> list[tuple[str, float]]:
    """The `count` most probable wordpieces for the [MASK] in `text`, with their probabilities."""
    ids = [CLS] + tokenizer.encode(text, add_special_tokens=False).ids + [SEP]
    if ids.count(MASK) != 1:
        raise ValueError(f"not exactly one [MASK] in {text!r}")
    tensor = torch.tensor(ids, device=device)
    cu = torch.tensor([0, len(ids)], dtype=torch.int32, device=device)
    hidden = model.encode(tensor, torch.arange(len(ids), device=device), cu, MAX_SEGMENT)
    scores = model.logits(hidden[ids.index(MASK)][None]).float()[0, : tokenizer.get_vocab_size()].softmax(-1)
    top = scores.topk(count)
    return [(tokenizer.id_to_token(i), p) for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]


def cloze(model: MaskedLM, tokenizer: Tokenizer, table: Path, device) -> dict:
    """Top-1 and top-5 hits over the table, and what was answered to each line."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    answers = []
    for row in rows:
        top = [word for word, _ in fill(model, tokenizer, row["text"], 5, device)]
        rank = min((top.index(a) + 1 for a in row["answers"] if a in top), default=None)
        answers.append({"text": row["text"], "answers": row["answers"], "top5": top, "rank": rank})
    return {
        "facts": len(rows),
        "top1": sum(a["rank"] == 1 for a in answers),
        "top5": sum(a["rank"] is not None for a in answers),
        "answers": answers,
    }
