//! What must hold besides the wiring.

use bertha_import::onnx::proto::dimension;

use super::{Matcher, State, describe, is_close, same_value};
use crate::literal::Literal;
use crate::pattern::{Comparison, Condition, ConditionKind, Fact, Operand};
use crate::types::{dimension_text, type_name};

/// The node or tensor where a condition failed, and how.
type Failed = (String, String);

/// A value to compare, with how exact it is.
struct Side {
    literal: Literal,
    tolerance: f64,
}

impl Matcher<'_, '_, '_, '_> {
    /// Checks all conditions.
    pub(super) fn conditions(&self, state: &State) -> Result<(), Failed> {
        self.pattern.conditions.iter().try_for_each(|condition| self.condition(condition, state))
    }

    fn condition(&self, condition: &Condition, state: &State) -> Result<(), Failed> {
        let failed = |variable: &str, found: String| {
            let place =
                state.tensors.get(variable).map_or_else(|| variable.to_owned(), |tensor| self.place(tensor));
            (place, format!("`{}` does not hold: {found}", condition.text))
        };
        match &condition.kind {
            ConditionKind::Facts { variable, facts } => {
                // An alternative that was not taken has nothing to say.
                let Some(tensor) = state.tensors.get(variable) else { return Ok(()) };
                for fact in facts {
                    self.fact(fact, tensor).map_err(|found| failed(variable, found))?;
                }
                Ok(())
            }
            ConditionKind::OneOf { variable, values } => {
                let Some(side) = self
                    .side(&Operand::Variable(variable.clone()), state)
                    .map_err(|why| failed(variable, why))?
                else {
                    return Ok(());
                };
                if values.iter().any(|value| same_value(&side.literal, value)) {
                    return Ok(());
                }
                Err(failed(variable, format!("it is {}", side.literal)))
            }
            ConditionKind::Compare { left, comparison, right } => {
                let variable = match (left, right) {
                    (Operand::Variable(variable), _) | (_, Operand::Variable(variable)) => variable.as_str(),
                    _ => "",
                };
                let of = |operand| self.side(operand, state).map_err(|why| failed(variable, why));
                let (Some(left), Some(right)) = (of(left)?, of(right)?) else { return Ok(()) };
                match compare(&left, *comparison, &right) {
                    Some(true) => Ok(()),
                    Some(false) => {
                        Err(failed(variable, format!("{} is compared with {}", left.literal, right.literal)))
                    }
                    None => Err(failed(
                        variable,
                        format!("{} and {} cannot be compared so", left.literal, right.literal),
                    )),
                }
            }
        }
    }

    fn fact(&self, fact: &Fact, tensor: &str) -> Result<(), String> {
        let holds = |holds: bool, found: String| if holds { Ok(()) } else { Err(found) };
        let shape = || {
            let shape = self.scope.tensor_type(tensor).and_then(|ty| ty.shape);
            shape.ok_or_else(|| format!("the shape of `{tensor}` is not known"))
        };
        match fact {
            Fact::Shared => Ok(()),
            Fact::Not(inner) => holds(self.fact(inner, tensor).is_err(), format!("`{tensor}` is just that")),
            Fact::Constant => {
                holds(self.scope.constant(tensor).is_some(), format!("`{tensor}` is no constant"))
            }
            Fact::Scalar => {
                let dims = shape()?.dim;
                let one = |dim: &bertha_import::onnx::proto::Dimension| {
                    dim.value == Some(dimension::Value::DimValue(1))
                };
                holds(dims.iter().all(one), format!("`{tensor}` has more than one element"))
            }
            Fact::Rank(rank) => {
                let found = shape()?.dim.len();
                holds(found == *rank, format!("`{tensor}` has {found} dimensions"))
            }
            Fact::Shape(lengths) => {
                let dims = shape()?.dim;
                let fits = dims.len() == lengths.len()
                    && dims.iter().zip(lengths).all(|(dim, length)| match length {
                        None => true,
                        Some(length) => dim.value == Some(dimension::Value::DimValue(*length)),
                    });
                let found: Vec<_> = dims.iter().map(dimension_text).collect();
                holds(fits, format!("`{tensor}` has the shape [{}]", found.join(", ")))
            }
            Fact::Type(name) => {
                let ty = self.scope.tensor_type(tensor);
                let found = ty.map(|ty| type_name(ty.elem_type));
                let found = found.ok_or_else(|| format!("the type of `{tensor}` is not known"))?;
                holds(found == *name, format!("`{tensor}` is of type {found}"))
            }
        }
    }

    /// `None` for a variable of an alternative that was not taken.
    fn side(&self, operand: &Operand, state: &State) -> Result<Option<Side>, String> {
        let variable = match operand {
            Operand::Literal(literal) => {
                return Ok(Some(Side { literal: literal.clone(), tolerance: 0.0 }));
            }
            Operand::Variable(variable) => variable,
        };
        if let Some(attribute) = state.attributes.get(variable) {
            let literal = Literal::of_attribute(attribute);
            let literal = literal.ok_or_else(|| format!("the value of `{variable}` cannot be compared"))?;
            return Ok(Some(Side { literal, tolerance: 1e-6 }));
        }
        let Some(tensor) = state.tensors.get(variable) else { return Ok(None) };
        let elements = self.scope.elements(tensor);
        let elements = elements.ok_or_else(|| format!("`{tensor}` is no small constant"))?;
        let number = |number: &f64| {
            if elements.whole { Literal::Int(*number as i64) } else { Literal::Float(*number) }
        };
        let literal = match &elements.numbers[..] {
            [one] if elements.dims.len() <= 1 => number(one),
            numbers if elements.dims.len() == 1 => Literal::List(numbers.iter().map(number).collect()),
            _ => return Err(format!("`{tensor}` is {}, no number and no list", describe(&elements))),
        };
        Ok(Some(Side { literal, tolerance: elements.tolerance }))
    }
}

/// `None` when the two cannot be compared.
fn compare(left: &Side, comparison: Comparison, right: &Side) -> Option<bool> {
    let tolerance = left.tolerance.max(right.tolerance);
    let single = |literal: &Literal| match literal {
        Literal::List(items) if items.len() == 1 => items.first().and_then(Literal::number),
        other => other.number(),
    };
    let equal = match (single(&left.literal), single(&right.literal)) {
        (Some(left), Some(right)) => is_close(left, right, tolerance),
        _ => match (left.literal.numbers(), right.literal.numbers()) {
            (Some(left), Some(right)) => {
                left.len() == right.len() && left.iter().zip(&right).all(|(a, b)| is_close(*a, *b, tolerance))
            }
            _ => same_value(&left.literal, &right.literal),
        },
    };
    let ordered = || Some((single(&left.literal)?, single(&right.literal)?));
    Some(match comparison {
        Comparison::Equal => equal,
        Comparison::Unequal => !equal,
        Comparison::Less => ordered().map(|(left, right)| left < right && !equal)?,
        Comparison::LessOrEqual => ordered().map(|(left, right)| left < right || equal)?,
        Comparison::Greater => ordered().map(|(left, right)| left > right && !equal)?,
        Comparison::GreaterOrEqual => ordered().map(|(left, right)| left > right || equal)?,
    })
}
