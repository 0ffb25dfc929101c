//! Drawings as a page to look around in.

use std::collections::{BTreeSet, HashMap};

use crate::arrange::Drawing;
use crate::write::{ARROW, STYLE, body, escape};

const PAGE_STYLE: &str = "
body { margin: 0; font: 14px system-ui, sans-serif; color: #1c2430; background: #fff }
header { padding: 10px 18px; border-bottom: 1px solid #d6dbe2 }
header p { margin: 2px 0 0; color: #56606e }
main { display: flex; height: calc(100vh - 66px) }
section { flex: 1; overflow: auto; border-right: 1px solid #d6dbe2 }
section h2 { position: sticky; top: 0; left: 0; margin: 0; padding: 8px 18px; font-size: 15px; background: #ffffffe6 }
g.marked rect.cell { stroke: #d0342c; stroke-width: 3 }
";

/// Marks the boxes that hang together with the one pointed at, and brings the first of them into view on a click.
const SCRIPT: &str = "
const mates = box => (box.dataset.mates || '').split(' ').filter(Boolean).map(id => document.getElementById(id));
document.querySelectorAll('g[data-mates]').forEach(box => {
  const mark = on => [box, ...mates(box)].forEach(b => b.classList.toggle('marked', on));
  box.addEventListener('mouseenter', () => mark(true));
  box.addEventListener('mouseleave', () => mark(false));
  box.addEventListener('click', () => mates(box)[0]?.scrollIntoView({ block: 'center', inline: 'center', behavior: 'smooth' }));
});
";

pub(crate) fn page(title: &str, drawings: &[Drawing]) -> String {
    let title = escape(title);
    let hint = match drawings {
        [_, _, ..] => {
            "Point at a box to mark the boxes of the other graph that it replaces or that became part of it; click to go there."
        }
        _ => "Point at a box to see its names.",
    };
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>{PAGE_STYLE}{STYLE}</style></head>\n<body><header><strong>{title}</strong><p>{hint} A dashed frame \
         holds one of the layers that repeat.</p></header>\n<main>\n"
    );
    let mates = mates(drawings);
    for (number, drawing) in drawings.iter().enumerate() {
        let (width, height) = (drawing.width, drawing.height);
        let attributes = |cell: usize| match mates.get(&(number, cell)) {
            Some(ids) => format!(" data-mates=\"{}\"", ids.iter().cloned().collect::<Vec<_>>().join(" ")),
            None => String::new(),
        };
        html.push_str(&format!(
            "<section><h2>{}</h2><svg width=\"{width:.0}\" height=\"{height:.0}\">{}{}</svg></section>\n",
            escape(&drawing.title),
            if number == 0 { ARROW } else { "" },
            body(drawing, number, &attributes)
        ));
    }
    html.push_str(&format!("</main><script>{SCRIPT}</script></body></html>\n"));
    html
}

/// For each box (panel, number) the ids of the boxes of other panels with which it shares a source node.
fn mates(drawings: &[Drawing]) -> HashMap<(usize, usize), BTreeSet<String>> {
    let mut holders: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
    for (panel, drawing) in drawings.iter().enumerate() {
        for (number, cell) in drawing.boxes.cells.iter().enumerate() {
            cell.names.iter().for_each(|name| holders.entry(name).or_default().push((panel, number)));
        }
    }
    let mut mates: HashMap<(usize, usize), BTreeSet<String>> = HashMap::new();
    for boxes in holders.values() {
        for one in boxes {
            for other in boxes.iter().filter(|other| other.0 != one.0) {
                mates.entry(*one).or_default().insert(format!("p{}b{}", other.0, other.1));
            }
        }
    }
    mates
}
