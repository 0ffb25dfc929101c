//! Drawings as SVG.

use std::fmt::Write as _;

use crate::arrange::{Drawing, Frame, HEIGHT, MARGIN, Place};
use crate::boxes::Kind;

/// Height of a panel's title.
const TITLE: f64 = 34.0;

/// Styles of both the SVG document and the page.
pub(crate) const STYLE: &str = "
text { font: 12px system-ui, sans-serif; fill: #1c2430; text-anchor: middle }
text.title { font-size: 15px; font-weight: 600; text-anchor: start }
text.detail { font-size: 10.5px; fill: #56606e }
text.times { font-size: 14px; font-weight: 600; fill: #6b7687; text-anchor: end }
rect.cell { stroke: #8a94a3; stroke-width: 1; rx: 6 }
rect.frame { fill: #f3f5f8; stroke: #aab3c0; stroke-dasharray: 5 4; rx: 10 }
path { fill: none; stroke: #8d97a6; stroke-width: 1.2 }
path.back { stroke-dasharray: 4 3 }
.port rect { fill: #ffffff } .product rect { fill: #cfe1fb } .attention rect { fill: #dfd3f7 }
.norm rect { fill: #cfeeda } .activation rect { fill: #fbe0c3 } .lookup rect { fill: #c9ecec }
.layout rect { fill: #eceff3 } .plugin rect { fill: #f9cfd6 } .other rect { fill: #f7f0cf }
";

/// All drawings side by side, as a document of its own.
pub(crate) fn document(drawings: &[Drawing]) -> String {
    let width: f64 = drawings.iter().map(|drawing| drawing.width).sum();
    let height = drawings.iter().map(|drawing| drawing.height).fold(0.0, f64::max) + TITLE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\">\n\
         <style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{ARROW}"
    );
    let mut left = 0.0;
    for (number, drawing) in drawings.iter().enumerate() {
        let title = escape(&drawing.title);
        // Writing to a string cannot fail.
        let _ = writeln!(svg, "<text class=\"title\" x=\"{:.0}\" y=\"22\">{title}</text>", left + MARGIN);
        let _ = writeln!(svg, "<g transform=\"translate({left:.0} {TITLE:.0})\">");
        svg.push_str(&body(drawing, number, &|_| String::new()));
        svg.push_str("</g>\n");
        left += drawing.width;
    }
    svg.push_str("</svg>\n");
    svg
}

/// The head of an arrow.
pub(crate) const ARROW: &str = "<defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"6\" \
markerHeight=\"6\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" style=\"fill:#8d97a6;stroke:none\"/></marker></defs>\n";

/// Frames, arrows and boxes of one drawing. `attributes` gives more attributes for the group of a box.
pub(crate) fn body(drawing: &Drawing, panel: usize, attributes: &dyn Fn(usize) -> String) -> String {
    let mut svg = String::new();
    for frame in &drawing.frames {
        svg.push_str(&framed(frame, drawing.width));
    }
    for (from, to) in &drawing.boxes.arrows {
        let path = curve(drawing.places[*from], drawing.places[*to]);
        let _ = writeln!(svg, "<path d=\"{path}\" marker-end=\"url(#arrow)\"/>");
    }
    for (number, (cell, place)) in drawing.boxes.cells.iter().zip(&drawing.places).enumerate() {
        let (left, top) = (place.x - place.width / 2.0, place.y - HEIGHT / 2.0);
        let _ = writeln!(
            svg,
            "<g id=\"p{panel}b{number}\" class=\"{}\"{}><title>{}</title>\
             <rect class=\"cell\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{HEIGHT}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text><text class=\"detail\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
            class(cell.kind),
            attributes(number),
            escape(&cell.tip),
            place.width,
            place.x,
            place.y - 3.0,
            escape(&cell.title),
            place.x,
            place.y + 11.0,
            escape(&cell.detail),
        );
    }
    svg
}

fn framed(frame: &Frame, width: f64) -> String {
    let (left, right) = (MARGIN * 0.8, width - MARGIN * 0.8);
    let Frame { top, height, times, carries } = *frame;
    let mut svg = format!(
        "<rect class=\"frame\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>\n\
         <text class=\"times\" x=\"{:.1}\" y=\"{:.1}\">× {times}</text>\n",
        right - left,
        right - 10.0,
        top + 20.0,
    );
    if carries {
        // Each copy reads what the one above it made.
        let (out, bottom, back) = (right + MARGIN * 0.5, top + height - 12.0, top + 12.0);
        let _ = writeln!(
            svg,
            "<path class=\"back\" d=\"M{right:.1} {bottom:.1}H{out:.1}V{back:.1}H{right:.1}\" marker-end=\"url(#arrow)\"/>"
        );
    }
    svg
}

/// From the bottom of one box to the top of another.
fn curve(from: Place, to: Place) -> String {
    let (x0, y0, x1, y1) = (from.x, from.y + HEIGHT / 2.0, to.x, to.y - HEIGHT / 2.0);
    let bend = ((y1 - y0).abs() / 2.0).clamp(8.0, 60.0);
    format!("M{x0:.1} {y0:.1}C{x0:.1} {:.1} {x1:.1} {:.1} {x1:.1} {y1:.1}", y0 + bend, y1 - bend)
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Port => "port",
        Kind::Product => "product",
        Kind::Attention => "attention",
        Kind::Norm => "norm",
        Kind::Activation => "activation",
        Kind::Lookup => "lookup",
        Kind::Layout => "layout",
        Kind::Plugin => "plugin",
        Kind::Other => "other",
    }
}

/// Text as XML and HTML want it. Names come from files, so control characters that neither may hold become spaces.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push('\n'),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}
