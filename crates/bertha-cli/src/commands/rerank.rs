//! `bertha rerank`.

use bertha_text::tasks::rerank::Rerank;

use super::{Failure, read_texts};
use crate::args::RerankArgs;
use crate::output;

pub(crate) fn run(args: RerankArgs) -> Result<(), Failure> {
    let documents = read_texts(args.documents)?;
    let engine = args.run.open(&args.model)?;
    let ranked = Rerank::new(&engine, args.run.threads())?.rerank(&args.query, &documents)?;
    if args.json {
        return output::json(&ranked);
    }
    for entry in &ranked {
        let document = documents.get(entry.index).map_or("", String::as_str);
        output::line(format!("{:>6.4}  {:>3}  {document}", entry.score, entry.index))?;
    }
    Ok(())
}
