//! Nodes and their attributes.

use bertha_import::onnx::proto::{AttributeProto, AttributeType};
use bytes::Bytes;
use prost::Message;

use crate::graph::Graph;
use crate::wire::{self, Field};

const INPUT: u32 = 1;
const OUTPUT: u32 = 2;
const NAME: u32 = 3;
const OP_TYPE: u32 = 4;
const ATTRIBUTE: u32 = 5;
const DOMAIN: u32 = 7;
const OVERLOAD: u32 = 8;

/// One operation. Fields that are not here are kept as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Names of the tensors it reads; an empty name is an optional input left out.
    pub inputs: Vec<String>,
    /// Names of the tensors it makes; an empty name is an output not wanted.
    pub outputs: Vec<String>,
    /// Its name, often empty.
    pub name: String,
    /// The operator.
    pub op_type: String,
    /// The operator's domain.
    pub domain: String,
    /// Which of a function's overloads.
    pub overload: String,
    /// Its attributes.
    pub attributes: Vec<Attribute>,
    pub(crate) rest: Vec<Field>,
    pub(crate) layout: Vec<u32>,
}

impl Node {
    pub(crate) fn read(message: &Bytes) -> Result<Node, String> {
        let fields = wire::fields(message)?;
        let mut node = Node { layout: wire::layout(&fields), ..Node::default() };
        for field in fields {
            match field.number {
                INPUT => node.inputs.push(field.text()?),
                OUTPUT => node.outputs.push(field.text()?),
                NAME => node.name = field.text()?,
                OP_TYPE => node.op_type = field.text()?,
                DOMAIN => node.domain = field.text()?,
                OVERLOAD => node.overload = field.text()?,
                ATTRIBUTE => {
                    let attribute = Attribute::read(&field.value());
                    node.attributes
                        .push(attribute.map_err(|reason| format!("in node `{}`: {reason}", node.name))?);
                }
                _ => node.rest.push(field),
            }
        }
        Ok(node)
    }

    pub(crate) fn field(&self, number: u32) -> Field {
        let texts = |number, texts: &[String]| -> Vec<Field> {
            texts.iter().map(|text| Field::bytes(number, text.as_bytes())).collect()
        };
        let mut fields = texts(INPUT, &self.inputs);
        fields.extend(texts(OUTPUT, &self.outputs));
        fields.extend(wire::text(NAME, &self.name, &self.layout));
        fields.extend(wire::text(OP_TYPE, &self.op_type, &self.layout));
        fields.extend(self.attributes.iter().map(|attribute| attribute.field(ATTRIBUTE)));
        fields.extend(wire::text(DOMAIN, &self.domain, &self.layout));
        fields.extend(wire::text(OVERLOAD, &self.overload, &self.layout));
        fields.extend(self.rest.iter().cloned());
        Field::bytes(number, &wire::concat(&wire::arrange(fields, &self.layout)))
    }

    /// The attribute of this name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// Gives an attribute, in the place of one of its name.
    pub fn set_attribute(&mut self, attribute: Attribute) {
        match self.attributes.iter_mut().find(|old| old.name == attribute.name) {
            Some(old) => *old = attribute,
            None => self.attributes.push(attribute),
        }
    }

    /// The operator with its domain in front, as in `com.microsoft::Gelu`; the default domain is left out.
    pub fn op(&self) -> String {
        crate::names::op(&self.domain, &self.op_type)
    }

    /// Whether it is an operator of ONNX itself.
    pub fn is(&self, op_type: &str) -> bool {
        self.op_type == op_type && crate::names::is_default_domain(&self.domain)
    }

    /// Its inner graphs, such as the branches of an If.
    pub fn graphs(&self) -> impl Iterator<Item = &Graph> {
        self.attributes.iter().flat_map(|attribute| &attribute.graphs).map(|(_, graph)| graph)
    }

    pub(crate) fn graphs_mut(&mut self) -> impl Iterator<Item = &mut Graph> {
        self.attributes.iter_mut().flat_map(|attribute| &mut attribute.graphs).map(|(_, graph)| graph)
    }
}

/// A named constant of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attribute {
    /// The name.
    pub name: String,
    /// Inner graphs, each with the number of its field.
    graphs: Vec<(u32, Graph)>,
    rest: Vec<Field>,
    layout: Vec<u32>,
}

const ATTRIBUTE_NAME: u32 = 1;
const GRAPH: u32 = 6;
const GRAPHS: u32 = 11;

impl Attribute {
    /// An attribute with this content.
    pub fn new(attribute: &AttributeProto) -> Attribute {
        let bytes = Bytes::from(attribute.encode_to_vec());
        // What prost wrote can be read; an attribute with nothing in it is what is left if it could not.
        Attribute::read(&bytes).unwrap_or_default()
    }

    fn read(message: &Bytes) -> Result<Attribute, String> {
        let fields = wire::fields(message)?;
        let mut attribute = Attribute { layout: wire::layout(&fields), ..Attribute::default() };
        for field in fields {
            match field.number {
                ATTRIBUTE_NAME => attribute.name = field.text()?,
                number @ (GRAPH | GRAPHS) => {
                    if number == GRAPH && attribute.graphs.iter().any(|(number, _)| *number == GRAPH) {
                        return Err(format!("attribute `{}` has two graphs in one field", attribute.name));
                    }
                    attribute.graphs.push((number, Graph::read(&field.value())?));
                }
                _ => attribute.rest.push(field),
            }
        }
        Ok(attribute)
    }

    pub(crate) fn field(&self, number: u32) -> Field {
        let mut fields: Vec<_> = wire::text(ATTRIBUTE_NAME, &self.name, &self.layout).into_iter().collect();
        fields.extend(
            self.graphs.iter().map(|(number, graph)| Field::bytes(*number, &wire::concat(&graph.fields()))),
        );
        fields.extend(self.rest.iter().cloned());
        Field::bytes(number, &wire::concat(&wire::arrange(fields, &self.layout)))
    }

    /// The content, without inner graphs.
    pub fn value(&self) -> AttributeProto {
        let mut value = AttributeProto::decode(wire::concat(&self.rest)).unwrap_or_default();
        value.name.clone_from(&self.name);
        if value.r#type == AttributeType::Undefined as i32 {
            value.r#type = guess_type(&value) as i32;
        }
        value
    }

    /// The number of inner graphs.
    pub fn graph_count(&self) -> usize {
        self.graphs.len()
    }
}

/// What an attribute without a type holds: files of the first IR version say it by which field there is.
fn guess_type(value: &AttributeProto) -> AttributeType {
    if value.t.is_some() {
        AttributeType::Tensor
    } else if !value.ints.is_empty() {
        AttributeType::Ints
    } else if !value.floats.is_empty() {
        AttributeType::Floats
    } else if !value.strings.is_empty() {
        AttributeType::Strings
    } else if !value.s.is_empty() {
        AttributeType::String
    } else if value.f != 0.0 {
        AttributeType::Float
    } else if value.i != 0 {
        AttributeType::Int
    } else {
        AttributeType::Undefined
    }
}
