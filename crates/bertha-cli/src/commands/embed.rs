//! `bertha embed`.

use bertha_text::tasks::embed::Embed;

use super::Failure;
use crate::args::EmbedArgs;
use crate::output;

/// Values of a vector that the text form shows.
const SHOWN: usize = 8;

pub(crate) fn run(args: EmbedArgs) -> Result<(), Failure> {
    let Some(model) = &args.model else {
        return Err(Failure::Usage(
            "embed needs --model: the small English model that comes with Bertha fills masks and was not trained to \
             embed. Name a sentence encoder, such as a folder with all-MiniLM-L6-v2"
                .into(),
        ));
    };
    let texts = args.texts.read()?;
    let engine = args.run.open(model)?;
    let mut task = Embed::new(&engine, args.run.threads())?;
    if task.pooling_is_assumed() {
        eprintln!("note: the model does not say how it pools; the mean over tokens is used, not normalised");
    }
    let vectors = task.embed(&texts)?;
    if args.json {
        return output::json_compact(&vectors);
    }
    for (text, vector) in texts.iter().zip(&vectors) {
        let head: Vec<String> = vector.iter().take(SHOWN).map(|value| format!("{value:>8.4}")).collect();
        let rest = if vector.len() > SHOWN { " .." } else { "" };
        output::line(format!("[{}{rest}] ({} values)  {text}", head.join(" "), vector.len()))?;
    }
    Ok(())
}
