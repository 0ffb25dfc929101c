"""Writes small vocabularies of the old kinds, each with the ids that transformers makes of some sentences.

    python generate_hf_tokenizers.py

into fixtures/hf_tokenizers. Needs transformers and tokenizers; made with transformers 5.23.
"""

import json
import re
from pathlib import Path

import transformers as tf
from tokenizers import ByteLevelBPETokenizer

ROOT = Path(__file__).parent / "fixtures" / "hf_tokenizers"
SENTENCES = [
    ("Hello world, hello WORLDS!", None),
    ("Café naïve — über-straße\u00a0x", None),
    ("他们 met  at\tnoon\nin 2023.", None),
    ("unbelievable xyzzyq [MASK] done", None),
    ("a <mask> here", "and its <mask> pair"),
    ("first sentence", "second one"),
    ("", None),
]
PIECES = (
    "hello world cafe café Hello naive naïve uber u ##ber strasse ##e ##s ##ss a b e i n x met at noon in 2023 他 们 "
    "un ##believ ##able done here and its pair first sentence second one . , ! - — ##a ##stra ##ße WORLD"
).split()
SMILES_PATTERN = (
    r"(\%\([0-9]{3}\)|\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\||\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|"
    r"\%[0-9]{2}|[0-9])"
)


def save(folder, settings, cases):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    (folder / "expected.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")


def cases_of(tokenizer):
    cases = []
    for text, pair in SENTENCES:
        encoded = tokenizer(text, pair)
        cases.append({"text": text, "pair": pair, "ids": encoded["input_ids"]})
    return cases


def vocab_file(folder, tokens):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(tokens) + "\n")
    return str(path)


def word_piece(name, cls, special, settings):
    path = vocab_file(ROOT / name, special + PIECES)
    tokenizer = cls(path, **{k: v for k, v in settings.items() if k != "tokenizer_class"})
    save(ROOT / name, settings, cases_of(tokenizer))


def roberta():
    folder = ROOT / "roberta"
    folder.mkdir(parents=True, exist_ok=True)
    trainer = ByteLevelBPETokenizer()
    corpus = [text for pair in SENTENCES for text in pair if text] * 3
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer.train_from_iterator(corpus, vocab_size=330, min_frequency=2, special_tokens=special)
    trainer.save_model(str(folder))
    # Version 5 forgot what versions before it do, and what the tokenizer.json of roberta-base says.
    mask = tf.AddedToken("<mask>", lstrip=True)
    tokenizer = tf.RobertaTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), mask_token=mask)
    save(folder, {"tokenizer_class": "RobertaTokenizer"}, cases_of(tokenizer))


def smiles():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + "c C ( ) O 1 2 = N . n >> Cl Br [C@H] [C@@H] %12".split()
    vocab_file(ROOT / "smiles", tokens)
    cases = []
    for text in ["CC(=O)Cl.c1ccccc1>>CC(=O)c1ccccc1", "N[C@@H](C)C(=O)O", "C%12CC%12.[Na+] Br"]:
        ids = [tokens.index(t) if t in tokens else 1 for t in re.findall(SMILES_PATTERN, text)]
        cases.append({"text": text, "pair": None, "ids": [2, *ids, 3]})
    save(ROOT / "smiles", {}, cases)


if __name__ == "__main__":
    bert = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    word_piece("bert_uncased", tf.BertTokenizer, bert, {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    word_piece("bert_cased", tf.BertTokenizer, bert, {"do_lower_case": False, "tokenizer_class": "BertTokenizer"})
    word_piece(
        "bert_accents", tf.BertTokenizer, bert,
        {"do_lower_case": True, "strip_accents": False, "tokenizer_class": "BertTokenizer"},
    )
    mpnet = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"]
    word_piece("mpnet", tf.MPNetTokenizer, mpnet, {"do_lower_case": True, "tokenizer_class": "MPNetTokenizer"})
    roberta()
    smiles()
