//! From steps to launches.

use super::{CudaStep, Program, Storage};
use crate::driver::LaunchConfig;
use crate::kernels::{Launch, Rows, Setting, attention, gemm, row};

/// The most blocks of a grid in its second dimension, and in its third; the first takes any number that fits 31 bits.
const MOST_BLOCKS: u32 = 65_535;

impl Program {
    /// The launch of every step, in order, for batches of this capacity.
    pub fn launches(&self, setting: &Setting) -> Vec<Launch> {
        self.steps.iter().map(|step| self.launch(&step.step, setting)).collect()
    }

    /// This program with so many rows in each matrix.
    pub(crate) fn with_rows(&self, count: Rows) -> Self {
        let mut program = self.clone();
        for step in &mut program.steps {
            match &mut step.step {
                CudaStep::LayerNorm { rows, .. } => *rows = count,
                CudaStep::Linear(linear) => linear.rows = count,
                CudaStep::Embedding(_)
                | CudaStep::Attention(_)
                | CudaStep::Pool { .. }
                | CudaStep::Generated(_)
                | CudaStep::Plugin(_) => {}
            }
        }
        program
    }

    /// The first step whose launch for batches of this capacity has more blocks than a grid may have: its node, and how
    /// many there would be.
    pub(crate) fn too_large(&self, setting: &Setting) -> Option<(&str, u32)> {
        let too_many = |LaunchConfig { grid: [x, y, z], .. }: LaunchConfig| {
            if y.max(z) > MOST_BLOCKS { Some(y.max(z)) } else { (i32::try_from(x).is_err()).then_some(x) }
        };
        self.steps.iter().find_map(|step| {
            too_many(self.launch(&step.step, setting).config).map(|blocks| (step.node.as_str(), blocks))
        })
    }

    fn launch(&self, step: &CudaStep, setting: &Setting) -> Launch {
        let storage = self.storage;
        match step {
            CudaStep::Embedding(step) => row::embedding(storage, step, setting),
            CudaStep::LayerNorm { x, norm, y, width, rows } => {
                let output_f32 = self.tensors[*y].storage == Storage::F32;
                row::layer_norm(storage, [*x, *y], norm, *width, *rows, output_f32, setting)
            }
            CudaStep::Linear(linear) => gemm::launch(storage, linear, setting, &self.tactics),
            CudaStep::Attention(step) => attention::launch(storage, step, setting),
            CudaStep::Pool { kind, x, y, width } => {
                let output_f32 = self.tensors[*y].storage == Storage::F32;
                row::pool(storage, *kind, [*x, *y], *width, output_f32, setting)
            }
            CudaStep::Generated(generated) => generated.launch(setting),
            CudaStep::Plugin(plugin) => plugin.launch(setting),
        }
    }

    /// Rows of queries in an item of the attention work list, the same for all attentions, since lowering refuses those of
    /// different shapes; `None` for a program without attention.
    pub fn query_block(&self, setting: &Setting) -> Option<usize> {
        self.steps.iter().find_map(|step| match &step.step {
            CudaStep::Attention(step) => Some(attention::query_block(self.storage, step, setting)),
            _ => None,
        })
    }
}
