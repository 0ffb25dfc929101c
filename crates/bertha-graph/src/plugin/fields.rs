//! Parameters of a plugin.

use std::collections::BTreeMap;
use std::fmt;

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each variant is its own explanation
pub enum Field {
    Int(i64),
    Float(f64),
    Text(String),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
}

impl Field {
    /// Which kind of value this is.
    pub fn kind(&self) -> FieldKind {
        match self {
            Field::Int(_) => FieldKind::Int,
            Field::Float(_) => FieldKind::Float,
            Field::Text(_) => FieldKind::Text,
            Field::Ints(_) => FieldKind::Ints,
            Field::Floats(_) => FieldKind::Floats,
        }
    }

    /// The numbers in it, for comparing with bounds.
    fn numbers(&self) -> Vec<f64> {
        match self {
            Field::Int(value) => vec![*value as f64],
            Field::Float(value) => vec![*value],
            Field::Text(_) => Vec::new(),
            Field::Ints(values) => values.iter().map(|value| *value as f64).collect(),
            Field::Floats(values) => values.clone(),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Int(value) => write!(f, "{value}"),
            Field::Float(value) => write!(f, "{value:?}"),
            Field::Text(value) => write!(f, "{value:?}"),
            Field::Ints(values) => write!(f, "{values:?}"),
            Field::Floats(values) => write!(f, "{values:?}"),
        }
    }
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each variant is its own explanation
pub enum FieldKind {
    Int,
    Float,
    Text,
    Ints,
    Floats,
}

impl FieldKind {
    /// Every kind, in order.
    pub const ALL: [FieldKind; 5] =
        [FieldKind::Int, FieldKind::Float, FieldKind::Text, FieldKind::Ints, FieldKind::Floats];

    /// The name in messages and listings.
    pub const fn name(self) -> &'static str {
        match self {
            FieldKind::Int => "int",
            FieldKind::Float => "float",
            FieldKind::Text => "text",
            FieldKind::Ints => "ints",
            FieldKind::Floats => "floats",
        }
    }
}

impl fmt::Display for FieldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a field may hold.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldSpec {
    /// The field's name, which is that of the ONNX attribute.
    pub name: String,
    /// Its type.
    pub kind: FieldKind,
    /// The value where a node gives none; a field without default must be given.
    pub default: Option<Field>,
    /// The least value allowed, for each number in it; `-inf` for none.
    pub min: f64,
    /// The largest value allowed, for each number in it; `inf` for none.
    pub max: f64,
    /// One line for people.
    pub description: String,
}

impl FieldSpec {
    /// A field that every node must give.
    pub fn required(name: &str, kind: FieldKind) -> Self {
        FieldSpec {
            name: name.to_owned(),
            kind,
            default: None,
            min: f64::NEG_INFINITY,
            max: f64::INFINITY,
            description: String::new(),
        }
    }

    /// A field that nodes may leave out.
    pub fn with_default(name: &str, default: Field) -> Self {
        FieldSpec { kind: default.kind(), default: Some(default), ..Self::required(name, FieldKind::Int) }
    }

    /// The same field with bounds, both of them allowed values.
    #[must_use]
    pub fn within(self, min: f64, max: f64) -> Self {
        FieldSpec { min, max, ..self }
    }

    /// The same field with a line for people.
    #[must_use]
    pub fn describe(self, description: &str) -> Self {
        FieldSpec { description: description.to_owned(), ..self }
    }

    /// What is wrong with the declaration itself.
    pub(super) fn check_itself(&self) -> Result<(), String> {
        if !crate::dim::is_symbol_name(&self.name) {
            return Err(format!("`{}` is no name of a field: letters, digits and `_`", self.name));
        }
        if self.min.is_nan() || self.max.is_nan() || self.min > self.max {
            return Err(format!(
                "field `{}` has the bounds {:?} to {:?}, which nothing is within",
                self.name, self.min, self.max
            ));
        }
        self.default.as_ref().map_or(Ok(()), |value| {
            self.check(value).map(drop).map_err(|why| format!("the default of {why}"))
        })
    }

    /// The value as this field takes it; a whole number is taken for a float.
    fn check(&self, value: &Field) -> Result<Field, String> {
        let name = &self.name;
        let value = match (self.kind, value) {
            (FieldKind::Float, Field::Int(whole)) => Field::Float(*whole as f64),
            (kind, value) if kind == value.kind() => value.clone(),
            (kind, value) => {
                return Err(format!("field `{name}` takes {kind}, not {} ({value})", value.kind()));
            }
        };
        let inside = |number: &f64| (self.min..=self.max).contains(number);
        match value.numbers().iter().find(|number| !inside(number)) {
            None => Ok(value),
            Some(number) => Err(format!("field `{name}` is {number:?}, outside of {}", self.bounds())),
        }
    }

    /// The bounds, for people: `0.0 to inf`.
    pub fn bounds(&self) -> String {
        format!("{:?} to {:?}", self.min, self.max)
    }
}

/// The values of all fields of one node, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(BTreeMap<String, Field>);

impl Fields {
    /// The values given, checked, and the defaults of the others.
    ///
    /// # Errors
    /// For a field that is not declared, has another type or is out of bounds, and for one without a default that is
    /// not given.
    pub fn new(specs: &[FieldSpec], given: BTreeMap<String, Field>) -> Result<Self, String> {
        if let Some(name) = given.keys().find(|name| specs.iter().all(|spec| spec.name != **name)) {
            let known: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!("there is no field `{name}`; the fields are: {known}"));
        }
        let mut fields = BTreeMap::new();
        for spec in specs {
            let value = match (given.get(&spec.name), &spec.default) {
                (Some(value), _) => spec.check(value)?,
                (None, Some(default)) => spec.check(default)?,
                (None, None) => return Err(format!("field `{}` ({}) is missing", spec.name, spec.kind)),
            };
            fields.insert(spec.name.clone(), value);
        }
        Ok(Fields(fields))
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&Field> {
        self.0.get(name)
    }

    /// The value of a field of kind int.
    ///
    /// # Errors
    /// When no such field is declared.
    pub fn int(&self, name: &str) -> Result<i64, String> {
        match self.get(name) {
            Some(Field::Int(value)) => Ok(*value),
            other => Err(undeclared(name, FieldKind::Int, other)),
        }
    }

    /// The value of a field of kind float.
    ///
    /// # Errors
    /// When no such field is declared.
    pub fn float(&self, name: &str) -> Result<f64, String> {
        match self.get(name) {
            Some(Field::Float(value)) => Ok(*value),
            other => Err(undeclared(name, FieldKind::Float, other)),
        }
    }

    /// The value of a field of kind text.
    ///
    /// # Errors
    /// When no such field is declared.
    pub fn text(&self, name: &str) -> Result<&str, String> {
        match self.get(name) {
            Some(Field::Text(value)) => Ok(value),
            other => Err(undeclared(name, FieldKind::Text, other)),
        }
    }

    /// All fields, in order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Field)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// Values that have been checked before, on their way through an interface.
impl FromIterator<(String, Field)> for Fields {
    fn from_iter<I: IntoIterator<Item = (String, Field)>>(values: I) -> Self {
        Fields(values.into_iter().collect())
    }
}

fn undeclared(name: &str, kind: FieldKind, found: Option<&Field>) -> String {
    match found {
        None => format!("no field `{name}` is declared"),
        Some(field) => format!("field `{name}` is declared as {}, not {kind}", field.kind()),
    }
}
