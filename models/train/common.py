"""Names shared by the steps of the recipe."""

VOCAB_SIZE = 30522
PAD, UNK, CLS, SEP, MASK = 0, 100, 101, 102, 103

# Ids of `[unused0]` to `[unused2]`, which no text produces: in id files they end a sentence, a paragraph, an article.
SENTENCE_END, PARAGRAPH_END, ARTICLE_END = 1, 2, 3

# The model's shape, that of all-MiniLM-L6-v2.
LAYERS, HIDDEN, HEADS, INTERMEDIATE, POSITIONS = 6, 384, 12, 1536, 512
LAYER_NORM_EPS = 1e-12
