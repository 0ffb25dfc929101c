//! Nodes that become plugins: attributes become fields.

use std::collections::BTreeMap;
use std::sync::Arc;

use bertha_graph::Op;
use bertha_graph::plugin::{Field, PluginDef};

use super::context::{NodeContext, Translated};
use crate::onnx::proto::{AttributeProto, AttributeType};

/// Adds the plugin with the node's attributes as fields. The plugin says which of them it takes.
pub(super) fn translate(node: &mut NodeContext<'_, '_>, def: &Arc<PluginDef>) -> Translated {
    let mut given = BTreeMap::new();
    for attribute in &node.node.attribute {
        let value = match attribute.ref_attr_name.as_str() {
            "" => Some(attribute),
            outer => node.scope.attributes.get(outer).copied(),
        };
        // An attribute of the function around that its caller left out.
        let Some(value) = value else { continue };
        if given.insert(attribute.name.clone(), field(&attribute.name, value)?).is_some() {
            return Err(format!("attribute `{}` is given twice", attribute.name).into());
        }
    }
    let op = def.op(given)?;
    node.emit_plain(Op::Plugin(op))
}

fn field(name: &str, attribute: &AttributeProto) -> Translated<Field> {
    Ok(match attribute.r#type() {
        AttributeType::Int => Field::Int(attribute.i),
        AttributeType::Float => Field::Float(f64::from(attribute.f)),
        AttributeType::Ints => Field::Ints(attribute.ints.clone()),
        AttributeType::Floats => Field::Floats(attribute.floats.iter().map(|v| f64::from(*v)).collect()),
        AttributeType::String => match std::str::from_utf8(&attribute.s) {
            Ok(text) => Field::Text(text.to_owned()),
            Err(_) => return Err(format!("attribute `{name}` is not UTF-8").into()),
        },
        other => {
            let kinds = "an integer, a number, a string, or a list of integers or numbers";
            return Err(
                format!("attribute `{name}` is of type {other:?}; a plugin's field is {kinds}").into()
            );
        }
    })
}
