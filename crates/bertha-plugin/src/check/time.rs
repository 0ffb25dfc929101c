//! How long a kernel takes.

use std::sync::Arc;
use std::time::Instant;

use super::Options;
use super::bench::Bench;
use super::cases::{self, Cases};
use crate::{Parallel, PluginDef};

/// Runs before the clock starts, and seconds to keep measuring.
const WARMUP: usize = 3;
const SECONDS: f64 = 0.5;

/// The time of a kernel on one case.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The choice of dtypes.
    pub dtypes: String,
    /// The operands and fields.
    pub case: String,
    /// Seconds of a run, the median.
    pub seconds: f64,
    /// Runs that were timed.
    pub runs: usize,
    /// Bytes of all operands and results over the seconds.
    pub bytes_per_second: f64,
}

/// Times the kernel on one case for each choice of dtypes, with the sizes and fields of `options`.
///
/// # Errors
/// When no case can be made or the kernel fails.
pub fn time(
    def: &Arc<PluginDef>,
    options: &Options,
    threads: &mut dyn Parallel,
) -> Result<Vec<Timing>, String> {
    let choices = cases::dtype_choices(def.signature())?;
    choices.iter().map(|choice| time_choice(def, choice, options, threads)).collect()
}

fn time_choice(
    def: &Arc<PluginDef>,
    choice: &[bertha_graph::DType],
    options: &Options,
    threads: &mut dyn Parallel,
) -> Result<Timing, String> {
    let case = Cases::new(def, choice, options).complete()?;
    let types: Vec<_> = case.inputs.iter().map(|input| input.as_ref().map(|input| &input.ty)).collect();
    let results = case.op.result_types(&types).map_err(|fault| fault.to_string())?;
    for (index, ty) in results.iter().enumerate() {
        cases::check_size(format_args!("result {index}"), ty)?;
    }
    let mut bench = Bench::new(&case, &results, 0)?;
    let mut seconds = Vec::new();
    let begin = Instant::now();
    let mut run = 0;
    while run < WARMUP || begin.elapsed().as_secs_f64() < SECONDS {
        let start = Instant::now();
        bench.run(threads)?;
        if run >= WARMUP {
            seconds.push(start.elapsed().as_secs_f64());
        }
        run += 1;
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds.get(seconds.len() / 2).copied().ok_or("it takes longer than there is time")?;
    Ok(Timing {
        dtypes: cases::describe_choice(def.signature(), choice),
        case: case.describe(),
        seconds: median,
        runs: seconds.len(),
        bytes_per_second: bench.bytes() as f64 / median.max(1e-9),
    })
}
