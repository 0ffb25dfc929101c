//! Names, types and shapes of values.

use super::StringStringEntryProto;

/// The name and type of a value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueInfoProto {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
    /// Free text.
    #[prost(string, tag = "3")]
    pub doc_string: String,
    /// Named strings.
    #[prost(message, repeated, tag = "4")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// A type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeProto {
    /// Which kind of type.
    #[prost(oneof = "type_proto::Value", tags = "1, 4, 5, 9, 8, 7")]
    pub value: Option<type_proto::Value>,
    /// What the value means, by convention: `IMAGE`, ...
    #[prost(string, tag = "6")]
    pub denotation: String,
}

/// The kinds of types.
pub mod type_proto {
    use super::{TensorShapeProto, TypeProto};

    /// One kind of type.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Value {
        /// A dense tensor.
        #[prost(message, tag = "1")]
        TensorType(Tensor),
        /// A list of values of one type.
        #[prost(message, tag = "4")]
        SequenceType(Box<Sequence>),
        /// A map from integers or strings.
        #[prost(message, tag = "5")]
        MapType(Box<Map>),
        /// A value that may be absent.
        #[prost(message, tag = "9")]
        OptionalType(Box<Optional>),
        /// A sparse tensor.
        #[prost(message, tag = "8")]
        SparseTensorType(Tensor),
        /// A type that only its operators know.
        #[prost(message, tag = "7")]
        OpaqueType(Opaque),
    }

    /// Element type and shape.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Tensor {
        /// A [`DataType`](crate::onnx::proto::DataType).
        #[prost(int32, tag = "1")]
        pub elem_type: i32,
        /// The shape; absent when not even the rank is known.
        #[prost(message, optional, tag = "2")]
        pub shape: Option<TensorShapeProto>,
    }

    /// A list.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sequence {
        /// Type of its items.
        #[prost(message, optional, boxed, tag = "1")]
        pub elem_type: Option<Box<TypeProto>>,
    }

    /// A map.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Map {
        /// A [`DataType`](crate::onnx::proto::DataType): an integer or string type.
        #[prost(int32, tag = "1")]
        pub key_type: i32,
        /// Type of its values.
        #[prost(message, optional, boxed, tag = "2")]
        pub value_type: Option<Box<TypeProto>>,
    }

    /// A value that may be absent.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Optional {
        /// Its type when present.
        #[prost(message, optional, boxed, tag = "1")]
        pub elem_type: Option<Box<TypeProto>>,
    }

    /// A named type without structure.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct Opaque {
        /// Namespace.
        #[prost(string, tag = "1")]
        pub domain: String,
        /// Name.
        #[prost(string, tag = "2")]
        pub name: String,
    }
}

/// A shape whose dimensions may be unknown.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TensorShapeProto {
    /// The dimensions.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// One dimension; unknown when `value` is absent.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Dimension {
    /// A number or a symbol.
    #[prost(oneof = "dimension::Value", tags = "1, 2")]
    pub value: Option<dimension::Value>,
    /// What the dimension means, by convention: `DATA_BATCH`, ...
    #[prost(string, tag = "3")]
    pub denotation: String,
}

/// The kinds of dimensions.
pub mod dimension {
    /// A number or a symbol.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Value {
        /// A fixed length.
        #[prost(int64, tag = "1")]
        DimValue(i64),
        /// A named length, the same wherever the name occurs in the graph.
        #[prost(string, tag = "2")]
        DimParam(String),
    }
}
