//! What the compiler did and nearly did, in terms of the source model's nodes.

use std::fmt;

/// One patch that was applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The pass that proposed it.
    pub pass: &'static str,
    /// Names of the source nodes that were replaced.
    pub sources: Vec<String>,
    /// What they became, in one line.
    pub what: String,
}

/// A place where a pass almost fired.
#[derive(Clone, Debug, PartialEq)]
pub struct NearMiss {
    /// The pass.
    pub pass: &'static str,
    /// The node at which the match broke off.
    pub node: String,
    /// The condition that failed.
    pub why: String,
}

/// Everything that the passes did to one graph, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// Applied patches.
    pub events: Vec<Event>,
    /// Places where a pass almost fired, as of its last round.
    pub near_misses: Vec<NearMiss>,
}

/// Source nodes that one line lists.
const LISTED: usize = 12;

/// Passes that tidy up: dozens of patches of which nobody wants to read each.
const TIDYING: [&str; 3] = ["fold-shapes", "identities", "transposes"];

impl Log {
    /// How many patches each pass applied, in the order in which the passes first fired.
    pub fn counts(&self) -> Vec<(&'static str, usize)> {
        let mut counts: Vec<(&'static str, usize)> = Vec::new();
        for event in &self.events {
            match counts.iter_mut().find(|(pass, _)| *pass == event.pass) {
                Some((_, count)) => *count += 1,
                None => counts.push((event.pass, 1)),
            }
        }
        counts
    }

    /// What happened to one node of the source model: every patch that replaced it, in order.
    pub fn explain<'l>(&'l self, source: &'l str) -> impl Iterator<Item = &'l Event> {
        self.events.iter().filter(move |event| event.sources.iter().any(|name| name == source))
    }
}

impl fmt::Display for Log {
    /// One line a patch: the pass, what was made, and of which source nodes; near misses after them. Passes that only
    /// tidy up have one line for all patches in a row, unless the alternate form (`{:#}`) is asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in self.events.chunk_by(|a, b| a.pass == b.pass) {
            match run {
                [first, _, ..] if TIDYING.contains(&first.pass) && !f.alternate() => {
                    writeln!(f, "{:<22} {} patches, the first: {}", first.pass, run.len(), first.what)?;
                }
                _ => run.iter().try_for_each(|event| write_event(f, event))?,
            }
        }
        for miss in &self.near_misses {
            writeln!(f, "{:<22} not at {}: {}", miss.pass, miss.node, miss.why)?;
        }
        Ok(())
    }
}

fn write_event(f: &mut fmt::Formatter<'_>, event: &Event) -> fmt::Result {
    write!(f, "{:<22} {}", event.pass, event.what)?;
    match event.sources.len() {
        0 => writeln!(f),
        count if count > LISTED => writeln!(f, "  <-  {count} source nodes"),
        _ => writeln!(f, "  <-  {}", Names(&event.sources)),
    }
}

/// Names with what they begin with in common written once: `/layer.0/act: Div Erf Add Mul`.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = match self.0 {
            [first, rest @ ..] if !rest.is_empty() => rest.iter().fold(folder(first), |shared, name| {
                let mut shared = shared;
                while !name.starts_with(shared) {
                    shared = folder(shared.strip_suffix('/').unwrap_or_default());
                }
                shared
            }),
            _ => "",
        };
        if !shared.is_empty() {
            write!(f, "{}: ", shared.strip_suffix('/').unwrap_or(shared))?;
        }
        for (index, name) in self.0.iter().enumerate() {
            let separator = if index > 0 { " " } else { "" };
            write!(f, "{separator}{}", name.strip_prefix(shared).unwrap_or(name))?;
        }
        Ok(())
    }
}

/// The part of a name up to its last slash, with the slash.
fn folder(name: &str) -> &str {
    name.rfind('/').and_then(|end| name.get(..=end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(pass: &'static str, sources: &[&str], what: &str) -> Event {
        Event { pass, sources: sources.iter().map(|s| (*s).to_owned()).collect(), what: what.into() }
    }

    #[test]
    fn a_patch_is_one_line_and_says_common_folders_once() {
        let act = ["/l.0/act/Div", "/l.0/act/Erf", "/l.0/dense/MatMul"];
        let many: Vec<String> = (0..40).map(|n| format!("n{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let log = Log {
            events: vec![
                event("fold-constants", &many, "40 nodes become constants"),
                event("linear-activation", &act, "dense takes gelu as its epilogue"),
                event("linear-activation", &["a", "b"], "other takes tanh as its epilogue"),
            ],
            near_misses: vec![NearMiss { pass: "attention", node: "x".into(), why: "reason".into() }],
        };
        let text = log.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].ends_with("40 nodes become constants  <-  40 source nodes"), "{text}");
        assert!(lines[1].ends_with("epilogue  <-  /l.0: act/Div act/Erf dense/MatMul"), "{text}");
        assert!(lines[2].ends_with("<-  a b"), "{text}");
        assert!(lines[3].contains("not at x: reason"), "{text}");
        let tidy = Log { events: vec![event("identities", &["a"], "a goes"); 3], near_misses: Vec::new() };
        assert_eq!(tidy.to_string().lines().count(), 1);
        assert_eq!(format!("{tidy:#}").lines().count(), 3);
        assert_eq!(log.counts(), [("fold-constants", 1), ("linear-activation", 2)]);
        assert_eq!(log.explain("/l.0/act/Erf").count(), 1);
        assert_eq!(log.explain("nothing").count(), 0);
    }
}
