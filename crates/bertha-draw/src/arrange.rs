//! Where each box stands.

use rust_sugiyama::configure::Config;
use rust_sugiyama::from_vertices_and_edges;

use crate::Panel;
use crate::boxes::{Boxes, Section};

/// Height of a box, in pixels.
pub(crate) const HEIGHT: f64 = 36.0;
/// Space between boxes.
const GAP: f64 = 22.0;
/// Space between a frame and what it holds.
pub(crate) const MARGIN: f64 = 18.0;
/// Width of a letter of a box's text, on average.
const LETTER: f64 = 6.6;

/// A box's centre and width.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
}

/// The frame around layers that repeat.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) top: f64,
    pub(crate) height: f64,
    pub(crate) times: usize,
    pub(crate) carries: bool,
}

/// A graph ready to be drawn.
pub(crate) struct Drawing {
    pub(crate) title: String,
    pub(crate) boxes: Boxes,
    /// By the number of the box.
    pub(crate) places: Vec<Place>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Drawing {
    /// Sections stand below each other, each laid out by itself, so that a frame holds its layer and nothing else.
    pub(crate) fn of(panel: &Panel<'_>) -> Self {
        let boxes = Boxes::of(panel.graph);
        let mut places: Vec<Place> =
            boxes.cells.iter().map(|cell| Place { width: width(cell), ..Place::default() }).collect();
        let sizes: Vec<(f64, f64)> =
            boxes.sections.iter().map(|section| arrange(&boxes, section, &mut places)).collect();
        let width = sizes.iter().map(|size| size.0).fold(200.0, f64::max) + 4.0 * MARGIN;
        let mut top = MARGIN;
        let mut frames = Vec::new();
        for (section, size) in boxes.sections.iter().zip(&sizes) {
            let framed = section.times > 1;
            let padding = if framed { MARGIN } else { 0.0 };
            for cell in &section.cells {
                places[*cell].x += (width - size.0) / 2.0;
                places[*cell].y += top + padding;
            }
            let height = size.1 + 2.0 * padding;
            if framed {
                frames.push(Frame { top, height, times: section.times, carries: section.carries });
            }
            top += height + GAP;
        }
        let title = format!("{}: {} nodes", panel.title, panel.graph.nodes().len());
        Drawing { title, boxes, places, frames, width, height: top - GAP + MARGIN }
    }
}

fn width(cell: &crate::boxes::Cell) -> f64 {
    let letters = cell.title.chars().count().max(cell.detail.chars().count());
    LETTER * letters as f64 + 16.0
}

/// Lays out one section with its corner at the origin, and tells its size.
fn arrange(boxes: &Boxes, section: &Section, places: &mut [Place]) -> (f64, f64) {
    let vertices: Vec<(u32, (f64, f64))> =
        section.cells.iter().map(|cell| (*cell as u32, (places[*cell].width, HEIGHT))).collect();
    let inside = |cell: &usize| section.cells.contains(cell);
    let edges: Vec<(u32, u32)> = boxes
        .arrows
        .iter()
        .filter(|(from, to)| inside(from) && inside(to))
        .map(|(from, to)| (*from as u32, *to as u32))
        .collect();
    let config = Config { vertex_spacing: GAP, ..Config::default() };
    let (mut left, mut bottom) = (0.0f64, 0.0f64);
    // What hangs together is laid out together; such parts stand side by side. The library numbers vertices in order.
    for (layout, _, _) in from_vertices_and_edges(&vertices, &edges, &config) {
        let placed: Vec<(usize, f64, f64)> = layout
            .iter()
            .filter_map(|(vertex, (x, y))| section.cells.get(*vertex).map(|cell| (*cell, *x, *y)))
            .collect();
        let edge = |side: f64| {
            move |places: &[Place], (cell, x, _): &(usize, f64, f64)| x + side * places[*cell].width / 2.0
        };
        let first = placed.iter().map(|p| edge(-1.0)(places, p)).fold(f64::INFINITY, f64::min);
        let last = placed.iter().map(|p| edge(1.0)(places, p)).fold(f64::NEG_INFINITY, f64::max);
        let top = placed.iter().map(|p| p.2).fold(f64::INFINITY, f64::min);
        for (cell, x, y) in placed {
            places[cell].x = left + x - first;
            places[cell].y = y - top + HEIGHT / 2.0;
            bottom = bottom.max(places[cell].y + HEIGHT / 2.0);
        }
        left += last - first + GAP;
    }
    ((left - GAP).max(0.0), bottom)
}
