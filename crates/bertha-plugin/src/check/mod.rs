//! Tests of a plugin's kernel against its own reference: random shapes, dtypes and fields.
//!
//! Besides the difference, each case checks what no difference shows: that the kernel stays within its results (bytes
//! around them are guarded), leaves its operands alone, writes every element, does not depend on what was there before
//! nor on the number of threads, and takes memory that is aligned to elements and no better. A plugin that promises to
//! work row by row must give each row the same bits when it is alone.

mod bench;
mod cases;
mod measure;
mod memory;
mod rows;
#[cfg(test)]
mod tests;
mod threads;
mod time;

use std::collections::BTreeMap;
use std::sync::Arc;

use bertha_graph::plugin::ShapeFault;
use bertha_graph::{DType, Shape, TensorType};

use crate::{F64Tensor, Field, Parallel, PluginDef, Sequential};
use bench::Bench;
use cases::{Case, Cases};

pub use measure::{Difference, default_tolerance};
pub use time::{Timing, time};

/// What to try.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cases for each choice of dtypes.
    pub rounds: usize,
    /// The same seed gives the same cases.
    pub seed: u64,
    /// Values of fields that are not to be random.
    pub fields: BTreeMap<String, Field>,
    /// Sizes of dimensions and runs (the product) that are not to be random, by name.
    pub sizes: BTreeMap<String, usize>,
    /// The largest relative error allowed; by default that of the results' dtype, [`default_tolerance`].
    pub tolerance: Option<f64>,
}

impl Default for Options {
    fn default() -> Self {
        Options { rounds: 24, seed: 1, fields: BTreeMap::new(), sizes: BTreeMap::new(), tolerance: None }
    }
}

/// What came of the cases of one choice of dtypes.
#[derive(Clone, Debug)]
pub struct Line {
    /// The choice, such as `T = f16`; empty where there is none.
    pub dtypes: String,
    /// Cases that ran.
    pub cases: usize,
    /// Cases that the plugin's shape rule refused.
    pub refused: usize,
    /// The largest differences of all cases, each on its own.
    pub worst: Difference,
    /// The case with the largest relative error.
    pub worst_case: String,
}

/// What came of a plugin's test.
#[derive(Clone, Debug)]
pub struct Report {
    /// The plugin's name.
    pub plugin: String,
    /// One line for each choice of dtypes.
    pub lines: Vec<Line>,
    /// Everything that is wrong, one sentence each; one of each kind for each choice of dtypes.
    pub failures: Vec<String>,
}

/// Runs a plugin's kernel on random operands.
///
/// # Errors
/// When no cases can be made, because a field's values cannot be guessed or do not fit, tensors would be too large, or
/// there are too many choices of dtypes.
pub fn check(def: &Arc<PluginDef>, options: &Options) -> Result<Report, String> {
    let mut report = Report { plugin: def.name().to_owned(), lines: Vec::new(), failures: Vec::new() };
    for choice in cases::dtype_choices(def.signature())? {
        let dtypes = cases::describe_choice(def.signature(), &choice);
        let mut line =
            Line { dtypes, cases: 0, refused: 0, worst: Difference::default(), worst_case: String::new() };
        let mut cases = Cases::new(def, &choice, options);
        for round in 0..options.rounds {
            let case = cases.next(round)?;
            match run_case(&case, options.tolerance) {
                Ok(difference) => {
                    line.cases += 1;
                    if difference.relative >= line.worst.relative {
                        line.worst_case = case.describe();
                    }
                    line.worst = line.worst.max(&difference);
                }
                Err(Problem::Refused) => line.refused += 1,
                Err(Problem::TooLarge(why)) => return Err(why),
                Err(Problem::Failed(what)) => {
                    line.cases += 1;
                    report.failures.push(format!("{}: {what}", case.describe()));
                    break;
                }
            }
        }
        if line.cases == 0 {
            report.failures.push(format!("{}: the shape rule refused every case", line.dtypes));
        }
        report.lines.push(line);
    }
    Ok(report)
}

/// Why a case gave no difference.
enum Problem {
    /// The plugin's shape rule does not take these shapes.
    Refused,
    /// A result would be too large to test.
    TooLarge(String),
    /// Something is wrong with the plugin.
    Failed(String),
}

impl From<String> for Problem {
    fn from(what: String) -> Self {
        Problem::Failed(what)
    }
}

fn run_case(case: &Case, tolerance: Option<f64>) -> Result<Difference, Problem> {
    let types: Vec<Option<&TensorType>> =
        case.inputs.iter().map(|input| input.as_ref().map(|i| &i.ty)).collect();
    let results = match case.op.result_types(&types) {
        Ok(results) => results,
        Err(ShapeFault::Refused(_)) => return Err(Problem::Refused),
        Err(ShapeFault::Wrong(why)) => return Err(Problem::Failed(why)),
    };
    for (index, ty) in results.iter().enumerate() {
        cases::check_size(format_args!("result {index}"), ty).map_err(Problem::TooLarge)?;
    }
    let exact: Vec<Option<&F64Tensor>> =
        case.inputs.iter().map(|input| input.as_ref().map(|input| &input.exact)).collect();
    let expected = case.op.reference(&types, &exact)?;
    let alone = run_kernel(case, &results, 0xA5, &mut Sequential)?;
    let again = run_kernel(case, &results, 0x3C, &mut Sequential)?;
    let together = run_kernel(case, &results, 0x3C, &mut threads::Threads(4))?;
    for (index, ((alone, again), together)) in alone.iter().zip(&again).zip(&together).enumerate() {
        if alone != again {
            return Err(format!(
                "element {} of result {index} is not written, or depends on what was there before",
                first_difference(alone, again, results[index].dtype)
            )
            .into());
        }
        if again != together {
            return Err(format!(
                "element {} of result {index} depends on the number of threads",
                first_difference(again, together, results[index].dtype)
            )
            .into());
        }
    }
    let mut worst = Difference::default();
    for (index, ((bytes, ty), (_, expected))) in alone.iter().zip(&results).zip(&expected).enumerate() {
        let found = measure::difference(bytes, ty.dtype, &expected.values)
            .map_err(|why| format!("result {index}: {why}"))?;
        let tolerance = tolerance.unwrap_or_else(|| default_tolerance(ty.dtype));
        if found.relative > tolerance {
            return Err(format!(
                "result {index} ({ty}) differs from the reference: relative error {:.3e}, allowed {tolerance:.1e}",
                found.relative
            )
            .into());
        }
        worst = worst.max(&found);
    }
    if case.op.def().declaration().row_wise {
        rows::check(case, &results, &alone)?;
    }
    Ok(worst)
}

fn first_difference(a: &[u8], b: &[u8], dtype: DType) -> usize {
    a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(0) / dtype.size()
}

/// The bytes of all results; before the run they are filled with `fill`.
fn run_kernel(
    case: &Case,
    results: &[TensorType],
    fill: u8,
    threads: &mut dyn Parallel,
) -> Result<Vec<Vec<u8>>, Problem> {
    let mut bench = Bench::new(case, results, fill)?;
    let outcome = bench.run(threads);
    // What lies around comes first: an error of the kernel may well be its consequence.
    bench.check()?;
    outcome?;
    Ok(bench.into_results())
}

fn tensor_type(dtype: DType, shape: &[usize]) -> TensorType {
    TensorType::new(dtype, shape.iter().copied().collect::<Shape>())
}
