//! ONNX models: the messages of the format, reading files and their tensors, writing files.

mod dtype;
mod export;
mod external;
mod file;
mod import;
mod limits;
mod outputs;
pub mod proto;
mod tensor;
mod write;

pub use dtype::{data_type, dtype_of};
pub use export::{ExportOptions, export, input};
pub use external::ExternalFiles;
pub use file::OnnxFile;
pub use import::{ImportOptions, UnsupportedNode, domain, import, import_model};
pub use outputs::write_with_all_outputs;
pub use tensor::tensor_proto;
pub use write::{ExternalData, write_file, write_onnx};

/// Name of the format in messages.
const FORMAT: &str = "ONNX";
