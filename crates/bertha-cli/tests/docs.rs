//! Runs the commands of the documentation, so that a page cannot say what the program does not do.
//!
//! Each `sh` block of a page runs in one folder, in order, as a reader would type it; `crates`, `models`, `plugins`, `patterns`,
//! `examples` and `tests` are those of the repository. A `text` block after it shows what it printed: each of its lines must be found in the output, in
//! order, with `...` standing for anything. Blocks marked `sh,ignore` are not run.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A block of commands, and what the page says they print.
struct Step {
    line: usize,
    commands: String,
    printed: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The steps of a page.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut block: Option<(&str, usize, Vec<&str>)> = None;
    let mut follows = false;
    for (number, line) in page.lines().enumerate() {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(kind)) => block = Some((kind, number + 1, Vec::new())),
            // What a section shows belongs to the commands of that section.
            (None, None) => follows &= !line.starts_with('#'),
            (Some((_, _, lines)), None) => lines.push(line),
            (Some((kind, start, lines)), Some(_)) => {
                match (*kind, steps.last_mut()) {
                    ("sh", _) => {
                        steps.push(Step { line: *start, commands: lines.join("\n"), printed: Vec::new() });
                        follows = true;
                    }
                    ("text", Some(step)) if follows => {
                        step.printed.extend(lines.iter().map(|line| (*line).to_owned()));
                        follows = false;
                    }
                    _ => follows = false,
                }
                block = None;
            }
        }
    }
    steps
}

/// Runs the commands with this build's `bertha`, and `cargo run` in this build's profile.
fn run(step: &Step, folder: &Path) -> (bool, String) {
    let binary = Path::new(env!("CARGO_BIN_EXE_bertha"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(
        std::iter::once(binary.parent().expect("a folder").to_owned()).chain(std::env::split_paths(&path)),
    );
    let manifest = root().join("Cargo.toml");
    // A second build of everything in the release profile would only cost time.
    let cargo = r#"cargo() {
        local verb=$1 words=(); shift
        for word in "$@"; do [ "$word" = --release ] || words+=("$word"); done
        command cargo "$verb" --quiet --manifest-path "$MANIFEST" "${words[@]}"
    }"#;
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &format!("{cargo}\n{}", step.commands)])
        .current_dir(folder)
        .env("PATH", path.expect("a search path"))
        .env("MANIFEST", manifest)
        .env("BERTHA_CACHE", folder.join("cache"))
        .output()
        .expect("bash runs");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).join("\n");
    (output.status.success(), text)
}

/// The first line of `expected` that `output` does not have after the lines before it.
fn missing<'a>(expected: &'a [String], output: &str) -> Option<&'a str> {
    let mut rest = output;
    expected.iter().flat_map(|line| line.split("...").map(move |part| (line, part.trim()))).find_map(
        |(line, part)| match rest.find(part) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                None
            }
            None => Some(line.as_str()),
        },
    )
}

fn check(page: &str) {
    let path = root().join(page);
    let text = std::fs::read_to_string(&path).expect("the page is there");
    let steps = steps(&text);
    assert!(!steps.is_empty(), "{page} holds no command");
    let compiles = steps.iter().any(|step| step.commands.lines().any(|line| line.starts_with("cc ")));
    if compiles && Command::new("cc").arg("--version").output().is_err() {
        println!("skipped {page}: there is no C compiler (cc)");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    for shared in ["crates", "models", "plugins", "patterns", "examples", "tests"] {
        let target = root().join(shared);
        if target.exists() {
            std::os::unix::fs::symlink(target.canonicalize().expect("it exists"), folder.path().join(shared))
                .expect("a link");
        }
    }
    for step in &steps {
        let (succeeded, output) = run(step, folder.path());
        assert!(succeeded, "{page}:{}: failed:\n{}\n\n{output}", step.line, step.commands);
        if let Some(line) = missing(&step.printed, &output) {
            panic!("{page}:{}: the page says `{line}`, but it printed:\n{output}", step.line);
        }
    }
}

#[test]
fn the_tour_can_be_walked() {
    let mut pages: Vec<_> = std::fs::read_dir(root().join("docs/tour"))
        .expect("the tour")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .filter(|name| name.ends_with(".md") && name != "README.md")
        .collect();
    pages.sort();
    assert!(pages.len() >= 4, "{pages:?}");
    pages.iter().for_each(|page| check(&format!("docs/tour/{page}")));
}

#[test]
fn the_page_on_the_compilers_log_is_right() {
    check("docs/compiler-log.md");
}

#[test]
fn the_surgeons_guide_is_right() {
    check("docs/surgeon.md");
}

#[test]
fn the_page_on_plugins_is_right() {
    check("docs/plugins.md");
}

#[test]
fn a_page_that_says_something_else_is_found_out() {
    let page = "x\n```sh\necho one; echo two three\n```\n\n```text\none\ntwo ... three\n```\n```sh,ignore\nfalse\n```\n";
    let steps = steps(page);
    assert_eq!((steps.len(), steps[0].line), (1, 2));
    let (succeeded, output) = run(&steps[0], &std::env::temp_dir());
    assert!(succeeded && missing(&steps[0].printed, &output).is_none(), "{output}");
    assert_eq!(missing(&["two".to_owned(), "one".to_owned()], &output), Some("one"));
    let failing = Step { line: 1, commands: "false\necho after".into(), printed: Vec::new() };
    assert!(!run(&failing, &std::env::temp_dir()).0);
}
