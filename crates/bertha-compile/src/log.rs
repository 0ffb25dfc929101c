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

impl fmt::Display for Log {
    /// One line a patch: `pass: sources -> what`; near misses after them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            writeln!(f, "{:<18} {}  <-  {}", event.pass, event.what, event.sources.join(" "))?;
        }
        for miss in &self.near_misses {
            writeln!(f, "{:<18} not at {}: {}", miss.pass, miss.node, miss.why)?;
        }
        Ok(())
    }
}
