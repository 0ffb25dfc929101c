//! What a run of a program needs besides the program: memory, shapes, scratch. Reused from run to run.

use super::buffer::AlignedBuffer;
use super::error::RunError;
use super::program::{Place, Program, TensorIndex};
use crate::generic::{Scratch, TensorRef};
use crate::kernels::AlignedBuf;

/// Memory and shapes of one program's runs.
#[derive(Default)]
pub(crate) struct Workspace {
    pub(crate) slots: Vec<AlignedBuffer>,
    /// Values of the program's symbols in this run.
    pub(crate) symbols: Vec<Option<i64>>,
    /// Shapes of all tensors, one after another.
    dims: Vec<usize>,
    /// Where each tensor's shape lies in `dims`, and whether it is known yet.
    spans: Vec<Span>,
    pub(crate) scratch: StepScratch,
    /// Workspaces of the branches of `if` steps, by step.
    pub(crate) branches: std::collections::HashMap<(usize, bool), Workspace>,
}

/// Memory that steps use while they run.
#[derive(Default)]
pub(crate) struct StepScratch {
    pub(crate) generic: Scratch,
    /// Windows of a convolution and their products.
    pub(crate) windows: AlignedBuf,
    /// Attention biases by distance.
    pub(crate) bias: Vec<f32>,
}

#[derive(Clone, Copy, Default)]
struct Span {
    start: usize,
    rank: usize,
    known: bool,
}

impl Workspace {
    /// Binds the symbols to the inputs' shapes, computes all shapes that follow, and makes room for them.
    pub(crate) fn prepare(&mut self, program: &Program, inputs: &[TensorRef<'_>]) -> Result<(), RunError> {
        self.symbols.clear();
        self.symbols.resize(program.symbols.len(), None);
        for (plan, input) in program.inputs.iter().zip(inputs) {
            self.bind(program, plan, input)?;
        }
        self.dims.clear();
        self.spans.clear();
        self.slots.resize_with(program.slots, AlignedBuffer::default);
        for tensor in &program.tensors {
            let start = self.dims.len();
            let mut known = true;
            for dim in &tensor.dims {
                let value = dim.eval(&self.symbols);
                known &= value.is_some();
                self.dims.push(value.unwrap_or(0));
            }
            self.spans.push(Span { start, rank: tensor.dims.len(), known });
            if let (true, Place::Slot(slot)) = (known, tensor.place) {
                let bytes = tensor.bytes(&self.dims[start..]).ok_or_else(|| too_large(&tensor.name))?;
                self.slots[slot].reserve(bytes).ok_or_else(|| too_large(&tensor.name))?;
            }
        }
        Ok(())
    }

    fn bind(
        &mut self,
        program: &Program,
        plan: &super::program::InputPlan,
        input: &TensorRef<'_>,
    ) -> Result<(), RunError> {
        use super::dims::CompiledDim;
        let wrong = |why: String| RunError::InputShape {
            name: plan.name.clone(),
            expected: format!("{}{}", plan.dtype, plan.shape),
            actual: input.shape.to_vec(),
            why,
        };
        if input.shape.len() != plan.dims.len() {
            return Err(wrong(format!("it takes {} dimensions", plan.dims.len())));
        }
        for (index, (dim, actual)) in plan.dims.iter().zip(input.shape).enumerate() {
            if let CompiledDim::Symbol(symbol) = dim
                && self.symbols[*symbol].is_none()
            {
                self.symbols[*symbol] = Some(i64::try_from(*actual).unwrap_or(i64::MAX));
            }
            if dim.eval(&self.symbols).is_some_and(|expected| expected != *actual) {
                let name = match dim {
                    CompiledDim::Symbol(symbol) => format!(" (`{}`)", program.symbols.name(*symbol)),
                    _ => String::new(),
                };
                let expected = dim.eval(&self.symbols).unwrap_or(0);
                return Err(wrong(format!("dimension {index}{name} must be {expected}")));
            }
        }
        // A dimension such as `batch + 1` binds its symbol when nothing else does.
        for (dim, actual) in plan.dims.iter().zip(input.shape) {
            if let Some((symbol, offset)) = dim.as_offset_symbol() {
                let actual = i64::try_from(*actual).unwrap_or(i64::MAX);
                self.symbols[symbol].get_or_insert(actual.saturating_sub(offset));
            }
        }
        Ok(())
    }

    /// The shape of a tensor; only what [`Self::is_known`] says is known.
    pub(crate) fn shape(&self, tensor: TensorIndex) -> &[usize] {
        let span = self.spans[tensor];
        &self.dims[span.start..span.start + span.rank]
    }

    pub(crate) fn is_known(&self, tensor: TensorIndex) -> bool {
        self.spans[tensor].known
    }

    /// Sets a shape that was found during the run and makes room for the tensor.
    pub(crate) fn resolve(
        &mut self,
        program: &Program,
        tensor: TensorIndex,
        shape: &[usize],
    ) -> Result<(), RunError> {
        let plan = &program.tensors[tensor];
        let span = &mut self.spans[tensor];
        *span = Span { start: self.dims.len(), rank: shape.len(), known: true };
        self.dims.extend_from_slice(shape);
        if let Place::Slot(slot) = plan.place {
            let bytes = plan.bytes(shape).ok_or_else(|| too_large(&plan.name))?;
            self.slots[slot].reserve(bytes).ok_or_else(|| too_large(&plan.name))?;
        }
        for (dim, actual) in plan.dims.iter().zip(shape) {
            if let super::dims::CompiledDim::Symbol(symbol) = dim {
                self.symbols[*symbol].get_or_insert(*actual as i64);
            }
        }
        Ok(())
    }

    /// Whether all of a tensor's dimensions follow from symbols that are bound by now; then its shape is set.
    pub(crate) fn settle(&mut self, program: &Program, tensor: TensorIndex) -> Result<bool, RunError> {
        if self.is_known(tensor) {
            return Ok(true);
        }
        let shape: Option<Vec<usize>> =
            program.tensors[tensor].dims.iter().map(|dim| dim.eval(&self.symbols)).collect();
        match shape {
            Some(shape) => self.resolve(program, tensor, &shape).map(|()| true),
            None => Ok(false),
        }
    }

    /// A tensor for reading.
    pub(crate) fn tensor<'a>(
        &'a self,
        program: &'a Program,
        inputs: &[TensorRef<'a>],
        index: TensorIndex,
    ) -> TensorRef<'a> {
        let plan = &program.tensors[index];
        let shape = self.shape(index);
        let length = plan.bytes(shape).unwrap_or(0);
        let bytes = match plan.place {
            Place::Input(input) => inputs[input].bytes,
            Place::Constant(constant) => program.constants[constant].bytes(),
            Place::Slot(slot) => &self.slots[slot].bytes()[..length],
        };
        TensorRef { dtype: plan.dtype, shape, bytes }
    }

    /// Bytes that all slots hold.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.iter().map(AlignedBuffer::capacity).sum()
    }
}

fn too_large(tensor: &str) -> RunError {
    RunError::Node { node: tensor.to_owned(), why: "there is no memory for a tensor this large".into() }
}
