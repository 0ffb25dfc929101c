//! Guarded memory for all that a kernel reads and writes.

use bertha_graph::TensorType;

use super::cases::{Case, Input};
use super::memory::Guarded;
use crate::{Parallel, TensorView, TensorViewMut};

/// The operands and results of a case, each between guards.
pub(super) struct Bench<'a> {
    case: &'a Case,
    results: &'a [TensorType],
    shapes: Vec<Vec<usize>>,
    inputs: Vec<Option<Guarded>>,
    outputs: Vec<Guarded>,
}

impl<'a> Bench<'a> {
    /// Copies the operands, and fills the results with `fill`.
    pub(super) fn new(case: &'a Case, results: &'a [TensorType], fill: u8) -> Result<Self, String> {
        let shapes: Option<Vec<Vec<usize>>> = results.iter().map(|ty| ty.shape.as_const()).collect();
        let shapes = shapes.ok_or("a result's shape is not known")?;
        let mut outputs = Vec::with_capacity(results.len());
        for (ty, shape) in results.iter().zip(&shapes) {
            let length = bertha_graph::byte_count(ty.dtype, shape).map_err(|error| error.to_string())?;
            outputs.push(Guarded::filled(length, fill, case.offset(ty.dtype)));
        }
        let copy = |input: &Option<_>| {
            let input: &Input = input.as_ref()?;
            Some(Guarded::holding(&input.bytes, case.offset(input.ty.dtype)))
        };
        let inputs = case.inputs.iter().map(copy).collect();
        Ok(Bench { case, results, shapes, inputs, outputs })
    }

    /// Runs the kernel once.
    pub(super) fn run(&mut self, threads: &mut dyn Parallel) -> Result<(), String> {
        let views: Vec<Option<TensorView<'_>>> = self
            .case
            .inputs
            .iter()
            .zip(&self.inputs)
            .map(|(input, memory)| {
                let (input, memory) = (input.as_ref()?, memory.as_ref()?);
                Some(TensorView { dtype: input.ty.dtype, shape: &input.shape, bytes: memory.bytes() })
            })
            .collect();
        let mut written: Vec<Option<TensorViewMut<'_>>> = self
            .outputs
            .iter_mut()
            .zip(self.results.iter().zip(&self.shapes))
            .map(|(memory, (ty, shape))| {
                Some(TensorViewMut { dtype: ty.dtype, shape, bytes: memory.bytes_mut() })
            })
            .collect();
        self.case.op.run(&views, &mut written, threads)
    }

    /// Whether all guards and operands are as they were.
    pub(super) fn check(&self) -> Result<(), String> {
        for (index, memory) in self.outputs.iter().enumerate() {
            memory.check().map_err(|where_| format!("the kernel writes {where_} result {index}"))?;
        }
        for (index, (memory, input)) in self.inputs.iter().zip(&self.case.inputs).enumerate() {
            let (Some(memory), Some(input)) = (memory, input) else { continue };
            memory.check().map_err(|where_| format!("the kernel writes {where_} operand {index}"))?;
            if memory.bytes() != input.bytes {
                return Err(format!("the kernel changes its operand {index}"));
            }
        }
        Ok(())
    }

    /// Bytes of all operands and results.
    pub(super) fn bytes(&self) -> usize {
        self.inputs.iter().flatten().chain(&self.outputs).map(|memory| memory.bytes().len()).sum()
    }

    /// What the results hold.
    pub(super) fn into_results(self) -> Vec<Vec<u8>> {
        self.outputs.into_iter().map(|memory| memory.bytes().to_vec()).collect()
    }
}
