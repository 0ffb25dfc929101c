//! Attributes of operations: `{axis: -1, to: f16}`.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::dtype::DType;
use crate::plugin::Field;
use crate::tensor::TensorData;

use super::cursor::{Cursor, name_text, quote};
use super::{MAX_DEPTH, ParseError, literal};

/// Attributes that one operation can have; plugins have as many as they like, within reason.
const MAX_ATTRIBUTES: usize = 1024;

/// The value of an attribute. Numbers stay text until it is known what they must be.
#[derive(Clone, Debug)]
pub(super) enum Attribute {
    Number(String),
    Word(String),
    Text(String),
    List(Vec<Attribute>),
    /// `ints[1, 2]`: a list that says what it holds, though empty.
    Typed(&'static str, Vec<Attribute>),
    Map(Attributes),
    /// `f32[1](0.5)`.
    Tensor(TensorData),
}

/// Attributes by name, in the order they are written.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes(Vec<(String, Attribute)>);

impl Attributes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn set(&mut self, name: &str, value: Attribute) {
        self.0.push((name.to_owned(), value));
    }

    /// With one more attribute.
    pub(super) fn with(mut self, name: &str, value: Attribute) -> Self {
        self.set(name, value);
        self
    }

    fn take_opt(&mut self, name: &str) -> Option<Attribute> {
        let index = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.remove(index).1)
    }

    /// Takes an attribute out.
    pub(super) fn take(&mut self, name: &str) -> Result<Attribute, String> {
        self.take_opt(name).ok_or_else(|| format!("attribute `{name}` is missing"))
    }

    /// Takes a number out.
    pub(super) fn number<T: std::str::FromStr>(&mut self, name: &str) -> Result<T, String> {
        self.take(name)?.number().map_err(|why| format!("attribute `{name}`: {why}"))
    }

    pub(super) fn f32(&mut self, name: &str) -> Result<f32, String> {
        self.take(name)?.f32().map_err(|why| format!("attribute `{name}`: {why}"))
    }

    /// Takes out one of the words that a type of the IR has for its variants.
    pub(super) fn word<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, String> {
        match self.take(name)? {
            Attribute::Word(word) => serde_json::from_value(serde_json::Value::String(word))
                .map_err(|why| format!("attribute `{name}`: {why}")),
            other => Err(format!("attribute `{name}`: expected a word, found {other}")),
        }
    }

    pub(super) fn dtype(&mut self, name: &str) -> Result<DType, String> {
        match self.take(name)? {
            Attribute::Word(word) => word.parse(),
            other => Err(format!("attribute `{name}`: expected an element type, found {other}")),
        }
    }

    pub(super) fn bool(&mut self, name: &str) -> Result<bool, String> {
        match self.take(name)? {
            Attribute::Word(word) if word == "true" => Ok(true),
            Attribute::Word(word) if word == "false" => Ok(false),
            other => Err(format!("attribute `{name}`: expected true or false, found {other}")),
        }
    }

    /// Takes an attribute out; `None` where the word is `none`.
    pub(super) fn optional(&mut self, name: &str) -> Result<Option<Attribute>, String> {
        match self.take(name)? {
            Attribute::Word(word) if word == "none" => Ok(None),
            value => Ok(Some(value)),
        }
    }

    /// Errs when something is left.
    pub(super) fn finish(self) -> Result<(), String> {
        match self.0.first() {
            Some((name, _)) => Err(format!("there is no attribute `{name}`")),
            None => Ok(()),
        }
    }

    pub(super) fn into_fields(self) -> Result<std::collections::BTreeMap<String, Field>, String> {
        self.0.into_iter().map(|(name, value)| Ok((name, value.into_field()?))).collect()
    }
}

impl Attribute {
    pub(super) fn int(value: impl fmt::Display) -> Self {
        Attribute::Number(value.to_string())
    }

    pub(super) fn float(value: f32) -> Self {
        Attribute::Number(literal::f32_text(value))
    }

    pub(super) fn bool(value: bool) -> Self {
        Attribute::Word(value.to_string())
    }

    pub(super) fn dtype(value: DType) -> Self {
        Attribute::Word(value.name().to_owned())
    }

    /// The word of a variant, as its type serialises it.
    pub(super) fn word(value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(serde_json::Value::String(word)) => Attribute::Word(word),
            other => Attribute::Text(format!("{other:?}")),
        }
    }

    pub(super) fn none() -> Self {
        Attribute::Word("none".into())
    }

    pub(super) fn number<T: std::str::FromStr>(self) -> Result<T, String> {
        match self {
            Attribute::Number(text) => {
                text.parse().map_err(|_| format!("`{text}` is not a number that fits here"))
            }
            other => Err(format!("expected a number, found {other}")),
        }
    }

    pub(super) fn f32(self) -> Result<f32, String> {
        match self {
            Attribute::Number(text) => literal::parse_f32(&text),
            other => Err(format!("expected a number, found {other}")),
        }
    }

    pub(super) fn field(field: &Field) -> Self {
        let float = |value: &f64| Attribute::Number(literal::f64_text(*value));
        match field {
            Field::Int(value) => Attribute::int(value),
            Field::Float(value) => float(value),
            Field::Text(text) => Attribute::Text(text.clone()),
            Field::Ints(values) => Attribute::Typed("ints", values.iter().map(Attribute::int).collect()),
            Field::Floats(values) => Attribute::Typed("floats", values.iter().map(float).collect()),
        }
    }

    fn into_field(self) -> Result<Field, String> {
        match self {
            Attribute::Number(text) => match text.parse() {
                Ok(value) => Ok(Field::Int(value)),
                Err(_) => literal::parse_f64(&text).map(Field::Float),
            },
            Attribute::Text(text) => Ok(Field::Text(text)),
            Attribute::Typed("ints", values) => {
                values.into_iter().map(Attribute::number).collect::<Result<_, _>>().map(Field::Ints)
            }
            Attribute::Typed(_, values) => {
                let float = |value| match value {
                    Attribute::Number(text) => literal::parse_f64(&text),
                    other => Err(format!("expected a number, found {other}")),
                };
                values.into_iter().map(float).collect::<Result<_, _>>().map(Field::Floats)
            }
            other => Err(format!("expected a number, a text, ints[...] or floats[...], found {other}")),
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attribute::Number(text) | Attribute::Word(text) => f.write_str(text),
            Attribute::Text(text) => f.write_str(&quote(text)),
            Attribute::List(values) => write!(f, "[{}]", join(values)),
            Attribute::Typed(kind, values) => write!(f, "{kind}[{}]", join(values)),
            Attribute::Map(attributes) => write!(f, "{attributes}"),
            Attribute::Tensor(data) => {
                let texts = literal::element_texts(data).unwrap_or_default();
                write!(f, "{}({})", data.ty(), texts.join(", "))
            }
        }
    }
}

fn join(values: &[Attribute]) -> String {
    values.iter().map(Attribute::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (name, value)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}: {value}", name_text(name))?;
        }
        f.write_str("}")
    }
}

/// Reads `{name: value, ...}`.
pub(super) fn parse(cursor: &mut Cursor<'_>, depth: usize) -> Result<Attributes, ParseError> {
    cursor.expect("{")?;
    let mut attributes = Attributes::default();
    while !cursor.eat("}") {
        if !attributes.is_empty() {
            cursor.expect(",")?;
        }
        let position = cursor.position();
        let name = cursor.name("the name of an attribute")?;
        if attributes.0.iter().any(|(other, _)| *other == name) {
            return Err(cursor.error_at(position, format!("attribute `{name}` occurs twice")));
        }
        if attributes.0.len() == MAX_ATTRIBUTES {
            return Err(cursor.error_at(position, format!("expected at most {MAX_ATTRIBUTES} attributes")));
        }
        cursor.expect(":")?;
        let value = parse_value(cursor, depth)?;
        attributes.0.push((name, value));
    }
    Ok(attributes)
}

fn parse_value(cursor: &mut Cursor<'_>, depth: usize) -> Result<Attribute, ParseError> {
    if depth == 0 {
        let position = cursor.position();
        return Err(cursor.error_at(position, format!("expected at most {MAX_DEPTH} levels of nesting")));
    }
    match cursor.peek() {
        Some('"') => cursor.quoted().map(Attribute::Text),
        Some('[') => parse_list(cursor, depth).map(Attribute::List),
        Some('{') => parse(cursor, depth - 1).map(Attribute::Map),
        Some(c) if c == '-' || c.is_ascii_digit() => {
            cursor.number().map(|text| Attribute::Number(text.into()))
        }
        _ => match cursor.peek_word() {
            "" => Err(cursor.expected("the value of an attribute")),
            "inf" | "nan" => cursor.number().map(|text| Attribute::Number(text.into())),
            "ints" => {
                cursor.eat_word("ints");
                parse_list(cursor, depth).map(|values| Attribute::Typed("ints", values))
            }
            "floats" => {
                cursor.eat_word("floats");
                parse_list(cursor, depth).map(|values| Attribute::Typed("floats", values))
            }
            word => parse_word_or_tensor(cursor, word),
        },
    }
}

fn parse_list(cursor: &mut Cursor<'_>, depth: usize) -> Result<Vec<Attribute>, ParseError> {
    cursor.expect("[")?;
    let mut values = Vec::new();
    while !cursor.eat("]") {
        if !values.is_empty() {
            cursor.expect(",")?;
        }
        values.push(parse_value(cursor, depth - 1)?);
    }
    Ok(values)
}

/// A word; or, when a shape follows, a tensor.
fn parse_word_or_tensor(cursor: &mut Cursor<'_>, word: &str) -> Result<Attribute, ParseError> {
    let position = cursor.position();
    cursor.eat_word(word);
    if cursor.peek() != Some('[') {
        return Ok(Attribute::Word(word.to_owned()));
    }
    let dtype: DType = word.parse().map_err(|why: String| cursor.error_at(position, why))?;
    let shape = cursor.shape()?;
    let Some(shape) = shape.as_const() else {
        return Err(cursor.error_at(position, format!("expected sizes that are numbers, found {shape}")));
    };
    parse_elements(cursor, dtype, shape, ("(", ")")).map(Attribute::Tensor)
}

/// Elements between two brackets.
pub(super) fn parse_elements(
    cursor: &mut Cursor<'_>,
    dtype: DType,
    shape: Vec<usize>,
    (open, close): (&str, &str),
) -> Result<TensorData, ParseError> {
    let start = cursor.position();
    cursor.expect(open)?;
    let mut bytes = Vec::new();
    while !cursor.eat(close) {
        if !bytes.is_empty() {
            cursor.expect(",")?;
        }
        let position = cursor.position();
        let text = cursor.number()?;
        literal::push_element(dtype, text, &mut bytes).map_err(|why| cursor.error_at(position, why))?;
    }
    literal::tensor(dtype, shape, bytes).map_err(|why| cursor.error_at(start, why))
}
