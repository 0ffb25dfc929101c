//! The kernels of one small model with heads, and of one layer of MiniLM, for a few sizes of batches, compiled without a card
//! for every architecture: they compile, spill at most one register, keep within the registers and shared memory of the
//! architecture, and use the matrix instructions that they were written for. Kernels of other widths are not seen here.
//!
//! Needs NVRTC, and nvdisasm (`BERTHA_NVDISASM`) for the last point; without them the tests say so and pass, unless
//! `BERTHA_NVRTC_REQUIRED` is set.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use bertha_compile::{Precision, optimize, optimize_model};
use bertha_cuda::driver::LaunchConfig;
use bertha_cuda::kernels::KernelSpec;
use bertha_cuda::models::{EncoderConfig, Head};
use bertha_cuda::selftest::{cases, dense_cases, plugin_cases};
use bertha_cuda::{Arch, CudaPlan, Nvrtc};
use bertha_graph::PoolKind;
use bertha_graph::plugin::PluginSet;

fn is_required() -> bool {
    std::env::var_os("BERTHA_NVRTC_REQUIRED").is_some()
}

/// The compiler, if it is there.
fn nvrtc() -> Option<&'static Nvrtc> {
    match Nvrtc::get() {
        Ok(nvrtc) => Some(nvrtc),
        Err(error) if is_required() => panic!("{error}"),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// The two ends of the tactics, and a middle: tokens, sequences, longest.
const BATCHES: [[usize; 3]; 3] = [[30, 1, 30], [300, 2, 200], [8000, 40, 300]];

fn launches(config: &EncoderConfig, arch: Arch, precision: Precision) -> BTreeMap<KernelSpec, LaunchConfig> {
    let (model, _) = optimize_model(&config.build(1).unwrap()).unwrap();
    let multiprocessors = arch.typical_multiprocessors();
    CudaPlan::launches_for(&model.graph, arch, precision, multiprocessors, &BATCHES).unwrap()
}

/// The number in front of `unit` in the compiler's report.
fn report(log: &str, unit: &str) -> usize {
    let number = |at: usize| log[..at].trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    log.match_indices(unit).filter_map(|(at, _)| number(at)).max().unwrap_or(0)
}

/// Bytes of a thread that may be spilled: one register, which the portable product with tiles of 64 x 64 does for some
/// shapes on sm_80.
const MOST_SPILLED: usize = 4;

fn check(nvrtc: &Nvrtc, spec: &KernelSpec, config: &LaunchConfig, arch: Arch) -> Vec<u8> {
    let compiled = spec.compile(nvrtc, arch).unwrap_or_else(|error| panic!("{error}"));
    let log = &compiled.log;
    let what = format!("{spec} for {arch}:\n{log}");
    assert!(report(log, " bytes spill stores") <= MOST_SPILLED, "{what}");
    assert!(report(log, " bytes spill loads") <= MOST_SPILLED, "{what}");
    let registers = report(log, " registers");
    // A warp's registers are handed out eight to a thread at a time.
    let of_block = registers.next_multiple_of(8) * config.block as usize;
    assert!(registers > 0 && of_block <= 65_536, "{what}");
    let shared = report(log, " bytes smem") + config.shared_bytes as usize;
    // 1 KiB more is the system's.
    assert!(shared <= arch.shared_bytes() + 1024, "{shared} bytes of shared memory: {what}");
    compiled.cubin
}

#[test]
fn kernels_of_a_small_model_keep_within_the_card_and_spill_one_register_at_most() {
    let Some(nvrtc) = nvrtc() else { return };
    let heads = vec![Head::Pooler, Head::MaskedLm, Head::Embedding(PoolKind::Mean)];
    let config = EncoderConfig { layers: 1, heads_on_top: heads, ..cases(true)[0].config.clone() };
    for arch in Arch::ALL {
        let has_arithmetic = |precision: &Precision| *precision != Precision::Bf16 || arch.has_bf16();
        for precision in Precision::ALL.into_iter().filter(has_arithmetic) {
            for (spec, config) in launches(&config, arch, precision) {
                check(nvrtc, &spec, &config, arch);
            }
        }
    }
}

/// In f16 a plugin's own kernel for halves runs; bf16, which it does not have, is converted around the one for f32.
#[test]
fn layer_norms_of_a_plugin_compile_for_every_architecture() {
    let mut plugins = PluginSet::new();
    plugins.add(bertha_layernorm::LayerNorm).unwrap();
    plugins.add(bertha_layernorm::LayerNormFused).unwrap();
    // The fused stage has no CUDA source.
    let [case] = &plugin_cases(&plugins)[..] else { panic!("one plugin has a kernel for GPUs") };
    let Some(nvrtc) = nvrtc() else { return };
    let entries = [(Precision::F32, "f32"), (Precision::F16, "f16"), (Precision::Bf16, "f32")];
    for (precision, dtype) in entries {
        let launches = launches(&case.config, Arch::Sm90a, precision);
        let of_plugin: Vec<_> = launches.iter().filter(|(spec, _)| spec.plugin.is_some()).collect();
        let [(spec, config)] = of_plugin[..] else { panic!("one kernel of the plugin in {precision}") };
        let name = spec.to_string();
        assert!(name.starts_with(&format!("LayerNorm@1:layer_norm_{dtype}#")), "{name}");
        assert!(!launches.keys().any(|spec| spec.entry == "layer_norm"), "Bertha's own has no work left");
        for arch in Arch::ALL {
            check(nvrtc, spec, config, arch);
        }
    }
}

#[test]
fn generated_kernels_of_dense_graphs_compile_for_the_oldest_architecture_and_for_hopper() {
    let [case] = &dense_cases().unwrap()[..] else { panic!("there is one") };
    let (graph, _) = optimize(&case.graph).unwrap();
    let Some(nvrtc) = nvrtc() else { return };
    for (arch, precision) in [(Arch::Sm75, Precision::F16), (Arch::Sm90a, Precision::Bf16)] {
        let launches = CudaPlan::launches_for(&graph, arch, precision, 100, &BATCHES).unwrap();
        let generated: Vec<_> = launches.iter().filter(|(spec, _)| spec.generated.is_some()).collect();
        let ops = [
            "attention",
            "cast",
            "matmul",
            "conv",
            "rotary_embedding",
            "concat",
            "slice",
            "pad",
            "tile",
            "gather",
            "cumsum",
            "range",
            "where",
            "softmax",
            "reduce_mean",
            "and",
            "not",
        ];
        for op in ops {
            let entry = format!("bertha_{op}");
            assert!(generated.iter().any(|(spec, _)| spec.entry == entry || spec.entry == op), "{op}");
        }
        for (spec, config) in generated {
            check(nvrtc, spec, config, arch);
        }
    }
}

#[test]
fn products_run_on_the_matrix_units() {
    let Some(nvrtc) = nvrtc() else { return };
    let Some(disassembler) = std::env::var_os("BERTHA_NVDISASM").map(PathBuf::from) else {
        println!("skipped: BERTHA_NVDISASM does not name nvdisasm");
        return;
    };
    let config = EncoderConfig { layers: 1, ..EncoderConfig::named("minilm-l6").unwrap() };
    for (arch, expected) in [(Arch::Sm75, "HMMA.1688"), (Arch::Sm80, "HMMA.16816"), (Arch::Sm90a, "HGMMA")] {
        for (spec, config) in launches(&config, arch, Precision::F16) {
            let is_product = spec.entry.starts_with("gemm") || spec.entry.starts_with("attention");
            if !is_product || (arch == Arch::Sm90a && !spec.entry.ends_with("sm90a")) {
                continue;
            }
            let cubin = check(nvrtc, &spec, &config, arch);
            let file = std::env::temp_dir().join(format!("bertha-{}.cubin", std::process::id()));
            std::fs::write(&file, cubin).unwrap();
            let output = Command::new(&disassembler).arg("-c").arg(&file).output().unwrap();
            std::fs::remove_file(&file).unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(expected), "{spec} for {arch} has no {expected}");
            let stores = text.matches("STL").count();
            assert!(stores <= 1, "{spec} for {arch} keeps values in local memory");
        }
    }
}
