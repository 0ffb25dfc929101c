//! `bertha build`.

use std::path::PathBuf;
use std::time::Instant;

use bertha::{Engine, Options};

use super::Failure;
use crate::args::BuildArgs;
use crate::output;
use crate::progress::Spinner;

pub(crate) fn run(args: BuildArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let target = args.output.clone().unwrap_or_else(|| default_output(&args.model));
    let spinner = Spinner::new(format!("compiling {}", args.model.display()));
    let engine =
        Engine::open_with(&args.model, &Options { optimize: !args.no_optimize, ..Options::default() })?;
    spinner.say(format!("writing {}", target.display()));
    engine.save(&target)?;
    drop(spinner);
    tracing::info!("\n{}", engine.log());
    let megabytes = std::fs::metadata(&target).map_or(0.0, |file| file.len() as f64 / 1e6);
    let (seconds, isa) = (start.elapsed().as_secs_f64(), engine.cpu().isa().tier().name());
    output::line(format!(
        "{}: {megabytes:.1} MB, CPU plan for {isa}, built in {seconds:.2} s",
        target.display()
    ))
}

/// The model's name with the engine's ending, in the current folder.
fn default_output(model: &std::path::Path) -> PathBuf {
    let name = model.canonicalize().ok().and_then(|path| path.file_stem().map(|stem| stem.to_owned()));
    let mut name = name.unwrap_or_else(|| "model".into());
    name.push(".bertha");
    PathBuf::from(name)
}
