//! Graphs: nodes, constants, inputs, outputs.

use bertha_import::onnx::proto::{SparseTensorProto, TensorAnnotation};
use bytes::Bytes;
use prost::Message;

use crate::node::Node;
use crate::tensor::{Tensor, Value};
use crate::wire::{self, Field};

const NODE: u32 = 1;
const NAME: u32 = 2;
const INITIALIZER: u32 = 5;
const INPUT: u32 = 11;
const OUTPUT: u32 = 12;
const VALUE_INFO: u32 = 13;
const ANNOTATION: u32 = 14;
const SPARSE_INITIALIZER: u32 = 15;
/// Of a sparse tensor.
const SPARSE_VALUES: u32 = 1;
/// Of a tensor.
const TENSOR_NAME: u32 = 8;

/// A graph, or the body of a branch or a loop. Fields that are not here are kept as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// The operations, each after those it depends on.
    pub nodes: Vec<Node>,
    /// Named constants.
    pub initializers: Vec<Tensor>,
    /// Named sparse constants.
    pub sparse_initializers: Vec<SparseTensor>,
    /// Inputs; before IR version 4 initializers are listed here too.
    pub inputs: Vec<Value>,
    /// Outputs.
    pub outputs: Vec<Value>,
    /// Types of tensors in between, where the file says them.
    pub value_infos: Vec<Value>,
    /// Scales and zero points of tensors, by name.
    pub annotations: Vec<Annotation>,
    pub(crate) rest: Vec<Field>,
    pub(crate) layout: Vec<u32>,
}

impl Graph {
    pub(crate) fn read(message: &Bytes) -> Result<Graph, String> {
        let fields = wire::fields(message)?;
        let mut graph = Graph { layout: wire::layout(&fields), ..Graph::default() };
        for field in fields {
            match field.number {
                NODE => {
                    let at = graph.nodes.len();
                    let node = Node::read(&field.value());
                    graph.nodes.push(node.map_err(|reason| format!("node number {at}: {reason}"))?);
                }
                NAME => graph.name = field.text()?,
                INITIALIZER => graph.initializers.push(Tensor::read(field)?),
                SPARSE_INITIALIZER => graph.sparse_initializers.push(SparseTensor::read(field)),
                INPUT => graph.inputs.push(Value::read(&field.value())?),
                OUTPUT => graph.outputs.push(Value::read(&field.value())?),
                VALUE_INFO => graph.value_infos.push(Value::read(&field.value())?),
                ANNOTATION => graph.annotations.push(Annotation::read(field)),
                _ => graph.rest.push(field),
            }
        }
        Ok(graph)
    }

    /// The fields in the order of the file.
    pub(crate) fn fields(&self) -> Vec<Field> {
        let mut fields: Vec<Field> = self.nodes.iter().map(|node| node.field(NODE)).collect();
        fields.extend(wire::text(NAME, &self.name, &self.layout));
        fields.extend(self.initializers.iter().map(|tensor| tensor.field(INITIALIZER)));
        fields.extend(self.inputs.iter().map(|value| value.field(INPUT)));
        fields.extend(self.outputs.iter().map(|value| value.field(OUTPUT)));
        fields.extend(self.value_infos.iter().map(|value| value.field(VALUE_INFO)));
        fields.extend(self.annotations.iter().map(|annotation| annotation.field.clone()));
        fields.extend(self.sparse_initializers.iter().map(|tensor| tensor.field.clone()));
        fields.extend(self.rest.iter().cloned());
        wire::arrange(fields, &self.layout)
    }

    /// The constant of this name.
    pub fn initializer(&self, name: &str) -> Option<&Tensor> {
        self.initializers.iter().find(|tensor| tensor.name() == name)
    }

    /// The names that a graph defines without nodes: inputs and constants.
    pub(crate) fn given_names(&self) -> impl Iterator<Item = &str> {
        let inputs = self.inputs.iter().map(Value::name);
        let initializers = self.initializers.iter().map(Tensor::name);
        let sparse = self.sparse_initializers.iter().map(|tensor| tensor.name.as_str());
        inputs.chain(initializers).chain(sparse)
    }

    /// What the file says of a value: among inputs, outputs and values in between.
    pub fn value(&self, name: &str) -> Option<&Value> {
        let mut values = self.inputs.iter().chain(&self.outputs).chain(&self.value_infos);
        values.find(|value| value.name() == name)
    }

    /// Calls `visit` for this graph and all inner ones.
    pub(crate) fn for_each_mut(&mut self, visit: &mut dyn FnMut(&mut Graph)) {
        visit(self);
        for node in &mut self.nodes {
            for graph in node.graphs_mut() {
                graph.for_each_mut(visit);
            }
        }
    }

    /// Calls `visit` for this graph and all inner ones.
    pub(crate) fn for_each<'g>(&'g self, visit: &mut dyn FnMut(&'g Graph)) {
        visit(self);
        for graph in self.nodes.iter().flat_map(Node::graphs) {
            graph.for_each(visit);
        }
    }
}

/// A sparse constant; its name is the one of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseTensor {
    name: String,
    field: Field,
}

impl SparseTensor {
    fn read(field: Field) -> SparseTensor {
        let tensor = SparseTensorProto::decode(field.value()).unwrap_or_default();
        SparseTensor { name: tensor.values.map(|values| values.name).unwrap_or_default(), field }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn set_name(&mut self, name: &str) {
        let mut fields = vec![self.field.clone()];
        wire::edit_message(&mut fields, SPARSE_INITIALIZER, &mut |sparse| {
            wire::edit_message(sparse, SPARSE_VALUES, &mut |values| {
                let field = Field::bytes(TENSOR_NAME, name.as_bytes());
                match values.iter_mut().rfind(|field| field.number == TENSOR_NAME) {
                    Some(old) => *old = field,
                    None => values.push(field),
                }
            });
        });
        self.field = fields.remove(0);
        name.clone_into(&mut self.name);
    }
}

/// Quantisation parameters of a tensor, by the names of the tensors that hold them.
#[derive(Clone, Debug, PartialEq)]
pub struct Annotation {
    annotation: TensorAnnotation,
    field: Field,
}

impl Annotation {
    fn read(field: Field) -> Annotation {
        Annotation { annotation: TensorAnnotation::decode(field.value()).unwrap_or_default(), field }
    }

    /// The tensor it is about.
    pub fn tensor(&self) -> &str {
        &self.annotation.tensor_name
    }

    /// The tensors that hold the parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.annotation.quant_parameter_tensor_names.iter().map(|entry| entry.value.as_str())
    }

    pub(crate) fn rename(&mut self, old: &str, new: &str) {
        // The name is field 1; each parameter is an entry with key 1 and value 2.
        let mut fields = vec![self.field.clone()];
        wire::edit_message(&mut fields, ANNOTATION, &mut |annotation| {
            for field in annotation.iter_mut() {
                if field.number == 1 && field.is_text(old) {
                    *field = Field::bytes(1, new.as_bytes());
                } else if field.number == 2 {
                    let mut entry = vec![field.clone()];
                    wire::edit_message(&mut entry, 2, &mut |entry| {
                        for value in entry.iter_mut().filter(|value| value.number == 2 && value.is_text(old))
                        {
                            *value = Field::bytes(2, new.as_bytes());
                        }
                    });
                    *field = entry.remove(0);
                }
            }
        });
        *self = Annotation::read(fields.remove(0));
    }
}
