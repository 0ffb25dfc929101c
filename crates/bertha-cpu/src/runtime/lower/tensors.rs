//! How tensors lie in memory, in which type, and from which step to which.

use bertha_compile::memory;
use bertha_graph::{DType, Dim, Node, NodeId, Origin, Tensor, TensorId};

use super::{Kind, Lowering};
use crate::kernels::gemm::row_stride;
use crate::runtime::dims::CompiledDim;
use crate::runtime::program::{Place, TensorIndex, TensorPlan};

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Storage {
    dtype: DType,
    /// Elements between rows.
    row_padding: usize,
}

impl Lowering<'_> {
    /// `y` is another view of the bytes of `x`.
    pub(super) fn alias(&mut self, x: TensorId, y: TensorId) {
        let source = self.tensor_index(x);
        let place = self.program.tensors[source].place;
        let index = self.add_tensor(y, place);
        if let Some(buffer) = self.buffer_of.get(&source) {
            self.buffer_of.insert(index, *buffer);
        }
    }

    pub(super) fn read(&mut self, id: TensorId, step: usize) -> TensorIndex {
        let index = self.tensor_index(id);
        self.keep(index, step);
        index
    }

    /// Keeps a tensor's memory up to this step.
    pub(super) fn keep(&mut self, index: TensorIndex, step: usize) {
        if let Some(buffer) = self.buffer_of.get(&index) {
            self.buffers[*buffer].last = self.buffers[*buffer].last.max(step);
        }
    }

    pub(super) fn write(&mut self, id: TensorId, step: usize) -> TensorIndex {
        let storage = self.storage(id);
        let index = self.add_tensor(id, Place::Slot(self.buffers.len()));
        self.allot(index, id, storage, step);
        index
    }

    /// A bf16 copy of a tensor that a step writes beside it, where a product would have to make it anyway.
    pub(super) fn write_rounded(&mut self, id: TensorId, step: usize) -> Option<TensorIndex> {
        let reads = |node: &NodeId| {
            self.kinds[node.index()] == Kind::LinearBf16
                && self.graph.node(*node).inputs.first() == Some(&Some(id))
        };
        if !self.uses.readers(id).iter().any(reads) {
            return None;
        }
        let storage = self.bf16_storage(id)?;
        let plan = self.program.tensors.get(*self.index_of.get(&id)?)?;
        let (name, dims) = (format!("{} as bf16", plan.name), plan.dims.clone());
        let place = Place::Slot(self.buffers.len());
        self.program.tensors.push(TensorPlan { name, dtype: DType::BF16, dims, place, row_padding: 0 });
        let index = self.program.tensors.len() - 1;
        self.allot(index, id, storage, step);
        self.rounded.insert(id, index);
        Some(index)
    }

    /// Gives a tensor of the shape of `id` a buffer from this step on. Its place holds the buffer's number until the
    /// slots are assigned.
    fn allot(&mut self, index: TensorIndex, id: TensorId, storage: Storage, step: usize) {
        let plan = &mut self.program.tensors[index];
        (plan.dtype, plan.row_padding) = (storage.dtype, storage.row_padding);
        let shape = &self.graph.tensor(id).ty.shape;
        let element = storage.dtype.size();
        let mut size = &shape.elements() * &Dim::from(element);
        if let (1.., Some((_, rows))) = (storage.row_padding, shape.dims().split_last()) {
            let rows = rows.iter().fold(Dim::from(1_usize), |product, dim| &product * dim);
            size = &size + &(&rows * &Dim::from(storage.row_padding * element));
        }
        self.buffer_of.insert(index, self.buffers.len());
        self.buffers.push(memory::Buffer { size, first: step, last: step });
    }

    /// How a tensor that a node writes lies in memory: as bf16 where only products that round it anyway read it, and with
    /// rows that spread over the sets of a cache where everything that touches it takes such.
    fn storage(&self, id: TensorId) -> Storage {
        let tensor = self.graph.tensor(id);
        let plain = Storage { dtype: tensor.ty.dtype, row_padding: 0 };
        let Origin::Node { node, .. } = tensor.origin else { return plain };
        if self.uses.is_output(id) || tensor.ty.dtype != DType::F32 {
            return plain;
        }
        let readers = self.uses.readers(id);
        let (writer, kind) = (self.kinds[node.index()], |node: &NodeId| self.kinds[node.index()]);
        // As the first operand and nothing else: a residual is added in f32.
        let multiplies = |node: &NodeId| {
            let mut inputs = self.graph.node(*node).inputs.iter();
            kind(node) == Kind::LinearBf16
                && inputs.next() == Some(&Some(id))
                && inputs.all(|input| *input != Some(id))
        };
        let attends = |node: &NodeId| kind(node) == Kind::AttentionBf16;
        if matches!(writer, Kind::LinearBf16 | Kind::AttentionBf16)
            && (readers.iter().all(multiplies) || readers.iter().all(attends))
            && let Some(storage) = self.bf16_storage(id)
        {
            return storage;
        }
        let padding = match tensor.ty.shape.dims() {
            [_, cols]
                if writer != Kind::Adjacent && readers.iter().all(|node| kind(node) != Kind::Adjacent) =>
            {
                cols.as_const()
                    .and_then(|cols| usize::try_from(cols).ok())
                    .map_or(0, |cols| row_stride(cols) - cols)
            }
            _ => 0,
        };
        Storage { row_padding: padding, ..plain }
    }

    /// Whether attention can multiply in bf16: what it multiplies comes from such products and goes nowhere else.
    pub(super) fn attends_in_bf16(&self, node: &Node, heads: usize) -> bool {
        let operands = || node.inputs.iter().take(3).flatten();
        let parts = if operands().count() == 1 { 3 } else { 1 };
        operands().count() > 0
            && operands().all(|id| {
                let tensor = self.graph.tensor(*id);
                let cols =
                    tensor.ty.shape.dims().last().and_then(|dim| usize::try_from(dim.as_const()?).ok());
                let from_product = matches!(
                    tensor.origin,
                    Origin::Node { node, .. } if self.kinds[node.index()] == Kind::LinearBf16
                );
                let only_here =
                    self.uses.readers(*id).iter().all(|reader| std::ptr::eq(self.graph.node(*reader), node));
                from_product
                    && only_here
                    && !self.uses.is_output(*id)
                    && !node.inputs.iter().skip(3).any(|other| *other == Some(*id))
                    && self.bf16_storage(*id).is_some()
                    && cols.is_some_and(|cols| cols.is_multiple_of(2 * parts * heads.max(1)))
            })
    }

    /// How a `[.., cols]` tensor lies in memory as bf16: in whole pairs.
    fn bf16_storage(&self, id: TensorId) -> Option<Storage> {
        let [_, cols] = self.graph.tensor(id).ty.shape.dims() else { return None };
        let cols = usize::try_from(cols.as_const()?).ok().filter(|cols| cols.is_multiple_of(2))?;
        Some(Storage { dtype: DType::BF16, row_padding: 2 * row_stride(cols / 2) - cols })
    }

    /// The index of an input, a constant, or a tensor that has been written before.
    fn tensor_index(&mut self, id: TensorId) -> TensorIndex {
        if let Some(index) = self.index_of.get(&id) {
            return *index;
        }
        let place = match &self.graph.tensor(id).origin {
            Origin::Constant(data) => {
                self.program.constants.push(data.clone());
                Place::Constant(self.program.constants.len() - 1)
            }
            // Nodes come in an order in which they can run, so only inputs are left.
            Origin::Input | Origin::Node { .. } => {
                Place::Input(self.graph.inputs().iter().position(|input| *input == id).unwrap_or(0))
            }
        };
        self.add_tensor(id, place)
    }

    fn add_tensor(&mut self, id: TensorId, place: Place) -> TensorIndex {
        let Tensor { name, ty, .. } = self.graph.tensor(id);
        let symbols = &mut self.program.symbols;
        let dims = ty.shape.dims().iter().map(|dim| CompiledDim::new(dim, symbols)).collect();
        self.program.tensors.push(TensorPlan {
            name: name.clone(),
            dtype: ty.dtype,
            dims,
            place,
            row_padding: 0,
        });
        let index = self.program.tensors.len() - 1;
        self.index_of.insert(id, index);
        index
    }
}
