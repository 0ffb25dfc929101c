//! What the compiler did and nearly did, in terms of the source model's nodes.

use std::fmt;

use serde::Serialize;

/// One patch that was applied.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// The pass that proposed it.
    pub pass: &'static str,
    /// Names of the source nodes that were replaced.
    pub sources: Vec<String>,
    /// What they became, in one line.
    pub what: String,
}

/// A place where a pass almost fired.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NearMiss {
    /// The pass.
    pub pass: &'static str,
    /// The node at which the match broke off.
    pub node: String,
    /// The condition that failed.
    pub why: String,
}

/// Everything that the passes did to one graph, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Log {
    /// Applied patches.
    pub events: Vec<Event>,
    /// Places where a pass almost fired, as of its last round.
    pub near_misses: Vec<NearMiss>,
    /// Places where what a reader may look for was not done for a good reason.
    pub settled: Vec<NearMiss>,
}

/// Source nodes that one line lists.
const LISTED: usize = 12;

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
    /// A line with each pass's name, below it one line a patch: what was made, and of which source nodes; after them what
    /// was left as it is, and near misses. What happened in every layer alike is told once, with the number of others, unless the alternate
    /// form (`{:#}`) is asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pass in self.events.chunk_by(|a, b| a.pass == b.pass) {
            writeln!(f, "{}:", pass[0].pass)?;
            let alike = |event: &Event| without_numbers(&event.what);
            for events in grouped(pass, alike, f.alternate()) {
                write_event(f, events[0])?;
                write_others(f, events.len() - 1)?;
            }
        }
        write_places(f, "left as it is:", &self.settled)?;
        write_places(f, "almost:", &self.near_misses)
    }
}

/// Places with what there is to say of them, under a heading where there are any.
fn write_places(f: &mut fmt::Formatter<'_>, heading: &str, places: &[NearMiss]) -> fmt::Result {
    if !places.is_empty() {
        writeln!(f, "{heading}")?;
    }
    let alike = |miss: &NearMiss| without_numbers(&format!("{} {} {}", miss.pass, miss.node, miss.why));
    for misses in grouped(places, alike, f.alternate()) {
        let NearMiss { pass, node, why } = misses[0];
        writeln!(f, "  {pass} at {node}: {why}")?;
        write_others(f, misses.len() - 1)?;
    }
    Ok(())
}

/// Items that are alike together, in the order of the first of each group; every one by itself for `all`.
fn grouped<T>(items: &[T], alike: impl Fn(&T) -> String, all: bool) -> Vec<Vec<&T>> {
    let mut groups: Vec<(String, Vec<&T>)> = Vec::new();
    for item in items {
        let key = alike(item);
        match groups.iter_mut().find(|(known, _)| !all && *known == key) {
            Some((_, group)) => group.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// A text with every number as `#`: what differs between layers is their number.
fn without_numbers(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_ascii_digit() {
            true if plain.ends_with('#') => {}
            true => plain.push('#'),
            false => plain.push(letter),
        }
    }
    plain
}

fn write_event(f: &mut fmt::Formatter<'_>, event: &Event) -> fmt::Result {
    write!(f, "  {}", event.what)?;
    match event.sources.len() {
        0 => writeln!(f),
        count if count > LISTED => writeln!(
            f,
            "  <-  {} and {} more",
            Names(event.sources.get(..LISTED).unwrap_or_default()),
            count - LISTED
        ),
        _ => writeln!(f, "  <-  {}", Names(&event.sources)),
    }
}

fn write_others(f: &mut fmt::Formatter<'_>, count: usize) -> fmt::Result {
    if count > 0 { writeln!(f, "    and {count} more like it") } else { Ok(()) }
}

/// Names with what they begin with in common written once: `/layer.0/act: Div Erf Add Mul`.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = match self.0 {
            [first, rest @ ..] if !rest.is_empty() => rest.iter().fold(module(first), |shared, name| {
                let mut shared = shared;
                while !name.starts_with(shared) {
                    shared = module(shared.strip_suffix(['/', '.']).unwrap_or_default());
                }
                shared
            }),
            _ => "",
        };
        if !shared.is_empty() {
            write!(f, "{}: ", shared.strip_suffix(['/', '.']).unwrap_or(shared))?;
        }
        for (index, name) in self.0.iter().enumerate() {
            let separator = if index > 0 { " " } else { "" };
            write!(f, "{separator}{}", name.strip_prefix(shared).unwrap_or(name))?;
        }
        Ok(())
    }
}

/// The part of a name that says in which module it is: up to its last slash or dot, with that. `layer.0` is not torn apart.
fn module(name: &str) -> &str {
    let ends = |(at, letter): (usize, char)| {
        let numbered = name.get(at + 1..).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        (letter == '/' || letter == '.' && !numbered).then_some(at)
    };
    name.char_indices().rev().find_map(ends).and_then(|end| name.get(..=end)).unwrap_or_default()
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
                event("linear-activation", &act, "l.0/dense takes gelu as its epilogue"),
                event("linear-activation", &["a", "b"], "other takes tanh as its epilogue"),
                event("linear-activation", &["c"], "l.11/dense takes gelu as its epilogue"),
            ],
            near_misses: vec![NearMiss { pass: "attention", node: "x".into(), why: "reason".into() }],
            settled: vec![NearMiss { pass: "residual", node: "n".into(), why: "done".into() }],
        };
        let text = log.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 10, "{text}");
        assert_eq!(lines[0], "fold-constants:");
        assert!(lines[1].starts_with("  40 nodes become constants  <-  n0 n1"), "{text}");
        assert!(lines[1].ends_with("n11 and 28 more"), "{text}");
        assert!(lines[3].ends_with("epilogue  <-  /l.0: act/Div act/Erf dense/MatMul"), "{text}");
        let dotted = ["e.norm/mean", "e.norm/centred", "e.norm"].map(str::to_owned);
        assert_eq!(Names(&dotted).to_string(), "e: norm/mean norm/centred norm");
        let layers = ["e.layer.0/a", "e.layer.1/a"].map(str::to_owned);
        assert_eq!(Names(&layers).to_string(), "e: layer.0/a layer.1/a");
        assert_eq!(lines[4].trim(), "and 1 more like it");
        assert!(lines[5].ends_with("<-  a b"), "{text}");
        let ends = ["left as it is:", "  residual at n: done", "almost:", "  attention at x: reason"];
        assert_eq!(lines[6..], ends);
        assert_eq!(format!("{log:#}").lines().count(), 10);
        assert!(!format!("{log:#}").contains("like it"));
        assert_eq!(log.counts(), [("fold-constants", 1), ("linear-activation", 3)]);
        assert_eq!(log.explain("/l.0/act/Erf").count(), 1);
        assert_eq!(log.explain("nothing").count(), 0);
    }
}
