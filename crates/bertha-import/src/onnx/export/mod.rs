//! From a ragged encoder graph to an ONNX file with padded inputs.
//!
//! A tensor `[tokens, ..]` of the graph becomes `[batch, sequence, ..]`, where the sequences of a batch are padded to
//! one length at their ends and `attention_mask` says what is padding; a tensor `[batch, ..]` stays what it is. So an
//! axis that is counted from the end stays the same axis, and each op of the graph becomes a few of ONNX.

use bertha_graph::{DType, Interface, Model, PositionIds, TensorId, ragged};

use self::values::{Exporter, Kind};
use self::writer::{Size, Writer};
use super::proto::{ModelProto, OperatorSetIdProto};
use crate::error::{ImportError, Result};

mod attention;
mod elementwise;
mod encoder;
mod pool;
mod values;
mod writer;

/// Names of the inputs of an exported graph; all are `I64 [batch_size, sequence_length]`.
pub mod input {
    /// Token ids.
    pub const INPUT_IDS: &str = "input_ids";
    /// 1 for a token, 0 for padding, which comes after the tokens.
    pub const ATTENTION_MASK: &str = "attention_mask";
    /// Segments; only where the model has them.
    pub const TOKEN_TYPE_IDS: &str = "token_type_ids";
}

/// How a model is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportOptions {
    /// Version of ONNX's default operator set, 11 to 23. From 17 on layer norms are one node, from 20 on GELUs are.
    pub opset: i64,
}

impl Default for ExportOptions {
    fn default() -> Self {
        ExportOptions { opset: 17 }
    }
}

/// The versions of the operator set that can be written, each with the version of the file format that goes with it.
const FORMATS: [(i64, i64); 13] = [
    (11, 6),
    (12, 7),
    (13, 7),
    (14, 7),
    (15, 8),
    (16, 8),
    (17, 8),
    (18, 8),
    (19, 9),
    (20, 9),
    (21, 10),
    (22, 10),
    (23, 11),
];

/// Writes a ragged encoder (see [`bertha_graph::ragged`]) as an ONNX model with padded inputs and dynamic batch and
/// length. The outputs have the names they have in the graph; rows of padding hold no meaning.
///
/// [`write_onnx`](super::write_onnx) puts the result into a file.
///
/// # Errors
/// [`ImportError::Export`] for a graph that is not ragged, an operator set that cannot be written, or a node that has
/// no padded form.
pub fn export(model: &Model, options: &ExportOptions) -> Result<ModelProto> {
    let refused = |what: String, hint: &str| ImportError::Export { what, reason: hint.to_owned() };
    let opset = options.opset;
    let Some((_, ir_version)) = FORMATS.into_iter().find(|(version, _)| *version == opset) else {
        return Err(refused(format!("operator set {opset}"), "expected one from 11 to 23"));
    };
    if model.info.interface != Interface::Ragged {
        let hint = "expected a graph with ragged inputs, as checkpoints give; this one has its own inputs";
        return Err(refused(format!("graph `{}`", model.graph.name), hint));
    }
    let mut exporter = Exporter::new(&model.graph, Writer::new(&model.graph.name, opset));
    declare_inputs(&mut exporter, model)?;
    exporter
        .reserve_outputs()
        .map_err(|name| refused(format!("output `{name}`"), "an input of the ONNX graph has this name"))?;
    for node in model.graph.nodes() {
        exporter
            .node(node)
            .map_err(|reason| refused(format!("node `{}` ({})", node.name, node.op.mnemonic()), &reason))?;
    }
    for (name, tensor) in model.graph.outputs() {
        exporter.output(name, *tensor).map_err(|reason| refused(format!("output `{name}`"), &reason))?;
    }
    Ok(ModelProto {
        ir_version,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
        producer_name: "bertha".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(exporter.finish()),
        ..ModelProto::default()
    })
}

/// Declares the padded inputs, and makes of them what the graph has for inputs.
fn declare_inputs(exporter: &mut Exporter<'_>, model: &Model) -> Result<()> {
    let shape = [Size::Named("batch_size".into()), Size::Named("sequence_length".into())];
    let graph = &model.graph;
    let ids = exporter.writer.input(input::INPUT_IDS, DType::I64, &shape);
    let mask = exporter.writer.input(input::ATTENTION_MASK, DType::I64, &shape);
    exporter.mask = mask;
    exporter.ids.clone_from(&ids);
    let refused = |tensor: TensorId, reason: String| ImportError::Export {
        what: format!("input `{}`", graph.tensor(tensor).name),
        reason,
    };
    for tensor in graph.inputs() {
        match graph.tensor(*tensor).name.as_str() {
            ragged::INPUT_IDS => exporter.define(*tensor, ids.clone(), Kind::Tokens),
            ragged::TOKEN_TYPE_IDS => {
                let types = exporter.writer.input(input::TOKEN_TYPE_IDS, DType::I64, &shape);
                exporter.define(*tensor, types, Kind::Tokens);
            }
            ragged::POSITION_IDS => {
                let positions = match model.info.position_ids {
                    PositionIds::Absolute => exporter.absolute_positions(),
                    PositionIds::AfterPad { pad_id } => exporter.positions_after_pad(pad_id),
                    PositionIds::None => {
                        return Err(refused(*tensor, "the model does not say how positions are made".into()));
                    }
                };
                let positions = positions.map_err(|reason| refused(*tensor, reason))?;
                exporter.define(*tensor, positions, Kind::Tokens);
            }
            ragged::CU_SEQLENS => exporter.cu_seqlens = Some(*tensor),
            _ => return Err(refused(*tensor, "it is not one of the inputs of a ragged encoder".into())),
        }
    }
    Ok(())
}
