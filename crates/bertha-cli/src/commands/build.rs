//! `bertha build`.

use std::path::PathBuf;
use std::time::Instant;

use bertha::cuda::{Arch, TimingCache, driver::Device};
use bertha::{Engine, Options, Precision};

use super::{Failure, plan};
use crate::args::{BuildArgs, Target};
use crate::explain;
use crate::output;
use crate::progress::Spinner;
use crate::timings;

/// `verbose` 1 also prints what the passes did, 2 the kernels and the memory plan too.
pub(crate) fn run(args: BuildArgs, verbose: u8) -> Result<(), Failure> {
    let start = Instant::now();
    let target = args.output.clone().unwrap_or_else(|| default_output(&args.model));
    let spinner = Spinner::new(format!("compiling {}", args.model.display()));
    let loaded = args.plugins.options()?;
    let source = super::import(&args.model, &loaded.plugins)?;
    explain::check(&source, &args.explain)?;
    // The source graph is needed beside the compiled one only to explain its nodes.
    let explained = (!args.explain.is_empty()).then(|| source.clone());
    let for_cpu = args.targets.is_empty() || args.targets.contains(&Target::Cpu);
    let for_gpu = args.targets.iter().any(|target| matches!(target, Target::Cuda(_)));
    // The precision is the GPU's; the CPU takes part where it has that precision too.
    let cpu_precision = match (for_gpu, args.precision) {
        (false, precision) => precision,
        (true, Precision::Bf16) if for_cpu => Precision::Bf16,
        (true, _) => Precision::F32,
    };
    let options = Options {
        precision: cpu_precision,
        optimize: !args.no_optimize,
        stop_after: args.stop_after,
        without: args.without.clone(),
        ..loaded
    };
    let mut engine = Engine::compile(source, &options)?;
    let mut cache = match for_gpu && !args.no_timing {
        true => timings::open(args.timing_cache.as_deref()),
        false => TimingCache::default(),
    };
    for target in &args.targets {
        match target {
            Target::Cuda(None) if !args.no_timing => {
                spinner.say(format!("timing kernels in {}", args.precision));
                let timed = engine.add_timed_cuda_plan(0, args.precision, &mut cache);
                // What was timed before a failure need not be timed again.
                timings::save(&cache);
                timed?;
            }
            _ => add_cuda(&mut engine, *target, args.precision, &spinner)?,
        }
    }
    spinner.say(format!("writing {}", target.display()));
    let notices = engine.save(&target)?;
    drop(spinner);
    notices.iter().for_each(|notice| eprintln!("note: {notice}"));
    if let Some(source) = &explained {
        args.explain.iter().try_for_each(|node| explain::print(source, &engine, node))?;
    }
    if let Some(limit) = args.stop_after {
        let applied = engine.log().events.len();
        let last = engine.log().events.last().map_or("none", |event| event.what.as_str());
        output::line(format!("{applied} patches applied of at most {limit}, the last: {last}"))?;
    }
    let mut plan = None;
    if let Some(path) = &args.log {
        let plan = plan.insert(plan_with_cuda(&engine, &cache)?);
        plan::write(path, &engine, plan)?;
    }
    match verbose {
        0 => {}
        1 => output::line(engine.log().to_string().trim_end())?,
        _ => {
            output::line(format!("{:#}", engine.log()).trim_end())?;
            let plan = plan.map_or_else(|| plan_with_cuda(&engine, &cache), Ok)?;
            plan::print(&plan)?;
        }
    }
    let size = output::bytes(std::fs::metadata(&target).map_or(0, |file| file.len()));
    let (seconds, tier) = (start.elapsed().as_secs_f64(), engine.cpu().isa().tier());
    if let Some(error) = engine.rounding_error() {
        output::line(output::rounding_error(engine.precision(), error))?;
    }
    for plan in engine.cuda_plans()? {
        let (code, weights) = plan.bytes();
        output::line(format!(
            "{}: {} kernels, {} of machine code, {} of weights",
            plan.target(),
            plan.kernels().count(),
            output::bytes(code as u64),
            output::bytes(weights as u64)
        ))?;
    }
    output::line(format!(
        "{}: {size}, CPU plan for {tier} in {}, built in {seconds:.2} s",
        target.display(),
        engine.precision()
    ))
}

/// The plan with the kernels of GPUs too.
fn plan_with_cuda(engine: &Engine, cache: &TimingCache) -> Result<plan::Plan, Failure> {
    let mut plan = plan::plan_of(engine)?;
    plan.kernels.extend(engine.cuda_tactics(cache)?);
    Ok(plan)
}

/// Makes the plan for a GPU target without timing.
fn add_cuda(
    engine: &mut Engine,
    target: Target,
    precision: Precision,
    spinner: &Spinner,
) -> Result<(), Failure> {
    let (arch, multiprocessors) = match target {
        Target::Cpu => return Ok(()),
        Target::Cuda(Some(arch)) => (arch, None),
        Target::Cuda(None) => {
            let device = Device::get(0).map_err(bertha::Error::from)?;
            (Arch::of(&device).map_err(bertha::Error::from)?, Some(device.multiprocessors))
        }
    };
    spinner.say(format!("compiling kernels for {arch} in {precision}"));
    Ok(engine.add_cuda_plan(arch, precision, multiprocessors)?)
}

/// The model's name with the engine's ending, in the current folder.
fn default_output(model: &std::path::Path) -> PathBuf {
    let path = model.canonicalize().unwrap_or_default();
    // A folder's name may hold dots of its own.
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let mut name = name.unwrap_or("model".as_ref()).to_owned();
    name.push(".bertha");
    PathBuf::from(name)
}
