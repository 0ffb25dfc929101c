"""Segments of text, batches without padding, and whole-word masks.

A batch is one row of exactly `tokens` ids: segments `[CLS] text [SEP]` laid end to end, with `cu_seqlens` telling
attention where each begins. A segment is either a single sentence, as queries to a fill-mask model are, or a
run of whole sentences of one article, up to a length limit.
"""

import lzma
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common import ARTICLE_END, CLS, MASK, PARAGRAPH_END, SEP, VOCAB_SIZE

# Length limits of article segments without [CLS] and [SEP], and the share of segments under each.
CHUNK_LIMITS, CHUNK_SHARES = np.array([126, 254, 510]), np.array([0.6, 0.3, 0.1])
SENTENCE_LENGTHS = range(5, 81)  # ids; others are not used alone
TOKENS_PER_SEGMENT = 40  # lower bound of the mean segment length: bounds the segments in a batch
MAX_SEGMENT = int(CHUNK_LIMITS.max()) + 2


def read_ids(path: Path) -> np.ndarray:
    """Read a uint16 id file, xz-compressed or not."""
    raw = path.read_bytes()
    return np.frombuffer(lzma.decompress(raw) if path.suffix == ".xz" else raw, "<u2")


def read_ids_of(folder: Path, stem: str) -> np.ndarray:
    """Read and join all files of FOLDER whose name begins with STEM, in the order of their names."""
    paths = sorted(folder.glob(f"{stem}*.u16*"))
    if not paths:
        raise SystemExit(f"{folder}: no file {stem}*.u16 or .u16.xz; run prepare.py first")
    with ThreadPoolExecutor() as pool:
        return np.concatenate(list(pool.map(read_ids, paths)))


@dataclass
class Corpus:
    """Ids without markers, and the sentences: `end` is exclusive, `stop` is where the sentence's article ends."""

    ids: np.ndarray  # uint16 [n]
    start: np.ndarray  # int64 [sentences]
    end: np.ndarray
    stop: np.ndarray
    weight: np.ndarray  # int64: how often a pass over the corpus visits the sentence

    @staticmethod
    def parse(marked: np.ndarray, lead_weights: tuple[int, ...], rest_weight: int) -> "Corpus":
        """Take the markers out of an id stream.

        Paragraph i of an article weighs `lead_weights[i]`, later ones `rest_weight`.
        """
        marks = np.flatnonzero(marked <= ARTICLE_END)
        kinds = marked[marks]
        end = marks - np.arange(len(marks))
        start = np.concatenate([[0], end[:-1]])
        article_last = np.flatnonzero(kinds == ARTICLE_END)
        if len(article_last) == 0 or article_last[-1] != len(marks) - 1:
            article_last = np.append(article_last, len(marks) - 1)  # an id file cut off inside an article
        article = np.searchsorted(article_last, np.arange(len(marks)))
        stop = end[article_last][article]
        paragraph = np.concatenate([[0], np.cumsum(kinds >= PARAGRAPH_END)[:-1]])
        article_first = np.concatenate([[0], article_last[:-1] + 1])
        paragraph -= paragraph[article_first][article]
        weights = np.append(np.asarray(lead_weights, np.int64), rest_weight)
        weight = weights[np.minimum(paragraph, len(lead_weights))]
        return Corpus(marked[marked > ARTICLE_END], start, end, stop, weight)

    def joined(self, other: "Corpus") -> "Corpus":
        shift = len(self.ids)
        return Corpus(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.start, other.start + shift]),
            np.concatenate([self.end, other.end + shift]),
            np.concatenate([self.stop, other.stop + shift]),
            np.concatenate([self.weight, other.weight]),
        )

    def chunk_end(self, sentence: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """Where a chunk of at most `limit` ids ends that begins with `sentence`: after the last sentence that fits."""
        furthest = np.minimum(self.start[sentence] + limit, self.stop[sentence])
        last = np.searchsorted(self.end, furthest, side="right") - 1
        # A first sentence longer than the limit is cut.
        return np.where(last >= sentence, self.end[np.maximum(last, sentence)], furthest)


def load_training(folder: Path) -> Corpus:
    """Whole articles, with the leads visited more often, and the leads of the vital articles."""
    core = Corpus.parse(read_ids_of(folder, "train-core"), lead_weights=(4, 2, 2), rest_weight=1)
    vital = Corpus.parse(read_ids_of(folder, "train-vital"), lead_weights=(8, 4), rest_weight=4)
    return core.joined(vital)


class Pool:
    """Endless shuffled passes over the sentences, each as often as it weighs."""

    def __init__(self, sentences: np.ndarray, weight: np.ndarray, rng: np.random.Generator):
        self.items, self.rng, self.at = np.repeat(sentences, weight).astype(np.int32), rng, 0
        self.rng.shuffle(self.items)

    def take(self, count: int) -> np.ndarray:
        taken = []
        while count:
            part = self.items[self.at : self.at + count]
            taken.append(part)
            count -= len(part)
            self.at += len(part)
            if self.at == len(self.items):
                self.rng.shuffle(self.items)
                self.at = 0
        return np.concatenate(taken)


class Segments:
    """Draws the segments of training batches."""

    def __init__(self, corpus: Corpus, tokens: int, sentence_share: float, seed: int):
        """`tokens`: ids in a batch; `sentence_share`: the share of them in segments of a single sentence."""
        self.corpus, self.tokens, self.rng = corpus, tokens, np.random.default_rng(seed)
        self.capacity = max(8, tokens // TOKENS_PER_SEGMENT)
        length = corpus.end - corpus.start
        alone = np.flatnonzero((length >= SENTENCE_LENGTHS.start) & (length < SENTENCE_LENGTHS.stop))
        self.sentences = Pool(alone, corpus.weight[alone], self.rng)
        self.chunks = Pool(np.arange(len(length)), corpus.weight, self.rng)
        mean_sentence = np.average(length[alone], weights=corpus.weight[alone]) + 2
        begin, end = self._chunks(20000)
        mean_chunk = (end - begin).mean() + 2
        sentence, chunk = sentence_share / mean_sentence, (1 - sentence_share) / mean_chunk
        self.sentence_chance = sentence / (sentence + chunk)

    def _chunks(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        first = self.chunks.take(count)
        limit = self.rng.choice(CHUNK_LIMITS, count, p=CHUNK_SHARES)
        return self.corpus.start[first], self.corpus.chunk_end(first, limit)

    def draw(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The segments of one batch: where each begins in `corpus.ids`, its length, and whether it is one sentence.

        Lengths count [CLS] and [SEP] and are 0 past the last segment.
        """
        count = self.capacity
        alone = self.rng.random(count) < self.sentence_chance
        begin, end = self._chunks(count)
        single = self.sentences.take(int(alone.sum()))
        begin[alone], end[alone] = self.corpus.start[single], self.corpus.end[single]
        return fit(begin, end - begin + 2, self.tokens) + (alone,)


def fit(begin: np.ndarray, length: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the lengths so that they sum to `tokens` at most."""
    total = np.cumsum(length)
    return begin, np.clip(tokens - (total - length), 0, length)


@dataclass
class Batch:
    """Tensors of one batch on the training device. Shapes do not change from batch to batch."""

    ids: torch.Tensor  # int64 [tokens]
    positions: torch.Tensor  # int64 [tokens]
    segment: torch.Tensor  # int64 [tokens]
    cu_seqlens: torch.Tensor  # int32 [capacity + 1]


def lay_out(flat: torch.Tensor, begin: torch.Tensor, length: torch.Tensor, tokens: int) -> Batch:
    """Lay segments end to end. Ids left over at the end (fewer than three, as a rule) form a last segment of [SEP]s."""
    cu = torch.zeros(len(length) + 2, dtype=torch.int64, device=flat.device)
    cu[1:-1] = torch.cumsum(length, 0)
    cu[-1] = tokens
    sizes = cu[1:] - cu[:-1]
    segment = torch.repeat_interleave(torch.arange(len(sizes), device=flat.device), sizes, output_size=tokens)
    positions = torch.arange(tokens, device=flat.device) - cu[segment]
    size = sizes[segment]
    begin = torch.cat([begin, begin.new_zeros(1)])
    source = (begin[segment] + positions - 1).clamp_(0, len(flat) - 1)
    ids = flat[source].long()
    ids = torch.where((positions == size - 1) | (segment == len(length)), SEP, torch.where(positions == 0, CLS, ids))
    return Batch(ids, positions.clamp_(max=MAX_SEGMENT - 1), segment, cu.int())


def continuation_table(vocabulary: list[str]) -> torch.Tensor:
    """Bool [vocab]: does the wordpiece continue a word?"""
    return torch.tensor([token.startswith("##") for token in vocabulary])


def choose_words(batch: Batch, continues: torch.Tensor, chance: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
    """Whole-word mask, bool [tokens]: a word is chosen if `draw` is under `chance` at its first wordpiece."""
    index = torch.arange(len(batch.ids), device=batch.ids.device)
    first = torch.where(continues[batch.ids], 0, index).cummax(0).values
    word = (batch.ids != CLS) & (batch.ids != SEP)
    return (draw[first] < chance[first]) & word & word[first]


def hide(ids: torch.Tensor, chosen: torch.Tensor, mask_share: float, random_share: float) -> torch.Tensor:
    """Replace the chosen ids by [MASK], by a random id, or (the rest) not at all."""
    draw = torch.rand(len(ids), device=ids.device)
    other = torch.randint(1000, VOCAB_SIZE, (len(ids),), device=ids.device)
    replaced = torch.where(draw < mask_share, MASK, torch.where(draw < mask_share + random_share, other, ids))
    return torch.where(chosen, replaced, ids)


def compact(chosen: torch.Tensor, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The chosen positions in a tensor of fixed size: int64 [capacity], and bool [capacity] where it is filled."""
    rank = torch.cumsum(chosen, 0) - 1
    slot = torch.where(chosen & (rank < capacity), rank, capacity)
    index = torch.zeros(capacity + 1, dtype=torch.int64, device=chosen.device)
    index.scatter_(0, slot, torch.arange(len(chosen), device=chosen.device))
    filled = torch.arange(capacity, device=chosen.device) < chosen.sum()
    return torch.where(filled, index[:capacity], 0), filled
