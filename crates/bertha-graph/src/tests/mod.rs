//! Tests of what spans several modules, on graphs in the text format.

mod specialize;

use crate::{Graph, TensorType};

/// Reads a graph whose constants are all in the text.
fn graph(lines: &str) -> Graph {
    let text = format!("graph g {{\n{lines}\n}}");
    crate::text::parse(&text, &mut |_, _| None).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// `f32[batch, 3]` as a type.
fn ty(text: &str) -> TensorType {
    let graph = graph(&format!("input %x: {text}"));
    graph.tensor(graph.inputs()[0]).ty.clone()
}
