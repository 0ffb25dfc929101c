//! How a model is spread over several devices.

use super::dimension;

/// A named set of devices.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeviceConfigurationProto {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How many devices.
    #[prost(int32, tag = "2")]
    pub num_devices: i32,
    /// Their names.
    #[prost(string, repeated, tag = "3")]
    pub device: Vec<String>,
}

/// Placement of a node in a device configuration.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NodeDeviceConfigurationProto {
    /// The configuration's name.
    #[prost(string, tag = "1")]
    pub configuration_id: String,
    /// How its tensors are split.
    #[prost(message, repeated, tag = "2")]
    pub sharding_spec: Vec<ShardingSpecProto>,
    /// Which stage of a pipeline.
    #[prost(int32, optional, tag = "3")]
    pub pipeline_stage: Option<i32>,
}

/// How one tensor is split over devices.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ShardingSpecProto {
    /// The tensor.
    #[prost(string, tag = "1")]
    pub tensor_name: String,
    /// The devices, or keys of the map below.
    #[prost(int64, repeated, packed = "false", tag = "2")]
    pub device: Vec<i64>,
    /// Groups of devices.
    #[prost(message, repeated, tag = "3")]
    pub index_to_device_group_map: Vec<IntIntListEntryProto>,
    /// The split dimensions.
    #[prost(message, repeated, tag = "4")]
    pub sharded_dim: Vec<ShardedDimProto>,
}

/// An integer and a list of integers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct IntIntListEntryProto {
    /// The integer.
    #[prost(int64, tag = "1")]
    pub key: i64,
    /// The list.
    #[prost(int64, repeated, packed = "false", tag = "2")]
    pub value: Vec<i64>,
}

/// How one dimension is split.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ShardedDimProto {
    /// Which dimension.
    #[prost(int64, tag = "1")]
    pub axis: i64,
    /// The splits, one after another.
    #[prost(message, repeated, tag = "2")]
    pub simple_sharding: Vec<SimpleShardedDimProto>,
}

/// One split of a dimension.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SimpleShardedDimProto {
    /// Length of the dimension.
    #[prost(oneof = "dimension::Value", tags = "1, 2")]
    pub dim: Option<dimension::Value>,
    /// Number of parts.
    #[prost(int64, tag = "3")]
    pub num_shards: i64,
}
