//! The built command, and tiny models with tokenizers for it.

#![allow(dead_code)] // not every test uses all of it

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bertha::import::hf;
use tempfile::TempDir;

/// What a run of the command gave.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.succeeds().stdout).expect("JSON")
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) -> &Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// The command failed with `code`, printed nothing but a message, and that names every one of `what`.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, what: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "");
        for what in what {
            assert!(self.stderr.contains(what), "`{}` does not name `{what}`", self.stderr);
        }
    }
}

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bertha"));
    command.args(args).env_remove("BERTHA_LOG").env_remove("BERTHA_ONNXRUNTIME");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the command with nothing on its standard input.
pub(crate) fn bertha(args: &[&str]) -> Ran {
    with_input(args, "")
}

pub(crate) fn with_input(args: &[&str], input: &str) -> Ran {
    let mut child = command(args).spawn().unwrap();
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bertha-import/tests/fixtures")
}

/// A folder to work in with models of the importer's tests.
pub(crate) struct Work(TempDir);

impl Work {
    pub(crate) fn new() -> Self {
        Work(tempfile::tempdir().unwrap())
    }

    /// A path in the folder, as an argument.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// The checkpoint `fixture` with a tokenizer of 53 English words and word pieces.
    pub(crate) fn model(&self, fixture: &str) -> String {
        let folder = self.bare_model(fixture);
        let vocabulary = fixtures().join("hf_tokenizers/bert_uncased");
        let with_vocabulary = self.bare_model("bert_encoder");
        for name in ["vocab.txt", "tokenizer_config.json"] {
            std::fs::copy(vocabulary.join(name), Path::new(&with_vocabulary).join(name)).unwrap();
        }
        let model = hf::import(&with_vocabulary, &hf::ImportOptions::default()).unwrap();
        std::fs::write(Path::new(&folder).join("tokenizer.json"), model.tokenizer.unwrap()).unwrap();
        folder
    }

    /// The checkpoint `fixture` as it is.
    pub(crate) fn bare_model(&self, fixture: &str) -> String {
        let folder = self.path(fixture);
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(fixtures().join("hf").join(fixture).join(name), Path::new(&folder).join(name))
                .unwrap();
        }
        folder
    }
}
