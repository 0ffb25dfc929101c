//! Operations that move elements, and reductions.

use super::GraphBuilder;
use crate::error::GraphError;
use crate::graph::TensorId;
use crate::op::{Op, ReduceOp};
use crate::tensor::TensorData;

type Made = Result<TensorId, GraphError>;

/// A transpose, a reshape and a transpose, each of which may be left out; see [`GraphBuilder::shuffle`].
///
/// Written in the order in which it happens: `Shuffle::new().reshape([0, 12, 64]).transpose([1, 0, 2])`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shuffle {
    before: Option<Vec<usize>>,
    dims: Option<Vec<i64>>,
    after: Option<Vec<usize>>,
}

impl Shuffle {
    /// Nothing yet.
    pub fn new() -> Self {
        Shuffle::default()
    }

    /// Permutes the dimensions: before the reshape if called before [`reshape`](Self::reshape), else after it.
    pub fn transpose(mut self, perm: impl Into<Vec<usize>>) -> Self {
        let slot = if self.dims.is_none() { &mut self.before } else { &mut self.after };
        *slot = Some(perm.into());
        self
    }

    /// Gives the elements other dimensions: 0 copies the dimension at this place, one -1 takes what is left.
    pub fn reshape(mut self, dims: impl Into<Vec<i64>>) -> Self {
        self.dims = Some(dims.into());
        self
    }
}

/// Layout and reductions. Axes may be negative, counting from the end.
impl GraphBuilder {
    /// Transpose, reshape, transpose, in one call.
    ///
    /// Splitting `[tokens, 768]` into heads, `[12, tokens, 64]`:
    ///
    /// ```
    /// # use bertha_graph::{DType, GraphBuilder, Shuffle, shape};
    /// # let mut b = GraphBuilder::new("heads");
    /// let x = b.input("x", DType::F32, shape!["tokens", 768])?;
    /// let heads = b.shuffle(x, &Shuffle::new().reshape([0, 12, 64]).transpose([1, 0, 2]))?;
    /// assert_eq!(b.shape(heads).to_string(), "[12, tokens, 64]");
    /// # Ok::<(), bertha_graph::GraphError>(())
    /// ```
    pub fn shuffle(&mut self, x: TensorId, shuffle: &Shuffle) -> Made {
        let name = self.claim_name("shuffle");
        let mut steps = Vec::new();
        if let Some(perm) = &shuffle.before {
            steps.push(("transpose", Op::Transpose { perm: perm.clone() }, None));
        }
        if let Some(dims) = &shuffle.dims {
            steps.push(("reshape", Op::Reshape { allow_zero: false }, Some(dims.clone())));
        }
        if let Some(perm) = &shuffle.after {
            steps.push(("transpose", Op::Transpose { perm: perm.clone() }, None));
        }
        if steps.is_empty() {
            return self.place(name, Op::Unary(crate::op::UnaryOp::Identity), &[Some(x)]);
        }
        let last = steps.len() - 1;
        let mut x = x;
        for (index, (step, op, dims)) in steps.into_iter().enumerate() {
            let step_name = if index == last { name.clone() } else { format!("{name}.{step}") };
            let mut inputs = vec![Some(x)];
            if let Some(dims) = dims {
                inputs.push(Some(self.operand(&name, "shape", TensorData::vector(dims))?));
            }
            x = self.place(step_name, op, &inputs)?;
        }
        Ok(x)
    }

    /// The same elements under other dimensions: 0 copies the dimension at this place, one -1 takes what is left.
    pub fn reshape(&mut self, x: TensorId, dims: &[i64]) -> Made {
        let name = self.claim_name("reshape");
        let dims = self.operand(&name, "shape", TensorData::vector(dims.to_vec()))?;
        self.place(name, Op::Reshape { allow_zero: false }, &[Some(x), Some(dims)])
    }

    /// Dimension `i` of the result is dimension `perm[i]` of `x`.
    pub fn transpose(&mut self, x: TensorId, perm: &[usize]) -> Made {
        self.node(Op::Transpose { perm: perm.to_vec() }, &[Some(x)])
    }

    /// Removes dimensions of size 1.
    pub fn squeeze(&mut self, x: TensorId, axes: &[i64]) -> Made {
        self.with_axes(Op::Squeeze, x, axes)
    }

    /// Inserts dimensions of size 1 at these places of the result.
    pub fn unsqueeze(&mut self, x: TensorId, axes: &[i64]) -> Made {
        self.with_axes(Op::Unsqueeze, x, axes)
    }

    /// Slices of `x` along `axis`, one for each index (`I32` or `I64`); a scalar index removes the axis.
    pub fn gather(&mut self, x: TensorId, indices: TensorId, axis: i64) -> Made {
        self.node(Op::Gather { axis }, &[Some(x), Some(indices)])
    }

    /// Joins tensors along `axis`.
    pub fn concat(&mut self, tensors: &[TensorId], axis: i64) -> Made {
        let inputs: Vec<_> = tensors.iter().copied().map(Some).collect();
        self.node(Op::Concat { axis }, &inputs)
    }

    /// Cuts `x` along `axis` into pieces of these sizes.
    pub fn split(&mut self, x: TensorId, axis: i64, sizes: &[i64]) -> Result<Vec<TensorId>, GraphError> {
        let name = self.claim_name("split");
        let parts = sizes.len();
        let sizes = self.operand(&name, "sizes", TensorData::vector(sizes.to_vec()))?;
        let results: Vec<String> =
            (0..parts).map(|i| self.graph.fresh_name(&format!("{name}.{i}"))).collect();
        let results: Vec<&str> = results.iter().map(String::as_str).collect();
        let node = self.graph.add_node(name, Op::Split { axis, parts }, &[Some(x), Some(sizes)], &results)?;
        Ok(self.graph.node(node).outputs.iter().flatten().copied().collect())
    }

    /// The part of `x` along `axis` from `start` up to `end`, or to the last when `end` is `None`. Negative bounds count
    /// from the end: `b.slice(x, 0, 1, -1)` leaves out the first and the last row.
    pub fn slice(&mut self, x: TensorId, axis: i64, start: i64, end: impl Into<Option<i64>>) -> Made {
        let end = end.into().unwrap_or(i64::MAX);
        let name = self.claim_name("slice");
        let starts = self.operand(&name, "starts", TensorData::vector(vec![start]))?;
        let ends = self.operand(&name, "ends", TensorData::vector(vec![end]))?;
        let axes = self.operand(&name, "axes", TensorData::vector(vec![axis]))?;
        self.place(name, Op::Slice, &[Some(x), Some(starts), Some(ends), Some(axes)])
    }

    /// Broadcasts `x` to these dimensions; 1 keeps the dimension of `x`.
    pub fn expand(&mut self, x: TensorId, dims: &[i64]) -> Made {
        let name = self.claim_name("expand");
        let dims = self.operand(&name, "shape", TensorData::vector(dims.to_vec()))?;
        self.place(name, Op::Expand, &[Some(x), Some(dims)])
    }

    /// Sum, mean or product over these axes; all of them when the list is empty.
    pub fn reduce(&mut self, op: ReduceOp, x: TensorId, axes: &[i64], keep_dims: bool) -> Made {
        let reduce = Op::Reduce { op, keep_dims, noop_with_empty_axes: false };
        self.with_axes(reduce, x, axes)
    }

    /// An operation `x, axes? -> y`.
    fn with_axes(&mut self, op: Op, x: TensorId, axes: &[i64]) -> Made {
        let name = self.claim_name(op.mnemonic());
        let mut inputs = vec![Some(x)];
        if !axes.is_empty() {
            inputs.push(Some(self.operand(&name, "axes", TensorData::vector(axes.to_vec()))?));
        }
        self.place(name, op, &inputs)
    }
}
