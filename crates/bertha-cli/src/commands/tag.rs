//! `bertha tag`.

use bertha_text::tasks::tag::Tag;

use super::Failure;
use crate::args::TagArgs;
use crate::output;

pub(crate) fn run(args: TagArgs) -> Result<(), Failure> {
    let texts = args.texts.read()?;
    let engine = args.run.open(&args.model)?;
    let answers = Tag::new(&engine, args.run.threads())?.tag(&texts)?;
    if args.json {
        return output::json(&answers);
    }
    for (text, entities) in texts.iter().zip(&answers) {
        output::line(text)?;
        for entity in entities {
            let (start, end) = (entity.start, entity.end);
            let span = format!("{start}..{end}");
            output::line(format!(
                "  {:>6.4}  {:<10} {span:>10}  {}",
                entity.score, entity.entity_group, entity.word
            ))?;
        }
    }
    Ok(())
}
