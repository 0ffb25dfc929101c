//! What a caller's shapes say of the symbols in a graph's input types.

use crate::dim::{Bindings, Dim};
use crate::error::GraphError;
use crate::graph::Graph;
use crate::shape::TensorType;

impl Graph {
    /// The values of the symbols in the input types, given concrete types by order of the inputs.
    ///
    /// `batch + 1` binds `batch` too. An error names the input whose type contradicts the declared one, or in which a
    /// symbol has another value than before.
    pub fn bind_inputs(&self, input_types: &[TensorType]) -> Result<Bindings, GraphError> {
        if input_types.len() != self.inputs().len() {
            let (expected, found) = (self.inputs().len(), input_types.len());
            return Err(GraphError::InputCount { expected, found });
        }
        let mut bindings = Bindings::new();
        // Later inputs may name a symbol alone that an earlier one has in a sum, so go on until nothing is learnt.
        loop {
            let known = bindings.len();
            for index in 0..input_types.len() {
                self.bind_input(index, input_types, &mut bindings)?;
            }
            if bindings.len() == known {
                return Ok(bindings);
            }
        }
    }

    fn bind_input(
        &self,
        index: usize,
        input_types: &[TensorType],
        bindings: &mut Bindings,
    ) -> Result<(), GraphError> {
        let (Some(id), Some(given)) = (self.inputs().get(index), input_types.get(index)) else {
            return Ok(());
        };
        let declared = self.tensor(*id);
        let refuse = |why: String| GraphError::Input {
            name: declared.name.clone(),
            expected: declared.ty.clone(),
            found: given.clone(),
            why,
        };
        if given.dtype != declared.ty.dtype {
            return Err(refuse("the element types differ".into()));
        }
        if given.shape.rank() != declared.ty.shape.rank() {
            return Err(refuse("the numbers of dimensions differ".into()));
        }
        for (axis, (declared, given)) in declared.ty.shape.dims().iter().zip(given.shape.dims()).enumerate() {
            let size = given.as_const().filter(|size| *size >= 0);
            let size = size.ok_or_else(|| refuse(format!("dimension {axis} is not a size")))?;
            let rest = declared.substitute(bindings);
            match rest.as_const() {
                Some(expected) if expected == size => {}
                Some(expected) if declared.is_const() => {
                    return Err(refuse(format!("dimension {axis} must be {expected}")));
                }
                Some(expected) => {
                    return Err(refuse(format!("dimension {axis}, {declared}, is {expected} elsewhere")));
                }
                None => bind_dim(&rest, size, bindings)
                    .map_err(|()| refuse(format!("dimension {axis} cannot be {declared}")))?,
            }
        }
        Ok(())
    }
}

/// Solves `dim == size` when one symbol is left, and that linear.
fn bind_dim(dim: &Dim, size: i64, bindings: &mut Bindings) -> Result<(), ()> {
    let mut symbols = dim.symbols().into_iter();
    let (Some(symbol), None) = (symbols.next(), symbols.next()) else { return Ok(()) };
    // For a linear polynomial, the values at 0 and 1 tell the constant and the coefficient.
    let at = |value: i64| dim.substitute(&Bindings::from([(symbol.clone(), value)])).as_const();
    let (Some(constant), Some(next)) = (at(0), at(1)) else { return Ok(()) };
    let Some(coefficient) = next.checked_sub(constant).filter(|coefficient| *coefficient != 0) else {
        return Ok(());
    };
    let linear = &(&Dim::from(coefficient) * &Dim::from(&*symbol)) + &Dim::from(constant);
    if linear != *dim {
        return Ok(());
    }
    let difference = size.checked_sub(constant).ok_or(())?;
    match (difference.checked_rem(coefficient), difference.checked_div(coefficient)) {
        (Some(0), Some(value)) if value >= 0 => {
            bindings.insert(symbol, value);
            Ok(())
        }
        _ => Err(()),
    }
}
