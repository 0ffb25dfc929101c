//! What the three stages share: operands out, rows over threads.

use bertha_plugin::{DType, Element, Fields, Parallel, TensorView, TensorViewMut, for_rows};
use half::f16;

/// One row's scale and shift; empty ones stand for 1 and 0.
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a, T> {
    pub(crate) gamma: &'a [T],
    pub(crate) beta: &'a [T],
    pub(crate) epsilon: f32,
}

/// Normalises one row of `x` into `y`.
pub(crate) type Row<T> = fn(x: &[T], affine: Affine<'_, T>, y: &mut [T]);

/// Runs `f32s` or `f16s` on every row.
pub(crate) fn run(
    fields: &Fields,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [Option<TensorViewMut<'_>>],
    threads: &mut dyn Parallel,
    f32s: Row<f32>,
    f16s: Row<f16>,
) -> Result<(), String> {
    let epsilon = fields.float("epsilon")? as f32;
    match inputs.first().and_then(Option::as_ref).map(|x| x.dtype) {
        Some(DType::F32) => each_row(epsilon, inputs, outputs, threads, f32s),
        Some(DType::F16) => each_row(epsilon, inputs, outputs, threads, f16s),
        other => Err(format!("x is {other:?}")),
    }
}

fn each_row<T: Element>(
    epsilon: f32,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [Option<TensorViewMut<'_>>],
    threads: &mut dyn Parallel,
    row: Row<T>,
) -> Result<(), String> {
    let operand = |index: usize| inputs.get(index).and_then(Option::as_ref);
    let slice = |index: usize| operand(index).map_or(Ok(&[][..]), TensorView::as_slice::<T>);
    let Some(Some(y)) = outputs.first_mut() else { return Ok(()) };
    let (x, affine) = (slice(0)?, Affine { gamma: slice(1)?, beta: slice(2)?, epsilon });
    let hidden = y.shape.last().copied().unwrap_or(0);
    for_rows(threads, y.as_mut_slice::<T>()?, hidden, |index, y| {
        row(&x[index * hidden..(index + 1) * hidden], affine, y);
    });
    Ok(())
}

/// A number as the kernels compute with it, whatever it is stored as.
pub(crate) trait Number: Element {
    fn load(self) -> f32;
    fn store(value: f32) -> Self;
}

impl Number for f32 {
    fn load(self) -> f32 {
        self
    }

    fn store(value: f32) -> Self {
        value
    }
}

impl Number for f16 {
    fn load(self) -> f32 {
        self.to_f32()
    }

    fn store(value: f32) -> Self {
        f16::from_f32(value)
    }
}
