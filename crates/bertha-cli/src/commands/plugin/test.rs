//! `bertha plugin test`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bertha::plugin::check::{self, Options, Timing};
use bertha::plugin::{Field, FieldKind, PluginDef, PluginSet};
use serde::Serialize;

use super::super::Failure;
use crate::args::PluginTestArgs;
use crate::output;
use crate::progress::Spinner;

/// What `--json` prints for each plugin.
#[derive(Serialize)]
struct Report {
    plugin: String,
    version: u32,
    passed: bool,
    dtypes: Vec<Line>,
    failures: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<Vec<Time>>,
}

#[derive(Serialize)]
struct Line {
    dtypes: String,
    cases: usize,
    refused: usize,
    max_abs: f64,
    relative: f64,
    ulp: f64,
    worst_case: String,
}

#[derive(Serialize)]
struct Time {
    dtypes: String,
    case: String,
    threads: usize,
    ms: f64,
    runs: usize,
    gigabytes_per_second: f64,
}

pub(super) fn run(args: PluginTestArgs) -> Result<(), Failure> {
    let mut plugins = PluginSet::new();
    let loaded = bertha::plugin::load(&args.library, &mut plugins).map_err(bertha::Error::from)?;
    let chosen: Vec<_> =
        loaded.iter().filter(|def| args.op.as_deref().is_none_or(|name| name == def.name())).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = loaded.iter().map(|def| def.name()).collect();
        let name = args.op.as_deref().unwrap_or_default();
        return Err(Failure::Usage(format!(
            "there is no plugin `{name}`; the library has {}",
            names.join(", ")
        )));
    }
    known_names(&chosen, &args).map_err(Failure::Usage)?;
    let mut reports = Vec::new();
    for def in chosen {
        reports.push(test(def, &args)?);
    }
    if args.json {
        output::json(&reports)?;
    } else {
        print(&reports)?;
    }
    let failed: Vec<&str> = reports.iter().filter(|r| !r.passed).map(|r| r.plugin.as_str()).collect();
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Failure::Differs(format!("{} failed", failed.join(", ")))),
    }
}

fn test(def: &Arc<PluginDef>, args: &PluginTestArgs) -> Result<Report, Failure> {
    let usage = |why: String| Failure::Usage(format!("plugin `{}`: {why}", def.name()));
    let options = Options {
        rounds: args.rounds as usize,
        seed: args.seed,
        fields: fields(def, &args.fields).map_err(usage)?,
        sizes: sizes(&args.sizes).map_err(usage)?,
        tolerance: args.tolerance,
    };
    let spinner = Spinner::new(format!("testing {}", def.name()));
    let found = check::check(def, &options).map_err(usage)?;
    let passed = found.failures.is_empty();
    // The time of a wrong answer is of no interest.
    let times = if args.time && passed {
        spinner.say(format!("measuring {}", def.name()));
        Some(times(def, &options, args.threads)?)
    } else {
        None
    };
    let line = |line: check::Line| Line {
        dtypes: line.dtypes,
        cases: line.cases,
        refused: line.refused,
        max_abs: line.worst.max_abs,
        relative: line.worst.relative,
        ulp: line.worst.ulp,
        worst_case: line.worst_case,
    };
    Ok(Report {
        plugin: found.plugin,
        version: def.version(),
        passed,
        dtypes: found.lines.into_iter().map(line).collect(),
        failures: found.failures,
        times,
    })
}

fn times(def: &Arc<PluginDef>, options: &Options, threads: usize) -> Result<Vec<Time>, Failure> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let mut pool = bertha::Pool::new(threads)
        .map_err(|error| Failure::Other(format!("cannot start threads: {error}")))?;
    let times = check::time(def, options, &mut pool).map_err(Failure::Other)?;
    let time = |Timing { dtypes, case, seconds, runs, bytes_per_second }: Timing| Time {
        dtypes,
        case,
        threads,
        ms: seconds * 1e3,
        runs,
        gigabytes_per_second: bytes_per_second / 1e9,
    };
    Ok(times.into_iter().map(time).collect())
}

/// Every name of `--field` and `--size` must belong to one of the plugins that are tested, or the option would do nothing.
fn known_names(defs: &[&Arc<PluginDef>], args: &PluginTestArgs) -> Result<(), String> {
    let specs = || defs.iter().flat_map(|def| &def.declaration().fields);
    let fields: Vec<&str> = specs().map(|spec| spec.name.as_str()).collect();
    // A size that an int field gives is not one to choose.
    let is_chosen = |def: &PluginDef, name: &str| {
        !def.declaration().fields.iter().any(|spec| spec.kind == FieldKind::Int && spec.name == name)
    };
    let sizes: Vec<Arc<str>> = defs
        .iter()
        .flat_map(|def| def.signature().names().into_iter().filter(|name| is_chosen(def, name)))
        .collect();
    let sizes: Vec<&str> = sizes.iter().map(|name| &**name).collect();
    only("--field", "field", &args.fields, &fields)?;
    only("--size", "dimension", &args.sizes, &sizes)
}

/// Refuses the first of `given` that is not in `known`.
fn only(option: &str, what: &str, given: &[(String, String)], known: &[&str]) -> Result<(), String> {
    let Some((name, _)) = given.iter().find(|(name, _)| !known.contains(&name.as_str())) else {
        return Ok(());
    };
    let mut known = known.to_vec();
    known.sort_unstable();
    known.dedup();
    let known =
        if known.is_empty() { "they have none".to_owned() } else { format!("known: {}", known.join(", ")) };
    Err(format!(
        "{option} {name}: no plugin tested here has a {what} of this name that can be given; {known}"
    ))
}

/// Values of `--field`, read as the plugin declares them. Fields of other plugins of the library are left out.
fn fields(def: &PluginDef, given: &[(String, String)]) -> Result<BTreeMap<String, Field>, String> {
    let mut fields = BTreeMap::new();
    for (name, text) in given {
        let Some(spec) = def.declaration().fields.iter().find(|spec| spec.name == *name) else { continue };
        let wrong = |what: &str| format!("field `{name}`: `{text}` is not {what}");
        let parts = || text.split(',').filter(|part| !part.is_empty());
        let value = match spec.kind {
            FieldKind::Int => Field::Int(text.parse().map_err(|_| wrong("an integer"))?),
            FieldKind::Float => Field::Float(text.parse().map_err(|_| wrong("a number"))?),
            FieldKind::Text => Field::Text(text.clone()),
            FieldKind::Ints => Field::Ints(
                parts().map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong("a list of integers"))?,
            ),
            FieldKind::Floats => Field::Floats(
                parts().map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong("a list of numbers"))?,
            ),
        };
        fields.insert(name.clone(), value);
    }
    Ok(fields)
}

fn sizes(given: &[(String, String)]) -> Result<BTreeMap<String, usize>, String> {
    let parse = |(name, text): &(String, String)| match text.parse() {
        Ok(size) => Ok((name.clone(), size)),
        Err(_) => Err(format!("size `{name}`: `{text}` is not a number")),
    };
    given.iter().map(parse).collect()
}

fn print(reports: &[Report]) -> Result<(), Failure> {
    let mut table = output::table(&["plugin", "dtypes", "cases", "max abs", "relative", "ulp", ""]);
    for report in reports {
        for line in &report.dtypes {
            table.add_row([
                report.plugin.clone(),
                line.dtypes.clone(),
                line.cases.to_string(),
                format!("{:.3e}", line.max_abs),
                format!("{:.3e}", line.relative),
                format!("{:.1}", line.ulp),
                if report.passed { "passed".into() } else { "FAILED".to_owned() },
            ]);
        }
    }
    output::print_table(table, 2..6)?;
    for report in reports {
        for failure in &report.failures {
            output::line(format!("\n{}: {failure}", report.plugin))?;
        }
    }
    if reports.iter().all(|report| report.times.is_none()) {
        return Ok(());
    }
    let mut table = output::table(&["plugin", "ms", "GB/s", "threads", "case"]);
    for report in reports {
        for time in report.times.iter().flatten() {
            table.add_row([
                report.plugin.clone(),
                format!("{:.4}", time.ms),
                format!("{:.1}", time.gigabytes_per_second),
                time.threads.to_string(),
                time.case.clone(),
            ]);
        }
    }
    output::line("")?;
    output::print_table(table, 1..4)
}

#[cfg(test)]
mod tests {
    use bertha::plugin::{
        Declaration, F64Tensor, FieldSpec, Fields, Parallel, Plugin, TensorView, TensorViewMut,
    };
    use clap::Parser;

    use super::*;

    struct Signed;

    impl Plugin for Signed {
        fn declaration(&self) -> Declaration {
            let field = |name: &str, kind| FieldSpec {
                name: name.into(),
                kind,
                default: None,
                min: 1.0,
                max: 8.0,
                description: String::new(),
            };
            Declaration {
                name: "Signed".into(),
                op_type: "Signed".into(),
                signature: "x: f32[..., heads, width] -> y: f32[]".into(),
                fields: vec![field("heads", FieldKind::Int), field("scale", FieldKind::Float)],
                ..Declaration::default()
            }
        }

        fn reference(&self, _: &Fields, _: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
            Err("only its declaration is of interest".into())
        }

        fn run(
            &self,
            _: &Fields,
            _: &[Option<TensorView<'_>>],
            _: &mut [Option<TensorViewMut<'_>>],
            _: &mut dyn Parallel,
        ) -> Result<(), String> {
            Err("only its declaration is of interest".into())
        }
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: PluginTestArgs,
    }

    #[test]
    fn names_that_no_plugin_has_are_refused() {
        let def = PluginSet::new().add(Signed).unwrap();
        let check = |options: &[&str]| {
            let line = ["test", "lib.so"].iter().chain(options);
            known_names(&[&def], &Line::try_parse_from(line).unwrap().args)
        };
        check(&["--field", "heads=2", "--field", "scale=1", "--size", "width=8", "--size", "...=4"]).unwrap();
        for (options, parts) in [
            (["--field", "sclae=1"], ["--field sclae", "heads, scale"]),
            (["--size", "widht=8"], ["--size widht", "known: ..., width"]),
            (["--size", "heads=8"], ["--size heads", "known: ..., width"]),
        ] {
            let error = check(&options).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
