//! [`GraphBuilder`]: the way to write a network in Rust.

mod attention;
mod elementwise;
mod encoder;
mod layout;

pub use attention::Attention;
pub use encoder::Weight;
pub use layout::Shuffle;

use crate::dtype::{DType, Element};
use crate::error::GraphError;
use crate::graph::{Graph, TensorId};
use crate::op::Op;
use crate::shape::{Shape, TensorType};
use crate::tensor::TensorData;

/// Builds a [`Graph`] one operation at a time.
///
/// Each method takes tensors and gives the tensor it makes, typed at once: a wrong shape or element type is an error
/// of the line that causes it, and says what was expected.
///
/// # Names
///
/// Inputs, outputs and weights are called what their user calls them. Nodes, and the tensors they make, get names
/// from their operation (`linear`, `linear_2`, ...) unless [`named`](Self::named) says better;
/// [`scope`](Self::scope) puts a prefix before the names of all nodes made inside it.
///
/// # Example
///
/// `examples/01_build_bert.rs` writes all of BERT this way. Here is the feed-forward half of one layer, over a ragged batch:
///
/// ```
/// use bertha_graph::{DType, GeluKind, GraphBuilder, TensorData, Weight, shape};
/// # fn zeros(shape: &[usize]) -> TensorData {
/// #     TensorData::from_vec(shape.to_vec(), vec![0f32; shape.iter().product()]).unwrap()
/// # }
///
/// let mut b = GraphBuilder::new("feed-forward");
/// let x = b.input("hidden", DType::F32, shape!["tokens", 8])?;
/// let y = b.scope("layer.0", |b| {
///     let w1 = b.weight("intermediate.weight", zeros(&[32, 8]))?;
///     let w2 = b.weight("output.weight", zeros(&[8, 32]))?;
///     let gamma = b.weight("norm.weight", zeros(&[8]))?;
///     let beta = b.weight("norm.bias", zeros(&[8]))?;
///
///     // PyTorch keeps the weights of linear layers as [out, in]; saying so is part of using one.
///     let h = b.named("intermediate").linear(x, Weight::out_in(w1), None)?;
///     let h = b.gelu(h, GeluKind::Erf)?;
///     let h = b.named("output").linear(h, Weight::out_in(w2), None)?;
///     let sum = b.add(x, h)?;
///     b.named("norm").layer_norm(sum, gamma, beta, 1e-12)
/// })?;
/// b.output("hidden", y)?;
/// let graph = b.finish()?;
///
/// assert_eq!(graph.nodes()[1].name, "layer.0.gelu");
/// assert_eq!(graph.tensor(y).ty.to_string(), "f32[tokens, 8]");
/// # Ok::<(), bertha_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct GraphBuilder {
    graph: Graph,
    scopes: Vec<String>,
    /// The name that [`GraphBuilder::named`] gave for the next node.
    next_name: Option<String>,
}

impl GraphBuilder {
    /// An empty network called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        GraphBuilder { graph: Graph::new(name), scopes: Vec::new(), next_name: None }
    }

    /// Goes on with a graph that is there already.
    pub fn extend(graph: Graph) -> Self {
        GraphBuilder { graph, scopes: Vec::new(), next_name: None }
    }

    // ---- names -------------------------------------------------------------------------------------------------

    /// Names the node that the next call makes, within the scope: `b.named("query").linear(...)`. The tensor it makes
    /// has the same name. Without this, names follow the operation and a number.
    ///
    /// A name given here must be new; the next call fails otherwise. Calls that need several nodes give this name to
    /// the last and `name.step` to the others.
    pub fn named(&mut self, name: impl Into<String>) -> &mut Self {
        self.next_name = Some(name.into());
        self
    }

    /// Runs `body` with `prefix.` before the names of the nodes it makes. Scopes nest.
    pub fn scope<R>(&mut self, prefix: impl Into<String>, body: impl FnOnce(&mut Self) -> R) -> R {
        self.scopes.push(prefix.into());
        let result = body(self);
        self.scopes.pop();
        result
    }

    /// `name` with the prefixes of the open scopes.
    fn scoped(&self, name: &str) -> String {
        let mut full = String::new();
        for scope in self.scopes.iter().filter(|scope| !scope.is_empty()) {
            full.push_str(scope);
            full.push('.');
        }
        full.push_str(name);
        full
    }

    /// The name of the node about to be made: the given one, or one made from `default`.
    fn claim_name(&mut self, default: &str) -> String {
        match self.next_name.take() {
            Some(name) => self.scoped(&name),
            None => self.graph.fresh_node_name(&self.scoped(default)),
        }
    }

    // ---- ends --------------------------------------------------------------------------------------------------

    /// Declares an input: `b.input("input_ids", DType::I32, shape!["tokens"])`.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn input(&mut self, name: &str, dtype: DType, shape: Shape) -> Result<TensorId, GraphError> {
        self.graph.add_input(name, TensorType::new(dtype, shape))
    }

    /// Declares a tensor as the output called `name`. The same tensor may be several outputs.
    ///
    /// # Errors
    /// When there is an output of this name.
    pub fn output(&mut self, name: &str, tensor: TensorId) -> Result<(), GraphError> {
        self.graph.add_output(name, tensor)
    }

    /// A constant under the very name that its file gives it; scopes do not change it.
    ///
    /// # Errors
    /// When the name is taken. A weight used twice is added once and its tensor used twice.
    pub fn weight(&mut self, name: &str, data: TensorData) -> Result<TensorId, GraphError> {
        self.graph.add_constant(name, data)
    }

    /// A constant whose name is made up, or given by [`named`](Self::named).
    ///
    /// # Errors
    /// When a name was given and is taken.
    pub fn constant(&mut self, data: TensorData) -> Result<TensorId, GraphError> {
        let name = match self.next_name.take() {
            Some(name) => self.scoped(&name),
            None => self.graph.fresh_name(&self.scoped("constant")),
        };
        self.graph.add_constant(name, data)
    }

    /// A constant of shape `[]`.
    ///
    /// # Errors
    /// As [`constant`](Self::constant).
    pub fn scalar<T: Element>(&mut self, value: T) -> Result<TensorId, GraphError> {
        self.constant(TensorData::scalar(value))
    }

    /// The finished graph.
    ///
    /// # Errors
    /// When no output was declared: nothing would be computed.
    pub fn finish(self) -> Result<Graph, GraphError> {
        if self.graph.outputs().is_empty() {
            return Err(GraphError::Invalid {
                where_: format!("graph `{}`", self.graph.name),
                what: "no output was declared; call `output` for each tensor to compute".into(),
            });
        }
        Ok(self.graph)
    }

    // ---- looking -----------------------------------------------------------------------------------------------

    /// The graph as it is so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Element type and shape of a tensor.
    pub fn ty(&self, tensor: TensorId) -> &TensorType {
        &self.graph.tensor(tensor).ty
    }

    /// Shape of a tensor.
    pub fn shape(&self, tensor: TensorId) -> &Shape {
        &self.ty(tensor).shape
    }

    // ---- any operation -----------------------------------------------------------------------------------------

    /// Adds any operation that has one result. What has its own method reads better there.
    ///
    /// # Errors
    /// When the operands do not fit the operation.
    pub fn node(&mut self, op: Op, inputs: &[Option<TensorId>]) -> Result<TensorId, GraphError> {
        let name = self.claim_name(op.mnemonic());
        self.place(name, op, inputs)
    }

    /// Adds any operation and asks for its first `outputs` results, called `name.0`, `name.1`, ...
    ///
    /// # Errors
    /// When the operands do not fit the operation, or it has fewer results.
    pub fn nodes(
        &mut self,
        op: Op,
        inputs: &[Option<TensorId>],
        outputs: usize,
    ) -> Result<Vec<TensorId>, GraphError> {
        let name = self.claim_name(op.mnemonic());
        let names: Vec<String> =
            (0..outputs).map(|index| self.graph.fresh_name(&format!("{name}.{index}"))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let node = self.graph.add_node(name, op, inputs, &names)?;
        Ok(self.graph.node(node).outputs.iter().flatten().copied().collect())
    }

    /// Adds a node whose name is settled. Its result has the name of the node unless a tensor has it already.
    fn place(&mut self, name: String, op: Op, inputs: &[Option<TensorId>]) -> Result<TensorId, GraphError> {
        let result = self.graph.fresh_name(&name);
        let node = self.graph.add_node(name.as_str(), op, inputs, &[&result])?;
        match self.graph.node(node).outputs.as_slice() {
            [Some(tensor), ..] => Ok(*tensor),
            _ => {
                Err(GraphError::Invalid { where_: format!("node `{name}`"), what: "it has no result".into() })
            }
        }
    }

    /// A constant that belongs to the node called `node`.
    fn operand(&mut self, node: &str, what: &str, data: TensorData) -> Result<TensorId, GraphError> {
        let name = self.graph.fresh_name(&format!("{node}.{what}"));
        self.graph.add_constant(name, data)
    }
}

/// What does not fit, as an error of the node called `node`.
fn misfit(node: &str, op: &str, what: String) -> GraphError {
    GraphError::Rule { node: node.into(), op: op.into(), source: crate::error::RuleError(what) }
}

#[cfg(test)]
mod tests;
