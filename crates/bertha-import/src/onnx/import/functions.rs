//! Functions that a file brings along: each call is written out with names of its own.

use std::collections::HashMap;

use bertha_graph::Graph;

use super::context::{Scope, Translated, Value};
use super::graph::{Importer, MAX_DEPTH};
use super::opsets::{self, Opsets};
use crate::onnx::proto::{AttributeProto, FunctionProto, NodeProto};

/// What a call names its function by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FunctionKey<'m> {
    domain: &'m str,
    name: &'m str,
    overload: &'m str,
}

impl<'m> FunctionKey<'m> {
    /// The key under which a function is called.
    pub(super) fn of(function: &'m FunctionProto) -> Self {
        FunctionKey {
            domain: opsets::domain(&function.domain),
            name: &function.name,
            overload: &function.overload,
        }
    }

    /// The key that a node calls.
    pub(super) fn called_by(node: &'m NodeProto) -> Self {
        FunctionKey { domain: opsets::domain(&node.domain), name: &node.op_type, overload: &node.overload }
    }
}

impl<'m> Importer<'m> {
    /// Translates the body of a function in the place of a call.
    pub(super) fn call(
        &mut self,
        graph: &mut Graph,
        scope: &mut Scope<'m>,
        node: &'m NodeProto,
        function: &'m FunctionProto,
        name: &str,
    ) -> Translated {
        if self.depth == MAX_DEPTH {
            return Err(format!("functions call each other more than {MAX_DEPTH} deep").into());
        }
        if node.input.len() > function.input.len() || node.output.len() > function.output.len() {
            return Err(format!(
                "passes {} inputs and takes {} outputs; function `{}` has {} and {}",
                node.input.len(),
                node.output.len(),
                function.name,
                function.input.len(),
                function.output.len()
            )
            .into());
        }
        let mut inner = Scope {
            names: HashMap::new(),
            opsets: Opsets::new(&function.opset_import).or(&scope.opsets),
            attributes: bind_attributes(node, function, scope)?,
            prefix: format!("{name}/"),
        };
        for (index, formal) in function.input.iter().enumerate() {
            let actual = match node.input.get(index).map(String::as_str) {
                None | Some("") => None,
                Some(actual) => self.resolve(graph, scope, actual)?,
            };
            inner.names.insert(formal, actual.map_or(Value::Absent, Value::Tensor));
        }
        self.depth += 1;
        self.nodes(graph, &mut inner, &function.node)?;
        self.depth -= 1;
        for (formal, actual) in function.output.iter().zip(&node.output) {
            if actual.is_empty() {
                continue;
            }
            let tensor = self.resolve(graph, &mut inner, formal)?;
            scope.names.insert(actual, tensor.map_or(Value::Absent, Value::Tensor));
        }
        Ok(())
    }
}

/// The values of a function's attributes: the caller's, or the defaults.
fn bind_attributes<'m>(
    node: &'m NodeProto,
    function: &'m FunctionProto,
    scope: &Scope<'m>,
) -> Translated<HashMap<&'m str, &'m AttributeProto>> {
    let mut bound = HashMap::new();
    let defaults = function.attribute_proto.iter().map(|default| (default.name.as_str(), Some(default)));
    let names = function.attribute.iter().map(|name| (name.as_str(), None));
    for (name, default) in defaults.chain(names) {
        let given = node.attribute.iter().find(|attribute| attribute.name == name);
        let value = match given {
            Some(attribute) if !attribute.ref_attr_name.is_empty() => {
                scope.attributes.get(attribute.ref_attr_name.as_str()).copied()
            }
            given => given,
        };
        if let Some(value) = value.or(default) {
            bound.insert(name, value);
        }
    }
    let unknown = node.attribute.iter().find(|attribute| {
        !function.attribute.contains(&attribute.name)
            && !function.attribute_proto.iter().any(|default| default.name == attribute.name)
    });
    match unknown {
        None => Ok(bound),
        Some(attribute) => {
            Err(format!("function `{}` has no attribute `{}`", function.name, attribute.name).into())
        }
    }
}
