//! Lowering of linear layers, and of what deferred norms need around them.

use bertha_graph::{Dim, Node, TensorId, WeightLayout};

use super::deferred::NormOperands;
use super::lower::{Lowered, Lowering, operand};
use super::step::{CudaStep, DeferredNorm, Linear, NormOf, TensorIndex, WeightIndex};
use super::tensors::symbol;
use super::{Place, Storage, TensorPlan, WeightForm, WeightPlan};
use crate::kernels::Rows;
use crate::kernels::row::STATS_COLUMNS;

impl Lowering<'_> {
    pub(super) fn linear(
        &mut self,
        node: &Node,
        y: TensorId,
        layout: WeightLayout,
        activation: bertha_graph::Activation,
    ) -> Lowered<CudaStep> {
        let rows = self.rows_of(y)?;
        let (x, k) = self.matrix(node, 0, rows)?;
        let weight = operand(node, 1).ok_or("its weight is missing")?;
        let data = self.constant(weight).ok_or("its weight is computed")?;
        let n = match (layout, data.shape()) {
            (WeightLayout::OutIn, [n, width]) | (WeightLayout::InOut, [width, n]) if *width == k => *n,
            (_, shape) => return Err(format!("a weight of shape {shape:?} for {k} features")),
        };
        let bias = match operand(node, 2) {
            Some(bias) if self.constant(bias).is_none_or(|data| data.shape() != [n]) => {
                return Err("a bias that is no constant row".into());
            }
            bias => bias,
        };
        let residual = match operand(node, 3) {
            None => None,
            Some(_) => Some(self.matrix(node, 3, rows)?.0),
        };
        let (weight, bias, norm) = self.layer_weights(node, weight, layout, bias, n)?;
        let storage = self.storage_of_result(y);
        let output_f32 = self.storage != storage;
        let index = self.write(y, storage);
        self.make_room(index, rows, n);
        let stats = self.stats(y, index, n);
        Ok(CudaStep::Linear(Linear {
            x,
            weight,
            bias,
            residual,
            norm,
            y: index,
            stats,
            n,
            k,
            activation,
            rows,
            output_f32,
            next: None,
        }))
    }

    /// Weight and bias of a layer in the forms in which its kernel reads them, and the norm that it applies.
    fn layer_weights(
        &mut self,
        node: &Node,
        weight: TensorId,
        layout: WeightLayout,
        bias: Option<TensorId>,
        n: usize,
    ) -> Lowered<(WeightIndex, WeightIndex, Option<DeferredNorm>)> {
        let name = |lowering: &Self, id: TensorId| lowering.graph.tensor(id).name.clone();
        let bias_name = bias.map(|id| name(self, id)).unwrap_or_default();
        for (place, is_input) in [(0, true), (3, false)] {
            let Some(norm) = operand(node, place).and_then(|rows| self.deferred.norm(rows)).copied() else {
                continue;
            };
            let NormOperands { rows, gamma, beta, epsilon } = norm;
            let rows = self.read(rows)?;
            let stats = *self.stats_of.get(&rows).ok_or("a deferred norm of rows without statistics")?;
            let beta = name(self, beta);
            let (weight, form, of) = if is_input {
                let form = WeightForm::BiasOfNorm { matrix: name(self, weight), layout, beta };
                let gamma = name(self, gamma);
                (self.weight(weight, WeightForm::Centred { layout, gamma }), form, NormOf::Input)
            } else {
                let gamma = self.weight(gamma, WeightForm::F32);
                let weight = self.weight(weight, WeightForm::of_matrix(layout));
                (weight, WeightForm::BiasAndShift { beta }, NormOf::Residual { gamma })
            };
            let bias = self.weight_plan(WeightPlan { name: bias_name, form });
            return Ok((weight, bias, Some(DeferredNorm { of, stats, epsilon })));
        }
        let form = if bias.is_some() { WeightForm::F32 } else { WeightForm::Zeros(n) };
        let bias = self.weight_plan(WeightPlan { name: bias_name, form });
        Ok((self.weight(weight, WeightForm::of_matrix(layout)), bias, None))
    }

    /// The tensor for statistics of the rows of `id`, which is tensor `index`, when a deferred norm wants them.
    pub(super) fn stats(&mut self, id: TensorId, index: TensorIndex, width: usize) -> Option<TensorIndex> {
        if !self.deferred.wants_stats(id) {
            return None;
        }
        let rows = symbol(Rows::Tokens);
        let pairs = Dim::from(2 * (width / STATS_COLUMNS));
        let size = &(&rows * &pairs) * &Dim::from(Storage::F32.bytes());
        let name = format!("{} (statistics)", self.graph.tensor(id).name);
        let place = Place::Slot(self.buffers.len());
        let stats = self.tensors.len();
        self.tensors.push(TensorPlan { name, storage: Storage::F32, dims: vec![rows, pairs], place });
        self.new_buffer(stats, size);
        self.stats_of.insert(index, stats);
        Some(stats)
    }
}
