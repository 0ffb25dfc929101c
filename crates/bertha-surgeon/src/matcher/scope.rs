//! What is known about the tensors that a graph sees.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use bertha_graph::TensorData;
use bertha_import::onnx::ExternalFiles;
use bertha_import::onnx::proto::{AttributeType, DataType, TensorProto, type_proto};

use crate::graph::Graph;
use crate::model::Model;
use crate::tensor::Value;
use crate::types;
use crate::uses::Uses;

/// Constants with more elements than this are not compared with literals.
const MAX_COMPARED: usize = 4096;

/// What the whole model knows.
pub(crate) struct Knowledge<'m> {
    model: &'m Model,
    externals: &'m ExternalFiles,
    inferred: OnceCell<HashMap<String, type_proto::Tensor>>,
}

impl<'m> Knowledge<'m> {
    pub(crate) fn new(model: &'m Model) -> Self {
        Knowledge { model, externals: model.externals(), inferred: OnceCell::new() }
    }

    /// Types that the importer finds, when it can import the model; none otherwise.
    fn inferred(&self) -> &HashMap<String, type_proto::Tensor> {
        self.inferred.get_or_init(|| types::infer_all(self.model))
    }
}

/// A graph, and the graphs around it whose tensors it sees.
pub(crate) struct Scope<'m, 'o> {
    pub(crate) graph: &'m Graph,
    pub(crate) uses: Uses<'m>,
    knowledge: &'o Knowledge<'m>,
    outer: Option<&'o Scope<'m, 'o>>,
    initializers: HashMap<&'m str, usize>,
    /// Inputs, which callers give, even where a constant of the name is their default.
    inputs: HashSet<&'m str>,
    values: HashMap<&'m str, &'m Value>,
    opset: i64,
    is_function: bool,
}

impl<'m, 'o> Scope<'m, 'o> {
    pub(crate) fn new(
        graph: &'m Graph,
        knowledge: &'o Knowledge<'m>,
        outer: Option<&'o Scope<'m, 'o>>,
    ) -> crate::Result<Self> {
        let all = graph.inputs.iter().chain(&graph.outputs).chain(&graph.value_infos);
        // Before version 4 of the format every constant had to be listed as an input.
        let overridable = knowledge.model.ir_version() >= 4;
        Ok(Scope {
            graph,
            uses: Uses::new(graph)?,
            knowledge,
            outer,
            initializers: graph
                .initializers
                .iter()
                .enumerate()
                .map(|(at, tensor)| (tensor.name(), at))
                .collect(),
            inputs: graph.inputs.iter().map(Value::name).filter(|_| overridable).collect(),
            values: all.map(|value| (value.name(), value)).collect(),
            opset: knowledge.model.opset("").unwrap_or(1),
            is_function: false,
        })
    }

    /// The body of a function, of whose inputs nothing is known. `opset` is the version of ONNX's own operators in it.
    pub(crate) fn of_function(
        body: &'m Graph,
        knowledge: &'o Knowledge<'m>,
        opset: i64,
    ) -> crate::Result<Self> {
        Ok(Scope { opset, is_function: true, ..Scope::new(body, knowledge, None)? })
    }

    /// A graph of a node of this one.
    pub(crate) fn inner<'i>(&'i self, graph: &'m Graph) -> crate::Result<Scope<'m, 'i>>
    where
        'o: 'i,
    {
        let scope = Scope::new(graph, self.knowledge, Some(self))?;
        Ok(Scope { opset: self.opset, is_function: self.is_function, ..scope })
    }

    /// The version of ONNX's own operators.
    pub(crate) fn opset(&self) -> i64 {
        self.opset
    }

    /// The constant that a tensor is: one of the graph, the result of a Constant node, or of Identity nodes after it.
    pub(crate) fn constant(&self, name: &str) -> Option<TensorProto> {
        let mut name = name;
        // A chain of Identity nodes is no longer than the graph.
        for _ in 0..=self.graph.nodes.len() {
            if let Some(at) = self.initializers.get(name) {
                let is_default = self.inputs.contains(name);
                return self.graph.initializers.get(*at).filter(|_| !is_default).map(|tensor| tensor.proto());
            }
            let Some((at, _)) = self.uses.producer(name) else {
                let elsewhere = if self.uses.is_given(name) { None } else { self.outer };
                return elsewhere?.constant(name);
            };
            let node = self.graph.nodes.get(at)?;
            if node.is("Identity") {
                name = node.inputs.first()?;
            } else if node.is("Constant") {
                return node.attributes.first().and_then(|attribute| constant_value(&attribute.value()));
            } else {
                return None;
            }
        }
        None
    }

    /// Element type and shape of a tensor: of the constant it is, as the file says it, or as the importer finds it.
    pub(crate) fn tensor_type(&self, name: &str) -> Option<type_proto::Tensor> {
        if let Some(tensor) = self.constant(name) {
            let dims = tensor.dims.iter().map(|dim| bertha_import::onnx::proto::Dimension {
                value: Some(bertha_import::onnx::proto::dimension::Value::DimValue(*dim)),
                ..Default::default()
            });
            let shape = bertha_import::onnx::proto::TensorShapeProto { dim: dims.collect() };
            return Some(type_proto::Tensor { elem_type: tensor.data_type, shape: Some(shape) });
        }
        if let Some(ty) = self.values.get(name).and_then(|value| value.tensor_type())
            && ty.shape.is_some()
        {
            return Some(ty);
        }
        match self.outer {
            Some(outer) if !self.uses.has(name) => outer.tensor_type(name),
            Some(_) => None,
            None if self.is_function => None,
            None => self.knowledge.inferred().get(name).cloned(),
        }
    }

    pub(crate) fn rank(&self, name: &str) -> Option<usize> {
        self.tensor_type(name)?.shape.map(|shape| shape.dim.len())
    }

    /// The elements of a small constant.
    pub(crate) fn elements(&self, name: &str) -> Option<Elements> {
        let tensor = self.constant(name)?;
        elements(&tensor, self.knowledge.externals)
    }

    /// The whole of a constant.
    pub(crate) fn data(&self, name: &str) -> Option<TensorData> {
        self.knowledge.externals.tensor(&self.constant(name)?).ok()
    }
}

/// The elements of a constant.
#[derive(Clone, Debug)]
pub(crate) struct Elements {
    pub(crate) dims: Vec<i64>,
    pub(crate) numbers: Vec<f64>,
    /// Whether they are integers or booleans.
    pub(crate) whole: bool,
    /// How far off a number may be and still be meant: the element type cannot be more exact.
    pub(crate) tolerance: f64,
}

fn elements(tensor: &TensorProto, externals: &ExternalFiles) -> Option<Elements> {
    let count =
        tensor.dims.iter().try_fold(1usize, |product, dim| product.checked_mul(usize::try_from(*dim).ok()?));
    if count? > MAX_COMPARED {
        return None;
    }
    let data = externals.tensor(tensor).ok()?;
    let tolerance = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Bfloat16) => 8e-3,
        Ok(DataType::Float16) => 1e-3,
        Ok(DataType::Float) => 1e-6,
        Ok(DataType::Double) => 1e-12,
        _ => 0.0,
    };
    let whole = !data.dtype().is_float();
    Some(Elements { dims: tensor.dims.clone(), numbers: data.to_f64(), whole, tolerance })
}

/// The tensor of a Constant node, in any of its forms.
pub(crate) fn constant_value(attribute: &bertha_import::onnx::proto::AttributeProto) -> Option<TensorProto> {
    let tensor = |data_type: DataType, dims: Vec<i64>| TensorProto {
        data_type: data_type as i32,
        dims,
        ..TensorProto::default()
    };
    let length = |count: usize| vec![i64::try_from(count).unwrap_or(i64::MAX)];
    match (attribute.name.as_str(), AttributeType::try_from(attribute.r#type).ok()?) {
        ("value", AttributeType::Tensor) => attribute.t.clone(),
        ("value_float", AttributeType::Float) => {
            Some(TensorProto { float_data: vec![attribute.f], ..tensor(DataType::Float, Vec::new()) })
        }
        ("value_int", AttributeType::Int) => {
            Some(TensorProto { int64_data: vec![attribute.i], ..tensor(DataType::Int64, Vec::new()) })
        }
        ("value_floats", AttributeType::Floats) => Some(TensorProto {
            float_data: attribute.floats.clone(),
            ..tensor(DataType::Float, length(attribute.floats.len()))
        }),
        ("value_ints", AttributeType::Ints) => Some(TensorProto {
            int64_data: attribute.ints.clone(),
            ..tensor(DataType::Int64, length(attribute.ints.len()))
        }),
        _ => None,
    }
}
