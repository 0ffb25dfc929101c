//! From steps to launches.

use super::{CudaStep, Program, Storage};
use crate::kernels::{Launch, Setting, attention, gemm, row};

impl Program {
    /// The launch of every step, in order, for batches of this capacity.
    pub fn launches(&self, setting: &Setting) -> Vec<Launch> {
        self.steps.iter().map(|step| self.launch(&step.step, setting)).collect()
    }

    fn launch(&self, step: &CudaStep, setting: &Setting) -> Launch {
        let storage = self.storage;
        match step {
            CudaStep::Embedding(step) => row::embedding(storage, step, setting),
            CudaStep::LayerNorm { x, norm, y, width, rows } => {
                row::layer_norm(storage, [*x, *y], norm, *width, *rows, setting)
            }
            CudaStep::Linear(linear) => gemm::launch(storage, linear, setting),
            CudaStep::Attention(step) => attention::launch(storage, step, setting),
            CudaStep::Pool { kind, x, y, width } => {
                let output_f32 = self.tensors[*y].storage == Storage::F32;
                row::pool(storage, *kind, [*x, *y], *width, output_f32, setting)
            }
            CudaStep::Generated(generated) => generated.launch(setting),
        }
    }

    /// Rows of queries in an item of the attention work list; `None` for a program without attention.
    pub fn query_block(&self, setting: &Setting) -> Option<usize> {
        self.steps.iter().find_map(|step| match &step.step {
            CudaStep::Attention(step) => Some(attention::query_block(self.storage, step, setting)),
            _ => None,
        })
    }
}
