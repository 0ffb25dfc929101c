//! `bertha sparse`.

use bertha_text::tasks::sparse::Sparse;

use super::Failure;
use crate::args::SparseArgs;
use crate::{demo, output};

pub(crate) fn run(args: SparseArgs) -> Result<(), Failure> {
    let texts = args.texts.read()?;
    let engine = match &args.model {
        Some(path) => args.run.open(path)?,
        None => args.run.place(demo::engine()?)?,
    };
    let answers = Sparse::new(&engine, args.run.threads())?.sparse(&texts)?;
    if args.json {
        return output::json(&answers);
    }
    for (text, terms) in texts.iter().zip(&answers) {
        output::line(format!("{text}  ({} terms)", terms.len()))?;
        for term in terms.iter().take(args.top_k as usize) {
            output::line(format!("  {:>7.4}  {}", term.value, term.token))?;
        }
    }
    Ok(())
}
