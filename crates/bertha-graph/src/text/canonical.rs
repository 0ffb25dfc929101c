//! Graph to text, up to names.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use twox_hash::XxHash3_64;

use crate::dim::Dim;
use crate::graph::{Graph, Node, TensorId};
use crate::op::Op;
use crate::shape::{Shape, TensorType};

use super::cursor::name_text;
use super::print::{call, inline};

pub(super) fn print(graph: &Graph) -> String {
    let mut text = String::new();
    Printer { graph, text: &mut text, depth: 1, numbers: HashMap::new(), symbols: HashMap::new() }.print();
    text.push('\n');
    text
}

struct Printer<'a> {
    graph: &'a Graph,
    text: &'a mut String,
    depth: usize,
    numbers: HashMap<TensorId, usize>,
    symbols: HashMap<Arc<str>, Dim>,
}

impl Printer<'_> {
    fn print(&mut self) {
        self.text.push_str("graph {\n");
        let graph = self.graph;
        for id in graph.inputs() {
            let line = format!("input {}: {}", self.number(*id), self.ty(*id));
            self.line(&line);
        }
        for node in graph.nodes() {
            self.node(node);
        }
        for (name, id) in graph.outputs() {
            let line = format!("output {} = {}", name_text(name), self.operand(*id));
            self.line(&line);
        }
        self.indent(self.depth - 1);
        self.text.push('}');
    }

    fn node(&mut self, node: &Node) {
        let operands: Vec<String> =
            node.inputs.iter().map(|id| id.map_or_else(|| "_".to_owned(), |id| self.operand(id))).collect();
        let mut results = Vec::with_capacity(node.outputs.len());
        for id in &node.outputs {
            results.push(match id {
                Some(id) => format!("{}: {}", self.number(*id), self.ty(*id)),
                None => "_".to_owned(),
            });
        }
        self.indent(self.depth);
        self.text.push_str(&format!("{} = {}", results.join(", "), call(&node.op, &operands)));
        if let Op::If { then_branch, else_branch } = &node.op {
            for (word, branch) in [("then", then_branch), ("else", else_branch)] {
                self.text.push_str(&format!(" {word} "));
                let (numbers, symbols) = (HashMap::new(), HashMap::new());
                let depth = self.depth + 1;
                Printer { graph: branch, text: self.text, depth, numbers, symbols }.print();
            }
        }
        self.text.push('\n');
    }

    /// The number of a tensor that is used. A constant is printed before it is used first.
    fn operand(&mut self, id: TensorId) -> String {
        if self.numbers.contains_key(&id) {
            return self.number(id);
        }
        let number = self.number(id);
        if let Some(data) = self.graph.tensor(id).constant() {
            let contents =
                inline(data).unwrap_or_else(|| format!("hash:{:016x}", XxHash3_64::oneshot(data.bytes())));
            let line = format!("const {number}: {} = {contents}", data.ty());
            self.line(&line);
        }
        number
    }

    fn number(&mut self, id: TensorId) -> String {
        let next = self.numbers.len();
        format!("%{}", self.numbers.entry(id).or_insert(next))
    }

    /// The type, with data-dependent symbols numbered in the order they are met.
    fn ty(&mut self, id: TensorId) -> TensorType {
        let ty = &self.graph.tensor(id).ty;
        for symbol in ty.shape.dims().iter().flat_map(Dim::symbols).filter(|name| name.starts_with('?')) {
            let next = self.symbols.len();
            self.symbols.entry(symbol).or_insert_with(|| Dim::symbol(&format!("?{next}")));
        }
        let rename = |dim: &Dim| dim.replace(|name| self.symbols.get(name).cloned());
        TensorType::new(ty.dtype, Shape(ty.shape.dims().iter().map(rename).collect()))
    }

    fn line(&mut self, line: &str) {
        self.indent(self.depth);
        let _ = writeln!(self.text, "{line}");
    }

    fn indent(&mut self, depth: usize) {
        for _ in 0..depth {
            self.text.push_str("  ");
        }
    }
}
