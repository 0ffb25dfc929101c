//! Names for messages.

use bertha_import::onnx::domain;

use crate::graph::Graph;
use crate::node::Node;

/// Whether this is the domain of ONNX's own operators.
pub(crate) fn is_default_domain(name: &str) -> bool {
    domain(name).is_empty()
}

/// Whether two names are of one domain.
pub(crate) fn same_domain(a: &str, b: &str) -> bool {
    domain(a) == domain(b)
}

/// An operator with its domain, if that is not the default one.
pub(crate) fn op(domain: &str, op_type: &str) -> String {
    if is_default_domain(domain) { op_type.to_owned() } else { format!("{domain}::{op_type}") }
}

/// The name of a node, or one made of its op and position.
pub fn node_name(node: &Node, position: usize) -> String {
    if node.name.is_empty() { format!("{}_{position}", node.op_type) } else { node.name.clone() }
}

/// A known name that resembles `wanted`, for messages.
pub(crate) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> String {
    let wanted_lower = wanted.to_lowercase();
    let score = |name: &str| {
        let name = name.to_lowercase();
        if name.contains(&wanted_lower) || wanted_lower.contains(&name) {
            return 1000usize.saturating_sub(name.len().abs_diff(wanted.len()));
        }
        let front = name.chars().zip(wanted_lower.chars()).take_while(|(a, b)| a == b).count();
        let back = name.chars().rev().zip(wanted_lower.chars().rev()).take_while(|(a, b)| a == b).count();
        if (front + back) * 2 >= wanted.len() { front + back } else { 0 }
    };
    let best = known.filter(|name| !name.is_empty()).map(|name| (score(name), name)).max();
    match best {
        Some((score, name)) if score > 0 => format!("; the nearest name is `{name}`"),
        _ => String::new(),
    }
}

/// A tensor name that nothing in the graph or its inner graphs uses.
pub(crate) fn fresh(graph: &Graph, wanted: &str) -> String {
    let mut used = std::collections::HashSet::new();
    graph.for_each(&mut |graph| {
        used.extend(graph.given_names());
        for node in &graph.nodes {
            used.extend(node.inputs.iter().chain(&node.outputs).map(String::as_str));
        }
    });
    if !used.contains(wanted) {
        return wanted.to_owned();
    }
    (1..).map(|n| format!("{wanted}_{n}")).find(|name| !used.contains(name.as_str())).unwrap_or_default()
}
