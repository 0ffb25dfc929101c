//! Kernels made for what is left of a graph when the encoder ops are taken out: pointwise functions, moved elements,
//! reductions of rows, products and attention of dense tensors, convolutions. Each is a few lines of CUDA C++ over the common headers.
//!
//! Shapes of ragged graphs are expressions over the batch's token and sequence counts, which the kernel reads from its
//! `Batch`, so one kernel serves every batch; a dense graph's kernels get them as arguments.

mod attention;
mod code;
mod conv;
mod encoder;
mod map;
mod moves;
mod product;
mod rows;

use bertha_graph::{Bindings, DType, Dim, Node, Op, Shape, TensorId};

use super::lower::{Lowered, Lowering, operand};
use super::step::{TensorIndex, WeightIndex};
use super::{Storage, TensorPlan, WeightForm};
use crate::driver::MOST_ARGS;
use crate::kernels::{KernelSpec, Launch, LaunchArg, Operand, Rows, Setting};
pub(in crate::program) use code::Code;
pub(in crate::program) use encoder::embedding_sum;
pub(in crate::program) use moves::piece;

/// A kernel made for a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The op, for profiles.
    pub name: &'static str,
    /// What it reads, in the order of the kernel's arguments.
    pub inputs: Vec<Read>,
    /// What it writes.
    pub y: TensorIndex,
    /// The kernel.
    pub kernel: KernelSpec,
    /// Elements of the result, or rows for kernels that give a warp to each, or tiles.
    pub work: Dim,
    /// Work items of one block.
    pub per_block: usize,
    /// Whether it reads the batch's counts.
    pub is_ragged: bool,
    /// Whether it tells of indices outside of their operand.
    pub has_fault: bool,
    /// Sizes, as its last arguments.
    pub numbers: Vec<i64>,
}

/// Something that a generated kernel reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// A tensor.
    Tensor(TensorIndex),
    /// A weight.
    Weight(WeightIndex),
}

impl Read {
    /// The tensor, when it is one.
    pub(super) fn tensor(&self) -> Option<TensorIndex> {
        match self {
            Read::Tensor(tensor) => Some(*tensor),
            Read::Weight(_) => None,
        }
    }

    /// What a pointer to it leads to.
    pub(super) fn operand(&self) -> Operand {
        match self {
            Read::Tensor(tensor) => Operand::Tensor(*tensor),
            Read::Weight(weight) => Operand::Weight(*weight),
        }
    }
}

/// Threads of a block.
pub(super) const THREADS: usize = 256;

/// Blocks that are launched at most for each multiprocessor; each goes on to the next work until none is left.
const BLOCKS_PER_MULTIPROCESSOR: usize = 8;

impl Generated {
    /// The tensors that it reads.
    pub(super) fn tensors(&self) -> impl Iterator<Item = TensorIndex> + '_ {
        self.inputs.iter().filter_map(Read::tensor)
    }

    /// The launch for a batch of this capacity.
    pub fn launch(&self, setting: &Setting) -> Launch {
        let bindings = if self.is_ragged { setting.bindings() } else { Bindings::new() };
        let work = self.work.eval(&bindings).ok().and_then(|work| usize::try_from(work).ok()).unwrap_or(0);
        let blocks = work.div_ceil(self.per_block).min(setting.multiprocessors * BLOCKS_PER_MULTIPROCESSOR);
        let mut args = Vec::new();
        if self.is_ragged {
            args.push(LaunchArg::Address(Operand::Batch(Rows::Tokens)));
        }
        args.extend(self.inputs.iter().map(|input| LaunchArg::Address(input.operand())));
        args.push(LaunchArg::Address(Operand::Tensor(self.y)));
        if self.has_fault {
            args.push(LaunchArg::Address(Operand::Fault));
        }
        args.extend(self.numbers.iter().map(|number| LaunchArg::Long(*number)));
        Launch { kernel: self.kernel.clone(), config: setting.config(blocks, THREADS as u32, 0), args }
    }
}

/// An operand: where it is, its elements' type, its shape.
pub(super) struct Source {
    pub(super) read: Read,
    pub(super) storage: Storage,
    pub(super) dims: Vec<Dim>,
}

/// Everything of a kernel but the place of its result.
pub(super) struct Draft {
    pub(super) sources: Vec<Source>,
    pub(super) storage: Storage,
    pub(super) kernel: KernelSpec,
    pub(super) code: Code,
    pub(super) work: Dim,
    pub(super) per_block: usize,
}

impl Draft {
    /// The kernel, with its result `y` in a slot.
    pub(super) fn finish(self, lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Lowered<Generated> {
        let Draft { sources, storage, kernel, code, work, per_block } = self;
        let is_ragged = lowering.is_ragged();
        let (numbers, has_fault) = code.finish();
        if numbers.len() + sources.len() + 3 > MOST_ARGS {
            return Err(format!("{} of so many operands or dimensions", node.op.mnemonic()));
        }
        let inputs = sources.iter().map(|source| source.read).collect();
        let y = lowering.write(y, storage);
        let name = node.op.mnemonic();
        Ok(Generated { name, inputs, y, kernel, work, per_block, is_ragged, has_fault, numbers })
    }
}

/// The kernel for a node with one result.
pub(super) fn generate(lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Lowered<Generated> {
    // Ragged graphs have other types as inputs only.
    if lowering.is_ragged() && !lowering.graph.dtype(y).is_float() {
        return Err(format!("{} of {}", node.op.mnemonic(), lowering.graph.dtype(y)));
    }
    match &node.op {
        Op::Softmax { .. } | Op::L2Normalize { .. } | Op::Reduce { .. } | Op::CumSum { .. } => {
            rows::generate(lowering, node, y)
        }
        Op::MatMul if !lowering.is_ragged() => product::generate(lowering, node, y),
        Op::Attention(attrs) if !lowering.is_ragged() => attention::generate(lowering, node, y, attrs),
        Op::Conv(attrs) if !lowering.is_ragged() => conv::generate(lowering, node, y, attrs),
        Op::EmbeddingSum if !lowering.is_ragged() => {
            embedding_sum(lowering, node, node.inputs.len() / 2, y, Storage::F32)
        }
        Op::RotaryEmbedding { interleaved, heads, rotary_dim } if !lowering.is_ragged() => {
            encoder::rotary(lowering, node, y, (*interleaved, *heads, *rotary_dim))
        }
        Op::Transpose { .. }
        | Op::Gather { .. }
        | Op::Slice
        | Op::Concat { .. }
        | Op::Expand
        | Op::Tile
        | Op::Pad { .. } => moves::generate(lowering, node, y),
        _ => map::generate(lowering, node, y),
    }
}

/// The kernel that gives tensor `x` as `y`, in another type.
pub(super) fn cast(
    is_ragged: bool,
    x: TensorIndex,
    plan: &TensorPlan,
    y: TensorIndex,
    storage: Storage,
) -> Lowered<Generated> {
    let work = Shape(plan.dims.clone()).elements();
    let mut code = Code::new(is_ragged);
    let kernel = code::map_kernel(&mut code, "cast", &[plan.storage], storage, &work, (&[], "x0[i]"))?;
    let (inputs, (numbers, has_fault)) = (vec![Read::Tensor(x)], code.finish());
    let per_block = THREADS;
    Ok(Generated { name: "cast", inputs, y, kernel, work, per_block, is_ragged, has_fault, numbers })
}

impl Source {
    /// Operand `index` of a node: a tensor, or a constant; floats among them in f32.
    pub(super) fn of(lowering: &mut Lowering<'_>, node: &Node, index: usize) -> Lowered<Self> {
        let id =
            operand(node, index).ok_or_else(|| format!("{} without operand {index}", node.op.mnemonic()))?;
        Self::of_tensor(lowering, id)
    }

    pub(super) fn of_tensor(lowering: &mut Lowering<'_>, id: TensorId) -> Lowered<Self> {
        let ty = &lowering.graph.tensor(id).ty;
        let (dims, dtype) = (ty.shape.dims().to_vec(), ty.dtype);
        if lowering.constant(id).is_some() {
            let (form, storage) = match dtype {
                dtype if dtype.is_float() => (WeightForm::F32, Storage::F32),
                DType::Bool => (WeightForm::Bool, Storage::Bool),
                _ if lowering.is_ragged() => (WeightForm::I32, Storage::I32),
                _ => (WeightForm::I64, Storage::I64),
            };
            return Ok(Source { read: Read::Weight(lowering.weight(id, form)), storage, dims });
        }
        let index = lowering.read(id)?;
        Ok(Source { read: Read::Tensor(index), storage: lowering.tensor(index).storage, dims })
    }
}

/// The type of a generated result.
///
/// Floats of ragged graphs are of the precision, but for what only the caller reads. In dense graphs, where masks and
/// angles of rotary embeddings are computed too, a result is of the precision if every tensor that it is made of is.
pub(super) fn result_storage(
    lowering: &Lowering<'_>,
    node: &Node,
    y: TensorId,
    sources: &[Source],
) -> Lowered<Storage> {
    let dtype = lowering.graph.dtype(y);
    match dtype {
        DType::I64 => return Ok(Storage::I64),
        DType::I32 => return Ok(Storage::I32),
        DType::Bool => return Ok(Storage::Bool),
        dtype if dtype.is_float() && dtype != DType::F64 => {}
        _ => return Err(format!("{} of {dtype}", node.op.mnemonic())),
    }
    if lowering.is_for_the_caller(y) {
        return Ok(Storage::F32);
    }
    if lowering.is_ragged() {
        return Ok(lowering.activations());
    }
    let mut tensors =
        sources.iter().filter(|source| source.read.tensor().is_some() && source.storage.is_float());
    let first = tensors.next().map_or(Storage::F32, |source| source.storage);
    Ok(if tensors.all(|source| source.storage == first) { first } else { Storage::F32 })
}

/// An axis counted from the front.
pub(super) fn normal_axis(axis: i64, rank: usize) -> Lowered<usize> {
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|axis| *axis < rank).ok_or_else(|| format!("an axis {axis} of {rank}"))
}
