//! `bertha tokenize`.

use std::path::Path;

use bertha::TensorData;
use bertha::import::npz::write_npz;
use bertha_text::{Encoded, TextError, Tokenizer};
use serde::Serialize;

use super::{Failure, import, open};
use crate::args::{PluginOptions, TokenizeArgs};
use crate::{demo, output};

/// What `--json` prints of one text.
#[derive(Serialize)]
struct Text<'a> {
    ids: &'a [u32],
    tokens: Vec<String>,
    types: &'a [u32],
    offsets: &'a [(usize, usize)],
    truncated: usize,
}

pub(crate) fn run(args: TokenizeArgs) -> Result<(), Failure> {
    let texts = args.texts.read()?;
    let tokenizer = tokenizer(args.model.as_deref(), &args.plugins)?;
    let encoded = tokenizer.encode(&texts)?;
    if let Some(path) = &args.output {
        write_npz(path, padded(&encoded)?.iter().map(|(name, data)| (*name, data)))?;
    }
    if args.json {
        let texts: Vec<Text<'_>> = encoded
            .iter()
            .map(|text| Text {
                ids: &text.ids,
                tokens: text.ids.iter().map(|id| tokenizer.token(*id)).collect(),
                types: &text.types,
                offsets: &text.offsets,
                truncated: text.truncated,
            })
            .collect();
        return output::json(&texts);
    }
    for text in &encoded {
        let tokens: Vec<String> =
            text.ids.iter().map(|id| format!("{}={id}", tokenizer.token(*id))).collect();
        output::line(tokens.join(" "))?;
        if text.truncated > 0 {
            let left_out = output::count(text.truncated, "token", "tokens");
            eprintln!("note: {left_out} did not fit and were left out");
        }
    }
    Ok(())
}

/// The model's tokenizer. Only an engine file is opened as an engine: to tokenize, nothing need be compiled.
fn tokenizer(path: Option<&Path>, plugins: &PluginOptions) -> Result<Tokenizer, Failure> {
    let Some(path) = path else { return Ok(Tokenizer::of(&demo::engine()?)?) };
    if bertha::is_engine_file(path) {
        return Ok(Tokenizer::of(&open(path, plugins)?)?);
    }
    let model = import(path, &plugins.options()?.plugins)?;
    let text = model.tokenizer.ok_or(TextError::NoTokenizer)?;
    Ok(Tokenizer::from_bytes(&text, model.info.max_tokens)?)
}

/// The texts as the padded tensors that ONNX models take: ids, attention mask and segments, `[texts, longest]`.
fn padded(texts: &[Encoded]) -> Result<[(&'static str, TensorData); 3], Failure> {
    let columns = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
    let fill = |value: &dyn Fn(&Encoded, usize) -> Option<u32>| {
        let cells: Vec<i64> = texts
            .iter()
            .flat_map(|text| (0..columns).map(move |column| value(text, column).map_or(0, i64::from)))
            .collect();
        TensorData::from_vec(vec![texts.len(), columns], cells)
            .map_err(|error| Failure::Other(error.to_string()))
    };
    Ok([
        ("input_ids", fill(&|text, column| text.ids.get(column).copied())?),
        ("attention_mask", fill(&|text, column| text.ids.get(column).map(|_| 1))?),
        ("token_type_ids", fill(&|text, column| text.types.get(column).copied())?),
    ])
}
