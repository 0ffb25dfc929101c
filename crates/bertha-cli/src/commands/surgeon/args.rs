//! What can be asked of the surgeon.

use std::path::PathBuf;

use bertha_surgeon::{Length, Selection, SurgeryError};
use clap::{Args, Subcommand};
use regex::Regex;

#[derive(Args)]
#[command(
    after_help = "The model is never written over unless --in-place says so. What an operation does not touch stays as \
                        it is, byte for byte.\n\nExit codes: 0 done; 1 the file is damaged, or has nothing of the kind that is \
                        asked for; 2 the command line or a pattern is wrong; 3 --require and no pattern was found."
)]
pub(crate) struct SurgeonArgs {
    #[command(subcommand)]
    pub(crate) operation: Operation,
}

#[derive(Subcommand)]
pub(crate) enum Operation {
    /// Count ops and parameters; show inputs, outputs and operator sets.
    Summary(SummaryArgs),
    /// List nodes.
    List(ListArgs),
    /// Cut out the part between named tensors.
    Extract(ExtractArgs),
    /// Compute what depends on constants only.
    Fold(FoldArgs),
    /// Take out nodes, constants and types that nothing uses.
    Clean(CleanArgs),
    /// Set or name the lengths of inputs and outputs.
    Shape(ShapeArgs),
    /// Rename tensors, inputs, outputs and nodes.
    Rename(RenameArgs),
    /// Take nodes out: their input takes the place of their output.
    Remove(RemoveArgs),
    /// Give nodes another op, domain or attributes.
    Replace(ReplaceArgs),
    /// Find patterns, and say what nearly matched.
    Match(MatchArgs),
    /// Replace patterns.
    Rewrite(RewriteArgs),
}

/// Where the result goes.
#[derive(Args)]
pub(crate) struct Target {
    /// Where to write the model.
    #[arg(short, long, value_name = "OUT.onnx", required_unless_present_any = ["in_place", "dry_run"])]
    pub(crate) output: Option<PathBuf>,
    /// Write over the model itself.
    #[arg(long, conflicts_with = "output")]
    pub(crate) in_place: bool,
    /// Show what would change and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which nodes. All conditions given must hold.
#[derive(Args)]
pub(crate) struct Nodes {
    /// Nodes of this name; a node without one is called by op and position, as `list` shows it.
    #[arg(long = "node", value_name = "NAME")]
    names: Vec<String>,
    /// The node that makes this tensor.
    #[arg(long, value_name = "TENSOR")]
    makes: Vec<String>,
    /// Nodes whose name matches this regular expression somewhere.
    #[arg(long = "name", value_name = "REGEX")]
    pattern: Option<Regex>,
    /// Nodes of this op, such as `MatMul` or `com.microsoft::Gelu`.
    #[arg(long = "op", value_name = "OP")]
    ops: Vec<String>,
}

impl Nodes {
    pub(crate) fn selection(self) -> Selection {
        Selection { names: self.names, makes: self.makes, pattern: self.pattern, ops: self.ops }
    }
}

#[derive(Args)]
#[command(after_help = "Example:\n  bertha surgeon summary model.onnx")]
pub(crate) struct SummaryArgs {
    /// The model.
    pub(crate) model: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  bertha surgeon list model.onnx --op MatMul\n  bertha surgeon list model.onnx --name \
                        'layer\\.0/.*Softmax' --json"
)]
pub(crate) struct ListArgs {
    /// The model.
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(
    after_help = "Example: the first layer of an encoder\n  bertha surgeon extract model.onnx --from embeddings --from \
                  attention_mask --to layer0_out -o layer0.onnx"
)]
pub(crate) struct ExtractArgs {
    /// The model.
    pub(crate) model: PathBuf,
    /// A tensor where the part begins; without any, the inputs that it needs.
    #[arg(long = "from", value_name = "TENSOR")]
    pub(crate) inputs: Vec<String>,
    /// A tensor where it ends; without any, the outputs of the model.
    #[arg(long = "to", value_name = "TENSOR")]
    pub(crate) outputs: Vec<String>,
    /// The type of a tensor that neither the file says nor Bertha can find, such as `h=float32[batch, 128]`.
    #[arg(long = "type", value_name = "TENSOR=TYPE", value_parser = type_of)]
    pub(crate) types: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args)]
#[command(after_help = "Example:\n  bertha surgeon fold model.onnx -o folded.onnx")]
pub(crate) struct FoldArgs {
    /// The model.
    pub(crate) model: PathBuf,
    /// Results of more bytes stay computed.
    #[arg(long, default_value_t = 16 << 20, value_name = "N")]
    pub(crate) max_bytes: usize,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args)]
#[command(after_help = "Example:\n  bertha surgeon clean model.onnx -o clean.onnx")]
pub(crate) struct CleanArgs {
    /// The model.
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  bertha surgeon shape model.onnx input_ids=batch,seq attention_mask=batch,seq -o named.onnx\n  \
                  bertha surgeon shape model.onnx --length batch=1 --length seq=128 -o fixed.onnx"
)]
pub(crate) struct ShapeArgs {
    /// The model.
    pub(crate) model: PathBuf,
    /// Shapes of inputs and outputs: numbers, names, or `?` for a length that is not known.
    #[arg(value_name = "NAME=LENGTHS", value_parser = shape, required_unless_present = "lengths")]
    pub(crate) shapes: Vec<(String, Vec<Length>)>,
    /// Another name or a number for a named length, wherever it occurs.
    #[arg(long = "length", value_name = "NAME=LENGTH", value_parser = length)]
    pub(crate) lengths: Vec<(String, Length)>,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args)]
#[command(
    after_help = "Example:\n  bertha surgeon rename model.onnx --input input_ids=ids --tensor /enc/Add_output_0=hidden -o renamed.onnx"
)]
pub(crate) struct RenameArgs {
    /// The model.
    pub(crate) model: PathBuf,
    /// Any tensor, of inner graphs too.
    #[arg(long = "tensor", value_name = "OLD=NEW", value_parser = pair)]
    pub(crate) tensors: Vec<(String, String)>,
    /// An input.
    #[arg(long = "input", value_name = "OLD=NEW", value_parser = pair)]
    pub(crate) inputs: Vec<(String, String)>,
    /// An output.
    #[arg(long = "output-tensor", value_name = "OLD=NEW", value_parser = pair)]
    pub(crate) outputs: Vec<(String, String)>,
    /// A node.
    #[arg(long = "node", value_name = "OLD=NEW", value_parser = pair)]
    pub(crate) nodes: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args)]
#[command(after_help = "Example:\n  bertha surgeon remove model.onnx --op Identity -o short.onnx")]
pub(crate) struct RemoveArgs {
    /// The model.
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Which input takes the place of the output, from 0.
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub(crate) via: usize,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args)]
#[command(
    after_help = "Example:\n  bertha surgeon replace model.onnx --op Gelu --with com.microsoft::FastGelu --clear -o fast.onnx"
)]
pub(crate) struct ReplaceArgs {
    /// The model.
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// The new op, with its domain in front where that is not ONNX's own.
    #[arg(long = "with", value_name = "OP")]
    pub(crate) op: Option<String>,
    /// Version of the operator set, should its domain be new to the file.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) opset_version: i64,
    /// An attribute to set: a number, a text in quotes, or a list.
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) attributes: Vec<(String, String)>,
    /// An attribute to take away.
    #[arg(long = "drop", value_name = "NAME")]
    pub(crate) dropped: Vec<String>,
    /// Take all attributes away first.
    #[arg(long)]
    pub(crate) clear: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Where patterns come from.
#[derive(Args)]
pub(crate) struct Patterns {
    /// A file of patterns.
    #[arg(long, value_name = "FILE.pattern", required_unless_present = "patterns")]
    pub(crate) pattern_file: Vec<PathBuf>,
    /// A pattern itself.
    #[arg(short = 'e', long = "pattern", value_name = "TEXT")]
    pub(crate) patterns: Vec<String>,
    /// Fail with exit code 3 when none of the patterns is found.
    #[arg(long)]
    pub(crate) require: bool,
    /// Show where each name of the pattern was found, and all near misses.
    #[arg(long)]
    pub(crate) details: bool,
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  bertha surgeon match model.onnx --pattern-file patterns/layer-norm.pattern\n  bertha surgeon match \
                  model.onnx -e 'y = Softmax(Add(scores, mask), axis=-1)'"
)]
pub(crate) struct MatchArgs {
    /// The model.
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) patterns: Patterns,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  bertha surgeon rewrite model.onnx --pattern-file patterns/layer-norm.pattern -o plugin.onnx\n  bertha \
                  surgeon rewrite model.onnx -e 'y = Transpose(Transpose(x, perm=[0,2,1]), perm=[0,2,1]) replace y = x' \
                  --dry-run"
)]
pub(crate) struct RewriteArgs {
    /// The model.
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) patterns: Patterns,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `old=new`; the first `=` divides: names of exporters hold none, but values may.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err("give it as OLD=NEW".into()),
    }
}

fn type_of(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('=') {
        Some((name, ty)) if !name.is_empty() && !ty.is_empty() => Ok((name.to_owned(), ty.to_owned())),
        _ => Err("give it as TENSOR=TYPE, such as h=float32[batch, 128]".into()),
    }
}

fn length(text: &str) -> Result<(String, Length), String> {
    let (name, length) = pair(text)?;
    Ok((name, Length::parse(&length)?))
}

fn shape(text: &str) -> Result<(String, Vec<Length>), String> {
    let Some((name, lengths)) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err("give it as NAME=LENGTHS, such as input_ids=batch,seq".into());
    };
    let lengths = match lengths.trim().trim_start_matches('[').trim_end_matches(']') {
        "" => Vec::new(),
        lengths => lengths.split(',').map(Length::parse).collect::<Result<_, _>>()?,
    };
    Ok((name.to_owned(), lengths))
}

/// Mistakes in patterns are mistakes of the call.
pub(crate) fn failure(error: SurgeryError) -> crate::commands::Failure {
    match error {
        SurgeryError::Pattern(error) => crate::commands::Failure::Usage(error.to_string()),
        error => crate::commands::Failure::Surgery(error),
    }
}
