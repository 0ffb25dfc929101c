//! Choosing nodes.

use regex::Regex;

use crate::error::{Result, SurgeryError};
use crate::graph::Graph;
use crate::names::{nearest, node_name};
use crate::node::Node;

/// Which nodes are meant. All conditions that are given must hold; none given means every node.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Names of nodes, as they stand in the file; a node without name is called by its op and position: `Add_12`.
    pub names: Vec<String>,
    /// Tensors that the nodes make.
    pub makes: Vec<String>,
    /// A regular expression that the name matches somewhere.
    pub pattern: Option<Regex>,
    /// Ops, with the domain in front where it is not ONNX's own: `com.microsoft::Gelu`.
    pub ops: Vec<String>,
}

impl Selection {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.makes.is_empty() && self.pattern.is_none() && self.ops.is_empty()
    }

    /// Whether this node at this position is meant.
    pub fn chooses(&self, node: &Node, position: usize) -> bool {
        let name = node_name(node, position);
        let any = |wanted: &[String], holds: &dyn Fn(&str) -> bool| {
            wanted.is_empty() || wanted.iter().any(|wanted| holds(wanted))
        };
        any(&self.names, &|wanted| wanted == name || wanted == node.name)
            && any(&self.makes, &|wanted| node.outputs.iter().any(|output| output == wanted))
            && any(&self.ops, &|wanted| wanted == node.op() || wanted == node.op_type)
            && self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(&name))
    }

    /// The positions of the nodes that are meant.
    ///
    /// # Errors
    /// [`SurgeryError::Request`] when nothing is asked for, when a name is unknown, when a name stands for several nodes,
    /// or when no node is found.
    pub fn find(&self, graph: &Graph) -> Result<Vec<usize>> {
        if self.is_empty() {
            return Err(SurgeryError::request("say which nodes are meant"));
        }
        for wanted in &self.names {
            let called =
                |(at, node): &(usize, &Node)| *wanted == node.name || *wanted == node_name(node, *at);
            let found: Vec<_> = graph.nodes.iter().enumerate().filter(called).collect();
            match found[..] {
                [] => {
                    let known: Vec<_> =
                        graph.nodes.iter().enumerate().map(|(at, node)| node_name(node, at)).collect();
                    let near = nearest(wanted, known.iter().map(String::as_str));
                    return Err(SurgeryError::request(format!("there is no node `{wanted}`{near}")));
                }
                [_] => {}
                // One of several, told apart by what it makes.
                _ if !self.makes.is_empty() => {}
                [(_, first), ..] => {
                    return Err(SurgeryError::request(format!(
                        "{} nodes are called `{wanted}`: choose one by the tensor it makes, such as `{}`",
                        found.len(),
                        first.outputs.first().map_or("", String::as_str)
                    )));
                }
            }
        }
        for wanted in &self.makes {
            let outputs = || graph.nodes.iter().flat_map(|node| &node.outputs).map(String::as_str);
            if outputs().all(|output| output != wanted) {
                let near = nearest(wanted, outputs());
                return Err(SurgeryError::request(format!("no node makes a tensor `{wanted}`{near}")));
            }
        }
        let chosen = graph.nodes.iter().enumerate().filter(|(at, node)| self.chooses(node, *at));
        let found: Vec<usize> = chosen.map(|(at, _)| at).collect();
        if found.is_empty() {
            return Err(SurgeryError::request("no node is of this kind"));
        }
        Ok(found)
    }
}
