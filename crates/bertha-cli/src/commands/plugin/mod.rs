//! `bertha plugin`.

mod list;
mod test;

use super::Failure;
use crate::args::{PluginArgs, PluginCommand};

pub(crate) fn run(args: PluginArgs) -> Result<(), Failure> {
    match args.command {
        PluginCommand::List(args) => list::run(args),
        PluginCommand::Test(args) => test::run(args),
    }
}
