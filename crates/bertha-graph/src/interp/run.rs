//! Running whole graphs.

use super::error::EvalError;
use super::value::{F64Tensor, Value};
use super::{Precision, eval};
use crate::dim::Bindings;
use crate::graph::{Graph, Node, Origin, TensorId};
use crate::shape::TensorType;
use crate::tensor::TensorData;

/// Evaluates a graph node by node.
///
/// Intermediate tensors are dropped after their last use, and constants are converted only while a node needs them.
#[derive(Clone, Copy, Debug)]
pub struct Interpreter<'g> {
    graph: &'g Graph,
    precision: Precision,
}

impl<'g> Interpreter<'g> {
    /// An interpreter of `graph`.
    pub fn new(graph: &'g Graph, precision: Precision) -> Self {
        Interpreter { graph, precision }
    }

    /// The outputs of the graph by name, in the graph's dtypes, for these inputs by name.
    ///
    /// # Errors
    ///
    /// When an input is missing, unknown or of another type than the graph says; when a node fails; when a computed
    /// tensor is not of the type that the shape rules gave it.
    pub fn run(&self, inputs: &[(&str, TensorData)]) -> Result<Vec<(String, TensorData)>, EvalError> {
        let outputs = self.run_with(inputs, |_, _| {})?;
        Ok(outputs.into_iter().map(|(name, value)| (name, value.to_tensor())).collect())
    }

    /// As [`run`](Self::run), but the outputs are not rounded to their dtypes.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_f64(&self, inputs: &[(&str, TensorData)]) -> Result<Vec<(String, F64Tensor)>, EvalError> {
        let outputs = self.run_with(inputs, |_, _| {})?;
        Ok(outputs.into_iter().map(|(name, value)| (name, value.to_f64_tensor())).collect())
    }

    /// As [`run`](Self::run), and calls `watch` with the name and value of every tensor that a node computes, in the
    /// order in which they are computed.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_with(
        &self,
        inputs: &[(&str, TensorData)],
        watch: impl FnMut(&str, &Value),
    ) -> Result<Vec<(String, Value)>, EvalError> {
        let names = || self.graph.inputs().iter().map(|id| self.name(*id));
        for (at, (name, _)) in inputs.iter().enumerate() {
            if names().all(|known| known != *name) {
                let known: Vec<_> = names().collect();
                return Err(input_error(name, format!("the graph has no such input; it has {known:?}")));
            }
            if inputs[..at].iter().any(|(other, _)| other == name) {
                return Err(input_error(name, "it is given twice".into()));
            }
        }
        let mut run = Run::new(self);
        for id in self.graph.inputs() {
            let name = self.name(*id);
            let Some((_, data)) = inputs.iter().find(|(given, _)| *given == name) else {
                return Err(input_error(name, "it is missing".into()));
            };
            run.set_input(*id, Value::from_tensor(data))?;
        }
        let values = run.finish(watch)?;
        Ok(self.graph.outputs().iter().map(|(name, _)| name.clone()).zip(values).collect())
    }

    /// The outputs in order for inputs in order.
    pub(super) fn run_positional(&self, inputs: Vec<Value>) -> Result<Vec<Value>, EvalError> {
        let mut run = Run::new(self);
        let ids = self.graph.inputs();
        if ids.len() != inputs.len() {
            let name = ids.get(inputs.len()).map_or("", |id| self.name(*id));
            let what = format!("{} tensors are captured for {} inputs", inputs.len(), ids.len());
            return Err(input_error(name, what));
        }
        for (id, value) in ids.iter().zip(inputs) {
            run.set_input(*id, value)?;
        }
        run.finish(|_, _| {})
    }

    fn name(&self, id: TensorId) -> &'g str {
        &self.graph.tensor(id).name
    }
}

fn input_error(input: &str, what: String) -> EvalError {
    EvalError::Input { input: input.to_owned(), what }
}

/// One evaluation under way.
struct Run<'g> {
    graph: &'g Graph,
    precision: Precision,
    /// Values of inputs and of computed tensors, by tensor.
    values: Vec<Option<Value>>,
    /// The last node that reads each tensor; outputs of the graph are never dropped.
    last_use: Vec<Option<usize>>,
    /// Values of symbols, found on the way.
    bindings: Bindings,
}

impl<'g> Run<'g> {
    fn new(interpreter: &Interpreter<'g>) -> Self {
        let graph = interpreter.graph;
        let mut last_use = vec![None; graph.tensors().len()];
        for (at, node) in graph.nodes().iter().enumerate() {
            for id in node.inputs.iter().chain(&node.outputs).flatten() {
                last_use[id.index()] = Some(at);
            }
        }
        for (_, id) in graph.outputs() {
            last_use[id.index()] = None;
        }
        Run {
            graph,
            precision: interpreter.precision,
            values: vec![None; graph.tensors().len()],
            last_use,
            bindings: Bindings::new(),
        }
    }

    fn set_input(&mut self, id: TensorId, value: Value) -> Result<(), EvalError> {
        let tensor = self.graph.tensor(id);
        if !self.conforms(&tensor.ty, &value) {
            let known: Vec<_> =
                self.bindings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
            let given =
                if known.is_empty() { String::new() } else { format!(" (with {})", known.join(", ")) };
            let what = format!("it is {}, expected {}{given}", describe(&value), tensor.ty);
            return Err(input_error(&tensor.name, what));
        }
        self.values[id.index()] = Some(value);
        Ok(())
    }

    /// Whether a value is of the type; symbols that are new are bound to what it has.
    fn conforms(&mut self, ty: &TensorType, value: &Value) -> bool {
        if ty.dtype != value.dtype() || ty.shape.rank() != value.rank() {
            return false;
        }
        for (dim, size) in ty.shape.dims().iter().zip(value.shape()) {
            let size = *size as i64;
            match (dim.eval(&self.bindings), dim.as_symbol()) {
                (Ok(expected), _) if expected != size => return false,
                (Err(_), Some(symbol)) => {
                    self.bindings.insert(symbol.clone(), size);
                }
                // Equal, or made of symbols that nothing has bound: nothing to hold against it.
                _ => {}
            }
        }
        true
    }

    fn finish(mut self, mut watch: impl FnMut(&str, &Value)) -> Result<Vec<Value>, EvalError> {
        for (at, node) in self.graph.nodes().iter().enumerate() {
            let results = self.eval_node(node)?;
            for (id, value) in node.outputs.iter().zip(results) {
                let Some(id) = id else { continue };
                let tensor = self.graph.tensor(*id);
                if !self.conforms(&tensor.ty, &value) {
                    return Err(EvalError::Type {
                        tensor: tensor.name.clone(),
                        expected: tensor.ty.to_string(),
                        actual: describe(&value),
                    });
                }
                watch(&tensor.name, &value);
                self.values[id.index()] = Some(value);
            }
            for id in node.inputs.iter().chain(&node.outputs).flatten() {
                if self.last_use[id.index()] == Some(at) {
                    self.values[id.index()] = None;
                }
            }
        }
        self.graph.outputs().iter().map(|(_, id)| self.value_of(*id)).collect()
    }

    fn eval_node(&self, node: &Node) -> Result<Vec<Value>, EvalError> {
        // Constants live only as long as this node needs them.
        let mut constants = Vec::new();
        for id in node.inputs.iter().flatten() {
            if let Origin::Constant(data) = &self.graph.tensor(*id).origin {
                constants.push((*id, Value::from_tensor(data)));
            }
        }
        let mut operands = Vec::with_capacity(node.inputs.len());
        for id in &node.inputs {
            let Some(id) = id else {
                operands.push(None);
                continue;
            };
            let constant = constants.iter().find(|(other, _)| other == id).map(|(_, value)| value);
            match constant.or(self.values[id.index()].as_ref()) {
                Some(value) => operands.push(Some(value)),
                None => return Err(EvalError::Order { tensor: self.graph.tensor(*id).name.clone() }),
            }
        }
        let results = eval(&node.op, &operands, self.precision).map_err(|source| {
            let named = node.inputs.iter().zip(&operands).map(|(id, value)| match (id, value) {
                (Some(id), Some(value)) => format!("`{}`: {}", self.graph.tensor(*id).name, describe(value)),
                _ => "absent".to_owned(),
            });
            let operands = named.collect::<Vec<_>>().join(", ");
            EvalError::Node { node: node.name.clone(), operands, source: Box::new(source) }
        })?;
        Ok(results)
    }

    fn value_of(&self, id: TensorId) -> Result<Value, EvalError> {
        let tensor = self.graph.tensor(id);
        match (&tensor.origin, &self.values[id.index()]) {
            (Origin::Constant(data), _) => Ok(Value::from_tensor(data)),
            (_, Some(value)) => Ok(value.clone()),
            _ => Err(EvalError::Order { tensor: tensor.name.clone() }),
        }
    }
}

/// `f32[2, 3]`.
fn describe(value: &Value) -> String {
    format!("{}{:?}", value.dtype(), value.shape())
}
