//! What a translation sees of its node: operands, attributes, and the graph it adds to.

use std::collections::HashMap;

use bertha_graph::{BinaryOp, DType, Graph, GraphError, Op, TensorData, TensorId, TensorType, UnaryOp};

use super::graph::Importer;
use super::opsets::Opsets;
use crate::error::ImportError;
use crate::onnx::proto::{AttributeProto, AttributeType, GraphProto, NodeProto, TensorProto};

/// Why a node could not be translated.
#[derive(Debug)]
pub(super) enum Problem {
    /// What is wrong, for people.
    Reason(String),
    /// The graph refused what the translation added.
    Graph(GraphError),
    /// An error that names its place already (a tensor, an inner node).
    Import(ImportError),
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Problem::Reason(reason)
    }
}

impl From<&str> for Problem {
    fn from(reason: &str) -> Self {
        Problem::Reason(reason.to_owned())
    }
}

impl From<GraphError> for Problem {
    fn from(error: GraphError) -> Self {
        Problem::Graph(error)
    }
}

impl From<ImportError> for Problem {
    fn from(error: ImportError) -> Self {
        Problem::Import(error)
    }
}

/// Result of translating a node, or a part of it.
pub(super) type Translated<T = ()> = Result<T, Problem>;

/// What a name of the source stands for.
#[derive(Clone, Copy)]
pub(super) enum Value<'m> {
    /// A tensor of the graph under construction.
    Tensor(TensorId),
    /// A constant that nobody has used so far; it enters the graph at its first use.
    Initializer(&'m TensorProto),
    /// An optional operand of a function that the caller left out.
    Absent,
}

/// The names visible to the nodes of one graph, branch or function body.
pub(super) struct Scope<'m> {
    /// Meaning of each name.
    pub(super) names: HashMap<&'m str, Value<'m>>,
    /// Versions of the operator sets that the nodes are written in.
    pub(super) opsets: Opsets<'m>,
    /// Attributes of the function call under way, by the names that the body refers to.
    pub(super) attributes: HashMap<&'m str, &'m AttributeProto>,
    /// Put before the names of the nodes and tensors of a function body, which are unique only within the body.
    pub(super) prefix: String,
}

/// One node under translation.
pub(super) struct NodeContext<'a, 'm> {
    pub(super) importer: &'a mut Importer<'m>,
    pub(super) graph: &'a mut Graph,
    pub(super) scope: &'a mut Scope<'m>,
    pub(super) node: &'m NodeProto,
    /// The node's name, made from its op when it has none.
    pub(super) name: String,
    /// Version of the operator set that the node is written in.
    pub(super) opset: i64,
    /// Names of the attributes that the translation asked for.
    pub(super) known_attributes: Vec<&'static str>,
}

impl<'m> NodeContext<'_, 'm> {
    // ---- operands ----------------------------------------------------------------------------------------------

    /// Operand `index`; `None` when it is left out.
    pub(super) fn optional(&mut self, index: usize) -> Translated<Option<TensorId>> {
        match self.node.input.get(index).map(String::as_str) {
            None | Some("") => Ok(None),
            Some(name) => self.importer.resolve(self.graph, self.scope, name),
        }
    }

    /// Operand `index`, which the op cannot do without.
    pub(super) fn input(&mut self, index: usize) -> Translated<TensorId> {
        self.optional(index)?.ok_or_else(|| format!("input {index} is missing").into())
    }

    /// All operands, in order.
    pub(super) fn inputs(&mut self) -> Translated<Vec<Option<TensorId>>> {
        (0..self.node.input.len()).map(|index| self.optional(index)).collect()
    }

    /// Whether operand `index` is given.
    pub(super) fn has_input(&self, index: usize) -> bool {
        self.node.input.get(index).is_some_and(|name| !name.is_empty())
    }

    /// Whether anybody asked for result `index`.
    pub(super) fn has_output(&self, index: usize) -> bool {
        self.node.output.get(index).is_some_and(|name| !name.is_empty())
    }

    pub(super) fn dtype(&self, tensor: TensorId) -> DType {
        self.graph.dtype(tensor)
    }

    pub(super) fn ty(&self, tensor: TensorId) -> &TensorType {
        &self.graph.tensor(tensor).ty
    }

    pub(super) fn rank(&self, tensor: TensorId) -> usize {
        self.ty(tensor).shape.rank()
    }

    // ---- attributes --------------------------------------------------------------------------------------------

    /// The attribute called `name`, seen through the function call under way.
    fn attribute(&mut self, name: &'static str) -> Option<&'m AttributeProto> {
        self.known_attributes.push(name);
        let attribute = self.node.attribute.iter().find(|attribute| attribute.name == name)?;
        match attribute.ref_attr_name.as_str() {
            "" => Some(attribute),
            outer => self.scope.attributes.get(outer).copied(),
        }
    }

    fn typed(
        &mut self,
        name: &'static str,
        ty: AttributeType,
        what: &str,
    ) -> Translated<Option<&'m AttributeProto>> {
        match self.attribute(name) {
            // Files of the first IR version leave the type out.
            Some(attribute) if ![ty, AttributeType::Undefined].contains(&attribute.r#type()) => {
                Err(format!("attribute `{name}` must be {what}").into())
            }
            found => Ok(found),
        }
    }

    pub(super) fn int(&mut self, name: &'static str) -> Translated<Option<i64>> {
        Ok(self.typed(name, AttributeType::Int, "an integer")?.map(|attribute| attribute.i))
    }

    pub(super) fn int_or(&mut self, name: &'static str, default: i64) -> Translated<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// An attribute that is 0 or 1.
    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> Translated<bool> {
        Ok(self.int_or(name, i64::from(default))? != 0)
    }

    /// An attribute that counts something.
    pub(super) fn count(&mut self, name: &'static str, default: usize) -> Translated<usize> {
        match self.int(name)? {
            None => Ok(default),
            Some(value) => {
                usize::try_from(value).map_err(|_| format!("attribute `{name}` is {value}, below 0").into())
            }
        }
    }

    pub(super) fn float(&mut self, name: &'static str) -> Translated<Option<f32>> {
        Ok(self.typed(name, AttributeType::Float, "a number")?.map(|attribute| attribute.f))
    }

    pub(super) fn float_or(&mut self, name: &'static str, default: f32) -> Translated<f32> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    pub(super) fn ints(&mut self, name: &'static str) -> Translated<Option<Vec<i64>>> {
        let found = self.typed(name, AttributeType::Ints, "a list of integers")?;
        Ok(found.map(|attribute| attribute.ints.clone()))
    }

    pub(super) fn floats(&mut self, name: &'static str) -> Translated<Option<Vec<f32>>> {
        let found = self.typed(name, AttributeType::Floats, "a list of numbers")?;
        Ok(found.map(|attribute| attribute.floats.clone()))
    }

    pub(super) fn string(&mut self, name: &'static str) -> Translated<Option<String>> {
        match self.typed(name, AttributeType::String, "a string")? {
            None => Ok(None),
            Some(attribute) => match std::str::from_utf8(&attribute.s) {
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err(format!("attribute `{name}` is not UTF-8").into()),
            },
        }
    }

    pub(super) fn tensor(&mut self, name: &'static str) -> Translated<Option<TensorData>> {
        match self.typed(name, AttributeType::Tensor, "a tensor")?.and_then(|attribute| attribute.t.as_ref())
        {
            None => Ok(None),
            Some(proto) => {
                // The tensor has a name of its own at best; the node says more.
                let data = self.importer.tensor_data(proto);
                Ok(Some(data.map_err(|error| format!("attribute `{name}`: {error}"))?))
            }
        }
    }

    pub(super) fn graph_attribute(&mut self, name: &'static str) -> Translated<&'m GraphProto> {
        let found = self.typed(name, AttributeType::Graph, "a graph")?;
        found
            .and_then(|attribute| attribute.g.as_deref())
            .ok_or_else(|| format!("attribute `{name}` is missing").into())
    }

    /// Whether the attribute is given, whatever its type.
    pub(super) fn has_attribute(&mut self, name: &'static str) -> bool {
        self.attribute(name).is_some()
    }

    /// An error when the node has an attribute that the translation did not ask for: it would change the meaning.
    pub(super) fn refuse_unknown_attributes(&self) -> Translated {
        let unknown = self
            .node
            .attribute
            .iter()
            .find(|attribute| !self.known_attributes.iter().any(|known| *known == attribute.name));
        match unknown {
            None => Ok(()),
            Some(attribute) => Err(format!(
                "attribute `{}` is not one of this op's attributes ({})",
                attribute.name,
                if self.known_attributes.is_empty() {
                    "none".into()
                } else {
                    self.known_attributes.join(", ")
                }
            )
            .into()),
        }
    }

    // ---- what the translation adds ------------------------------------------------------------------------------

    /// Adds a constant named after the node.
    pub(super) fn constant(&mut self, suffix: &str, data: TensorData) -> Translated<TensorId> {
        let name = self.graph.fresh_name(&format!("{}/{suffix}", self.name));
        Ok(self.graph.add_constant(name, data)?)
    }

    /// Adds a vector of integers, such as axes or a shape.
    pub(super) fn int_vector(&mut self, suffix: &str, values: Vec<i64>) -> Translated<TensorId> {
        self.constant(suffix, TensorData::vector(values))
    }

    /// Adds a node with one result that stays within the translation.
    pub(super) fn step(&mut self, suffix: &str, op: Op, inputs: &[Option<TensorId>]) -> Translated<TensorId> {
        let base = format!("{}/{suffix}", self.name);
        let output = self.graph.fresh_name(&base);
        self.importer.add_node(self.graph, &base, op, inputs, &[&output], &self.name)?;
        self.graph.find(&output).ok_or_else(|| "the node has no result".into())
    }

    /// Adds a node with several results that stay within the translation.
    pub(super) fn steps(
        &mut self,
        suffix: &str,
        op: Op,
        inputs: &[Option<TensorId>],
        results: usize,
    ) -> Translated<Vec<TensorId>> {
        let base = format!("{}/{suffix}", self.name);
        let names: Vec<String> =
            (0..results).map(|index| self.graph.fresh_name(&format!("{base}_{index}"))).collect();
        let given: Vec<&str> = names.iter().map(String::as_str).collect();
        let operands = inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.importer.add_node(self.graph, &base, op, &inputs[..operands], &given, &self.name)?;
        let tensors: Option<Vec<TensorId>> = names.iter().map(|name| self.graph.find(name)).collect();
        tensors.ok_or_else(|| "the node lacks a result".into())
    }

    /// A function of two tensors that stays within the translation.
    pub(super) fn binary(
        &mut self,
        suffix: &str,
        op: BinaryOp,
        a: TensorId,
        b: TensorId,
    ) -> Translated<TensorId> {
        self.step(suffix, Op::Binary(op), &[Some(a), Some(b)])
    }

    /// Adds a node of one result, which is result `index` of the source node; nothing when nobody asked for that.
    pub(super) fn emit_as(&mut self, index: usize, op: Op, inputs: &[Option<TensorId>]) -> Translated {
        let Some(output) = self.node.output.get(index).filter(|output| !output.is_empty()) else {
            return Ok(());
        };
        let name = self.tensor_name(output);
        let given = inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let base = self.name.clone();
        self.importer.add_node(self.graph, &base, op, &inputs[..given], &[&name], &self.name)?;
        let tensor = self.graph.find(&name).ok_or("the node has no result")?;
        self.scope.names.insert(output, Value::Tensor(tensor));
        Ok(())
    }

    /// Gives result `index` of the source node a tensor that is there already, where somebody asked for it.
    pub(super) fn alias_output(&mut self, index: usize, tensor: TensorId) {
        if let Some(output) = self.node.output.get(index).filter(|output| !output.is_empty()) {
            self.scope.names.insert(output, Value::Tensor(tensor));
        }
    }

    /// The contents of operand `index` when it is a constant. One that only this reads does not enter the graph.
    pub(super) fn constant_input(&mut self, index: usize) -> Translated<Option<TensorData>> {
        let name = match self.node.input.get(index).map(String::as_str) {
            None | Some("") => return Ok(None),
            Some(name) => name,
        };
        match self.scope.names.get(name) {
            Some(Value::Initializer(proto)) => Ok(Some(self.importer.tensor_data(proto)?)),
            Some(Value::Tensor(tensor)) => Ok(self.graph.tensor(*tensor).constant().cloned()),
            Some(Value::Absent) | None => Ok(None),
        }
    }

    /// Operand `index`, as a scalar when it is a vector of one.
    pub(super) fn scalar_input(&mut self, index: usize) -> Translated<TensorId> {
        let tensor = self.input(index)?;
        if self.ty(tensor).shape.as_const() != Some(vec![1]) {
            return Ok(tensor);
        }
        if let Some(data) = self.graph.tensor(tensor).constant().cloned() {
            let data = data.reshaped(Vec::new()).map_err(|error| error.to_string())?;
            return self.constant(&format!("scalar_{index}"), data);
        }
        let first = self.int_vector("first_axis", vec![0])?;
        self.step(&format!("scalar_{index}"), Op::Squeeze, &[Some(tensor), Some(first)])
    }

    /// Adds the node whose results are those of the source node.
    pub(super) fn emit(&mut self, op: Op, inputs: &[Option<TensorId>]) -> Translated {
        // Results that nobody asked for at the end of the list are as if they were not there.
        let wanted =
            self.node.output.iter().rposition(|output| !output.is_empty()).map_or(0, |last| last + 1);
        let parts = if matches!(op, Op::Split { .. }) { self.node.output.len() } else { wanted };
        let names: Vec<String> =
            self.node.output.iter().take(parts).map(|output| self.tensor_name(output)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let given = inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let base = self.name.clone();
        self.importer.add_node(self.graph, &base, op, &inputs[..given], &names, &self.name)?;
        for (output, name) in self.node.output.iter().zip(names) {
            if let Some(tensor) = self.graph.find(name).filter(|_| !name.is_empty()) {
                self.scope.names.insert(output, Value::Tensor(tensor));
            }
        }
        Ok(())
    }

    /// Gives the node's first result a tensor that is there already.
    pub(super) fn alias(&mut self, tensor: TensorId) -> Translated {
        let output = self.node.output.first().ok_or("the node has no output")?;
        self.scope.names.insert(output, Value::Tensor(tensor));
        Ok(())
    }

    /// Makes a constant the node's first result.
    pub(super) fn emit_constant(&mut self, data: TensorData) -> Translated {
        let output = self.node.output.first().ok_or("the node has no output")?;
        let name = self.tensor_name(output);
        let tensor = self.graph.add_constant(name, data)?;
        self.alias(tensor)
    }

    /// The op on the node's operands, with the node's results.
    pub(super) fn emit_plain(&mut self, op: Op) -> Translated {
        let inputs = self.inputs()?;
        self.emit(op, &inputs)
    }

    /// Converts to another element type, unless it is that already.
    pub(super) fn cast(&mut self, suffix: &str, tensor: TensorId, to: DType) -> Translated<TensorId> {
        if self.dtype(tensor) == to {
            return Ok(tensor);
        }
        self.step(suffix, Op::Cast { to }, &[Some(tensor)])
    }

    /// The name in the graph of a result of the source node.
    fn tensor_name(&self, output: &str) -> String {
        if output.is_empty() {
            return String::new();
        }
        self.graph.fresh_name(&format!("{}{output}", self.scope.prefix))
    }
}

/// The identity, for ops that have nothing to do.
pub(super) const IDENTITY: Op = Op::Unary(UnaryOp::Identity);
