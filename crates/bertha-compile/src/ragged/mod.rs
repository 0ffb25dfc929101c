//! From a padded graph to a ragged one, where that is provably the same function.
//!
//! A padded encoder takes `input_ids`, `attention_mask` and the like as `[batch, seq]`. This analysis finds out what
//! every tensor stands for ([`Meaning`](meaning::Meaning)): rows of tokens or sequences, functions of the attention mask, positions,
//! constants. If the mask reaches nothing but attentions, which it forbids to see hidden keys, and means over tokens,
//! and nothing else mixes the rows of a sequence, then the rows of real tokens depend on real tokens alone, and the graph
//! can be written over `[tokens, ..]` with `cu_seqlens`.
//!
//! What is the same and what is not:
//! - A key is hidden when its score gets -10000 or less added (or is forbidden): the softmax of the padded graph gives it
//!   exactly 0 then, unless scores themselves are that large. A sequence whose keys are all hidden has no rows.
//! - Rows at pads, which the padded graph computes from nothing, do not exist; a caller who wants padded outputs gets
//!   zeros there.
//! - Positions are those of the columns in the padded tensor, or for RoBERTa's kind those counted over its ids: whoever
//!   drops hidden tokens computes them before.

mod attention;
mod distance;
mod embedding;
mod index;
mod layout;
mod masks;
mod meaning;
mod pooling;
mod rows;

use std::collections::HashMap;

use bertha_graph::interp::Value;
use bertha_graph::{
    DType, Dim, Graph, GraphError, Node, Op, PositionIds, TensorData, TensorId, TensorType, UnaryOp, ragged,
    shape,
};

use crate::log::NearMiss;
use index::Affine;
use meaning::{Mask, Meaning, Per, Rows, Why};

/// The pass's name in the log.
pub(crate) const NAME: &str = "ragged";

/// A graph in its ragged form, and what callers must know of it.
pub(crate) struct Ragged {
    pub(crate) graph: Graph,
    pub(crate) position_ids: PositionIds,
    /// Rows of the position table that tokens can have.
    pub(crate) max_tokens: Option<usize>,
}

/// Name of the padded graph's input that says which tokens are real.
const ATTENTION_MASK: &str = "attention_mask";

/// The ragged form of a padded graph, or where and why there is none.
///
/// # Errors
/// A [`GraphError`] is a fault of ours.
pub(crate) fn rewrite(graph: &Graph) -> Result<Result<Ragged, NearMiss>, GraphError> {
    let rewritten = Rewrite::new(graph).and_then(|mut rewrite| {
        rewrite.nodes();
        rewrite.outputs()?;
        Ok(rewrite)
    });
    Ok(match rewritten {
        Ok(rewrite) => Ok(rewrite.finish()?),
        Err(Why { node, what }) => Err(NearMiss { pass: NAME, node, why: what }),
    })
}

/// The analysis under way, and the ragged graph that it writes.
struct Rewrite<'g> {
    old: &'g Graph,
    new: Graph,
    batch: Dim,
    seq: Dim,
    has_mask: bool,
    cu_seqlens: TensorId,
    position_input: TensorId,
    position_ids: PositionIds,
    max_tokens: Option<usize>,
    meanings: Vec<Option<Result<Meaning, Why>>>,
    constants: HashMap<TensorId, TensorId>,
    /// The node that is looked at.
    at: String,
}

type Found = Result<Meaning, Why>;

impl<'g> Rewrite<'g> {
    fn new(old: &'g Graph) -> Result<Self, Why> {
        let refuse = |node: &str, what: String| Why { node: node.to_owned(), what };
        let ids = old.inputs().iter().map(|id| old.tensor(*id)).find(|input| input.name == ragged::INPUT_IDS);
        let ids = ids.ok_or_else(|| refuse(ragged::INPUT_IDS, "there is no such input".into()))?;
        let (batch, seq) = match ids.ty.shape.dims() {
            [batch, seq] if batch.as_symbol().is_some() && seq.as_symbol().is_some() && batch != seq => {
                (batch.clone(), seq.clone())
            }
            _ => {
                let what = format!("expected [batch, seq] with two symbols, found {}", ids.ty);
                return Err(refuse(&ids.name, what));
            }
        };
        let mut rewrite = Rewrite {
            old,
            new: Graph::new(old.name.clone()),
            batch,
            seq,
            has_mask: false,
            // Set by `declare`.
            cu_seqlens: old.inputs()[0],
            position_input: old.inputs()[0],
            position_ids: PositionIds::None,
            max_tokens: None,
            meanings: vec![None; old.tensors().len()],
            constants: HashMap::new(),
            at: String::new(),
        };
        rewrite.declare()?;
        Ok(rewrite)
    }

    /// Declares the inputs of the ragged graph, all of them; unread ones go at the end.
    fn declare(&mut self) -> Result<(), Why> {
        let tokens = || TensorType::new(DType::I32, shape!["tokens"]);
        let boundaries = &Dim::from("batch") + &Dim::from(1);
        let mut declared = HashMap::new();
        for (name, ty) in [
            (ragged::INPUT_IDS, tokens()),
            (ragged::TOKEN_TYPE_IDS, tokens()),
            (ragged::POSITION_IDS, tokens()),
            (ragged::CU_SEQLENS, TensorType::new(DType::I32, shape![boundaries])),
        ] {
            let added = self.new.add_input(name, ty);
            declared.insert(name, added.map_err(|error| self.why(error))?);
        }
        self.cu_seqlens = declared[ragged::CU_SEQLENS];
        self.position_input = declared[ragged::POSITION_IDS];
        for id in self.old.inputs() {
            let input = self.old.tensor(*id);
            let expected = [self.batch.clone(), self.seq.clone()];
            self.at.clone_from(&input.name);
            if input.ty.shape.dims() != expected.as_slice() {
                return Err(
                    self.why(format_args!("expected [{}, {}] as input_ids has", self.batch, self.seq))
                );
            }
            let meaning = match (input.name.as_str(), declared.get(input.name.as_str())) {
                (ATTENTION_MASK, _) => {
                    self.has_mask = true;
                    let at = [0, 1].map(|value| self.truth(input.ty.dtype, value));
                    let [hidden, visible] = at;
                    Meaning::Mask(Mask { batch: 0, key: 1, at: [hidden?, visible?] })
                }
                (name, Some(tensor)) if input.ty.dtype.is_int() => {
                    if name == ragged::POSITION_IDS {
                        self.position_ids = PositionIds::Absolute;
                    }
                    Meaning::Rows(Rows { tensor: *tensor, lead: 2, per: Per::Token })
                }
                _ => return Err(self.why("ragged encoders have no such input")),
            };
            self.meanings[id.index()] = Some(Ok(meaning));
        }
        Ok(())
    }

    /// 0 or 1 as a scalar of an element type.
    fn truth(&self, dtype: DType, value: i64) -> Result<Value, Why> {
        let value = Value::from_tensor(&TensorData::scalar(value));
        self.evaluate(&Op::Cast { to: dtype }, &[&value])
    }

    fn evaluate(&self, op: &Op, operands: &[&Value]) -> Result<Value, Why> {
        let operands: Vec<_> = operands.iter().map(|value| Some(*value)).collect();
        let results = bertha_graph::interp::eval(op, &operands, bertha_graph::interp::Precision::Native);
        let results = results.map_err(|error| self.why(error))?;
        results.into_iter().next().ok_or_else(|| self.why("the op gives no result"))
    }

    fn why(&self, what: impl ToString) -> Why {
        Why { node: self.at.clone(), what: what.to_string() }
    }

    fn nodes(&mut self) {
        for node in self.old.nodes() {
            self.at.clone_from(&node.name);
            let found = self.node(node);
            match found {
                Ok(meanings) => {
                    for (output, meaning) in node.outputs.iter().zip(meanings) {
                        if let Some(output) = output {
                            self.meanings[output.index()] = Some(Ok(meaning));
                        }
                    }
                }
                Err(why) => {
                    for output in node.outputs.iter().flatten() {
                        self.meanings[output.index()] = Some(Err(why.clone()));
                    }
                }
            }
        }
    }

    /// The meanings of the results of a node.
    fn node(&mut self, node: &'g Node) -> Result<Vec<Meaning>, Why> {
        if let Op::Split { .. } = node.op {
            return self.split(node);
        }
        self.single(node).map(|meaning| vec![meaning])
    }

    fn single(&mut self, node: &'g Node) -> Found {
        match &node.op {
            Op::Unary(UnaryOp::Identity) => self.operand(node, 0),
            Op::Unary(_) | Op::Cast { .. } | Op::Gelu(_) | Op::Binary(_) | Op::Where | Op::Clip => {
                self.elementwise(node)
            }
            Op::Linear { .. }
            | Op::LayerNorm { .. }
            | Op::Softmax { .. }
            | Op::L2Normalize { .. }
            | Op::MatMul => self.row_wise(node),
            Op::Plugin(plugin) if plugin.def().declaration().row_wise => self.row_wise(node),
            Op::Reshape { .. } | Op::Squeeze | Op::Unsqueeze => self.reshape(node),
            Op::Expand => self.expand(node),
            Op::Transpose { perm } => self.transpose(node, perm),
            Op::Concat { axis } => self.concat(node, *axis),
            Op::Slice => self.slice(node),
            Op::Gather { axis } => self.gather(node, *axis),
            // Whatever is picked of one value is that value.
            Op::GatherElements { .. } => match self.operand(node, 0)? {
                Meaning::Same(data) => masks::uniform(&data)
                    .map(Meaning::Same)
                    .ok_or_else(|| self.why("it picks single elements of a constant")),
                _ => Err(self.why("it picks single elements")),
            },
            Op::EmbeddingSum => self.embedding_sum(node),
            Op::GatherNd { batch_dims: 0 } => self.gather_nd(node),
            Op::Range => self.range(node),
            Op::ConstantOfShape { value } => {
                value.reshaped(Vec::new()).map(Meaning::Same).map_err(|error| self.why(error))
            }
            Op::CumSum { .. } => self.cumsum(node),
            Op::Reduce { .. } => self.reduce(node),
            Op::Attention(attrs) => self.attention(node, attrs),
            op => Err(self.why(format_args!("{} is not known to keep tokens apart", op.mnemonic()))),
        }
    }

    /// What the operand number `index` stands for.
    fn operand(&self, node: &Node, index: usize) -> Found {
        let id = self.operand_id(node, index)?;
        self.meaning(id)
    }

    fn operand_id(&self, node: &Node, index: usize) -> Result<TensorId, Why> {
        node.inputs
            .get(index)
            .copied()
            .flatten()
            .ok_or_else(|| self.why(format_args!("operand {index} is missing")))
    }

    fn meaning(&self, id: TensorId) -> Found {
        if let Some(data) = self.old.tensor(id).constant() {
            return Ok(Meaning::Same(data.clone()));
        }
        // One number that follows from the shapes, such as the length of the sequences.
        if let Some([number]) = self.old.tensor(id).value.as_deref() {
            return Ok(Meaning::Index(Affine::constant(number.clone())));
        }
        match self.meanings.get(id.index()) {
            Some(Some(found)) => found.clone(),
            _ => Err(self.why("an operand is computed later")),
        }
    }

    fn dims(&self, id: TensorId) -> &'g [Dim] {
        self.old.tensor(id).ty.shape.dims()
    }

    /// The dimensions of the first result.
    fn result_dims(&self, node: &Node) -> Result<&'g [Dim], Why> {
        let result = node.outputs.first().copied().flatten();
        result.map(|id| self.dims(id)).ok_or_else(|| self.why("nobody reads its first result"))
    }

    /// A constant of the old graph in the new one.
    fn constant(&mut self, id: TensorId) -> Result<TensorId, Why> {
        if let Some(new) = self.constants.get(&id) {
            return Ok(*new);
        }
        let tensor = self.old.tensor(id);
        let data =
            tensor.constant().ok_or_else(|| self.why(format_args!("{} is no constant", tensor.name)))?;
        let new = self.new_constant(&tensor.name, data.clone())?;
        self.constants.insert(id, new);
        Ok(new)
    }

    fn new_constant(&mut self, name: &str, data: TensorData) -> Result<TensorId, Why> {
        let name = self.new.fresh_name(name);
        self.new.add_constant(name, data).map_err(|error| self.why(error))
    }

    /// Adds the ragged form of `node`, with an op of its own, and gives its results.
    fn emit(
        &mut self,
        node: &Node,
        op: Op,
        inputs: &[Option<TensorId>],
    ) -> Result<Vec<Option<TensorId>>, Why> {
        let names: Vec<String> = node
            .outputs
            .iter()
            .map(|output| output.map_or(String::new(), |id| self.new.fresh_name(&self.old.tensor(id).name)))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let name = self.new.fresh_node_name(&node.name);
        let id = self.new.add_node(name, op, inputs, &names).map_err(|error| self.why(error))?;
        let sources = if node.sources.is_empty() { vec![node.name.clone()] } else { node.sources.clone() };
        self.new.set_sources(id, sources);
        Ok(self.new.node(id).outputs.clone())
    }

    fn emit_one(&mut self, node: &Node, op: Op, inputs: &[Option<TensorId>]) -> Result<TensorId, Why> {
        let results = self.emit(node, op, inputs)?;
        results.first().copied().flatten().ok_or_else(|| self.why("nobody reads its first result"))
    }

    fn outputs(&mut self) -> Result<(), Why> {
        for (name, id) in self.old.outputs() {
            self.at.clone_from(name);
            let rows = match self.meaning(*id)? {
                Meaning::Rows(rows) => rows,
                _ => return Err(self.why("the output has no row for each token or sequence")),
            };
            let dims = self.dims(*id);
            let is_padded = match rows.per {
                Per::Token => rows.lead == 2 && dims.starts_with(&[self.batch.clone(), self.seq.clone()]),
                Per::Sequence => rows.lead == 1 && dims.first() == Some(&self.batch),
            };
            if !is_padded {
                return Err(self.why(format_args!("the output is {}", self.old.tensor(*id).ty)));
            }
            self.new.add_output(name.clone(), rows.tensor).map_err(|error| self.why(error))?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Ragged, GraphError> {
        let mut graph = crate::patch::apply(&self.new, &[])?;
        for name in [ragged::TOKEN_TYPE_IDS, ragged::POSITION_IDS] {
            let declared = self.old.find(name).is_some();
            if !declared {
                graph = crate::patch::without_unread_input(&graph, name)?;
            }
        }
        Ok(Ragged { graph, position_ids: self.position_ids, max_tokens: self.max_tokens })
    }
}
