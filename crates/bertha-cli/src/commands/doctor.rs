//! `bertha doctor`.

use bertha::cuda::driver::{Device, devices, driver_version};
use bertha::cuda::{Arch, Nvrtc};
use bertha::isa::{CpuInfo, ISA_ENV, Isa};
use serde::Serialize;

use super::Failure;
use crate::args::DoctorArgs;
use crate::output;

#[derive(Serialize)]
struct Report {
    version: &'static str,
    cpu: CpuInfo,
    /// The tier that will be used.
    used: Option<String>,
    /// Why none will.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// What the environment asks for.
    forced: Option<String>,
    cuda: Cuda,
}

/// What there is for NVIDIA GPUs.
#[derive(Serialize)]
struct Cuda {
    /// The CUDA version that the driver supports.
    driver: Option<String>,
    gpus: Vec<Gpu>,
    /// Why none can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The compiler's version and place.
    nvrtc: Option<String>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    nvrtc_problem: Option<String>,
}

#[derive(Serialize)]
struct Gpu {
    name: String,
    architecture: String,
    memory_bytes: usize,
    multiprocessors: usize,
}

impl Cuda {
    fn detect() -> Self {
        let driver = driver_version().ok().map(|(major, minor)| format!("CUDA {major}.{minor}"));
        let (gpus, problem) = match devices() {
            Ok(devices) => (devices.iter().map(Gpu::of).collect(), None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let (nvrtc, nvrtc_problem) = match Nvrtc::get() {
            Ok(nvrtc) => {
                let (major, minor) = nvrtc.version();
                (Some(format!("{major}.{minor} ({})", nvrtc.path().display())), None)
            }
            Err(error) => (None, Some(error.to_string())),
        };
        Cuda { driver, gpus, problem, nvrtc, nvrtc_problem }
    }
}

impl Gpu {
    fn of(device: &Device) -> Self {
        let (major, minor) = device.capability;
        let architecture =
            Arch::of(device).map_or(format!("{major}.{minor}, too old"), |arch| arch.to_string());
        Gpu {
            name: device.name.clone(),
            architecture,
            memory_bytes: device.memory_bytes,
            multiprocessors: device.multiprocessors,
        }
    }
}

pub(crate) fn run(args: DoctorArgs) -> Result<(), Failure> {
    let (used, problem) = match Isa::from_env() {
        Ok(isa) => (Some(isa.tier().name().to_owned()), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        cpu: CpuInfo::detect(),
        used,
        problem,
        forced: std::env::var(ISA_ENV).ok(),
        cuda: Cuda::detect(),
    };
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    report.problem.map_or(Ok(()), |why| Err(Failure::Usage(why)))
}

fn print(report: &Report) -> Result<(), Failure> {
    let cpu = &report.cpu;
    let yes_no = |has: bool| if has { "yes" } else { "no" };
    let kib = |bytes: usize| format!("{} KiB", bytes / 1024);
    let tiers: Vec<String> = cpu.tiers.iter().map(ToString::to_string).collect();
    let used = match (&report.used, &report.forced) {
        (Some(tier), Some(_)) => format!("{tier} (forced by {ISA_ENV})"),
        (Some(tier), None) => tier.clone(),
        (None, _) => "none".to_owned(),
    };
    let mut table = output::table(&[]);
    table.add_row(["bertha", report.version]);
    table.add_row(["processor", &format!("{} ({})", cpu.model, cpu.arch)]);
    table.add_row(["threads", &cpu.threads.to_string()]);
    table.add_row([
        "caches",
        &format!("L1 {}, L2 {}, L3 {}", kib(cpu.caches.l1d), kib(cpu.caches.l2), kib(cpu.caches.l3)),
    ]);
    table.add_row(["instruction sets", &tiers.join(", ")]);
    table.add_row(["int8 (VNNI)", yes_no(cpu.avx512_vnni)]);
    table.add_row(["bf16", yes_no(cpu.avx512_bf16)]);
    table.add_row(["will use", &used]);
    let cuda = &report.cuda;
    table.add_row(["GPU driver", cuda.driver.as_deref().unwrap_or("none")]);
    for gpu in &cuda.gpus {
        let memory = output::bytes(gpu.memory_bytes as u64);
        let Gpu { name, architecture, multiprocessors, .. } = gpu;
        table.add_row([
            "GPU",
            &format!("{name} ({architecture}, {multiprocessors} multiprocessors, {memory})"),
        ]);
    }
    if let Some(problem) = &cuda.problem {
        table.add_row(["GPU", problem]);
    }
    table.add_row([
        "NVRTC",
        cuda.nvrtc.as_ref().or(cuda.nvrtc_problem.as_ref()).map_or("none", String::as_str),
    ]);
    output::print_table(table, [])
}
