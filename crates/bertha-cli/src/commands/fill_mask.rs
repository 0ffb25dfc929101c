//! `bertha fill-mask`.

use bertha_text::tasks::fill_mask::{Fill, FillMask};

use super::Failure;
use crate::args::FillMaskArgs;
use crate::{demo, output};

pub(crate) fn run(args: FillMaskArgs) -> Result<(), Failure> {
    let texts = args.texts.read()?;
    let engine = match &args.model {
        Some(path) => args.run.open(path)?,
        None => args.run.place(demo::engine()?)?,
    };
    let mut task = FillMask::new(&engine, args.run.threads())?;
    let answers = task.fill(&texts, args.top_k as usize)?;
    if args.json {
        return print_json(answers);
    }
    for (index, (text, masks)) in texts.iter().zip(&answers).enumerate() {
        if index > 0 {
            output::line("")?;
        }
        print_text(text, masks)?;
    }
    Ok(())
}

fn print_text(text: &str, masks: &[Vec<Fill>]) -> Result<(), Failure> {
    output::line(text)?;
    for (number, fills) in masks.iter().enumerate() {
        if masks.len() > 1 {
            output::line(format!("mask {}:", number + 1))?;
        }
        for fill in fills {
            output::line(format!("  {:>6.4}  {:<14} {}", fill.score, fill.token_str, fill.sequence))?;
        }
    }
    Ok(())
}

/// As Hugging Face's pipeline: one mask gives its list, several give a list of lists; several texts, a list of those.
fn print_json(answers: Vec<Vec<Vec<Fill>>>) -> Result<(), Failure> {
    let as_value = |masks: Vec<Vec<Fill>>| match <[Vec<Fill>; 1]>::try_from(masks) {
        Ok([fills]) => serde_json::to_value(fills),
        Err(masks) => serde_json::to_value(masks),
    };
    let texts: Result<Vec<_>, _> = answers.into_iter().map(as_value).collect();
    let texts = texts.map_err(|error| Failure::Other(error.to_string()))?;
    match <[serde_json::Value; 1]>::try_from(texts) {
        Ok([text]) => output::json(&text),
        Err(texts) => output::json(&texts),
    }
}
