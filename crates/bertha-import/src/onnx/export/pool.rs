//! One row for each padded sequence.

use bertha_graph::{DType, Node, PoolKind};

use super::values::{Exporter, Kind, Lowered, operand_id};
use super::writer::int;

/// An empty sequence divides by this, as sentence-transformers has it.
const LEAST_COUNT: f64 = 1e-9;

impl Exporter<'_> {
    pub(super) fn pool(&mut self, node: &Node, pool: PoolKind) -> Lowered {
        let (x, kind) = self.operand(node, 0)?;
        if kind != Kind::Tokens {
            return Err("pools something that is not tokens".into());
        }
        let dtype = self.dtype(operand_id(node, 0)?);
        let at = |part: &str| format!("{}/{part}", node.name);
        match pool {
            PoolKind::Cls => {
                let first = self.writer.int(0);
                Ok(self.writer.node(&at("first"), "Gather", &[&x, &first], vec![int("axis", 1)]))
            }
            PoolKind::LastToken => {
                let weights = self.is_last_token(dtype)?;
                self.weighted_sum(&at("last"), &x, &weights)
            }
            PoolKind::Max => {
                let least = self.writer.float(dtype, f64::NEG_INFINITY)?;
                let mask = self.mask.clone();
                let w = &mut self.writer;
                let mask = w.cast(&at("is_token"), &mask, DType::Bool);
                let mask = w.unsqueeze(&at("mask"), &mask, &[2]);
                let tokens = w.op(&at("tokens"), "Where", &[&mask, &x, &least]);
                Ok(w.reduce(&at("max"), "ReduceMax", &tokens, &[1], false))
            }
            PoolKind::Mean => {
                let weights = self.token_weights(dtype)?;
                self.weighted_mean(&at("mean"), &x, &weights, dtype, false)
            }
            PoolKind::MeanSqrtLen => {
                let weights = self.token_weights(dtype)?;
                self.weighted_mean(&at("mean_sqrt_len"), &x, &weights, dtype, true)
            }
            PoolKind::WeightedMean => {
                let weights = self.token_numbers(dtype)?;
                self.weighted_mean(&at("weighted_mean"), &x, &weights, dtype, false)
            }
        }
    }

    /// 1 for tokens and 0 for padding, `[batch, sequence, 1]`.
    fn token_weights(&mut self, dtype: DType) -> Lowered {
        self.shared(&format!("token weights {dtype}"), |this| {
            let mask = this.mask.clone();
            let mask = this.writer.cast("token_weights_flat", &mask, dtype);
            Ok(this.writer.unsqueeze("token_weights", &mask, &[2]))
        })
    }

    /// 1, 2, 3, ... for tokens and 0 for padding, `[batch, sequence, 1]`.
    fn token_numbers(&mut self, dtype: DType) -> Lowered {
        self.shared(&format!("token numbers {dtype}"), |this| {
            let mask = this.mask.clone();
            let axis = this.writer.int(1);
            let w = &mut this.writer;
            let count = w.op("tokens_so_far", "CumSum", &[&mask, &axis]);
            let numbers = w.op("token_number_masked", "Mul", &[&count, &mask]);
            let numbers = w.cast("token_numbers_flat", &numbers, dtype);
            Ok(w.unsqueeze("token_numbers", &numbers, &[2]))
        })
    }

    /// 1 for the last token of each sequence and 0 for all others, `[batch, sequence, 1]`.
    fn is_last_token(&mut self, dtype: DType) -> Lowered {
        let range = self.range()?;
        self.shared(&format!("last token {dtype}"), |this| {
            let mask = this.mask.clone();
            let one = this.writer.int(1);
            let w = &mut this.writer;
            let length = w.reduce("token_total", "ReduceSum", &mask, &[1], true);
            let last = w.op("last_position", "Sub", &[&length, &one]);
            let is_last = w.op("is_last_token", "Equal", &[&range, &last]);
            let is_last = w.cast("is_last_token_flat", &is_last, dtype);
            Ok(w.unsqueeze("last_token_weights", &is_last, &[2]))
        })
    }

    fn weighted_sum(&mut self, base: &str, x: &str, weights: &str) -> Lowered {
        let weighted = self.writer.op(&format!("{base}/weighted"), "Mul", &[x, weights]);
        Ok(self.writer.reduce(&format!("{base}/sum"), "ReduceSum", &weighted, &[1], false))
    }

    /// The weighted sum divided by the sum of the weights, or by its square root.
    fn weighted_mean(&mut self, base: &str, x: &str, weights: &str, dtype: DType, root: bool) -> Lowered {
        let sum = self.weighted_sum(base, x, weights)?;
        let least = self.writer.float(dtype, LEAST_COUNT)?;
        let at = |part: &str| format!("{base}/{part}");
        let w = &mut self.writer;
        let total = w.reduce(&at("total"), "ReduceSum", weights, &[1], false);
        let mut divisor = w.op(&at("divisor"), "Max", &[&total, &least]);
        if root {
            divisor = w.op(&at("root"), "Sqrt", &[&divisor]);
        }
        Ok(w.op(&at("mean"), "Div", &[&sum, &divisor]))
    }
}
