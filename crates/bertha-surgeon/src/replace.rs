//! Other operators and attributes for nodes.

use bertha_import::onnx::proto::AttributeProto;

use crate::changes::Changes;
use crate::error::{Result, SurgeryError};
use crate::model::Model;
use crate::names::node_name;
use crate::node::Attribute;
use crate::select::Selection;

/// What a node gets. What is not given stays.
#[derive(Clone, Debug, Default)]
pub struct Replacement {
    /// Another operator.
    pub op_type: Option<String>,
    /// Another domain; empty for ONNX's own.
    pub domain: Option<String>,
    /// The version of the operator set, should the domain be new to the file.
    pub version: i64,
    /// Whether all attributes go first.
    pub clear_attributes: bool,
    /// Attributes that go.
    pub drop_attributes: Vec<String>,
    /// Attributes that come, in the place of those of their names.
    pub attributes: Vec<AttributeProto>,
}

/// Gives nodes another operator, domain or attributes. Inputs and outputs stay.
///
/// # Errors
/// [`SurgeryError::Request`] when no node is found, or when an attribute to go is not there.
pub fn replace(model: &mut Model, nodes: &Selection, replacement: &Replacement) -> Result<Changes> {
    let mut changes = Changes::default();
    let domains = model.used_domains();
    for at in nodes.find(&model.graph)? {
        let node = &mut model.graph.nodes[at];
        let (name, before) = (node_name(node, at), node.op());
        let mut what = Vec::new();
        if let Some(op_type) = &replacement.op_type {
            node.op_type.clone_from(op_type);
        }
        if let Some(domain) = &replacement.domain {
            node.domain.clone_from(domain);
        }
        if node.op() != before {
            what.push(format!("{before} becomes {}", node.op()));
        }
        if replacement.clear_attributes && !node.attributes.is_empty() {
            what.push(format!("{} attributes go", node.attributes.len()));
            node.attributes.clear();
        }
        for attribute in &replacement.drop_attributes {
            if node.attribute(attribute).is_none() {
                return Err(SurgeryError::request(format!("node `{name}` has no attribute `{attribute}`")));
            }
            node.attributes.retain(|found| found.name != *attribute);
            what.push(format!("attribute `{attribute}` goes"));
        }
        for attribute in &replacement.attributes {
            node.set_attribute(Attribute::new(attribute));
            what.push(format!("attribute `{}` is set", attribute.name));
        }
        let domain = node.domain.clone();
        model.use_domain(&domain, replacement.version.max(1));
        if what.is_empty() {
            changes.note(format!("node `{name}` ({before}) is as it was"));
        } else {
            changes.change(format!("node `{name}`: {}", what.join(", ")));
        }
    }
    model.drop_emptied_opsets(&domains);
    Ok(changes)
}
