//! Replays the fuzz corpora of loading engines and of reading graphs, and makes their seeds.

mod support;

use std::path::PathBuf;

use bertha::engine_file::EngineFile;
use bertha::graph::{ModelInfo, SplitMix64, text};
use bertha::isa::Isa;
use bertha::{Engine, Interface, Model, Options, PositionIds, Task, TensorData};

#[allow(unreachable_pub)]
#[path = "../../../fuzz/bodies/engine_open.rs"]
mod engine_open;
#[allow(unreachable_pub)]
#[path = "../../../fuzz/bodies/graph_text.rs"]
mod graph_text;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// A ragged encoder of one layer, as small as one can be.
const ENCODER: &str = "graph tiny {
  input %input_ids: i32[tokens]
  input %position_ids: i32[tokens]
  input %cu_seqlens: i32[batch + 1]
  const %words: f32[5, 4] = @words
  const %positions: f32[3, 4] = @positions
  const %projection: f32[4, 4] = @projection
  const %gamma: f32[4] = [1.0, 1.0, 1.0, 1.0]
  const %beta: f32[4] = [0.0, 0.0, 0.0, 0.0]
  %h = embedding_sum(%input_ids, %words, %position_ids, %positions)
  %q = linear(%h, %projection, _, _) {layout: out_in, activation: gelu_erf}
  %a = ragged_attention(%q, %q, %q, %cu_seqlens, _) {heads: 2, scale: 0.5, relative: none}
  %y = layer_norm(%a, %gamma, %beta) {axis: -1, epsilon: 1e-12}
  %p = pool(%y, %cu_seqlens) {kind: mean}
  output last_hidden_state = %y
  output pooler_output = %p
}
";

/// Shapes that depend on data, a branch, and a few types.
const DENSE: &str = "graph dense {
  input %x: f32[batch, seq]
  input %keep: bool[]
  const %one: i64[1] = [1]
  const %table: f32[8, 4] = @table
  %s = shape(%x) {start: 0, end: none}
  %y = reshape(%x, %s) {allow_zero: false}
  %z = if(%keep, %y, %table) then graph then_branch {
    input %y: f32[batch, seq]
    input %table: f32[8, 4]
    %r = relu(%y)
    output r = %r
  } else graph else_branch {
    input %y: f32[batch, seq]
    input %table: f32[8, 4]
    %t = tanh(%y)
    output t = %t
  }
  %c = cast(%z) {to: i64}
  output z = %z
  output c = %c
}
";

fn numbers(_: &str, ty: &bertha::graph::TensorType) -> Option<TensorData> {
    let shape = ty.shape.as_const()?.to_vec();
    let values = (0..shape.iter().product::<usize>()).map(|index| index as f32 * 0.25 - 1.0).collect();
    TensorData::from_vec(shape, values).ok()
}

fn info(interface: Interface) -> ModelInfo {
    ModelInfo {
        family: "tiny".into(),
        interface,
        task: Task::Encoder,
        position_ids: PositionIds::Absolute,
        max_tokens: Some(3),
        token_types: false,
        hidden: Some(4),
        labels: Vec::new(),
        multi_label: false,
        pooling: None,
        source: "seed".into(),
    }
}

/// The engine file of a graph, for the tier that every machine has.
fn file(graph: &str, interface: Interface) -> Vec<u8> {
    let graph = text::parse(graph, &mut numbers).unwrap_or_else(|error| panic!("{error}"));
    let options = Options { isa: Isa::from_name("portable").ok(), ..Options::default() };
    let model = Model { graph, info: info(interface), tokenizer: Some(b"{}"[..].into()) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seed.bertha");
    Engine::compile(model, &options).unwrap().save(&path).unwrap();
    std::fs::read(path).unwrap()
}

/// Names and contents of a file's sections.
fn sections(file: &[u8]) -> Vec<(String, Vec<u8>)> {
    let file = EngineFile::from_bytes(file.to_vec().into()).unwrap();
    file.sections().map(|info| (info.name.clone(), file.section(&info.name).unwrap().to_vec())).collect()
}

/// The same file as a list of sections, which a fuzzer can lengthen and shorten.
fn section_list(file: &[u8]) -> Vec<u8> {
    let mut list = Vec::new();
    for (name, section) in sections(file) {
        list.push(name.len() as u8);
        list.extend_from_slice(name.as_bytes());
        list.extend_from_slice(&u16::try_from(section.len()).unwrap().to_le_bytes());
        list.extend_from_slice(&section);
    }
    list
}

fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let (encoder, dense) = (file(ENCODER, Interface::Ragged), file(DENSE, Interface::Dense));
    vec![
        ("engine_open", "list-encoder", section_list(&encoder)),
        ("engine_open", "list-dense", section_list(&dense)),
        ("engine_open", "encoder", encoder),
        ("engine_open", "dense", dense),
        ("graph_text", "encoder", ENCODER.into()),
        ("graph_text", "dense", DENSE.into()),
        ("graph_text", "bert", support::engine("bert_pretraining").graph().to_text().into()),
    ]
}

#[test]
fn every_input_of_the_corpora_is_handled() {
    for (target, fuzz) in [("engine_open", engine_open::fuzz as fn(&[u8])), ("graph_text", graph_text::fuzz)]
    {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus(target)).expect("the corpus is part of the repository") {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            fuzz(&std::fs::read(path).unwrap());
            inputs += 1;
        }
        assert!(inputs >= 3, "{target}: {inputs} inputs are too few");
    }
}

/// Changes that each seed goes through; `BERTHA_FUZZ_ROUNDS` asks for more.
const ROUNDS: usize = 500;

/// What files and texts of these kinds are made of, and numbers at the limits of their types.
const WORDS: [&str; 22] = [
    "0",
    "-1",
    "1",
    "2",
    "255",
    "2147483647",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "1e308",
    "inf",
    "nan",
    "none",
    "_",
    "[]",
    "{}",
    "batch*seq",
    "i64",
    "bool",
    "@words",
];

/// So that every run tries the same changes.
struct Random(SplitMix64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    /// A piece of `bytes`: a run of digits or letters, or a few bytes anywhere.
    fn piece(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let at = self.below(bytes.len());
        if self.below(3) == 0 {
            return at..(at + 1 + self.below(8)).min(bytes.len());
        }
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let start = bytes[..at].iter().rposition(|byte| !is_word(byte)).map_or(0, |end| end + 1);
        let length = bytes[start..].iter().position(|byte| !is_word(byte)).unwrap_or(bytes.len() - start);
        start..start + length.max(1).min(bytes.len() - start)
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(3) {
            let piece = self.piece(bytes);
            match self.below(6) {
                0 if !bytes.is_empty() => {
                    let at = self.below(bytes.len());
                    bytes[at] ^= 1 << self.below(8);
                }
                1 => drop(bytes.drain(piece)),
                2 => {
                    let other = self.piece(bytes);
                    let copy = bytes[other].to_vec();
                    bytes.splice(piece, copy);
                }
                3 => {
                    let copy = bytes[piece.clone()].to_vec();
                    bytes.splice(piece.start..piece.start, copy);
                }
                _ => drop(bytes.splice(piece, WORDS[self.below(WORDS.len())].bytes())),
            }
        }
    }
}

#[test]
fn changed_seeds_are_handled() {
    let rounds = std::env::var("BERTHA_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let mut random = Random(SplitMix64::new(0));
    for (_, name, seed) in seeds().into_iter().filter(|(target, ..)| *target == "graph_text") {
        for round in 0..rounds {
            let mut text = seed.clone();
            random.change(&mut text);
            on_panic_print(name, round, &text, graph_text::fuzz);
        }
    }
    for (_, name, seed) in seeds().into_iter().filter(|(_, name, _)| name.starts_with("list-")) {
        let file = bertha::engine_file::testing::files_of(&seed).remove(0);
        let sections = sections(&file);
        for round in 0..rounds {
            let mut sections = sections.clone();
            let changed = random.below(sections.len());
            random.change(&mut sections[changed].1);
            let sections: Vec<(&str, &[u8])> =
                sections.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            let file = bertha::engine_file::testing::assemble(&sections);
            on_panic_print(name, round, &file, engine_open::fuzz);
        }
    }
}

/// Calls `fuzz` and, when it panics, says on which input.
fn on_panic_print(name: &str, round: usize, input: &[u8], fuzz: fn(&[u8])) {
    if let Err(panic) = std::panic::catch_unwind(|| fuzz(input)) {
        println!("{name}, change {round}:\n{}", String::from_utf8_lossy(input));
        std::panic::resume_unwind(panic);
    }
}

/// Seeds that a change of the format has made unreadable would teach a fuzzer nothing.
#[test]
fn the_seeds_can_still_be_read() {
    for (target, name, _) in seeds() {
        let stored = std::fs::read(corpus(target).join(name)).unwrap_or_default();
        let readable = match target {
            "graph_text" => text::parse(&String::from_utf8(stored).unwrap(), &mut numbers).is_ok(),
            _ => bertha::engine_file::testing::files_of(&stored)
                .into_iter()
                .all(|file| Engine::from_bytes(file.into(), &Options::default()).is_ok()),
        };
        assert!(
            readable,
            "seed {target}/{name} is stale: run `cargo test -p bertha --test corpus -- --ignored`"
        );
    }
}

#[test]
#[ignore = "writes the seeds into the corpora, after a change of the formats"]
fn write_seeds() {
    for (target, name, seed) in seeds() {
        std::fs::create_dir_all(corpus(target)).unwrap();
        std::fs::write(corpus(target).join(name), seed).unwrap();
    }
}
