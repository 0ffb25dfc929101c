"""Turn the two text corpora into token ids.

Input files hold articles separated by a blank line: one title line, then one paragraph a line. Output, in OUT:

- `train-core.u16`, `train-vital.u16`, `held-out.u16`: little-endian uint16 wordpiece ids of the whole article texts,
  each sentence followed by a marker id (see `common.py`), so that sentences, paragraphs and articles can be found;
- `word-weights.npy`: float32 [vocab], the relative chance with which a word that starts with this wordpiece is masked;
- `corpus.json`: counts.

One article in a hundred, chosen by the hash of its title, goes to `held-out.u16` and nowhere else.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import re
from pathlib import Path

import numpy as np
import zstandard
from tokenizers import Tokenizer

from common import ARTICLE_END, PARAGRAPH_END, SENTENCE_END, VOCAB_SIZE

HELD_OUT_PERCENT = 1
MIN_SENTENCE_WORDS = 4
MAX_PIECES_PER_WORD = 2.4  # above this a "sentence" is mostly transcription or another script

ABBREVIATIONS = frozenset(
    "mr mrs ms dr st prof gen col lt sgt capt rev hon jr sr vs etc no vol fig ca cf al inc ltd co corp dept univ mt ft"
    " jan feb mar apr jun jul aug sep sept oct nov dec approx bros e.g i.e u.s u.k b.c a.d a.m p.m ph.d lat r pp"
    " ed".split()
)
SENTENCE_BREAK = re.compile(r"""([.!?]["')\]]*)\s+(?=["'(]?[A-Z0-9])""")
# Parentheses left without words by the removal of phonetic transcriptions, such as "( ; ])".
PARENTHESES = re.compile(r"\s*\(([^()]*)\)")
SPACES = re.compile(r"\s+")


def articles(path: Path):
    """Yield (title, paragraphs) from a zstd-compressed corpus file."""
    with open(path, "rb") as raw:
        text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8")
        lines: list[str] = []
        for line in text:
            line = line.strip()
            if line:
                lines.append(line)
            elif lines:
                yield lines[0], lines[1:]
                lines = []
        if lines:
            yield lines[0], lines[1:]


def is_held_out(title: str) -> bool:
    """Deterministic choice by title, the same for both corpora."""
    digest = hashlib.sha256(title.strip().lower().encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def drop_empty_parentheses(match: re.Match) -> str:
    """Remove parentheses without a word, or with the remains of a phonetic transcription."""
    inside = match.group(1)
    if "]" in inside or "[" in inside or not re.search(r"[A-Za-z0-9]{2}", inside):
        return ""
    return match.group(0)


def sentences(paragraph: str) -> list[str]:
    """Split a paragraph at sentence ends, minding common abbreviations and initials."""
    paragraph = SPACES.sub(" ", PARENTHESES.sub(drop_empty_parentheses, paragraph)).replace(" ,", ",")
    result, start = [], 0
    for match in SENTENCE_BREAK.finditer(paragraph):
        last_word = paragraph[start : match.start()].rsplit(" ", 1)[-1].strip("\"'([").lower()
        if match.group(1)[0] == "." and (len(last_word) == 1 or last_word in ABBREVIATIONS):
            continue
        result.append(paragraph[start : match.end(1)])
        start = match.end()
    result.append(paragraph[start:])
    return [s for s in result if s.count(" ") + 1 >= MIN_SENTENCE_WORDS]


_TOKENIZER: Tokenizer | None = None


def start_worker(tokenizer_path: str) -> None:
    global _TOKENIZER
    _TOKENIZER = Tokenizer.from_file(tokenizer_path)
    _TOKENIZER.no_truncation()
    _TOKENIZER.no_padding()


def encode_articles(batch: list[list[str]]) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Encode the articles' paragraphs.

    Returns the ids with markers as bytes, and per vocabulary id how often a word inside a sentence starts with it, and
    how often that word is capitalised.
    """
    texts, ends = [], []
    for paragraphs in batch:
        split = [s for s in map(sentences, paragraphs) if s]
        for p, paragraph in enumerate(split):
            for s, sentence in enumerate(paragraph):
                texts.append(sentence)
                last_paragraph, last_sentence = p + 1 == len(split), s + 1 == len(paragraph)
                ends.append(
                    ARTICLE_END
                    if last_sentence and last_paragraph
                    else PARAGRAPH_END
                    if last_sentence
                    else SENTENCE_END
                )
    out: list[int] = []
    first = np.zeros(VOCAB_SIZE, np.int64)
    capital = np.zeros(VOCAB_SIZE, np.int64)
    for text, end, encoding in zip(
        texts, ends, _TOKENIZER.encode_batch_fast(texts, add_special_tokens=False), strict=True
    ):
        ids = encoding.ids
        if len(ids) <= MAX_PIECES_PER_WORD * (text.count(" ") + 1):
            out.extend(ids)
            out.append(end)
        elif end != SENTENCE_END and out and out[-1] == SENTENCE_END:
            out[-1] = end
        elif end == ARTICLE_END and out and out[-1] == PARAGRAPH_END:
            out[-1] = end
    # Capitals: a sample is enough, and word alignment by the tokenizer's own offsets.
    for text in texts[::16]:
        encoding = _TOKENIZER.encode(text, add_special_tokens=False)
        for token, (begin, _), word in zip(encoding.ids, encoding.offsets, encoding.word_ids, strict=True):
            if word and (begin == 0 or text[begin - 1] in ' -("'):
                first[token] += 1
                capital[token] += text[begin].isupper()
    return np.asarray(out, "<u2").tobytes(), first, capital


def batches(items, size: int):
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def word_weights(first: np.ndarray, capital: np.ndarray) -> np.ndarray:
    """Mask names more often, the few most frequent words and punctuation less often; mean 1 over running text."""
    share = capital / np.maximum(first, 1)
    weight = 1.0 + 0.8 * np.where(first >= 5, share, 0.5)
    frequency = first / first.sum()
    rarity = np.clip(np.sqrt(1e-3 / np.maximum(frequency, 1e-9)), 0.3, 1.0)
    weight = np.where(frequency > 1e-3, np.minimum(weight, rarity), weight)
    return (weight / (weight * frequency).sum()).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=Path, required=True, help="zstd text of whole articles")
    parser.add_argument("--vital", type=Path, required=True, help="zstd text of article leads")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None, help="read only this many articles of each file")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    first = np.zeros(VOCAB_SIZE, np.int64)
    capital = np.zeros(VOCAB_SIZE, np.int64)
    counts: dict[str, int] = {}
    held_out = open(args.out / "held-out.u16", "wb")
    with multiprocessing.Pool(initializer=start_worker, initargs=(str(args.tokenizer),)) as pool:
        for name, path in (("core", args.core), ("vital", args.vital)):
            chosen = {False: [], True: []}
            for n, (title, paragraphs) in enumerate(articles(path)):
                if args.limit is not None and n >= args.limit:
                    break
                chosen[is_held_out(title)].append(paragraphs)
            # The leads of held-out titles are left out of training; only whole articles are evaluated on.
            counts[f"{name}_articles"], counts[f"{name}_held_out"] = len(chosen[False]), len(chosen[True])
            with open(args.out / f"train-{name}.u16", "wb") as out:
                for ids, f, c in pool.imap(encode_articles, batches(chosen[False], 32)):
                    out.write(ids)
                    first += f
                    capital += c
                counts[f"{name}_ids"] = out.tell() // 2
            if name == "core":
                for ids, _, _ in pool.imap(encode_articles, batches(chosen[True], 32)):
                    held_out.write(ids)
                counts["held_out_ids"] = held_out.tell() // 2
    held_out.close()
    np.save(args.out / "word-weights.npy", word_weights(first, capital))
    (args.out / "corpus.json").write_text(json.dumps(counts, indent=2) + "\n")
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
