//! Kernels made for what is left of a graph when the encoder ops are taken out: pointwise functions, moved elements,
//! and reductions of rows. Each is a few lines of CUDA C++ over the common headers.
//!
//! Shapes are expressions over the batch's token and sequence counts, which the kernel reads from its `Batch`, so one
//! kernel serves every batch.

mod map;
mod rows;
mod text;

use bertha_graph::{Dim, Node, Op, Shape, TensorId};

use super::lower::{Lowering, operand};
use super::step::{TensorIndex, WeightIndex};
use super::{Storage, TensorPlan, WeightForm};
use crate::kernels::{KernelSpec, Launch, LaunchArg, Operand, Rows, Setting};

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
    /// Elements of the result, or rows for kernels that give a warp to each.
    pub work: Dim,
    /// Work items of one block.
    pub per_block: usize,
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
        let work =
            self.work.eval(&setting.bindings()).ok().and_then(|work| usize::try_from(work).ok()).unwrap_or(0);
        let blocks = work.div_ceil(self.per_block).min(setting.multiprocessors * BLOCKS_PER_MULTIPROCESSOR);
        let mut args = vec![LaunchArg::Address(Operand::Batch(Rows::Tokens))];
        args.extend(self.inputs.iter().map(|input| LaunchArg::Address(input.operand())));
        args.push(LaunchArg::Address(Operand::Tensor(self.y)));
        Launch { kernel: self.kernel.clone(), config: setting.config(blocks, THREADS as u32, 0), args }
    }
}

/// An operand: where it is, its elements' type, its shape.
pub(super) struct Source {
    pub(super) read: Read,
    pub(super) storage: Storage,
    pub(super) dims: Vec<Dim>,
}

/// The kernel for a node with one result.
pub(super) fn generate(lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Result<Generated, String> {
    if !lowering.graph.dtype(y).is_float() {
        return Err(format!("{} of {}", node.op.mnemonic(), lowering.graph.dtype(y)));
    }
    match &node.op {
        Op::Softmax { .. } | Op::L2Normalize { .. } | Op::Reduce { .. } => rows::generate(lowering, node, y),
        _ => map::generate(lowering, node, y),
    }
}

/// The kernel for piece `index` of a node with several results.
pub(super) fn piece(
    lowering: &mut Lowering<'_>,
    node: &Node,
    index: usize,
    y: TensorId,
) -> Result<Generated, String> {
    map::piece(lowering, node, index, y)
}

/// The kernel that gives tensor `x` as `y`, in another type.
pub(super) fn cast(x: TensorIndex, plan: &TensorPlan, y: TensorIndex, storage: Storage) -> Generated {
    let elements = Shape(plan.dims.clone()).elements();
    let kernel = text::map_kernel("cast", &[plan.storage], storage, &elements, &[], "x0[i]");
    Generated { name: "cast", inputs: vec![Read::Tensor(x)], y, kernel, work: elements, per_block: THREADS }
}

impl Source {
    /// Operand `index` of a node: a tensor, or a constant in f32.
    fn of(lowering: &mut Lowering<'_>, node: &Node, index: usize) -> Result<Self, String> {
        let id =
            operand(node, index).ok_or_else(|| format!("{} without operand {index}", node.op.mnemonic()))?;
        Self::of_tensor(lowering, id)
    }

    fn of_tensor(lowering: &mut Lowering<'_>, id: TensorId) -> Result<Self, String> {
        let ty = &lowering.graph.tensor(id).ty;
        let dims = ty.shape.dims().to_vec();
        if lowering.constant(id).is_some() {
            let (form, storage) = if ty.dtype.is_float() {
                (WeightForm::F32, Storage::F32)
            } else {
                (WeightForm::I32, Storage::I32)
            };
            return Ok(Source { read: Read::Weight(lowering.weight(id, form)), storage, dims });
        }
        let index = lowering.read(id)?;
        Ok(Source { read: Read::Tensor(index), storage: lowering.tensor(index).storage, dims })
    }
}

/// The type of a generated result.
fn result_storage(lowering: &Lowering<'_>, y: TensorId) -> Storage {
    if lowering.is_for_the_caller(y) { Storage::F32 } else { lowering.activations() }
}
