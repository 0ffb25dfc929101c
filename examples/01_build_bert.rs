//! BERT with its masked-LM head, written layer by layer, from weights in any of four kinds of file.
//!
//! ```text
//! cargo run --release --example 01_build_bert -- FOLDER [WEIGHTS]
//! ```
//!
//! FOLDER is a checkpoint of `BertForMaskedLM` or `BertForPreTraining`: its `config.json` gives the sizes. WEIGHTS is
//! `.safetensors`, `.bin`, `.npz` or `.onnx`, by default what is in the folder. The logits are compared with those of the
//! network that the importer makes of the folder.

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use bertha_graph::interp::{Interpreter, Precision};
use bertha_graph::{
    Attention, DType, Dim, GeluKind, Graph, GraphBuilder, GraphError, TensorData, TensorId, Weight, shape,
};
use bertha_import::{hf, npz, onnx};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = arguments.next().ok_or("usage: 01_build_bert FOLDER [WEIGHTS]")?;
    let weights = arguments.next().unwrap_or_else(|| folder.clone());

    let graph = build(&Config::read(&folder)?, &Weights::open(&weights)?)?;
    println!("{} nodes, {} bytes of weights", graph.nodes().len(), graph.constant_bytes());

    let imported = hf::import(&folder, &hf::ImportOptions::default())?.graph;
    let (ours, theirs) = (logits(&graph)?, logits(&imported)?);
    println!("largest difference of the logits: {:e}", largest_difference(&ours, &theirs)?);
    Ok(())
}

// ---- the network ---------------------------------------------------------------------------------------------------

/// What config.json says of the sizes.
pub struct Config {
    /// Number of encoder layers.
    pub layers: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Added to the variance in layer norms.
    pub epsilon: f32,
}

impl Config {
    fn read(folder: &Path) -> Result<Self> {
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        let number =
            |field: &str| json[field].as_u64().ok_or(format!("config.json: `{field}` is not a number"));
        Ok(Config {
            layers: number("num_hidden_layers")? as usize,
            heads: number("num_attention_heads")? as usize,
            epsilon: json["layer_norm_eps"].as_f64().unwrap_or(1e-12) as f32,
        })
    }
}

/// The whole network. Sequences lie one after another; `cu_seqlens` says where each starts.
pub fn build(config: &Config, weights: &Weights) -> Result<Graph> {
    let mut b = GraphBuilder::new("bert");
    let ids = b.input("input_ids", DType::I32, shape!["tokens"])?;
    let types = b.input("token_type_ids", DType::I32, shape!["tokens"])?;
    let positions = b.input("position_ids", DType::I32, shape!["tokens"])?;
    let cu_seqlens = b.input("cu_seqlens", DType::I32, shape![Dim::from("batch") + 1])?;
    let attention = Attention::ragged(cu_seqlens, config.heads);

    let words = weights.tensor(&mut b, "bert.embeddings.word_embeddings.weight")?;
    let position_table = weights.tensor(&mut b, "bert.embeddings.position_embeddings.weight")?;
    let type_table = weights.tensor(&mut b, "bert.embeddings.token_type_embeddings.weight")?;
    let sum = b.embedding_sum(&[(ids, words), (positions, position_table), (types, type_table)])?;
    let mut x = weights.layer_norm(&mut b, sum, "bert.embeddings.LayerNorm", config.epsilon)?;

    for layer in 0..config.layers {
        x = b.scope(format!("encoder.layer.{layer}"), |b| {
            let at = |part: &str| format!("bert.encoder.layer.{layer}.{part}");

            let query = weights.linear(b, x, &at("attention.self.query"))?;
            let key = weights.linear(b, x, &at("attention.self.key"))?;
            let value = weights.linear(b, x, &at("attention.self.value"))?;
            let context = b.attention(query, key, value, &attention)?;
            let attended = weights.linear(b, context, &at("attention.output.dense"))?;
            let sum = b.add(attended, x)?;
            let x = weights.layer_norm(b, sum, &at("attention.output.LayerNorm"), config.epsilon)?;

            let inner = weights.linear(b, x, &at("intermediate.dense"))?;
            let inner = b.gelu(inner, GeluKind::Erf)?;
            let outer = weights.linear(b, inner, &at("output.dense"))?;
            let sum = b.add(outer, x)?;
            weights.layer_norm(b, sum, &at("output.LayerNorm"), config.epsilon)
        })?;
    }

    let x = weights.linear(&mut b, x, "cls.predictions.transform.dense")?;
    let x = b.gelu(x, GeluKind::Erf)?;
    let x = weights.layer_norm(&mut b, x, "cls.predictions.transform.LayerNorm", config.epsilon)?;
    // The decoder is the word embedding with a bias, unless it has a weight and a bias of its own.
    let decoder = if weights.has("cls.predictions.decoder.weight") {
        weights.matrix(&mut b, "cls.predictions.decoder.weight")?
    } else {
        Weight::out_in(words)
    };
    let own_bias = weights.has("cls.predictions.decoder.bias");
    let bias = if own_bias { "cls.predictions.decoder.bias" } else { "cls.predictions.bias" };
    let bias = weights.tensor(&mut b, bias)?;
    let logits = b.named("logits").linear(x, decoder, bias)?;
    b.output("logits", logits)?;
    Ok(b.finish()?)
}

// ---- the weights ---------------------------------------------------------------------------------------------------

/// Tensors by their names in the PyTorch model, and whether matrices are `[in, out]` as in ONNX.
pub struct Weights {
    tensors: HashMap<String, TensorData>,
    in_out: bool,
}

impl Weights {
    /// Reads a file of any of the four kinds, or the weights in a checkpoint folder.
    pub fn open(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let tensors: HashMap<String, TensorData> = match extension {
            Some("onnx") => initializers(path)?,
            Some("npz") => npz::read_npz(path)?.into_iter().collect(),
            _ => {
                let file = hf::Checkpoint::open(path)?;
                file.names().map(|name| Ok((name.to_owned(), file.tensor(name)?))).collect::<Result<_>>()?
            }
        };
        Ok(Weights { tensors: without_wrapper(tensors)?, in_out: extension == Some("onnx") })
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn get(&self, name: &str) -> Result<&TensorData, GraphError> {
        self.tensors.get(name).ok_or_else(|| GraphError::Invalid {
            where_: format!("weight `{name}`"),
            what: "the file has no tensor of this name".into(),
        })
    }

    fn tensor(&self, b: &mut GraphBuilder, name: &str) -> Result<TensorId, GraphError> {
        b.weight(name, self.get(name)?.clone())
    }

    /// The weight of a linear layer. A square one does not show which way it lies, so the kind of file must say.
    fn matrix(&self, b: &mut GraphBuilder, name: &str) -> Result<Weight, GraphError> {
        let tensor = self.tensor(b, name)?;
        Ok(if self.in_out { Weight::in_out(tensor) } else { Weight::out_in(tensor) })
    }

    fn linear(&self, b: &mut GraphBuilder, x: TensorId, at: &str) -> Result<TensorId, GraphError> {
        let weight = self.matrix(b, &format!("{at}.weight"))?;
        let bias = self.tensor(b, &format!("{at}.bias"))?;
        b.linear(x, weight, bias)
    }

    fn layer_norm(
        &self,
        b: &mut GraphBuilder,
        x: TensorId,
        at: &str,
        epsilon: f32,
    ) -> Result<TensorId, GraphError> {
        let gamma = self.tensor(b, &format!("{at}.weight"))?;
        let beta = self.tensor(b, &format!("{at}.bias"))?;
        b.layer_norm(x, gamma, beta, epsilon)
    }
}

/// The initializers of an ONNX file under PyTorch's names. Exporters transpose the weights of linear layers and may call
/// them `onnx::MatMul_271`; the node that multiplies by one, `/bert/encoder/.../query/MatMul`, tells whose it is. Equal
/// tensors are stored once, and `Identity` nodes give them their other names.
fn initializers(path: &Path) -> Result<HashMap<String, TensorData>> {
    let file = onnx::OnnxFile::open(path)?;
    let graph = file.graph()?;
    let mut tensors = HashMap::new();
    for tensor in &graph.initializer {
        tensors.insert(tensor.name.clone(), file.tensor(tensor)?);
    }
    for node in &graph.node {
        let operand = |at: usize| node.input.get(at).and_then(|name| tensors.get(name)).cloned();
        match node.op_type.as_str() {
            "Identity" => {
                if let (Some(data), Some(name)) = (operand(0), node.output.first()) {
                    tensors.insert(name.clone(), data);
                }
            }
            "MatMul" => {
                let module = node.name.strip_suffix("/MatMul").map(|module| module.trim_matches('/'));
                if let (Some(data), Some(module)) = (operand(1), module) {
                    tensors.insert(format!("{}.weight", module.replace('/', ".")), data);
                }
            }
            _ => {}
        }
    }
    Ok(tensors)
}

/// Takes off what stands before `bert.` when the model was part of another module.
fn without_wrapper(tensors: HashMap<String, TensorData>) -> Result<HashMap<String, TensorData>> {
    let words = "bert.embeddings.word_embeddings.weight";
    let wrapper = tensors.keys().find_map(|name| name.strip_suffix(words)).map(str::to_owned);
    let wrapper = wrapper.ok_or_else(|| format!("there is no tensor `{words}`"))?;
    let rename = |name: String| name.strip_prefix(&wrapper).map_or(name.clone(), str::to_owned);
    Ok(tensors.into_iter().map(|(name, data)| (rename(name), data)).collect())
}

// ---- the answers ---------------------------------------------------------------------------------------------------

/// The logits of two sequences, of 5 tokens and 3, by the reference interpreter.
fn logits(graph: &Graph) -> Result<Vec<f64>> {
    let inputs = [
        ("input_ids", TensorData::vector(vec![2i32, 41, 17, 8, 3, 2, 29, 3])),
        ("token_type_ids", TensorData::vector(vec![0i32, 0, 1, 1, 1, 0, 0, 0])),
        ("position_ids", TensorData::vector(vec![0i32, 1, 2, 3, 4, 0, 1, 2])),
        ("cu_seqlens", TensorData::vector(vec![0i32, 5, 8])),
    ];
    let outputs = Interpreter::new(graph, Precision::F64).run_f64(&inputs)?;
    let logits = outputs.into_iter().find(|(name, _)| name == "logits");
    Ok(logits.ok_or("the graph has no output `logits`")?.1.values)
}

fn largest_difference(a: &[f64], b: &[f64]) -> Result<f64> {
    if a.len() != b.len() {
        return Err(format!("{} logits against {}", a.len(), b.len()).into());
    }
    Ok(a.iter().zip(b).fold(0.0, |max, (a, b)| f64::max(max, (a - b).abs())))
}
