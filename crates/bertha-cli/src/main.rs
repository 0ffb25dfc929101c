//! The `bertha` command.

mod args;
mod commands;
mod demo;
mod explain;
mod output;
mod progress;
mod timings;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use commands::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log(cli.verbose);
    match dispatch(cli.command, cli.verbose) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(command: Command, verbose: u8) -> Result<(), Failure> {
    match command {
        Command::FillMask(args) => commands::fill_mask::run(args),
        Command::Embed(args) => commands::embed::run(args),
        Command::Classify(args) => commands::classify::run(args),
        Command::Tag(args) => commands::tag::run(args),
        Command::Rerank(args) => commands::rerank::run(args),
        Command::Sparse(args) => commands::sparse::run(args),
        Command::Tokenize(args) => commands::tokenize::run(args),
        Command::Run(args) => commands::run::run(args),
        Command::Build(args) => commands::build::run(args, verbose),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Export(args) => commands::export::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Compare(args) => commands::compare::run(args),
        Command::Plugin(args) => commands::plugin::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Selftest(args) => commands::selftest::run(args),
        Command::Surgeon(args) => commands::surgeon::run(args),
    }
}

/// Messages go to the error stream, so that results can be piped. `BERTHA_LOG` filters as `RUST_LOG` does elsewhere.
fn init_log(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let default = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("BERTHA_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}
