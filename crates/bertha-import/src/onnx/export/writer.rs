//! An ONNX graph under construction, in the forms of one operator set.

use std::collections::{HashMap, HashSet};

use bertha_graph::{DType, TensorData};

use crate::onnx::proto::{
    AttributeProto, AttributeType, Dimension, GraphProto, NodeProto, TensorShapeProto, TypeProto,
    ValueInfoProto, dimension, type_proto,
};
use crate::onnx::{data_type, tensor_proto};

/// A dimension of an input or output: a number or a name.
#[derive(Clone, Debug)]
pub(super) enum Size {
    Fixed(i64),
    Named(String),
}

/// Adds nodes and constants under names that are free.
pub(super) struct Writer {
    /// Version of the default operator set that the graph is written in.
    pub(super) opset: i64,
    graph: GraphProto,
    used: HashSet<String>,
    /// Small constants that are there already, by type, shape and bytes.
    constants: HashMap<(DType, Vec<usize>, Vec<u8>), String>,
}

impl Writer {
    pub(super) fn new(name: &str, opset: i64) -> Self {
        let graph = GraphProto { name: name.to_owned(), ..GraphProto::default() };
        Writer { opset, graph, used: HashSet::new(), constants: HashMap::new() }
    }

    pub(super) fn finish(self) -> GraphProto {
        self.graph
    }

    /// Takes a name, or one like it that is free. Nothing in the graph has an empty name.
    pub(super) fn take(&mut self, base: &str) -> String {
        let base = if base.is_empty() { "value" } else { base };
        let mut name = base.to_owned();
        let mut number = 2usize;
        while !self.used.insert(name.clone()) {
            name = format!("{base}_{number}");
            number += 1;
        }
        name
    }

    /// Keeps a name for later. `false` when it is taken.
    pub(super) fn reserve(&mut self, name: &str) -> bool {
        self.used.insert(name.to_owned())
    }

    // ---- nodes -------------------------------------------------------------------------------------------------

    /// Adds a node with one result, whose name is like `base`.
    pub(super) fn node(
        &mut self,
        base: &str,
        op_type: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let output = self.take(base);
        self.node_to(output.clone(), op_type, inputs, attributes);
        output
    }

    /// Adds a node whose result has a name that was kept for it.
    pub(super) fn node_to(
        &mut self,
        output: String,
        op_type: &str,
        inputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) {
        self.graph.node.push(NodeProto {
            name: output.clone(),
            op_type: op_type.to_owned(),
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![output],
            attribute,
            ..NodeProto::default()
        });
    }

    /// Adds a node without attributes.
    pub(super) fn op(&mut self, base: &str, op_type: &str, inputs: &[&str]) -> String {
        self.node(base, op_type, inputs, Vec::new())
    }

    /// Gives the result of the node added last a name that was taken for it. `false` when another node made `value`.
    pub(super) fn rename_last(&mut self, value: &str, name: &str) -> bool {
        let Some(node) = self.graph.node.last_mut() else { return false };
        match node.output.as_mut_slice() {
            [output] if output == value => {
                name.clone_into(output);
                name.clone_into(&mut node.name);
                true
            }
            _ => false,
        }
    }

    // ---- constants ---------------------------------------------------------------------------------------------

    /// Adds a weight under a name like `base`.
    pub(super) fn weight(&mut self, base: &str, data: &TensorData) -> String {
        let name = self.take(base);
        self.graph.initializer.push(tensor_proto(&name, data));
        name
    }

    /// A small constant; equal ones are one.
    pub(super) fn constant(&mut self, base: &str, data: &TensorData) -> String {
        let key = (data.dtype(), data.shape().to_vec(), data.bytes().to_vec());
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = self.weight(base, data);
        self.constants.insert(key, name.clone());
        name
    }

    /// A scalar of a float type.
    pub(super) fn float(&mut self, dtype: DType, value: f64) -> Result<String, String> {
        let data = super::super::import::dtypes::filled(dtype, Vec::new(), value);
        Ok(self.constant("constant", &data.map_err(|error| error.to_string())?))
    }

    pub(super) fn int(&mut self, value: i64) -> String {
        self.constant("constant", &TensorData::scalar(value))
    }

    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        self.constant("constant", &TensorData::vector(values.to_vec()))
    }

    // ---- ops whose form changed --------------------------------------------------------------------------------

    /// Axes are an attribute before version 13 and an input from then on.
    pub(super) fn unsqueeze(&mut self, base: &str, x: &str, axes: &[i64]) -> String {
        if self.opset >= 13 {
            let axes = self.ints(axes);
            return self.op(base, "Unsqueeze", &[x, &axes]);
        }
        self.node(base, "Unsqueeze", &[x], vec![ints("axes", axes)])
    }

    /// A reduction; reduced dimensions stay as 1 where `keep_dims` says so.
    pub(super) fn reduce(
        &mut self,
        base: &str,
        op_type: &str,
        x: &str,
        axes: &[i64],
        keep_dims: bool,
    ) -> String {
        let keep_dims = int("keepdims", i64::from(keep_dims));
        let axes_input_since = if op_type == "ReduceSum" { 13 } else { 18 };
        if self.opset >= axes_input_since {
            let axes = self.ints(axes);
            return self.node(base, op_type, &[x, &axes], vec![keep_dims]);
        }
        self.node(base, op_type, &[x], vec![ints("axes", axes), keep_dims])
    }

    pub(super) fn cast(&mut self, base: &str, x: &str, to: DType) -> String {
        self.node(base, "Cast", &[x], vec![int("to", data_type(to) as i64)])
    }

    pub(super) fn reshape(&mut self, base: &str, x: &str, shape: &[i64]) -> String {
        let shape = self.ints(shape);
        self.op(base, "Reshape", &[x, &shape])
    }

    pub(super) fn transpose(&mut self, base: &str, x: &str, perm: &[i64]) -> String {
        self.node(base, "Transpose", &[x], vec![ints("perm", perm)])
    }

    // ---- ends --------------------------------------------------------------------------------------------------

    /// Declares an input of the graph, whose name must be new.
    pub(super) fn input(&mut self, name: &str, dtype: DType, shape: &[Size]) -> String {
        let name = self.take(name);
        self.graph.input.push(value_info(&name, dtype, shape));
        name
    }

    /// Declares an output of the graph.
    pub(super) fn output(&mut self, name: &str, dtype: DType, shape: &[Size]) {
        self.graph.output.push(value_info(name, dtype, shape));
    }
}

fn value_info(name: &str, dtype: DType, shape: &[Size]) -> ValueInfoProto {
    let dim = shape.iter().map(|size| Dimension {
        value: Some(match size {
            Size::Fixed(size) => dimension::Value::DimValue(*size),
            Size::Named(name) => dimension::Value::DimParam(name.clone()),
        }),
        ..Dimension::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: data_type(dtype) as i32,
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

fn attribute(name: &str, ty: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: ty as i32, ..AttributeProto::default() }
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: value, ..attribute(name, AttributeType::Int) }
}

pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: value, ..attribute(name, AttributeType::Float) }
}

pub(super) fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: value.to_owned().into(), ..attribute(name, AttributeType::String) }
}
