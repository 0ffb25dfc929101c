//! Graph to text.

use std::collections::HashSet;

use crate::graph::{Graph, Node, TensorId, first_free};
use crate::op::Op;
use crate::statements::Statement;
use crate::tensor::TensorData;

use super::cursor::{name_text, quote};
use super::{INLINE_ELEMENTS, Printed, literal, operation};

pub(super) fn print(graph: &Graph) -> Printed {
    let mut printer = Printer::default();
    printer.graph(graph, 0, "");
    printer.text.push('\n');
    Printed { text: printer.text, constants: printer.constants }
}

#[derive(Default)]
struct Printer {
    text: String,
    constants: Vec<(String, TensorData)>,
    references: HashSet<String>,
}

impl Printer {
    /// Appends `graph name { ... }`; `prefix` begins the names under which its large constants are kept.
    fn graph(&mut self, graph: &Graph, depth: usize, prefix: &str) {
        self.text.push_str(&format!("graph {} {{\n", name_text(&graph.name)));
        for statement in graph.statements() {
            match statement {
                Statement::Input(id) => {
                    let line = format!("input {}: {}", tensor(graph, id), graph.tensor(id).ty);
                    self.line(depth + 1, &line);
                }
                Statement::Constant(id) => self.constant(graph, id, depth + 1, prefix),
                Statement::Node(id) => self.node(graph, graph.node(id), depth + 1, prefix),
            }
        }
        for (name, id) in graph.outputs() {
            self.line(depth + 1, &format!("output {} = {}", name_text(name), tensor(graph, *id)));
        }
        self.indent(depth);
        self.text.push('}');
    }

    fn constant(&mut self, graph: &Graph, id: TensorId, depth: usize, prefix: &str) {
        let Some(data) = graph.tensor(id).constant() else { return };
        let head = format!("const {}: {}", tensor(graph, id), graph.tensor(id).ty);
        let contents = inline(data).unwrap_or_else(|| {
            let base = format!("{prefix}{}", graph.tensor(id).name);
            let name = first_free(&base, |name| self.references.contains(name));
            self.references.insert(name.clone());
            self.constants.push((name.clone(), data.clone()));
            format!("@{}", name_text(&name))
        });
        self.line(depth, &format!("{head} = {contents}"));
    }

    fn node(&mut self, graph: &Graph, node: &Node, depth: usize, prefix: &str) {
        let results: Vec<String> = node
            .outputs
            .iter()
            .map(|id| match id {
                Some(id) => format!("{}: {}", tensor(graph, *id), graph.tensor(*id).ty),
                None => "_".into(),
            })
            .collect();
        let results = if results.is_empty() { "()".to_owned() } else { results.join(", ") };
        let operands: Vec<String> =
            node.inputs.iter().map(|id| id.map_or_else(|| "_".into(), |id| tensor(graph, id))).collect();
        let mut line = format!("{results} = {}", call(&node.op, &operands));
        let first = node.outputs.first().copied().flatten();
        if first.is_none_or(|id| graph.tensor(id).name != node.name) {
            line.push_str(&format!(" @{}", name_text(&node.name)));
        }
        if !node.sources.is_empty() {
            let sources: Vec<String> = node.sources.iter().map(|source| quote(source)).collect();
            line.push_str(&format!(" from [{}]", sources.join(", ")));
        }
        self.indent(depth);
        self.text.push_str(&line);
        if let Op::If { then_branch, else_branch } = &node.op {
            for (word, branch) in [("then", then_branch), ("else", else_branch)] {
                self.text.push_str(&format!(" {word} "));
                self.graph(branch, depth, &format!("{prefix}{}/{word}/", node.name));
            }
        }
        self.text.push('\n');
    }

    fn line(&mut self, depth: usize, line: &str) {
        self.indent(depth);
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn indent(&mut self, depth: usize) {
        for _ in 0..depth {
            self.text.push_str("  ");
        }
    }
}

fn tensor(graph: &Graph, id: TensorId) -> String {
    format!("%{}", name_text(&graph.tensor(id).name))
}

/// `softmax(%x) {axis: -1}`.
pub(super) fn call(op: &Op, operands: &[String]) -> String {
    let attributes = operation::attributes(op);
    let mut call = format!("{}({})", op.mnemonic(), operands.join(", "));
    if !attributes.is_empty() {
        call.push_str(&format!(" {attributes}"));
    }
    call
}

/// The contents of a small constant.
pub(super) fn inline(data: &TensorData) -> Option<String> {
    if data.len() > INLINE_ELEMENTS {
        return None;
    }
    let texts = literal::element_texts(data)?;
    Some(match (data.shape(), texts.as_slice()) {
        ([], [text]) => text.clone(),
        _ => format!("[{}]", texts.join(", ")),
    })
}
