//! How much memory a model would take once decoded, found before it is decoded.
//!
//! An empty message takes two bytes in a file and up to a kilobyte in memory, so a file of a few megabytes could ask for
//! gigabytes. A walk over the bytes counts the messages; it follows only fields that hold messages or lists of text.

use super::proto;

/// Messages deeper than this are refused, before the decoder's own limit.
const MAX_DEPTH: usize = 96;
/// Memory that is never refused.
const FLOOR_BYTES: usize = 256 << 20;
/// Memory allowed per byte of the file beyond that. Real models take less than ten.
const BYTES_PER_BYTE: usize = 16;

/// Checks the messages of a model.
///
/// # Errors
/// A reason: cut off, nested too deeply, not protobuf as ONNX uses it, or too many messages for its size.
pub(super) fn check(model: &[u8]) -> Result<(), String> {
    let allowed = model.len().saturating_mul(BYTES_PER_BYTE).saturating_add(FLOOR_BYTES);
    let mut budget = allowed;
    walk(model, Kind::Model, MAX_DEPTH, &mut budget)
}

/// What a length-delimited field holds.
#[derive(Clone, Copy)]
enum Kind {
    Annotation,
    Attribute,
    Dimension,
    Entry,
    Function,
    Graph,
    IntIntList,
    Map,
    Model,
    Node,
    NodeDevice,
    Sequence,
    Shape,
    ShardedDim,
    Sharding,
    Sparse,
    Tensor,
    TensorType,
    /// Text or bytes of a list.
    Text,
    Training,
    Type,
    ValueInfo,
}

impl Kind {
    /// The message in field `tag`; `None` for numbers, single texts and unknown fields, whose memory is in proportion to
    /// their bytes.
    fn child(self, tag: u64) -> Option<Kind> {
        Some(match (self, tag) {
            (Kind::Model, 7) => Kind::Graph,
            (Kind::Model, 8 | 14 | 26) => Kind::Entry,
            (Kind::Model, 20) => Kind::Training,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
            (Kind::Graph, 5) | (Kind::Attribute, 5 | 10) | (Kind::Sparse, 1 | 2) => Kind::Tensor,
            (Kind::Graph, 11..=13) | (Kind::Function, 12) => Kind::ValueInfo,
            (Kind::Graph, 14) => Kind::Annotation,
            (Kind::Graph, 15) | (Kind::Attribute, 22 | 23) => Kind::Sparse,
            (Kind::Graph, 16) | (Kind::Annotation, 2) | (Kind::Training, 3 | 4) => Kind::Entry,
            (Kind::Node, 1 | 2) | (Kind::Attribute, 9) | (Kind::Tensor, 6) => Kind::Text,
            (Kind::Node, 5) | (Kind::Function, 11) => Kind::Attribute,
            (Kind::Node, 9) | (Kind::Tensor, 13 | 16) | (Kind::ValueInfo, 4) => Kind::Entry,
            (Kind::Node, 10) => Kind::NodeDevice,
            (Kind::NodeDevice, 2) => Kind::Sharding,
            (Kind::Sharding, 3) => Kind::IntIntList,
            (Kind::Sharding, 4) => Kind::ShardedDim,
            (Kind::ShardedDim, 2) | (Kind::Shape, 1) => Kind::Dimension,
            (Kind::Attribute, 6 | 11) | (Kind::Training, 1 | 2) => Kind::Graph,
            (Kind::Attribute, 14 | 15) | (Kind::ValueInfo, 2) => Kind::Type,
            (Kind::Function, 4..=6) => Kind::Text,
            (Kind::Function, 9 | 14) => Kind::Entry,
            (Kind::Type, 1 | 8) => Kind::TensorType,
            (Kind::Type, 4 | 9) => Kind::Sequence,
            (Kind::Type, 5) => Kind::Map,
            (Kind::Sequence, 1) | (Kind::Map, 2) => Kind::Type,
            (Kind::TensorType, 2) => Kind::Shape,
            _ => return None,
        })
    }

    /// Bytes of the decoded message itself, without what it points to.
    fn size(self) -> usize {
        match self {
            Kind::Annotation => size_of::<proto::TensorAnnotation>(),
            Kind::Attribute => size_of::<proto::AttributeProto>(),
            Kind::Dimension => size_of::<proto::Dimension>(),
            // Also operator sets and device configurations, which are no larger than two texts and a list.
            Kind::Entry => {
                size_of::<proto::StringStringEntryProto>().max(size_of::<proto::DeviceConfigurationProto>())
            }
            Kind::Function => size_of::<proto::FunctionProto>(),
            Kind::Graph => size_of::<proto::GraphProto>(),
            Kind::IntIntList => size_of::<proto::IntIntListEntryProto>(),
            Kind::Map => size_of::<proto::type_proto::Map>(),
            Kind::Model => size_of::<proto::ModelProto>(),
            Kind::Node => size_of::<proto::NodeProto>(),
            Kind::NodeDevice => size_of::<proto::NodeDeviceConfigurationProto>(),
            Kind::Sequence => size_of::<proto::type_proto::Sequence>(),
            Kind::Shape => size_of::<proto::TensorShapeProto>(),
            Kind::ShardedDim => size_of::<proto::ShardedDimProto>(),
            Kind::Sharding => size_of::<proto::ShardingSpecProto>(),
            Kind::Sparse => size_of::<proto::SparseTensorProto>(),
            Kind::Tensor => size_of::<proto::TensorProto>(),
            Kind::TensorType => size_of::<proto::type_proto::Tensor>(),
            Kind::Text => size_of::<bytes::Bytes>(),
            Kind::Training => size_of::<proto::TrainingInfoProto>(),
            Kind::Type => size_of::<proto::TypeProto>(),
            Kind::ValueInfo => size_of::<proto::ValueInfoProto>(),
        }
    }
}

fn walk(mut message: &[u8], kind: Kind, depth: usize, budget: &mut usize) -> Result<(), String> {
    *budget = budget
        .checked_sub(kind.size())
        .ok_or("it has so many small parts that it would take far more memory than its size")?;
    if matches!(kind, Kind::Text) {
        return Ok(());
    }
    let depth =
        depth.checked_sub(1).ok_or_else(|| format!("its messages are nested over {MAX_DEPTH} deep"))?;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let skipped = match key & 7 {
            0 => {
                varint(&mut message)?;
                0
            }
            1 => 8,
            5 => 4,
            2 => {
                let length = usize::try_from(varint(&mut message)?).unwrap_or(usize::MAX);
                let part = message.get(..length).ok_or("it is cut off inside a message")?;
                if let Some(child) = kind.child(key >> 3) {
                    walk(part, child, depth, budget)?;
                }
                length
            }
            wire_type => {
                return Err(format!("it has a field of wire type {wire_type}, which ONNX does not use"));
            }
        };
        message = message.get(skipped..).ok_or("it is cut off inside a number")?;
    }
    Ok(())
}

/// Reads a variable-length integer of at most 10 bytes; bits beyond 64 are dropped, as decoders do.
fn varint(message: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for position in 0..10 {
        let (&byte, rest) = message.split_first().ok_or("it is cut off inside an integer")?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("it has an integer of more than 10 bytes".into())
}
