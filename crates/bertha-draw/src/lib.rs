//! Draws graphs as a person would sketch them: layers that repeat are drawn once, with their number beside them.
//!
//! [`svg`] gives one picture with the graphs side by side, [`html`] a page in which pointing at a node shows the nodes of
//! the first graph that it stands for.

mod arrange;
mod boxes;
mod page;
mod repeats;
mod write;

use bertha_graph::Graph;

use arrange::Drawing;

/// One graph of a picture.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// What stands above it.
    pub title: &'a str,
    /// The graph.
    pub graph: &'a Graph,
}

/// The graphs side by side as an SVG document.
pub fn svg(panels: &[Panel<'_>]) -> String {
    let drawings: Vec<Drawing> = panels.iter().map(|panel| Drawing::of(panel)).collect();
    write::document(&drawings)
}

/// The graphs side by side as an HTML page of its own, with nothing to load. Pointing at a node of a later graph marks the
/// nodes of the first one that it replaces, by the names of source nodes that it carries.
pub fn html(title: &str, panels: &[Panel<'_>]) -> String {
    let drawings: Vec<Drawing> = panels.iter().map(|panel| Drawing::of(panel)).collect();
    page::page(title, &drawings)
}
