//! `bertha surgeon match` and `bertha surgeon rewrite`.

use std::path::Path;

use bertha_surgeon::{Match, Pattern, Report, find_pattern, parse_patterns, rewrite};
use serde::Serialize;

use super::args::{MatchArgs, Patterns, RewriteArgs, failure};
use super::{Failure, Size, check_target, open, show, size};
use crate::output;

/// Near misses that are printed without --details.
const SHOWN: usize = 5;

pub(super) fn find(args: &MatchArgs) -> Result<(), Failure> {
    let patterns = read(&args.patterns)?;
    let model = open(&args.model)?;
    let reports: Vec<Report> = patterns
        .iter()
        .map(|pattern| find_pattern(&model, pattern).map_err(failure))
        .collect::<Result<_, _>>()?;
    if args.json {
        output::json(&reports)?;
    } else {
        reports.iter().try_for_each(|report| print(report, "found", args.patterns.details))?;
    }
    require(&args.patterns, &reports)
}

#[derive(Serialize)]
struct Outcome<'a> {
    patterns: &'a [Report],
    before: Size,
    after: Size,
    output: Option<&'a Path>,
}

pub(super) fn replace(args: &RewriteArgs) -> Result<(), Failure> {
    let patterns = read(&args.patterns)?;
    let output = check_target(&args.model, &args.target)?;
    let mut model = open(&args.model)?;
    let before = size(&model);
    let mut reports = Vec::new();
    for pattern in patterns.iter() {
        if !pattern.replaces() {
            return Err(Failure::Usage(format!(
                "pattern `{}` has no `replace`: say what takes the place, or use `match`",
                pattern.name
            )));
        }
        reports.push(rewrite(&mut model, pattern).map_err(failure)?);
    }
    let after = size(&model);
    require(&args.patterns, &reports)?;
    if let Some(output) = &output {
        model.save(output).map_err(failure)?;
    }
    if args.target.json {
        return output::json(&Outcome { patterns: &reports, before, after, output: output.as_deref() });
    }
    let verb = if args.target.dry_run { "would replace" } else { "replaced" };
    reports.iter().try_for_each(|report| print(report, verb, args.patterns.details))?;
    show::sizes(before, after, output.as_deref())
}

fn read(patterns: &Patterns) -> Result<Vec<Pattern>, Failure> {
    let usage = |error: bertha_surgeon::PatternError| Failure::Usage(error.to_string());
    let mut found = Vec::new();
    for path in &patterns.pattern_file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::Other(format!("cannot read {}: {error}", path.display())))?;
        found.extend(parse_patterns(&path.display().to_string(), &text).map_err(usage)?);
    }
    for text in &patterns.patterns {
        found.extend(parse_patterns("pattern", text).map_err(usage)?);
    }
    Ok(found)
}

/// A file may hold patterns for several forms of one thing, so one that is found is enough.
fn require(patterns: &Patterns, reports: &[Report]) -> Result<(), Failure> {
    if !patterns.require || reports.iter().any(|report| !report.matches.is_empty()) {
        return Ok(());
    }
    let names: Vec<_> = reports.iter().map(|report| format!("`{}`", report.pattern)).collect();
    Err(Failure::Differs(format!("not found: {}", names.join(", "))))
}

fn print(report: &Report, verb: &str, details: bool) -> Result<(), Failure> {
    let count = output::count(report.matches.len(), "match", "matches");
    output::line(format!("{}: {verb} {count}", report.pattern))?;
    for found in &report.matches {
        print_match(found, details)?;
    }
    let misses = &report.near_misses;
    if misses.is_empty() {
        return Ok(());
    }
    output::line(format!("  {} nearly:", output::count(misses.len(), "place matched", "places matched")))?;
    let shown = if details { misses.len() } else { SHOWN };
    for miss in misses.iter().take(shown) {
        let fitted = output::count(miss.fitted, "node", "nodes");
        output::line(format!(
            "    {}{}: {fitted} fitted; at `{}`: {}",
            miss.within, miss.root, miss.node, miss.why
        ))?;
    }
    if misses.len() > shown {
        output::line(format!("    and {} more (--details)", misses.len() - shown))?;
    }
    Ok(())
}

fn print_match(found: &Match, details: bool) -> Result<(), Failure> {
    let last = found.nodes.last().map_or("", String::as_str);
    let nodes = output::count(found.nodes.len(), "node", "nodes");
    let becomes = match found.added.len() {
        0 => String::new(),
        _ => format!(" -> {}", found.added.join(", ")),
    };
    output::line(format!("  {}{last}: {nodes}{becomes}", found.within))?;
    if details {
        output::line(format!("    nodes: {}", found.nodes.join(", ")))?;
        for (name, value) in found.tensors.iter().chain(&found.attributes) {
            output::line(format!("    {name} = {value}"))?;
        }
    }
    Ok(())
}
