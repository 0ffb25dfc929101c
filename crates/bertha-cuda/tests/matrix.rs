//! The kernels that lowering asks for, compiled for every architecture, without a card.
//!
//! Needs NVRTC; without it the tests say so and pass, unless `BERTHA_NVRTC_REQUIRED` is set.

use bertha_compile::{Precision, optimize_model};
use bertha_cuda::selftest::cases;
use bertha_cuda::{Arch, CudaPlan, Nvrtc};

/// The compiler, if it is there.
fn nvrtc() -> Option<&'static Nvrtc> {
    match Nvrtc::get() {
        Ok(nvrtc) => Some(nvrtc),
        Err(error) if std::env::var_os("BERTHA_NVRTC_REQUIRED").is_some() => panic!("{error}"),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

#[test]
fn a_model_with_heads_builds_for_every_architecture() {
    if nvrtc().is_none() {
        return;
    }
    let case = cases(true).into_iter().find(|case| case.name.ends_with("pooler and masked LM")).unwrap();
    let (model, _) = optimize_model(&case.config.build(1).unwrap()).unwrap();
    for arch in Arch::ALL {
        for precision in [Precision::F32, Precision::F16] {
            // One small and one large batch: the two ends of the tactics.
            let batches = [[40, 2, 20], [4000, 30, 200]];
            let plan =
                CudaPlan::build_for(&model.graph, arch, precision, arch.typical_multiprocessors(), &batches);
            assert!(plan.is_ok(), "{} for {arch} in {precision}: {}", case.name, plan.unwrap_err());
        }
    }
}
