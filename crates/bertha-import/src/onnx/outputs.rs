//! A model whose inner tensors are outputs too, to look into it with another runtime.

use std::path::Path;

use super::proto::ValueInfoProto;
use super::{ExternalData, OnnxFile, write_onnx};
use crate::error::Result;

/// Writes the model at `model` to `target` with every result of a node as an output, after its own outputs.
///
/// # Errors
/// Those of reading and writing ONNX files.
pub fn write_with_all_outputs(model: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
    let mut file = OnnxFile::open(model)?;
    if let Some(graph) = &mut file.model.graph {
        let mut known: std::collections::HashSet<String> =
            graph.output.iter().map(|output| output.name.clone()).collect();
        for name in graph.node.iter().flat_map(|node| &node.output) {
            if !name.is_empty() && known.insert(name.clone()) {
                // Without a type, which the other runtime infers.
                graph.output.push(ValueInfoProto { name: name.clone(), ..ValueInfoProto::default() });
            }
        }
    }
    write_onnx(&file.model, &file.externals, target, ExternalData::WhenNeeded)
}
