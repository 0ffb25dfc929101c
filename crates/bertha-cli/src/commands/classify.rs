//! `bertha classify`.

use bertha_text::tasks::classify::Classify;

use super::Failure;
use crate::args::ClassifyArgs;
use crate::output;

pub(crate) fn run(args: ClassifyArgs) -> Result<(), Failure> {
    let texts = args.texts.read()?;
    let engine = args.run.open(&args.model)?;
    let mut answers = Classify::new(&engine, args.run.threads())?.classify(&texts)?;
    for labels in &mut answers {
        labels.truncate(args.top_k as usize);
    }
    if args.json {
        return output::json(&answers);
    }
    for (text, labels) in texts.iter().zip(&answers) {
        output::line(text)?;
        for label in labels {
            output::line(format!("  {:>6.4}  {}", label.score, label.label))?;
        }
    }
    Ok(())
}
