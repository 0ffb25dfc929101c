//! The C compiler, where there is one.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles a file of this folder; `None`, with a note, where there is no C compiler.
pub(crate) fn compile(source: &str, output: &Path, arguments: &[&str]) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(&compiler);
    command.args([
        "-std=c11",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused",
        "-Wno-missing-field-initializers",
    ]);
    command.arg("-I").arg(root.join("include")).args(arguments);
    command.arg(root.join(source)).arg("-o").arg(output).arg("-lm");
    match command.output() {
        Err(error) => {
            println!("skipped: there is no C compiler ({compiler}: {error})");
            None
        }
        Ok(ran) => {
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            Some(output.to_owned())
        }
    }
}
