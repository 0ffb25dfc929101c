//! The self test and the speed of BERT-base on this machine's card, without anything but this binary and NVRTC.
//!
//! ```text
//! cargo run --release -p bertha-cuda --example card -- [quick] [MODEL] [PRECISION]
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use bertha_compile::{Precision, optimize_model};
use bertha_cuda::driver::Device;
use bertha_cuda::models::EncoderConfig;
use bertha_cuda::selftest::{Batch, cases, run_case};
use bertha_cuda::{Arch, CudaModel, CudaPlan};

/// Batch and length of the timed runs.
const SHAPES: [(usize, usize); 9] =
    [(1, 16), (1, 32), (1, 128), (1, 384), (8, 128), (32, 128), (32, 384), (128, 128), (33, 128)];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given =
        |known: &[&str]| arguments.iter().find(|argument| known.contains(&argument.as_str())).cloned();
    let quick = given(&["quick"]).is_some();
    let model = given(&EncoderConfig::NAMES).unwrap_or_else(|| "bert-base".into());
    let precision: Precision = given(&["f32", "f16", "bf16"]).unwrap_or_else(|| "f16".into()).parse()?;
    let device = Device::get(0)?;
    println!("{device:?}");
    if given(&["time"]).is_none() {
        for precision in Precision::ALL {
            let most = if given(&["first"]).is_some() { 4 } else { usize::MAX };
            for case in cases(quick).into_iter().take(most) {
                let start = Instant::now();
                let result = run_case(&device, &case, precision);
                let verdict = if result.passed() { "ok" } else { "FAILED" };
                let failure = result.failure.clone().unwrap_or_default();
                println!(
                    "{verdict} {precision} {}: {:.2e} of {:.0e} in {:.2} s {failure}",
                    result.name,
                    result.error,
                    result.bound,
                    start.elapsed().as_secs_f64()
                );
            }
        }
    }
    time(&device, &model, precision)
}

fn time(device: &Device, name: &str, precision: Precision) -> Result<(), Box<dyn Error>> {
    let config = EncoderConfig::named(name).ok_or("no such model")?;
    let (model, _) = optimize_model(&config.build(1)?)?;
    let start = Instant::now();
    let batches = SHAPES.map(|(sequences, length)| [sequences * length, sequences, length]);
    let plan =
        CudaPlan::build_for(&model.graph, Arch::of(device)?, precision, device.multiprocessors, &batches)?;
    println!(
        "{name} {precision}: {} kernels compiled in {:.2} s",
        plan.kernels().count(),
        start.elapsed().as_secs_f64()
    );
    let cuda = Arc::new(CudaModel::new(device.clone(), Arc::new(plan))?);
    let mut session = cuda.session()?;
    for (sequences, length) in SHAPES {
        let batch = Batch::random(&model, &vec![length; sequences], 3);
        let (mut device_ms, mut total_ms) = (Vec::new(), Vec::new());
        for run in 0..60 {
            let start = Instant::now();
            session.run(&batch.inputs(), &[], |_| {})?;
            if run >= 10 {
                total_ms.push(start.elapsed().as_secs_f64() * 1e3);
                device_ms.push(session.device_seconds()?.unwrap_or(f64::NAN) * 1e3);
            }
        }
        device_ms.sort_by(f64::total_cmp);
        total_ms.sort_by(f64::total_cmp);
        println!("{sequences}x{length}: device {:.4} ms, end to end {:.4} ms", device_ms[25], total_ms[25]);
        if arguments_say_profile() {
            let mut by_kernel = std::collections::BTreeMap::new();
            for step in session.profile(&batch.inputs(), &[])? {
                let entry = by_kernel.entry(step.kernel).or_insert((0usize, 0f64));
                entry.0 += 1;
                entry.1 += step.seconds * 1e6;
            }
            for (kernel, (count, us)) in by_kernel {
                println!("    {us:9.1} us in {count:3} x {kernel}");
            }
        }
    }
    Ok(())
}

fn arguments_say_profile() -> bool {
    std::env::args().any(|argument| argument == "profile")
}
