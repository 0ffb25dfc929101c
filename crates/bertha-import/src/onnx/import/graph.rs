//! The walk over the nodes of a file: names become tensors, nodes become nodes.

use std::collections::HashMap;
use std::path::Path;

use bertha_graph::plugin::PluginSet;
use bertha_graph::{Graph, GraphError, Op, TensorData, TensorId};

use super::context::{NodeContext, Problem, Scope, Translated, Value};
use super::functions::FunctionKey;
use super::opsets::{self, Opsets};
use super::{inputs, ops, plugins};
use crate::error::{ImportError, Result};
use crate::onnx::ExternalFiles;
use crate::onnx::proto::{FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// How many nodes a file may come to once its functions are written out. A guard against files in which functions
/// call functions to a size that no machine can hold.
const MAX_NODES: usize = 1 << 18;

/// How deep functions and branches may lie within one another.
pub(super) const MAX_DEPTH: usize = 32;

/// What the whole file has in common while it is translated.
pub(super) struct Importer<'m> {
    /// The file, for messages.
    pub(super) path: &'m Path,
    /// Where external data lies.
    externals: &'m ExternalFiles,
    /// The file's own functions.
    pub(super) functions: HashMap<FunctionKey<'m>, &'m FunctionProto>,
    /// Ops that are not built in.
    plugins: &'m PluginSet,
    /// Functions and branches around the current node.
    pub(super) depth: usize,
    nodes: usize,
}

/// The graph of a model.
pub(super) fn translate_model(
    model: &ModelProto,
    path: &Path,
    externals: &ExternalFiles,
    plugins: &PluginSet,
) -> Result<Graph> {
    let source = model.graph.as_ref().ok_or_else(|| {
        ImportError::format(path, "ONNX", "there is no graph in it; is this an ONNX model?")
    })?;
    let mut importer = Importer {
        path,
        externals,
        functions: model.functions.iter().map(|function| (FunctionKey::of(function), function)).collect(),
        plugins,
        depth: 0,
        nodes: 0,
    };
    importer.refuse_sparse(source)?;
    let mut graph = Graph::new(source.name.clone());
    let mut scope = Scope {
        names: HashMap::new(),
        opsets: Opsets::new(&model.opset_import),
        attributes: HashMap::new(),
        prefix: String::new(),
    };
    importer.initializers(&mut scope, source)?;
    inputs::declare(&importer, &mut graph, &mut scope, source)?;
    importer.nodes(&mut graph, &mut scope, &source.node)?;
    importer.outputs(&mut graph, &mut scope, source)?;
    Ok(graph)
}

impl<'m> Importer<'m> {
    /// The contents of a tensor of the file.
    pub(super) fn tensor_data(&self, proto: &TensorProto) -> Result<TensorData> {
        self.externals.tensor(proto)
    }

    /// Makes the initializers of a graph known; they enter the graph when they are used.
    pub(super) fn initializers(&self, scope: &mut Scope<'m>, source: &'m GraphProto) -> Result<()> {
        for tensor in &source.initializer {
            if scope.names.insert(&tensor.name, Value::Initializer(tensor)).is_some() {
                return Err(ImportError::tensor(
                    self.path,
                    &tensor.name,
                    "there are two initializers of this name",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn refuse_sparse(&self, source: &GraphProto) -> Result<()> {
        match source.sparse_initializer.first() {
            None => Ok(()),
            Some(sparse) => {
                let name = sparse.values.as_ref().map_or("", |values| values.name.as_str());
                Err(ImportError::unsupported(
                    self.path,
                    format!("sparse initializer `{name}`"),
                    "store the tensor densely",
                ))
            }
        }
    }

    /// Translates nodes in the order of the file, in which each comes after those it depends on.
    pub(super) fn nodes(
        &mut self,
        graph: &mut Graph,
        scope: &mut Scope<'m>,
        nodes: &'m [NodeProto],
    ) -> Result<()> {
        for (index, node) in nodes.iter().enumerate() {
            self.nodes += 1;
            let name = format!("{}{}", scope.prefix, node_name(node, index));
            if self.nodes > MAX_NODES {
                let reason = format!("the file comes to more than {MAX_NODES} nodes");
                return Err(self.located(&name, node, reason.into()));
            }
            self.node(graph, scope, node, &name).map_err(|problem| self.located(&name, node, problem))?;
        }
        Ok(())
    }

    fn node(
        &mut self,
        graph: &mut Graph,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        name: &str,
    ) -> Translated {
        if let Some(output) = node.output.iter().find(|output| scope.names.contains_key(output.as_str())) {
            return Err(format!("gives `{output}`, which is defined already").into());
        }
        let domain = opsets::domain(&node.domain);
        let opset = scope.opsets.version("").unwrap_or(1);
        if let Some(def) = self.plugins.for_onnx(domain, &node.op_type) {
            let name = graph.fresh_node_name(name);
            return plugins::translate(
                &mut NodeContext {
                    importer: self,
                    graph,
                    scope,
                    node,
                    name,
                    opset,
                    known_attributes: Vec::new(),
                },
                def,
            );
        }
        let Some(row) = ops::find(domain, &node.op_type) else {
            return match self.functions.get(&FunctionKey::called_by(node)).copied() {
                Some(function) => self.call(graph, scope, node, function, name),
                None => Err("is not a supported op".into()),
            };
        };
        let (inputs, outputs) = (node.input.len(), node.output.len());
        if !row.inputs.contains(&inputs) {
            return Err(format!("has {inputs} inputs; the op takes {:?}", row.inputs).into());
        }
        if outputs == 0 || outputs > row.outputs {
            return Err(format!("has {outputs} outputs; the op gives 1 to {}", row.outputs).into());
        }
        let name = graph.fresh_node_name(name);
        let mut context =
            NodeContext { importer: self, graph, scope, node, name, opset, known_attributes: Vec::new() };
        (row.translate)(&mut context)?;
        context.refuse_unknown_attributes()
    }

    /// The tensor that a name stands for; `None` for an operand that a function's caller left out.
    pub(super) fn resolve(
        &self,
        graph: &mut Graph,
        scope: &mut Scope<'m>,
        name: &str,
    ) -> Translated<Option<TensorId>> {
        match scope.names.get(name) {
            None => Err(format!(
                "uses `{name}`, which is neither an input nor an initializer nor comes from an \
                             earlier node"
            )
            .into()),
            Some(Value::Tensor(tensor)) => Ok(Some(*tensor)),
            Some(Value::Absent) => Ok(None),
            Some(Value::Initializer(proto)) => {
                let proto: &'m TensorProto = proto;
                let data = self.tensor_data(proto)?;
                let tensor =
                    graph.add_constant(graph.fresh_name(&format!("{}{name}", scope.prefix)), data)?;
                scope.names.insert(&proto.name, Value::Tensor(tensor));
                Ok(Some(tensor))
            }
        }
    }

    /// Adds a node under a name that is free.
    pub(super) fn add_node(
        &self,
        graph: &mut Graph,
        name: &str,
        op: Op,
        inputs: &[Option<TensorId>],
        outputs: &[&str],
        source: &str,
    ) -> Translated {
        let id = graph.add_node(graph.fresh_node_name(name), op, inputs, outputs)?;
        graph.set_sources(id, vec![source.to_owned()]);
        Ok(())
    }

    pub(super) fn outputs(
        &self,
        graph: &mut Graph,
        scope: &mut Scope<'m>,
        source: &'m GraphProto,
    ) -> Result<()> {
        for output in &source.output {
            let failed = |reason: String| {
                ImportError::format(
                    self.path,
                    "ONNX",
                    format!("output `{}` of the graph: {reason}", output.name),
                )
            };
            let tensor = match self.resolve(graph, scope, &output.name) {
                Ok(Some(tensor)) => tensor,
                Ok(None) => return Err(failed("it is an operand that was left out".into())),
                Err(Problem::Import(error)) => return Err(error),
                Err(Problem::Graph(error)) => return Err(failed(error.to_string())),
                Err(Problem::Reason(_)) => return Err(failed("nothing computes it".into())),
            };
            graph.add_output(&output.name, tensor).map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    /// Says where a problem is.
    fn located(&self, name: &str, node: &NodeProto, problem: Problem) -> ImportError {
        let reason = match problem {
            Problem::Import(error) => return error,
            Problem::Reason(reason) => reason,
            // The node is named here already.
            Problem::Graph(GraphError::Rule { source, .. }) => source.to_string(),
            Problem::Graph(error) => error.to_string(),
        };
        ImportError::Node {
            path: self.path.to_owned(),
            node: name.to_owned(),
            op_type: node.op_type.clone(),
            reason,
        }
    }
}

/// The name of a node, made from its op and position when it has none.
pub(super) fn node_name(node: &NodeProto, index: usize) -> String {
    if node.name.is_empty() { format!("{}_{index}", node.op_type) } else { node.name.clone() }
}
