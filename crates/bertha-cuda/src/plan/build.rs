//! Making a plan from a graph.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bertha_compile::Precision;
use bertha_graph::Graph;
use bytes::Bytes;

use super::case::Lowered;
use super::{CudaPlan, PlanError, base_setting, everywhere, weights};
use crate::arch::Arch;
use crate::driver::{CudaError, Device};
use crate::kernels::{KernelSpec, Setting};
use crate::nvrtc::Nvrtc;
use crate::program::{LowerError, Program, UnsupportedNode, is_ragged};
use crate::tune::{self, CardKey, TimingCache};

pub(super) fn build(
    graph: &Graph,
    arch: Arch,
    precision: Precision,
    multiprocessors: usize,
    settings: &[Setting],
) -> Result<CudaPlan, PlanError> {
    let lowered = checked(graph, arch, precision)?;
    let kernels = lowered.kernels_in(settings);
    let (cubins, weights) = compile_and_convert(graph, &lowered.program, &kernels, (arch, precision))?;
    let Lowered { program, base, .. } = lowered;
    Ok(CudaPlan { arch, precision, multiprocessors, program, graph: base, cubins, weights })
}

pub(super) fn build_timed(
    graph: &Graph,
    device: &Device,
    precision: Precision,
    cache: &mut TimingCache,
) -> Result<CudaPlan, PlanError> {
    let (arch, multiprocessors) = (Arch::of(device)?, device.multiprocessors);
    let settings = everywhere(arch, multiprocessors);
    // Its shapes come with the inputs: there is no bucket to time.
    if !is_ragged(graph) {
        return build(graph, arch, precision, multiprocessors, &settings);
    }
    let mut lowered = checked(graph, arch, precision)?;
    let card = CardKey::of(device)?;
    let mut kernels = lowered.kernels_in(&settings);
    kernels.extend(tune::kernels(&lowered.program, base_setting(arch, multiprocessors), (cache, &card)));
    let program = lowered.program.clone();
    let (cubins, weights) = compile_and_convert(graph, &program, &kernels, (arch, precision))?;
    let mut plan = CudaPlan { arch, precision, multiprocessors, program, graph: None, cubins, weights };
    let start = Instant::now();
    lowered.program.tactics = tune::tune(device, Arc::new(plan.clone()), cache)?;
    tracing::info!("tactics timed in {:.2} s", start.elapsed().as_secs_f64());
    let needed: BTreeMap<String, KernelSpec> =
        lowered.kernels_in(&settings).into_iter().map(|kernel| (kernel.to_string(), kernel)).collect();
    plan.program = lowered.program;
    plan.cubins.retain(|kernel, _| needed.contains_key(kernel));
    let missing = needed.into_iter().filter(|(name, _)| !plan.cubins.contains_key(name));
    plan.cubins.extend(compile_all(&missing.map(|(_, kernel)| kernel).collect(), arch)?);
    Ok(plan)
}

/// Lowers the graph if the architecture has the precision, and shared memory for every step.
pub(super) fn checked(graph: &Graph, arch: Arch, precision: Precision) -> Result<Lowered, PlanError> {
    if precision == Precision::Bf16 && !arch.has_bf16() {
        return Err(LowerError::Precision { arch: arch.to_string(), precision }.into());
    }
    let lowered = Lowered::of(graph, precision, arch)?;
    let program = &lowered.program;
    let launches = program.launches(&Setting::typical(arch));
    let nodes: Vec<UnsupportedNode> = program
        .steps
        .iter()
        .zip(&launches)
        .filter(|(_, launch)| launch.config.shared_bytes as usize > arch.shared_bytes())
        .map(|(step, launch)| {
            let why =
                format!("{} needs {} bytes of shared memory", step.step.name(), launch.config.shared_bytes);
            UnsupportedNode {
                node: step.node.clone(),
                why: format!("{why}; {arch} has {}", arch.shared_bytes()),
            }
        })
        .collect();
    if nodes.is_empty() { Ok(lowered) } else { Err(LowerError::Unsupported { nodes }.into()) }
}

/// Machine code by the names of kernels, and the program's weights in their order.
type Parts = (BTreeMap<String, Bytes>, Vec<Bytes>);

/// Compiles the kernels while the weights are converted.
fn compile_and_convert(
    graph: &Graph,
    program: &Program,
    kernels: &BTreeSet<KernelSpec>,
    (arch, precision): (Arch, Precision),
) -> Result<Parts, PlanError> {
    let start = Instant::now();
    let convert = || -> Result<Vec<Bytes>, LowerError> {
        program.weights.iter().map(|plan| weights::convert(graph, plan, precision)).collect()
    };
    let (cubins, weights) = std::thread::scope(|scope| {
        let weights = scope.spawn(convert);
        let cubins = compile_all(kernels, arch);
        let weights = weights.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (cubins, weights)
    });
    let parts = (cubins?, weights?);
    tracing::info!("{} kernels compiled in {:.2} s", kernels.len(), start.elapsed().as_secs_f64());
    Ok(parts)
}

/// Compiles on as many threads as there are cores.
fn compile_all(kernels: &BTreeSet<KernelSpec>, arch: Arch) -> Result<BTreeMap<String, Bytes>, CudaError> {
    let nvrtc = Nvrtc::get()?;
    let kernels: Vec<&KernelSpec> = kernels.iter().collect();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    let failed = Mutex::new(None);
    let work = || {
        while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
            match kernel.compile(nvrtc, arch) {
                Ok(compiled) => {
                    tracing::debug!("{kernel} for {arch}: {} bytes", compiled.cubin.len());
                    lock(&done).insert(kernel.to_string(), Bytes::from(compiled.cubin));
                }
                Err(error) => {
                    lock(&failed).get_or_insert(error);
                    return;
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(kernels.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
