//! `bertha doctor`.

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
    output::print_table(table, [])
}
