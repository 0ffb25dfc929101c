//! Named tensors, and the names and types of values.

use bertha_import::onnx::proto::{TensorProto, TypeProto, ValueInfoProto, dimension, type_proto};
use bytes::Bytes;
use prost::Message;

use crate::wire::{self, Field};

const TENSOR_NAME: u32 = 8;
const VALUE_NAME: u32 = 1;
const VALUE_TYPE: u32 = 2;
const TENSOR_TYPE: u32 = 1;
const SHAPE: u32 = 2;
const DIM: u32 = 1;
const DIM_VALUE: u32 = 1;
const DIM_PARAM: u32 = 2;

/// A message of which only the name is looked at.
#[derive(Clone, Debug, Default, PartialEq)]
struct Named {
    name: String,
    rest: Vec<Field>,
    layout: Vec<u32>,
}

impl Named {
    fn read(message: &Bytes, name_field: u32) -> Result<Named, String> {
        let fields = wire::fields(message)?;
        let mut named = Named { layout: wire::layout(&fields), ..Named::default() };
        for field in fields {
            if field.number == name_field {
                named.name = field.text()?;
            } else {
                named.rest.push(field);
            }
        }
        Ok(named)
    }

    fn bytes(&self, name_field: u32) -> Bytes {
        let mut fields: Vec<_> = wire::text(name_field, &self.name, &self.layout).into_iter().collect();
        fields.extend(self.rest.iter().cloned());
        wire::concat(&wire::arrange(fields, &self.layout))
    }
}

/// A constant of a graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    named: Named,
    /// The field as it was, until the name changes: large tensors are not copied.
    field: Option<Field>,
}

impl Tensor {
    /// A tensor with this content.
    pub fn new(tensor: &TensorProto) -> Tensor {
        let named = Named::read(&Bytes::from(tensor.encode_to_vec()), TENSOR_NAME).unwrap_or_default();
        Tensor { named, field: None }
    }

    pub(crate) fn read(field: Field) -> Result<Tensor, String> {
        Ok(Tensor { named: Named::read(&field.value(), TENSOR_NAME)?, field: Some(field) })
    }

    pub(crate) fn field(&self, number: u32) -> Field {
        match &self.field {
            Some(field) if field.number == number => field.clone(),
            _ => Field::bytes(number, &self.named.bytes(TENSOR_NAME)),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.named.name
    }

    /// Renames it.
    pub fn set_name(&mut self, name: &str) {
        name.clone_into(&mut self.named.name);
        self.field = None;
    }

    /// The content. Raw data are shared, not copied.
    pub fn proto(&self) -> TensorProto {
        let mut tensor = TensorProto::default();
        for field in &self.named.rest {
            // One field at a time: putting them together would copy the data. The reader of the file has decoded them
            // all before.
            let _ = tensor.merge(field.raw().clone());
        }
        tensor.name.clone_from(&self.named.name);
        tensor
    }
}

/// The name and type of a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Value {
    named: Named,
}

impl Value {
    /// A value of this type.
    pub fn new(info: &ValueInfoProto) -> Value {
        Value { named: Named::read(&Bytes::from(info.encode_to_vec()), VALUE_NAME).unwrap_or_default() }
    }

    pub(crate) fn read(message: &Bytes) -> Result<Value, String> {
        Ok(Value { named: Named::read(message, VALUE_NAME)? })
    }

    pub(crate) fn field(&self, number: u32) -> Field {
        Field::bytes(number, &self.named.bytes(VALUE_NAME))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.named.name
    }

    /// Renames it.
    pub fn set_name(&mut self, name: &str) {
        name.clone_into(&mut self.named.name);
    }

    /// The type, when the file says it.
    pub fn ty(&self) -> Option<TypeProto> {
        ValueInfoProto::decode(wire::concat(&self.named.rest)).ok()?.r#type
    }

    /// Element type and shape, when it is a dense tensor.
    pub fn tensor_type(&self) -> Option<type_proto::Tensor> {
        match self.ty()?.value? {
            type_proto::Value::TensorType(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// Gives a dense tensor other lengths. What else its dimensions say stays.
    pub(crate) fn set_lengths(&mut self, lengths: &[Option<dimension::Value>]) {
        wire::edit_message(&mut self.named.rest, VALUE_TYPE, &mut |ty| {
            wire::edit_message(ty, TENSOR_TYPE, &mut |tensor| {
                wire::edit_message(tensor, SHAPE, &mut |shape| set_dims(shape, lengths));
            });
        });
    }
}

fn set_dims(shape: &mut Vec<Field>, lengths: &[Option<dimension::Value>]) {
    let old: Vec<Field> = shape.iter().filter(|field| field.number == DIM).cloned().collect();
    shape.retain(|field| field.number != DIM);
    let dims = lengths.iter().enumerate().map(|(at, length)| {
        let mut dim = old.get(at).and_then(|dim| wire::fields(&dim.value()).ok()).unwrap_or_default();
        dim.retain(|field| field.number != DIM_VALUE && field.number != DIM_PARAM);
        match length {
            Some(dimension::Value::DimValue(number)) => {
                dim.insert(0, Field::varint(DIM_VALUE, *number as u64))
            }
            Some(dimension::Value::DimParam(name)) => dim.insert(0, Field::bytes(DIM_PARAM, name.as_bytes())),
            None => {}
        }
        Field::bytes(DIM, &wire::concat(&dim))
    });
    let dims: Vec<Field> = dims.collect();
    shape.splice(0..0, dims);
}
