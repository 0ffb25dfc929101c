//! The network under construction together with the checkpoint it is made from: what families build with.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bertha_graph::{
    Attention, DType, Dim, GeluKind, Graph, GraphBuilder, GraphError, PoolKind, TensorData, TensorId, Weight,
    ragged, shape,
};

use super::activation::Act;
use super::config::Config;
use super::weights::Weights;
use crate::error::{ImportError, Result};

/// The inputs of a ragged encoder; see [`bertha_graph::ragged`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs {
    pub(crate) ids: TensorId,
    /// For families that have token types.
    pub(crate) token_types: Option<TensorId>,
    pub(crate) positions: TensorId,
    pub(crate) cu_seqlens: TensorId,
}

/// The names of one encoder layer's weights, without `.weight` and `.bias`.
#[derive(Clone, Debug)]
pub(crate) struct LayerWeights {
    pub(crate) query: String,
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) attention_output: String,
    pub(crate) attention_norm: String,
    pub(crate) intermediate: String,
    pub(crate) output: String,
    pub(crate) output_norm: String,
}

/// The sizes of an encoder layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerSizes {
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    pub(crate) epsilon: f32,
    pub(crate) activation: Act,
}

/// Graph, checkpoint and configuration. Weights become constants under their names in the checkpoint.
pub(crate) struct Net<'a> {
    pub(crate) config: &'a Config,
    builder: GraphBuilder,
    weights: Weights,
    /// Constants by name, so that shared weights are one tensor.
    constants: HashMap<String, TensorId>,
    /// Stands before the names of nodes.
    scope: String,
    folder: PathBuf,
}

impl<'a> Net<'a> {
    pub(crate) fn new(folder: &Path, config: &'a Config, weights: Weights) -> Self {
        let name =
            folder.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        Net {
            config,
            builder: GraphBuilder::new(name),
            weights,
            constants: HashMap::new(),
            scope: String::new(),
            folder: folder.to_owned(),
        }
    }

    /// The graph, once every weight has been used but those under the names in `unused`.
    pub(crate) fn finish(self, unused: &[&str]) -> Result<Graph> {
        self.weights.finish(unused)?;
        self.builder
            .finish()
            .map_err(|source| ImportError::Graph { path: self.folder, source: Box::new(source) })
    }

    /// An error of the graph becomes one of this model.
    fn made<T>(&self, result: Result<T, GraphError>) -> Result<T> {
        result.map_err(|source| ImportError::Graph { path: self.folder.clone(), source: Box::new(source) })
    }

    // ---- ends --------------------------------------------------------------------------------------------------

    pub(crate) fn inputs(&mut self, token_types: bool) -> Result<Inputs> {
        let b = &mut self.builder;
        let mut declare = || {
            let ids = b.input(ragged::INPUT_IDS, DType::I32, shape!["tokens"])?;
            let token_types = if token_types {
                Some(b.input(ragged::TOKEN_TYPE_IDS, DType::I32, shape!["tokens"])?)
            } else {
                None
            };
            let positions = b.input(ragged::POSITION_IDS, DType::I32, shape!["tokens"])?;
            let cu_seqlens = b.input(ragged::CU_SEQLENS, DType::I32, shape![Dim::from("batch") + 1])?;
            Ok(Inputs { ids, token_types, positions, cu_seqlens })
        };
        let inputs = declare();
        self.made(inputs)
    }

    pub(crate) fn output(&mut self, name: &str, tensor: TensorId) -> Result<()> {
        let result = self.builder.output(name, tensor);
        self.made(result)
    }

    // ---- weights -----------------------------------------------------------------------------------------------

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The weight that the family calls `name`.
    pub(crate) fn weight(&mut self, name: &str, shape: &[usize]) -> Result<TensorId> {
        let stored = self.weights.require(name)?;
        if let Some(tensor) = self.constants.get(&stored) {
            return Ok(*tensor);
        }
        let data = self.weights.load(&stored, shape)?;
        self.constant(stored, data)
    }

    /// The first of several names that the checkpoint has.
    pub(crate) fn first_weight(&mut self, names: &[String], shape: &[usize]) -> Result<TensorId> {
        let name = names.iter().find(|name| self.weights.has(name)).or_else(|| names.first());
        self.weight(name.map_or("", String::as_str), shape)
    }

    /// A constant under a name that is new.
    pub(crate) fn constant(&mut self, name: String, data: TensorData) -> Result<TensorId> {
        let tensor = self.builder.weight(&name, data);
        let tensor = self.made(tensor)?;
        self.constants.insert(name, tensor);
        Ok(tensor)
    }

    /// The contents of a weight by its name in the checkpoint, not yet part of the graph.
    pub(crate) fn load(&mut self, stored: &str, shape: &[usize]) -> Result<TensorData> {
        self.weights.load(stored, shape)
    }

    /// The contents of a constant.
    pub(crate) fn data(&self, tensor: TensorId) -> Option<&TensorData> {
        self.builder.graph().tensor(tensor).constant()
    }

    /// The size of the first dimension of a weight: the number of classes of a classifier.
    pub(crate) fn rows(&self, name: &str) -> Result<usize> {
        let stored = self.weights.require(name)?;
        self.weights.shape(&stored)?.first().copied().ok_or_else(|| {
            ImportError::tensor(self.weights.path(), stored, "expected a matrix, found a scalar")
        })
    }

    // ---- operations --------------------------------------------------------------------------------------------
    // Each takes the name of the node first.

    /// Runs `body` with `prefix.` before the names of nodes.
    pub(crate) fn scope<R>(&mut self, prefix: &str, body: impl FnOnce(&mut Self) -> R) -> R {
        let inner = format!("{}{prefix}.", self.scope);
        let outer = std::mem::replace(&mut self.scope, inner);
        let result = body(self);
        self.scope = outer;
        result
    }

    /// The builder, about to make the node called `node`.
    fn named(&mut self, node: &str) -> &mut GraphBuilder {
        self.builder.named(format!("{}{node}", self.scope))
    }

    /// A linear layer with the weights `at.weight` (`[out, in]`) and `at.bias`.
    pub(crate) fn linear(
        &mut self,
        node: &str,
        x: TensorId,
        at: &str,
        [out, width]: [usize; 2],
    ) -> Result<TensorId> {
        let weight = self.weight(&format!("{at}.weight"), &[out, width])?;
        let bias = self.weight(&format!("{at}.bias"), &[out])?;
        self.linear_of(node, x, weight, Some(bias))
    }

    /// A linear layer with a weight `[out, in]` that is there already.
    pub(crate) fn linear_of(
        &mut self,
        node: &str,
        x: TensorId,
        weight: TensorId,
        bias: Option<TensorId>,
    ) -> Result<TensorId> {
        let result = self.named(node).linear(x, Weight::out_in(weight), bias);
        self.made(result)
    }

    /// A layer norm over `width` with the weights `at.weight` and `at.bias`.
    pub(crate) fn layer_norm(
        &mut self,
        node: &str,
        x: TensorId,
        at: &str,
        width: usize,
        epsilon: f32,
    ) -> Result<TensorId> {
        let gamma = self.weight(&format!("{at}.weight"), &[width])?;
        let beta = self.weight(&format!("{at}.bias"), &[width])?;
        let result = self.named(node).layer_norm(x, gamma, beta, epsilon);
        self.made(result)
    }

    pub(crate) fn embedding_sum(&mut self, node: &str, parts: &[(TensorId, TensorId)]) -> Result<TensorId> {
        let result = self.named(node).embedding_sum(parts);
        self.made(result)
    }

    pub(crate) fn activation(&mut self, node: &str, x: TensorId, activation: Act) -> Result<TensorId> {
        let b = self.named(node);
        let result = match activation {
            Act::GeluErf => b.gelu(x, GeluKind::Erf),
            Act::GeluTanh => b.gelu(x, GeluKind::Tanh),
            Act::Relu => b.relu(x),
            Act::Tanh => b.tanh(x),
            Act::Silu => b.silu(x),
            Act::Sigmoid => b.sigmoid(x),
        };
        self.made(result)
    }

    pub(crate) fn add(&mut self, node: &str, a: TensorId, b: TensorId) -> Result<TensorId> {
        let result = self.named(node).add(a, b);
        self.made(result)
    }

    pub(crate) fn pool(
        &mut self,
        node: &str,
        x: TensorId,
        cu_seqlens: TensorId,
        kind: PoolKind,
    ) -> Result<TensorId> {
        let result = self.named(node).pool(x, cu_seqlens, kind);
        self.made(result)
    }

    pub(crate) fn l2_normalize(&mut self, node: &str, x: TensorId, epsilon: f32) -> Result<TensorId> {
        let result = self.named(node).l2_normalize(x, epsilon);
        self.made(result)
    }

    /// Column `index` of `[rows, columns]`, as `[rows]`.
    pub(crate) fn column(&mut self, node: &str, x: TensorId, index: i64) -> Result<TensorId> {
        let indices = self.named(&format!("{node}.index")).scalar(index);
        let indices = self.made(indices)?;
        let result = self.named(node).gather(x, indices, -1);
        self.made(result)
    }

    /// One layer of a transformer encoder with the norms after the sums, as every family here has it.
    pub(crate) fn encoder_layer(
        &mut self,
        x: TensorId,
        at: &LayerWeights,
        sizes: &LayerSizes,
        attention: &Attention,
    ) -> Result<TensorId> {
        let LayerSizes { hidden, intermediate, epsilon, activation, .. } = *sizes;
        let square = [hidden, hidden];
        let query = self.linear("attention.query", x, &at.query, square)?;
        let key = self.linear("attention.key", x, &at.key, square)?;
        let value = self.linear("attention.value", x, &at.value, square)?;
        let context = self.named("attention.self").attention(query, key, value, attention);
        let context = self.made(context)?;
        let attended = self.linear("attention.output", context, &at.attention_output, square)?;
        let sum = self.add("attention.residual", attended, x)?;
        let x = self.layer_norm("attention.norm", sum, &at.attention_norm, hidden, epsilon)?;

        let inner = self.linear("intermediate", x, &at.intermediate, [intermediate, hidden])?;
        let inner = self.activation("activation", inner, activation)?;
        let outer = self.linear("output", inner, &at.output, [hidden, intermediate])?;
        let sum = self.add("output.residual", outer, x)?;
        self.layer_norm("output.norm", sum, &at.output_norm, hidden, epsilon)
    }
}
