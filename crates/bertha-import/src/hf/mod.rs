//! Hugging Face checkpoints: weights in safetensors or PyTorch files, whole or in shards.

mod checkpoint;
mod shards;

pub mod safetensors;
pub mod torch_bin;

pub use checkpoint::Checkpoint;
pub use safetensors::{SafetensorsFile, write_safetensors};
pub use torch_bin::TorchFile;
