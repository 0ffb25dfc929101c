//! Shapes and tensor types.

use std::fmt;

use crate::dim::{Bindings, Dim};
use crate::dtype::DType;

/// The dimensions of a tensor, outermost first. A scalar has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The dimensions.
    pub fn dims(&self) -> &[Dim] {
        &self.0
    }

    /// Number of elements.
    pub fn elements(&self) -> Dim {
        self.0.iter().fold(Dim::from(1), |product, dim| &product * dim)
    }

    /// The shape as numbers, when no symbol occurs and no dimension is negative.
    pub fn as_const(&self) -> Option<Vec<usize>> {
        self.0.iter().map(|dim| dim.as_const().and_then(|d| usize::try_from(d).ok())).collect()
    }

    /// The shape with bound symbols replaced by their values.
    pub fn substitute(&self, bindings: &Bindings) -> Shape {
        Shape(self.0.iter().map(|dim| dim.substitute(bindings)).collect())
    }
}

/// Anything that lists dimensions: `shape!["tokens", 384]` reads best.
#[macro_export]
macro_rules! shape {
    ($($dim:expr),* $(,)?) => { $crate::Shape(vec![$($crate::Dim::from($dim)),*]) };
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, dim) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(dims: I) -> Self {
        Shape(dims.into_iter().map(Dim::from).collect())
    }
}

/// Element type and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// The element type.
    pub dtype: DType,
    /// The shape.
    pub shape: Shape,
}

impl TensorType {
    /// Puts the two together.
    pub fn new(dtype: DType, shape: Shape) -> Self {
        TensorType { dtype, shape }
    }
}

impl fmt::Display for TensorType {
    /// `f32[tokens, 384]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}
