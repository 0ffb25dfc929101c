//! The tensors of a program under construction: what was written, where, in which type, and how much room it takes.

use bertha_compile::memory::Buffer;
use bertha_graph::{Dim, Graph, Node, Origin, Shape, TensorId};

use super::dense::GivenInput;
use super::generate;
use super::lower::{Lowered, Lowering, operand};
use super::step::{CudaStep, TensorIndex, WeightIndex};
use super::{Input, LowerError, Place, Storage, TensorPlan, WeightForm, WeightPlan};
use crate::arch::Arch;
use crate::kernels::{Rows, Setting};

impl<'a> Lowering<'a> {
    pub(super) fn constant(&self, id: TensorId) -> Option<&'a bertha_graph::TensorData> {
        self.graph.tensor(id).constant()
    }

    /// Whether an operand is a matrix that is the same for all shapes of the inputs.
    pub(super) fn is_weight(&self, node: &Node, index: usize) -> bool {
        let Some(id) = operand(node, index) else { return false };
        let tensor = self.graph.tensor(id);
        let in_base =
            |base: &Graph| base.find(&tensor.name).is_some_and(|id| base.tensor(id).constant().is_some());
        tensor.constant().is_some() && tensor.ty.shape.rank() == 2 && self.base.is_none_or(in_base)
    }

    /// Operand `index` as a matrix with rows of this kind; also its width.
    pub(super) fn matrix(&mut self, node: &Node, index: usize, rows: Rows) -> Lowered<(TensorIndex, usize)> {
        let id = operand(node, index).ok_or_else(|| format!("operand {index} is missing"))?;
        let width = match self.graph.tensor(id).ty.shape.dims() {
            [outer @ .., width] if product(outer) == symbol(rows) => {
                width.as_const().and_then(|width| usize::try_from(width).ok())
            }
            _ => None,
        };
        let width =
            width.ok_or_else(|| format!("operand {index} of shape {}", self.graph.tensor(id).ty.shape))?;
        if width == 0 {
            return Err(format!("operand {index} with rows of no features"));
        }
        let tensor = self.read(id)?;
        let tensor = self.in_storage(node, tensor, self.storage)?;
        self.make_room(tensor, rows, width);
        Ok((tensor, width))
    }

    /// Kernels may read and write a matrix up to the end of its last tile: in a dense graph its place is that large.
    pub(super) fn make_room(&mut self, tensor: TensorIndex, rows: Rows, width: usize) {
        let (Rows::Fixed(_), storage) = (rows, self.tensors[tensor].storage) else { return };
        let bytes = fixed_rows(rows).saturating_mul(width).saturating_mul(storage.bytes());
        if let Some(buffer) = self.buffer_of.get(&tensor) {
            let size = &mut self.buffers[*buffer].size;
            let largest = size.as_const().unwrap_or(0).max(i64::try_from(bytes).unwrap_or(i64::MAX));
            *size = Dim::from(largest);
        } else if let (Place::Given(input), Some(dense)) = (self.tensors[tensor].place, &mut self.dense) {
            dense.inputs[input].spare_bytes = dense.inputs[input].spare_bytes.max(bytes);
        }
    }

    pub(super) fn rows_of(&self, id: TensorId) -> Lowered<Rows> {
        let shape = &self.graph.tensor(id).ty.shape;
        if let (false, Some(shape)) = (self.is_ragged(), shape.as_const()) {
            let outer = shape.split_last().map(|(_, outer)| outer.iter().product());
            return outer.map(Rows::Fixed).ok_or_else(|| "a scalar".into());
        }
        [Rows::Tokens, Rows::Sequences]
            .into_iter()
            .find(|rows| shape.dims().first() == Some(&symbol(*rows)))
            .ok_or_else(|| format!("a result of shape {shape}"))
    }

    pub(super) fn expect_input(&self, node: &Node, index: usize, input: Input) -> Lowered<()> {
        let tensor = operand(node, index).and_then(|id| self.index_of.get(&id));
        match tensor.map(|tensor| self.tensors[*tensor].place) {
            Some(Place::Input(found)) if found == input => Ok(()),
            _ => Err(format!("operand {index} that is not the input {}", input.name())),
        }
    }

    /// The kernel reads an id for each token, and what a batch's check has seen are the ids in its inputs.
    pub(super) fn expect_ids(&self, ids: TensorIndex) -> Lowered<()> {
        self.expect_storage(ids, Storage::I32)?;
        let plan = &self.tensors[ids];
        let is_input = matches!(plan.place, Place::Input(input) if input != Input::CuSeqlens);
        match is_input && plan.dims == [symbol(Rows::Tokens)] {
            true => Ok(()),
            false => Err(format!("ids that are not one for each token ({})", plan.name)),
        }
    }

    /// The tensor in this type; one of another type is converted, once.
    pub(super) fn in_storage(
        &mut self,
        node: &Node,
        tensor: TensorIndex,
        storage: Storage,
    ) -> Lowered<TensorIndex> {
        let is = self.tensors[tensor].storage;
        if is == storage {
            return Ok(tensor);
        }
        if let Some(cast) = self.casts.get(&(tensor, storage)) {
            return Ok(*cast);
        }
        if !is.is_float() || !storage.is_float() {
            return Err(format!("operand {} as {}", self.tensors[tensor].name, is.c_name()));
        }
        let cast = self.cast(node.name.clone(), tensor, storage)?;
        self.casts.insert((tensor, storage), cast);
        Ok(cast)
    }

    pub(super) fn expect_storage(&self, tensor: TensorIndex, storage: Storage) -> Lowered<()> {
        let plan = &self.tensors[tensor];
        if plan.storage == storage {
            return Ok(());
        }
        Err(format!("operand {} as {}", plan.name, plan.storage.c_name()))
    }

    /// The index of a tensor that has been written before.
    pub(super) fn read(&mut self, id: TensorId) -> Lowered<TensorIndex> {
        self.index_of.get(&id).copied().ok_or_else(|| {
            let name = &self.graph.tensor(id).name;
            match self.graph.tensor(id).origin {
                Origin::Constant(_) => format!("the constant {name} as an operand"),
                _ => format!("operand {name}, for which there is no step"),
            }
        })
    }

    /// A new tensor in a slot of its own, which others may share later.
    pub(super) fn write(&mut self, id: TensorId, storage: Storage) -> TensorIndex {
        let size = &self.graph.tensor(id).ty.shape.elements() * &Dim::from(storage.bytes());
        let index = self.add_tensor(id, storage, Place::Slot(self.buffers.len()));
        self.new_buffer(index, size);
        index
    }

    pub(super) fn new_buffer(&mut self, index: TensorIndex, size: Dim) {
        let at = self.steps.len();
        self.buffer_of.insert(index, self.buffers.len());
        self.buffers.push(Buffer { size, first: at, last: at });
    }

    pub(super) fn add_tensor(&mut self, id: TensorId, storage: Storage, place: Place) -> TensorIndex {
        let tensor = self.graph.tensor(id);
        let dims = tensor.ty.shape.dims().to_vec();
        self.tensors.push(TensorPlan { name: tensor.name.clone(), storage, dims, place });
        self.index_of.insert(id, self.tensors.len() - 1);
        self.tensors.len() - 1
    }

    pub(super) fn weight(&mut self, id: TensorId, form: WeightForm) -> WeightIndex {
        self.weight_plan(WeightPlan { name: self.graph.tensor(id).name.clone(), form })
    }

    pub(super) fn weight_plan(&mut self, plan: WeightPlan) -> WeightIndex {
        self.weights.iter().position(|other| *other == plan).unwrap_or_else(|| {
            self.weights.push(plan);
            self.weights.len() - 1
        })
    }

    pub(super) fn tensor(&self, index: TensorIndex) -> &TensorPlan {
        &self.tensors[index]
    }

    /// Whether a batch's rows follow one another without padding, and runs of different sizes share launches.
    pub(super) fn is_ragged(&self) -> bool {
        self.dense.is_none()
    }

    /// The inputs of a dense graph: whatever they are, as long as their sizes are known.
    pub(super) fn with_given_inputs(mut self) -> Result<Self, LowerError> {
        for (number, id) in self.graph.inputs().iter().enumerate() {
            let tensor = self.graph.tensor(*id);
            let what = || format!("{}: {}", tensor.name, tensor.ty);
            let storage =
                Storage::of_dtype(tensor.ty.dtype).ok_or_else(|| LowerError::Input { what: what() })?;
            let shape = tensor.ty.shape.as_const().ok_or_else(|| LowerError::Input { what: what() })?;
            let given = GivenInput { name: tensor.name.clone(), storage, shape, spare_bytes: 0 };
            self.add_tensor(*id, storage, Place::Given(number));
            self.dense.get_or_insert_default().inputs.push(given);
        }
        Ok(self)
    }

    /// The number by which a kernel tells that an index of `node` is outside of its operand.
    pub(super) fn fault(&mut self, node: &Node) -> i64 {
        let faults = &mut self.dense.get_or_insert_default().faults;
        if faults.last() != Some(&node.name) {
            faults.push(node.name.clone());
        }
        faults.len() as i64
    }

    /// The type that activations have.
    pub(super) fn activations(&self) -> Storage {
        self.storage
    }

    /// Whether only the caller reads `id`, so that it may as well be f32.
    pub(super) fn is_for_the_caller(&self, id: TensorId) -> bool {
        self.uses.is_output(id) && self.uses.readers(id).is_empty()
    }

    /// The type in which a kernel that can write f32 writes `y`: what only the caller reads is handed out in f32 anyway.
    pub(super) fn storage_of_result(&self, y: TensorId) -> Storage {
        if self.is_for_the_caller(y) { Storage::F32 } else { self.storage }
    }

    /// `y` is the bytes of `x` under another shape.
    pub(super) fn alias(&mut self, x: TensorId, y: TensorId) -> Lowered<()> {
        let source = self.read(x)?;
        let (storage, place) = (self.tensors[source].storage, self.tensors[source].place);
        let index = self.add_tensor(y, storage, place);
        self.views.push((source, index));
        if let Some(buffer) = self.buffer_of.get(&source) {
            self.buffer_of.insert(index, *buffer);
        }
        Ok(())
    }

    /// A new tensor that the graph does not have, in a slot of its own.
    pub(super) fn scratch(&mut self, name: String, dims: Vec<Dim>, storage: Storage) -> TensorIndex {
        let size = &Shape(dims.clone()).elements() * &Dim::from(storage.bytes());
        self.tensors.push(TensorPlan { name, storage, dims, place: Place::Slot(self.buffers.len()) });
        let index = self.tensors.len() - 1;
        self.new_buffer(index, size);
        index
    }

    /// Appends a step, shown as `node`, that gives `tensor` in another type.
    pub(super) fn cast(
        &mut self,
        node: String,
        tensor: TensorIndex,
        storage: Storage,
    ) -> Lowered<TensorIndex> {
        let TensorPlan { name, dims, .. } = self.tensors[tensor].clone();
        let y = self.scratch(name, dims, storage);
        let step = generate::cast(self.is_ragged(), tensor, &self.tensors[tensor], y, storage)?;
        self.push(node, CudaStep::Generated(step));
        Ok(y)
    }
}

pub(super) fn symbol(rows: Rows) -> Dim {
    match rows {
        Rows::Tokens => Dim::symbol("tokens"),
        Rows::Sequences => Dim::symbol("batch"),
        Rows::Fixed(rows) => Dim::from(rows),
    }
}

/// Rows that are allocated for a matrix of a dense graph.
fn fixed_rows(rows: Rows) -> usize {
    Setting::typical(Arch::Sm90a).allocated(rows)
}

fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::from(1usize), |product, dim| &product * dim)
}
