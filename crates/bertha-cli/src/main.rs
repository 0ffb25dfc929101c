//! The `bertha` command.

fn main() {}
