//! The survey before the walk: every node that cannot be imported, found at once.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use bertha_graph::plugin::PluginSet;

use super::functions::FunctionKey;
use super::graph::{MAX_DEPTH, node_name};
use super::opsets::{self, Opsets};
use super::{UnsupportedNode, ops};
use crate::error::{ImportError, Result};
use crate::onnx::proto::{FunctionProto, GraphProto, ModelProto, NodeProto};

/// Checks every node of a file, those of branches and of functions in use included.
///
/// # Errors
/// [`ImportError::UnsupportedNodes`] with all nodes that are not supported.
pub(super) fn check(model: &ModelProto, plugins: &PluginSet, path: &Path) -> Result<()> {
    let mut survey = Survey {
        plugins,
        functions: model.functions.iter().map(|function| (FunctionKey::of(function), function)).collect(),
        visited: HashSet::new(),
        unsupported: Vec::new(),
    };
    if let Some(graph) = &model.graph {
        survey.graph(graph, &Opsets::new(&model.opset_import), "", MAX_DEPTH);
    }
    if survey.unsupported.is_empty() {
        return Ok(());
    }
    Err(ImportError::UnsupportedNodes { path: path.to_owned(), nodes: survey.unsupported })
}

struct Survey<'m> {
    plugins: &'m PluginSet,
    functions: HashMap<FunctionKey<'m>, &'m FunctionProto>,
    visited: HashSet<FunctionKey<'m>>,
    unsupported: Vec<UnsupportedNode>,
}

impl<'m> Survey<'m> {
    fn graph(&mut self, graph: &'m GraphProto, opsets: &Opsets<'m>, place: &str, depth: usize) {
        self.nodes(&graph.node, opsets, place, depth);
    }

    /// Nodes deeper than `depth` are left to the walk, which refuses them.
    fn nodes(&mut self, nodes: &'m [NodeProto], opsets: &Opsets<'m>, place: &str, depth: usize) {
        if depth == 0 {
            return;
        }
        for (index, node) in nodes.iter().enumerate() {
            let name = format!("{place}{}", node_name(node, index));
            self.node(node, opsets, &name, depth);
            for attribute in &node.attribute {
                for graph in attribute.g.as_deref().into_iter().chain(&attribute.graphs) {
                    self.graph(graph, opsets, &format!("{name}/"), depth - 1);
                }
            }
        }
    }

    fn node(&mut self, node: &'m NodeProto, opsets: &Opsets<'m>, name: &str, depth: usize) {
        let domain = opsets::domain(&node.domain);
        if self.plugins.for_onnx(domain, &node.op_type).is_some() {
            return;
        }
        let reason = match ops::find(domain, &node.op_type) {
            // ONNX Runtime's domain has one version.
            Some(_) if !domain.is_empty() => None,
            Some(row) => version_problem(opsets.version(""), row.since),
            None => {
                let key = FunctionKey::called_by(node);
                match self.functions.get(&key).copied() {
                    Some(function) => {
                        if self.visited.insert(key) {
                            let inner = Opsets::new(&function.opset_import).or(opsets);
                            self.nodes(&function.node, &inner, &format!("{name}/"), depth - 1);
                        }
                        None
                    }
                    None if domain.is_empty() => Some(
                        "the op is not one of those that encoders need; a plugin may provide it (--plugin)"
                            .to_owned(),
                    ),
                    None if domain == ops::CONTRIB_DOMAIN => {
                        Some("it is not one of ONNX Runtime's ops for encoders".to_owned())
                    }
                    None => Some(format!(
                        "operators of the domain `{domain}` are not known; if a plugin provides it, give its library \
                         with --plugin"
                    )),
                }
            }
        };
        if let Some(reason) = reason {
            self.unsupported.push(UnsupportedNode {
                name: name.to_owned(),
                op_type: node.op_type.clone(),
                domain: domain.to_owned(),
                reason,
            });
        }
    }
}

/// Why an op that is understood from version `since` on cannot be read in a file of version `opset`.
fn version_problem(opset: Option<i64>, since: i64) -> Option<String> {
    let Some(opset) = opset else {
        return Some("the file does not say which version of the default operator set it uses".to_owned());
    };
    if opset > opsets::NEWEST {
        return Some(format!(
            "operator set {opset} is newer than {}, the newest one known; export with an older one",
            opsets::NEWEST
        ));
    }
    (opset < since).then(|| {
        format!(
            "the file uses operator set {opset}, but the op came, or got its present meaning, with {since}"
        )
    })
}
