//! `bertha inspect`.

use std::collections::BTreeMap;
use std::path::Path;

use bertha::engine_file::EngineFile;
use bertha::{Engine, Model, ModelInfo, PluginRecord};
use bertha_draw::Panel;
use serde::Serialize;

use super::{Failure, import, open_with};
use crate::args::InspectArgs;
use crate::output;

/// Everything that `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a ModelInfo,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    weights: usize,
    weight_bytes: usize,
    nodes: BTreeMap<&'static str, usize>,
    cpu: Cpu,
    /// Plans for GPUs that this version of Bertha runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cuda: Vec<Cuda>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<FileReport>,
}

#[derive(Serialize)]
struct Cuda {
    plan: String,
    code_bytes: usize,
    weight_bytes: usize,
    /// Every kernel with its macros; those of plugins begin with the plugin's name and version.
    kernels: Vec<String>,
}

#[derive(Serialize)]
struct Port {
    name: String,
    dtype: &'static str,
    shape: String,
}

#[derive(Serialize)]
struct Cpu {
    isa: &'static str,
    precision: bertha::Precision,
    /// What the precision changes in the answers; absent for f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    rounding_error: Option<bertha::RoundingError>,
    packed_bytes: usize,
    /// Sizes of the memory slots as functions of the batch; absent for models planned for each input shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<usize>,
}

#[derive(Serialize)]
struct FileReport {
    producer: String,
    format_version: u32,
    bytes: u64,
    verified: bool,
    sections: Vec<bertha::engine_file::SectionInfo>,
    plans: Vec<bertha::engine_file::PlanHeader>,
    plugins: Vec<PluginRecord>,
}

pub(crate) fn run(args: InspectArgs) -> Result<(), Failure> {
    let picture = args.graph.as_deref().map(Picture::of).transpose()?;
    let file = open_file(&args.model, args.verify)?;
    let options = args.plugins.options()?;
    if args.source {
        return output::line(import(&args.model, &options.plugins)?.graph.to_text());
    }
    // A picture shows the graph as it was imported too; an engine file holds the one that runs only.
    let source = match (&picture, &file) {
        (Some(_), None) => Some(import(&args.model, &options.plugins)?),
        _ => None,
    };
    let opened = match &source {
        Some(source) => Engine::compile(source.clone(), &options).map_err(Failure::from),
        None => open_with(&args.model, &options),
    };
    let engine = match (opened, &file) {
        // What the file holds can be told without its plugins.
        (Err(Failure::Model(error @ bertha::Error::Plugins { .. })), Some(file))
            if !args.shows_the_graph() =>
        {
            eprintln!("note: {error}");
            return if args.json { output::json(file) } else { print_file(file) };
        }
        (engine, _) => engine?,
    };
    if let Some(picture) = picture {
        return picture.draw(&args.model, source.as_ref(), &engine);
    }
    if args.text {
        return output::line(engine.graph().to_text());
    }
    let report = report(&engine, file)?;
    if args.json { output::json(&report) } else { print(&args.model, &report) }
}

impl InspectArgs {
    fn shows_the_graph(&self) -> bool {
        self.text || self.graph.is_some()
    }
}

/// A picture to be drawn.
struct Picture<'a> {
    path: &'a Path,
    format: Format,
}

enum Format {
    Svg,
    Html,
}

impl<'a> Picture<'a> {
    /// What the file's ending asks for.
    fn of(path: &'a Path) -> Result<Self, Failure> {
        let format = match path.extension().and_then(|ending| ending.to_str()) {
            Some("svg") => Format::Svg,
            Some("html") => Format::Html,
            _ => {
                let message = format!("{}: --graph draws a .svg or an .html file", path.display());
                return Err(Failure::Usage(message));
            }
        };
        Ok(Picture { path, format })
    }

    /// Draws the graphs of a model: as imported, where that is known, and as it runs.
    fn draw(&self, model: &Path, source: Option<&Model>, engine: &Engine) -> Result<(), Failure> {
        let mut panels = Vec::new();
        if let Some(source) = source {
            panels.push(Panel { title: "as imported", graph: &source.graph });
        }
        panels.push(Panel { title: "as it runs", graph: engine.graph() });
        let picture = match self.format {
            Format::Svg => bertha_draw::svg(&panels),
            Format::Html => bertha_draw::html(&model.display().to_string(), &panels),
        };
        let path = self.path.display();
        std::fs::write(self.path, picture)
            .map_err(|error| Failure::Other(format!("cannot write {path}: {error}")))?;
        output::line(path.to_string())
    }
}

/// The container, when the path is an engine file.
fn open_file(path: &Path, verify: bool) -> Result<Option<FileReport>, Failure> {
    if !bertha::is_engine_file(path) {
        return match verify {
            true => {
                Err(Failure::Usage(format!("--verify checks engine files, and {} is none", path.display())))
            }
            false => Ok(None),
        };
    }
    let file = EngineFile::open(path).map_err(bertha::Error::from)?;
    if verify {
        file.verify().map_err(bertha::Error::from)?;
    }
    Ok(Some(FileReport {
        producer: file.metadata().producer.clone(),
        format_version: file.format_version(),
        bytes: file.file_length(),
        verified: verify,
        sections: file.sections().cloned().collect(),
        plans: file.plans().cloned().collect(),
        plugins: bertha::plugin_records(&file)?,
    }))
}

fn report(engine: &Engine, file: Option<FileReport>) -> Result<Report<'_>, Failure> {
    let graph = engine.graph();
    let port = |name: &str, id| {
        let ty = &graph.tensor(id).ty;
        Port { name: name.to_owned(), dtype: ty.dtype.name(), shape: ty.shape.to_string() }
    };
    let mut nodes = BTreeMap::new();
    for node in graph.nodes() {
        *nodes.entry(node.op.mnemonic()).or_insert(0) += 1;
    }
    let cuda = engine.cuda_plans()?.into_iter().map(|plan| {
        let (code_bytes, weight_bytes) = plan.bytes();
        let kernels = plan.kernels().map(str::to_owned).collect();
        Cuda { plan: plan.target(), code_bytes, weight_bytes, kernels }
    });
    Ok(Report {
        cuda: cuda.collect(),
        model: engine.info(),
        inputs: graph.inputs().iter().map(|id| port(&graph.tensor(*id).name, *id)).collect(),
        outputs: graph.outputs().iter().map(|(name, id)| port(name, *id)).collect(),
        weights: graph.tensors().iter().filter(|tensor| tensor.constant().is_some()).count(),
        weight_bytes: graph.constant_bytes(),
        nodes,
        cpu: Cpu {
            isa: engine.cpu().isa().tier().name(),
            precision: engine.precision(),
            rounding_error: engine.rounding_error().cloned(),
            packed_bytes: engine.cpu().packed().bytes(),
            memory: engine
                .cpu()
                .memory_plan()
                .map(|slots| slots.into_iter().map(|slot| slot.bytes).collect()),
            steps: engine.cpu().steps().map(|steps| steps.len()),
        },
        file,
    })
}

fn print(path: &Path, report: &Report<'_>) -> Result<(), Failure> {
    let info = report.model;
    let mut table = output::table(&[]);
    table.add_row(["model", &path.display().to_string()]);
    table.add_row(["source", &info.source]);
    table.add_row(["family", &info.family]);
    table.add_row(["task", &words(&info.task)]);
    if let Some(max) = info.max_tokens {
        table.add_row(["longest text", &format!("{max} tokens")]);
    }
    if let Some(pooling) = &info.pooling {
        let normalized = if pooling.normalize { ", normalised" } else { "" };
        table.add_row(["pooling", &format!("{}{normalized}", words(&pooling.kind))]);
    }
    let weights = output::bytes(report.weight_bytes as u64);
    table.add_row(["weights", &format!("{}, {weights}", output::count(report.weights, "tensor", "tensors"))]);
    let packed = output::bytes(report.cpu.packed_bytes as u64);
    let cpu = &report.cpu;
    table.add_row(["CPU plan", &format!("{} in {}, {packed} packed", cpu.isa, cpu.precision)]);
    if let Some(error) = &cpu.rounding_error {
        table.add_row(["precision", &output::rounding_error(cpu.precision, error)]);
    }
    output::print_table(table, [])?;
    print_ports("inputs", &report.inputs)?;
    print_ports("outputs", &report.outputs)?;
    let nodes: Vec<String> = report.nodes.iter().map(|(op, count)| format!("{count} {op}")).collect();
    output::line(format!("\nnodes: {}", nodes.join(", ")))?;
    if let Some(slots) = &report.cpu.memory {
        let title = format!("memory of a run, bytes in {}:", output::count(slots.len(), "slot", "slots"));
        output::line(format!("\n{title}"))?;
        slots.iter().try_for_each(|slot| output::line(format!("  {slot}")))?;
    }
    report.cuda.iter().try_for_each(print_cuda)?;
    if let Some(file) = &report.file {
        print_file(file)?;
    }
    Ok(())
}

fn print_ports(title: &str, ports: &[Port]) -> Result<(), Failure> {
    output::line(format!("\n{title}:"))?;
    let mut table = output::table(&[]);
    for port in ports {
        table.add_row([format!("  {}", port.name), format!("{}{}", port.dtype, port.shape)]);
    }
    output::print_table(table, [])
}

/// A plan for GPUs: its kernels by their source's name, with the number of variants.
fn print_cuda(cuda: &Cuda) -> Result<(), Failure> {
    let Cuda { plan, code_bytes, weight_bytes, kernels } = cuda;
    let bytes = |count: &usize| output::bytes(*count as u64);
    let count = output::count(kernels.len(), "kernel", "kernels");
    output::line(format!("\n{plan}: {count} ({}), weights {}", bytes(code_bytes), bytes(weight_bytes)))?;
    let mut variants = BTreeMap::new();
    for kernel in kernels {
        *variants.entry(kernel.split(['?', '#']).next().unwrap_or(kernel)).or_insert(0) += 1;
    }
    variants.iter().try_for_each(|(name, count)| match count {
        1 => output::line(format!("  {name}")),
        _ => output::line(format!("  {name}, {count} variants")),
    })
}

/// A name in words: `MaskedLm` is `masked lm`.
fn words(name: &impl std::fmt::Debug) -> String {
    let mut words = String::new();
    for letter in format!("{name:?}").chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

fn print_file(file: &FileReport) -> Result<(), Failure> {
    let verified = if file.verified { ", every byte verified" } else { "" };
    output::line(format!(
        "\nengine file: {}, format {}, by {}{verified}",
        output::bytes(file.bytes),
        file.format_version,
        file.producer
    ))?;
    let mut table = output::table(&["  section", "offset", "bytes", "checksum"]);
    for section in &file.sections {
        table.add_row([
            format!("  {}", section.name),
            section.offset.to_string(),
            section.length.to_string(),
            format!("{:016x}", section.checksum),
        ]);
    }
    output::print_table(table, [1, 2])?;
    if !file.plugins.is_empty() {
        let mut table = output::table(&["  plugin", "version", "library", "xxh3"]);
        for PluginRecord { name, version, library } in &file.plugins {
            let library = library.as_ref().map_or(["-", "-"], |library| [&library.file, &library.xxh3]);
            table.add_row([&format!("  {name}"), &version.to_string(), library[0], library[1]]);
        }
        output::line("")?;
        output::print_table(table, [1])?;
    }
    for plan in &file.plans {
        output::line(format!("\nplan for {}: needs {}", plan.target, plan.requirements.join(", ")))?;
    }
    Ok(())
}
