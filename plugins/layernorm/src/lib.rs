//! Layer norm as a plugin, in the three stages that a kernel's author goes through.
//!
//! 1. [`LayerNormBasic`] normalises rows and nothing else; scale and shift are ops of the graph around it.
//! 2. [`LayerNormFused`] scales and shifts too, which saves two trips through memory.
//! 3. [`LayerNorm`] reads each row in vectors, and its statistics in one pass (Welford), in the processor's widest
//!    instruction set.
//!
//! All of them take any hidden size, f32 and f16 (with f32 inside), and the epsilon of the node.

mod basic;
mod fused;
mod lanes;
mod optimised;
mod rows;

use bertha_plugin::{
    CudaSource, Declaration, F64Tensor, Field, FieldSpec, Fields, Parallel, Plugin, TensorView, TensorViewMut,
};

/// The ONNX domain of all three.
const DOMAIN: &str = "bertha.plugins";

/// Stage 1: rows with mean 0 and variance 1.
pub struct LayerNormBasic;

/// Stage 2: with scale and shift, written plainly.
pub struct LayerNormFused;

/// Stage 3: with vectors and one pass.
pub struct LayerNorm;

bertha_plugin::export_plugins![LayerNorm, LayerNormBasic, LayerNormFused];

fn declaration(name: &str, signature: &str, description: &str) -> Declaration {
    let epsilon = FieldSpec::with_default("epsilon", Field::Float(1e-5))
        .within(0.0, 1.0)
        .describe("added to the variance");
    Declaration {
        name: name.to_owned(),
        version: 1,
        domain: DOMAIN.to_owned(),
        op_type: name.to_owned(),
        signature: signature.to_owned(),
        fields: vec![epsilon],
        row_wise: true,
        description: description.to_owned(),
    }
}

/// With scale and shift.
const AFFINE: &str =
    "x: T[...rows, hidden], gamma: T[hidden], beta?: T[hidden] -> y: T[...rows, hidden]; T = f32 | f16";

/// The definition in f64: `(x - mean) / sqrt(variance + epsilon) * gamma + beta`, with the mean of the squared
/// deviations as the variance. Gamma and beta may be absent.
fn reference(fields: &Fields, inputs: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
    let operand = |index: usize| inputs.get(index).copied().flatten();
    let x = operand(0).ok_or("x is missing")?;
    let (gamma, beta) = (operand(1), operand(2));
    let epsilon = fields.float("epsilon")?;
    let hidden = *x.shape.last().ok_or("x has no dimension")?;
    let mut values = x.values.clone();
    for row in values.chunks_mut(hidden.max(1)) {
        let mean = row.iter().sum::<f64>() / hidden as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / hidden as f64;
        for (column, x) in row.iter_mut().enumerate() {
            let scale = gamma.map_or(1.0, |gamma| gamma.values[column]);
            let shift = beta.map_or(0.0, |beta| beta.values[column]);
            *x = (*x - mean) / (variance + epsilon).sqrt() * scale + shift;
        }
    }
    Ok(vec![F64Tensor { shape: x.shape.clone(), values }])
}

type Inputs<'a> = [Option<TensorView<'a>>];
type Outputs<'a> = [Option<TensorViewMut<'a>>];

impl Plugin for LayerNormBasic {
    fn declaration(&self) -> Declaration {
        let signature = "x: T[...rows, hidden] -> y: T[...rows, hidden]; T = f32 | f16";
        declaration("LayerNormBasic", signature, "normalises rows, nothing else (stage 1)")
    }

    fn reference(&self, fields: &Fields, inputs: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
        reference(fields, inputs)
    }

    fn run(
        &self,
        fields: &Fields,
        inputs: &Inputs<'_>,
        outputs: &mut Outputs<'_>,
        threads: &mut dyn Parallel,
    ) -> Result<(), String> {
        rows::run(fields, inputs, outputs, threads, basic::row, basic::row)
    }
}

impl Plugin for LayerNormFused {
    fn declaration(&self) -> Declaration {
        declaration("LayerNormFused", AFFINE, "layer norm in one kernel (stage 2)")
    }

    fn reference(&self, fields: &Fields, inputs: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
        reference(fields, inputs)
    }

    fn run(
        &self,
        fields: &Fields,
        inputs: &Inputs<'_>,
        outputs: &mut Outputs<'_>,
        threads: &mut dyn Parallel,
    ) -> Result<(), String> {
        rows::run(fields, inputs, outputs, threads, fused::row, fused::row)
    }
}

impl Plugin for LayerNorm {
    fn declaration(&self) -> Declaration {
        declaration("LayerNorm", AFFINE, "layer norm with vectors and one pass over memory (stage 3)")
    }

    fn reference(&self, fields: &Fields, inputs: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
        reference(fields, inputs)
    }

    fn run(
        &self,
        fields: &Fields,
        inputs: &Inputs<'_>,
        outputs: &mut Outputs<'_>,
        threads: &mut dyn Parallel,
    ) -> Result<(), String> {
        rows::run(fields, inputs, outputs, threads, optimised::row_f32(), optimised::row_f16())
    }

    fn cuda(&self) -> Option<CudaSource> {
        Some(CudaSource {
            source: include_str!("layer_norm.cu").to_owned(),
            entry: "layer_norm_{T}".to_owned(),
            block: 256,
            items: "rows".to_owned(),
            items_per_block: 1,
            shared_bytes: 0,
        })
    }
}
