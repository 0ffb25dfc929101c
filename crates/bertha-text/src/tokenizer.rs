//! Text to token ids and back.

use bertha::Engine;
use tokenizers::{EncodeInput, Encoding, Tokenizer as Inner, TruncationParams, TruncationStrategy};

use crate::error::TextError;

/// Tokens of special use, by the names that the families give them.
const MASK_TOKENS: [&str; 2] = ["[MASK]", "<mask>"];

/// A text, or two that belong together, as token ids.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Segment of each token: 0 for the first text, 1 for the second.
    pub types: Vec<u32>,
    /// Whether a token is one of the tokenizer's own (`[CLS]`, `[SEP]`, ...).
    pub special: Vec<bool>,
    /// Where each token stands in its text, in bytes.
    pub offsets: Vec<(usize, usize)>,
    /// Which word of its text a token belongs to.
    pub words: Vec<Option<u32>>,
    /// Tokens that did not fit and were left out.
    pub truncated: usize,
}

/// A model's tokenizer, truncating to what the model takes.
pub struct Tokenizer {
    inner: Inner,
    max_tokens: Option<usize>,
    mask: Option<(u32, String)>,
}

impl Tokenizer {
    /// The tokenizer that an engine carries.
    pub fn of(engine: &Engine) -> Result<Self, TextError> {
        let bytes = engine.tokenizer().ok_or(TextError::NoTokenizer)?;
        Self::from_bytes(bytes, engine.info().max_tokens)
    }

    /// Reads the text of a `tokenizer.json`; texts are cut to `max_tokens`, special tokens included.
    pub fn from_bytes(bytes: &[u8], max_tokens: Option<usize>) -> Result<Self, TextError> {
        let unreadable = |error: tokenizers::Error| TextError::Tokenizer(error.to_string());
        let mut inner = Inner::from_bytes(bytes).map_err(unreadable)?;
        // The file may ask for padding; batches here have none.
        inner.with_padding(None);
        let truncation = max_tokens.map(|max_length| TruncationParams {
            max_length,
            strategy: TruncationStrategy::LongestFirst,
            ..TruncationParams::default()
        });
        inner.with_truncation(truncation).map_err(unreadable)?;
        let mask = MASK_TOKENS
            .into_iter()
            .find_map(|token| inner.token_to_id(token).map(|id| (id, token.to_owned())));
        Ok(Tokenizer { inner, max_tokens, mask })
    }

    /// Id and text of the mask token, when there is one.
    pub fn mask(&self) -> Option<(u32, &str)> {
        self.mask.as_ref().map(|(id, text)| (*id, text.as_str()))
    }

    /// Longest text in tokens.
    pub fn max_tokens(&self) -> Option<usize> {
        self.max_tokens
    }

    /// Number of tokens in the vocabulary, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Encodes texts, on all cores for many.
    pub fn encode(&self, texts: &[impl AsRef<str> + Sync]) -> Result<Vec<Encoded>, TextError> {
        self.encode_inputs(texts.iter().map(|text| EncodeInput::from(text.as_ref())).collect())
    }

    /// Encodes pairs of texts that belong together, such as a question and a passage.
    pub fn encode_pairs(&self, pairs: &[(&str, &str)]) -> Result<Vec<Encoded>, TextError> {
        self.encode_inputs(pairs.iter().map(|pair| EncodeInput::from(*pair)).collect())
    }

    fn encode_inputs(&self, inputs: Vec<EncodeInput<'_>>) -> Result<Vec<Encoded>, TextError> {
        let encode = |(index, input)| {
            let encoding = self
                .inner
                .encode(input, true)
                .map_err(|error: tokenizers::Error| TextError::Encode { index, why: error.to_string() })?;
            Ok(from_encoding(&encoding))
        };
        inputs.into_iter().enumerate().map(encode).collect()
    }

    /// The text of one token, as the vocabulary has it: `##ing`, `Ġthe`.
    pub fn token(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_default()
    }

    /// The text of token ids. Special tokens are left out when `skip_special` is set.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        self.inner.decode(ids, skip_special).map_err(|error| TextError::Tokenizer(error.to_string()))
    }
}

fn from_encoding(encoding: &Encoding) -> Encoded {
    Encoded {
        ids: encoding.get_ids().to_vec(),
        types: encoding.get_type_ids().to_vec(),
        special: encoding.get_special_tokens_mask().iter().map(|special| *special != 0).collect(),
        offsets: encoding.get_offsets().to_vec(),
        words: encoding.get_word_ids().to_vec(),
        truncated: encoding.get_overflowing().iter().map(|rest| rest.get_ids().len()).sum(),
    }
}
