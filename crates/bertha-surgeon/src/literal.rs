//! Values as they are written: numbers, texts and lists.

use std::fmt;

use bertha_import::onnx::proto::{AttributeProto, AttributeType, TensorProto};

use crate::types::type_name;

/// A written value.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// A whole number.
    Int(i64),
    /// A number with a point or an exponent.
    Float(f64),
    /// A text in quotes.
    Text(String),
    /// Values in brackets.
    List(Vec<Literal>),
}

impl Literal {
    /// The number, whole or not.
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Literal::Int(number) => Some(*number as f64),
            Literal::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The numbers of a list of numbers.
    pub(crate) fn numbers(&self) -> Option<Vec<f64>> {
        match self {
            Literal::List(items) => items.iter().map(Literal::number).collect(),
            _ => None,
        }
    }

    /// An attribute that holds this. Lists hold whole numbers, numbers, or texts; an empty one is of whole numbers.
    ///
    /// # Errors
    /// What an attribute cannot hold.
    pub fn attribute(&self, name: &str) -> Result<AttributeProto, String> {
        let mut attribute = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
        let ty = match self {
            Literal::Int(number) => {
                attribute.i = *number;
                AttributeType::Int
            }
            Literal::Float(number) => {
                attribute.f = *number as f32;
                AttributeType::Float
            }
            Literal::Text(text) => {
                attribute.s = text.clone().into();
                AttributeType::String
            }
            Literal::List(items) if items.iter().all(|item| matches!(item, Literal::Int(_))) => {
                let ints = items.iter().filter_map(|item| match item {
                    Literal::Int(number) => Some(*number),
                    _ => None,
                });
                attribute.ints = ints.collect();
                AttributeType::Ints
            }
            Literal::List(items) => match self.numbers() {
                Some(numbers) => {
                    attribute.floats = numbers.into_iter().map(|number| number as f32).collect();
                    AttributeType::Floats
                }
                None => {
                    for item in items {
                        let Literal::Text(text) = item else {
                            return Err(format!("attribute `{name}` cannot hold the mixed list {self}"));
                        };
                        attribute.strings.push(text.clone().into());
                    }
                    AttributeType::Strings
                }
            },
        };
        attribute.r#type = ty as i32;
        Ok(attribute)
    }

    /// What an attribute holds, when it can be written.
    pub(crate) fn of_attribute(attribute: &AttributeProto) -> Option<Literal> {
        let text = |bytes: &bytes::Bytes| Literal::Text(String::from_utf8_lossy(bytes).into_owned());
        Some(match AttributeType::try_from(attribute.r#type).ok()? {
            AttributeType::Int => Literal::Int(attribute.i),
            AttributeType::Float => Literal::Float(shortest(attribute.f)),
            AttributeType::String => text(&attribute.s),
            AttributeType::Ints => {
                Literal::List(attribute.ints.iter().map(|int| Literal::Int(*int)).collect())
            }
            AttributeType::Floats => {
                Literal::List(attribute.floats.iter().map(|float| Literal::Float(shortest(*float))).collect())
            }
            AttributeType::Strings => Literal::List(attribute.strings.iter().map(text).collect()),
            _ => return None,
        })
    }
}

/// The f64 that prints like this f32.
fn shortest(float: f32) -> f64 {
    float.to_string().parse().unwrap_or(f64::from(float))
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Int(number) => write!(f, "{number}"),
            Literal::Float(number) => write!(f, "{number:?}"),
            Literal::Text(text) => write!(f, "{text:?}"),
            Literal::List(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
        }
    }
}

/// An attribute's content in words.
pub(crate) fn describe(attribute: &AttributeProto) -> String {
    if !attribute.ref_attr_name.is_empty() {
        return format!("<attribute {} of the function>", attribute.ref_attr_name);
    }
    if let Some(literal) = Literal::of_attribute(attribute) {
        return literal.to_string();
    }
    let tensor = |tensor: &TensorProto| format!("{}{:?}", type_name(tensor.data_type), tensor.dims);
    match (&attribute.t, &attribute.tensors[..]) {
        (Some(one), _) => tensor(one),
        (None, [_, ..]) => attribute.tensors.iter().map(tensor).collect::<Vec<_>>().join(", "),
        (None, []) => match AttributeType::try_from(attribute.r#type) {
            Ok(ty) => format!("<{ty:?}>").to_lowercase(),
            Err(_) => format!("<type {}>", attribute.r#type),
        },
    }
}
