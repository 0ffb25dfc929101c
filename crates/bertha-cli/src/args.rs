//! What can be asked for on the command line.

use std::path::PathBuf;

use bertha::Precision;
use bertha::cuda::Arch;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::bench_lengths::{self, Lengths};
use crate::commands::surgeon::args::SurgeonArgs;

/// Compile BERT-family encoders and run them at the limit of the machine.
///
/// MODEL is a checkpoint folder (config.json and weights), an .onnx file, or a .bertha engine.
#[derive(Parser)]
#[command(name = "bertha", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Say more on the error stream; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Fill in the mask of each text.
    FillMask(FillMaskArgs),
    /// Turn each text into a vector.
    Embed(EmbedArgs),
    /// Tell each text's class.
    Classify(ClassifyArgs),
    /// Find the entities in each text.
    Tag(TagArgs),
    /// Order documents by how well they answer a query.
    Rerank(RerankArgs),
    /// Turn each text into weighted vocabulary words (SPLADE).
    Sparse(SparseArgs),
    /// Turn each text into token ids, as the model takes them.
    Tokenize(TokenizeArgs),
    /// Run named tensors from an .npz file.
    Run(RunArgs),
    /// Compile a model into one engine file.
    Build(BuildArgs),
    /// Show what a model or an engine file holds.
    Inspect(InspectArgs),
    /// Write a checkpoint as ONNX.
    Export(ExportArgs),
    /// Measure how fast a model runs.
    Bench(BenchArgs),
    /// Run the same inputs here and elsewhere and compare the answers.
    Compare(CompareArgs),
    /// List the plugins of a library, or test their kernels.
    Plugin(PluginArgs),
    /// Tell what this machine offers and what will be used.
    Doctor(DoctorArgs),
    /// Run small models of every kind on this machine's GPU and check the answers.
    Selftest(SelftestArgs),
    /// Look into ONNX files and change them.
    Surgeon(SurgeonArgs),
}

/// How to run, for every command that runs a model.
#[derive(Args, Clone)]
pub(crate) struct RunOptions {
    /// Threads to run on; 0 is one for each core.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
    /// Where to run.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub(crate) device: Device,
    /// The GPU to run on, counted from 0.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) gpu: usize,
    /// In which type the GPU multiplies: f32, f16 or bf16. Without it, that of the engine's plan for this GPU or,
    /// if it has none, of its first plan for another; f32 without any.
    #[arg(long, value_name = "TYPE")]
    pub(crate) precision: Option<Precision>,
    #[command(flatten)]
    pub(crate) plugins: PluginOptions,
}

/// Which plugins a model may use, for every command that opens one.
#[derive(Args, Clone, Default)]
pub(crate) struct PluginOptions {
    /// Load a library of plugins, whose code then runs; may be given several times. `BERTHA_PLUGINS` is a list of
    /// libraries that are loaded too.
    #[arg(long = "plugin", value_name = "LIB", display_order = 800)]
    pub(crate) libraries: Vec<PathBuf>,
    /// Run an engine also with another build of a plugin's library than it was built with, with a note.
    #[arg(long, display_order = 801)]
    pub(crate) any_plugin_build: bool,
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// This machine's processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An NVIDIA GPU if one works and has kernels for the model, else the processor; says which.
    Auto,
}

/// The texts of a command: arguments, or lines of the standard input when `-` is given.
#[derive(Args)]
pub(crate) struct Texts {
    /// The texts; a single `-` reads one a line from the standard input.
    #[arg(required = true, value_name = "TEXT")]
    pub(crate) texts: Vec<String>,
}

#[derive(Args)]
pub(crate) struct FillMaskArgs {
    /// The model; without it, the small English model that comes with Bertha.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// How many fills to show for each mask.
    #[arg(long, default_value_t = 10, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top_k: u32,
    /// Print JSON, in the shape of Hugging Face's fill-mask.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    #[command(flatten)]
    pub(crate) texts: Texts,
}

#[derive(Args)]
pub(crate) struct EmbedArgs {
    /// The model: a checkpoint folder, an .onnx file or a .bertha engine.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// Print JSON: an array of arrays.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    #[command(flatten)]
    pub(crate) texts: Texts,
}

#[derive(Args)]
pub(crate) struct ClassifyArgs {
    /// The model: a checkpoint folder, an .onnx file or a .bertha engine.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// How many classes to show for each text.
    #[arg(long, default_value_t = 5, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top_k: u32,
    /// Print JSON: for each text an array of {label, score}.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    #[command(flatten)]
    pub(crate) texts: Texts,
}

#[derive(Args)]
pub(crate) struct TagArgs {
    /// The model: a checkpoint folder, an .onnx file or a .bertha engine.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Print JSON: for each text an array of {entity_group, score, word, start, end}.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    #[command(flatten)]
    pub(crate) texts: Texts,
}

#[derive(Args)]
pub(crate) struct RerankArgs {
    /// The model: a checkpoint folder, an .onnx file or a .bertha engine.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Print JSON: an array of {index, score, logit}, best first.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    /// What is looked for.
    pub(crate) query: String,
    /// Where it may be; a single `-` reads one document a line from the standard input.
    #[arg(required = true, value_name = "DOC")]
    pub(crate) documents: Vec<String>,
}

#[derive(Args)]
pub(crate) struct SparseArgs {
    /// The model; without it, the small English model that comes with Bertha.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// How many terms to show for each text (all of them with --json).
    #[arg(long, default_value_t = 20, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top_k: u32,
    /// Print JSON: for each text an array of {index, token, value}, heaviest first.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    #[command(flatten)]
    pub(crate) texts: Texts,
}

#[derive(Args)]
pub(crate) struct TokenizeArgs {
    /// The model; without it, the small English model that comes with Bertha.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// Also write input_ids, attention_mask and token_type_ids, padded, for `bertha run` and others.
    #[arg(short, long, value_name = "FILE.npz")]
    pub(crate) output: Option<PathBuf>,
    /// Print JSON: for each text {ids, tokens, types, offsets, truncated}.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) plugins: PluginOptions,
    #[command(flatten)]
    pub(crate) texts: Texts,
}

#[derive(Args)]
pub(crate) struct RunArgs {
    /// The model: a checkpoint folder, an .onnx file or a .bertha engine.
    pub(crate) model: PathBuf,
    /// Named input tensors.
    #[arg(long, value_name = "IN.npz")]
    pub(crate) inputs: PathBuf,
    /// Where to write the named outputs.
    #[arg(long, value_name = "OUT.npz")]
    pub(crate) outputs: PathBuf,
    /// Compute and write only these outputs; all of them without it.
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// What an engine is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// This machine's processor.
    Cpu,
    /// GPUs of an architecture, or of the GPU in this machine.
    Cuda(Option<Arch>),
}

fn parse_target(text: &str) -> Result<Target, String> {
    match text.split_once(':') {
        None if text == "cpu" => Ok(Target::Cpu),
        None if text == "cuda" => Ok(Target::Cuda(None)),
        Some(("cuda", arch)) => {
            arch.parse().map(|arch| Target::Cuda(Some(arch))).map_err(|error| format!("{error}"))
        }
        _ => Err("expected cpu, cuda or cuda:ARCH".into()),
    }
}

#[derive(Args)]
pub(crate) struct BuildArgs {
    /// The model: a checkpoint folder or an .onnx file.
    pub(crate) model: PathBuf,
    /// Where to write the engine; MODEL's name with .bertha without it.
    #[arg(short, long, value_name = "FILE.bertha")]
    pub(crate) output: Option<PathBuf>,
    /// What to build for: cpu, cuda (the GPU in this machine) or cuda:ARCH, such as cuda:sm_80, which needs no GPU; may be
    /// given several times. A plan for this CPU is part of every engine.
    #[arg(long = "target", value_name = "TARGET", value_parser = parse_target)]
    pub(crate) targets: Vec<Target>,
    /// In which type products with the model's weights multiply: f32 (exact), bf16 (CPUs with AVX-512 BF16, GPUs), f16
    /// (GPUs). Sums are f32. A CPU plan beside one for a GPU in f16 stays in f32.
    #[arg(long, default_value_t = Precision::F32, value_name = "TYPE")]
    pub(crate) precision: Precision,
    /// Keep the times of kernels on the GPU in this file, and do not time what it holds; without it, in Bertha's cache folder.
    #[arg(long, value_name = "FILE.json")]
    pub(crate) timing_cache: Option<PathBuf>,
    /// Choose kernels for the GPU in this machine by rule, as for one that is not at hand, instead of timing them.
    #[arg(long, conflicts_with = "timing_cache")]
    pub(crate) no_timing: bool,
    /// Leave the graph as it was imported.
    #[arg(long)]
    pub(crate) no_optimize: bool,
    /// Apply this many of the compiler's patches and no more; halve N to find the patch that breaks a model.
    #[arg(long, value_name = "N", conflicts_with = "no_optimize")]
    pub(crate) stop_after: Option<usize>,
    /// Leave out this pass of the compiler; may be given several times.
    #[arg(long, value_name = "PASS", value_parser = clap::builder::PossibleValuesParser::new(bertha::pass_names()))]
    pub(crate) without: Vec<String>,
    /// Write what -vv prints as JSON: patches, what was nearly done, steps, kernels with their alternatives and times, memory.
    #[arg(long, value_name = "FILE.json")]
    pub(crate) log: Option<PathBuf>,
    /// Follow this node of the source model to the step that computes it; may be given several times.
    #[arg(long, value_name = "NODE")]
    pub(crate) explain: Vec<String>,
    #[command(flatten)]
    pub(crate) plugins: PluginOptions,
}

#[derive(Args)]
pub(crate) struct InspectArgs {
    /// The model: a checkpoint folder, an .onnx file or a .bertha engine.
    pub(crate) model: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the graph in the text format.
    #[arg(long)]
    pub(crate) text: bool,
    /// With --text: the graph as it was imported, before any pass.
    #[arg(long, requires = "text")]
    pub(crate) source: bool,
    /// Draw the graph as it was imported beside the one that runs, layers folded; the ending tells the format.
    #[arg(long, value_name = "FILE.svg|FILE.html")]
    pub(crate) graph: Option<PathBuf>,
    /// Check every byte of an engine file against its checksums.
    #[arg(long)]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) plugins: PluginOptions,
}

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// The checkpoint folder.
    pub(crate) folder: PathBuf,
    /// Where to write the model.
    #[arg(short, long, value_name = "MODEL.onnx")]
    pub(crate) output: PathBuf,
    /// The ONNX operator set.
    #[arg(long, default_value_t = 17, value_name = "N")]
    pub(crate) opset: i64,
}

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// The model: a checkpoint folder, an .onnx file or a .bertha engine.
    pub(crate) model: PathBuf,
    /// Sequences in a batch.
    #[arg(long, default_value_t = 1, value_name = "B")]
    pub(crate) batch: usize,
    /// Tokens in each sequence.
    #[arg(long, default_value_t = 128, value_name = "S")]
    pub(crate) seq: usize,
    /// Lengths of the sequences instead: `squad` (like its questions with paragraphs: 177 tokens in the mean, up to 384)
    /// or MIN..MAX (evenly between them), both drawn the same in every run, or a file with one a line. Batches are of B
    /// in order.
    #[arg(long, value_name = "squad|MIN..MAX|FILE", conflicts_with = "seq", value_parser = bench_lengths::parse)]
    pub(crate) lengths: Option<Lengths>,
    /// How many lengths are drawn.
    #[arg(long, default_value_t = 2048, value_name = "N", requires = "lengths")]
    pub(crate) sequences: usize,
    /// Fill batches with sequences of like length, up to so many tokens each.
    #[arg(long, value_name = "TOKENS", requires = "lengths", conflicts_with = "batch")]
    pub(crate) token_budget: Option<usize>,
    /// Also measure with so many GPU sessions at work at a time, so that copies and the host's part overlap with kernels.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) sessions: usize,
    /// Runs before the clock starts.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(crate) warmup: usize,
    /// Timed runs at least.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) runs: usize,
    /// Seconds to keep measuring at least.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub(crate) seconds: f64,
    /// Also print the time of each operation, its rate, and its share of the multiply-add peak.
    #[arg(long)]
    pub(crate) profile: bool,
    /// Measure what the compiler's passes are worth instead: none of them, and all but each one, beside all.
    #[arg(long, conflicts_with_all = ["profile", "lengths", "gpu", "precision"])]
    pub(crate) fusions: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

#[derive(Args)]
pub(crate) struct CompareArgs {
    /// The model: a checkpoint folder, an .onnx file or a .bertha engine.
    pub(crate) model: PathBuf,
    /// What to compare with: `reference`, the interpreter in f64; `onnxruntime`, from its shared library; or an .npz file
    /// of named outputs, as `bertha run` writes, which belong to --inputs.
    #[arg(long, value_name = "reference|onnxruntime|FILE.npz", value_parser = parse_against)]
    pub(crate) against: Against,
    /// Named input tensors; random token ids without it.
    #[arg(long, value_name = "IN.npz")]
    pub(crate) inputs: Option<PathBuf>,
    /// Compare every tensor in order and name the first that differs.
    #[arg(long)]
    pub(crate) layers: bool,
    /// Sequences in a random batch.
    #[arg(long, default_value_t = 2, value_name = "B")]
    pub(crate) batch: usize,
    /// Tokens of its longest sequence.
    #[arg(long, default_value_t = 16, value_name = "S")]
    pub(crate) seq: usize,
    /// Largest relative error that counts as equal.
    #[arg(long, default_value_t = 1e-4, value_name = "E")]
    pub(crate) tolerance: f64,
    /// ONNX Runtime's shared library (else `BERTHA_ONNXRUNTIME`, then the system's search path).
    #[arg(long, value_name = "libonnxruntime.so")]
    pub(crate) library: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// Whom to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// ONNX Runtime, from its shared library.
    Onnxruntime,
    /// The reference interpreter in f64.
    Reference,
    /// Outputs in a file.
    Answers(PathBuf),
}

fn parse_against(text: &str) -> Result<Against, String> {
    match text {
        "onnxruntime" => Ok(Against::Onnxruntime),
        "reference" => Ok(Against::Reference),
        _ if text.ends_with(".npz") => Ok(Against::Answers(text.into())),
        _ => Err("expected reference, onnxruntime or an .npz file".into()),
    }
}

#[derive(Args)]
pub(crate) struct PluginArgs {
    #[command(subcommand)]
    pub(crate) command: PluginCommand,
}

#[derive(Subcommand)]
pub(crate) enum PluginCommand {
    /// Show what the plugins of libraries take and give.
    List(PluginListArgs),
    /// Run a library's kernels on random operands and compare them with its references in f64.
    Test(PluginTestArgs),
}

#[derive(Args)]
pub(crate) struct PluginListArgs {
    /// The libraries; those of `BERTHA_PLUGINS` come with them.
    #[arg(value_name = "LIB")]
    pub(crate) libraries: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct SelftestArgs {
    /// What to test.
    #[arg(long, value_enum, default_value_t = SelftestTarget::Cuda)]
    pub(crate) target: SelftestTarget,
    /// The GPU to test, counted from 0.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) gpu: usize,
    /// Test this precision alone: f32, f16 or bf16.
    #[arg(long, value_name = "TYPE")]
    pub(crate) precision: Option<Precision>,
    /// Leave out wide models and long sequences.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Test models with each layer norm of these libraries that has CUDA source, in place of Bertha's own.
    #[arg(long = "plugin", value_name = "LIB")]
    pub(crate) plugins: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SelftestTarget {
    /// An NVIDIA GPU.
    Cuda,
}

#[derive(Args)]
pub(crate) struct PluginTestArgs {
    /// The library.
    #[arg(value_name = "LIB")]
    pub(crate) library: PathBuf,
    /// Only the plugin of this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) op: Option<String>,
    /// Random cases for each choice of dtypes.
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Another seed gives other cases.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Give a field this value in every case; lists are separated by commas.
    #[arg(long = "field", value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub(crate) fields: Vec<(String, String)>,
    /// Give a dimension of the signature this size in every case (a run, the product of its dimensions).
    #[arg(long = "size", value_name = "NAME=N", value_parser = name_and_value)]
    pub(crate) sizes: Vec<(String, String)>,
    /// The largest relative error allowed; without it 1e-5 for f32, 2e-3 for f16, 1.6e-2 for bf16, 1e-12 for f64.
    #[arg(long, value_name = "E")]
    pub(crate) tolerance: Option<f64>,
    /// Also measure how long the kernels take, at the sizes given.
    #[arg(long)]
    pub(crate) time: bool,
    /// Threads to measure with; 0 is one for each core.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `NAME=VALUE`.
fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
