//! Hugging Face checkpoints: weights in safetensors or PyTorch files, whole or in shards, and the models that a
//! folder with a `config.json` describes.
//!
//! [`import`] reads a folder; the other items read weights alone.

mod activation;
mod checkpoint;
mod checks;
mod compressed;
pub(crate) mod config;
mod families;
mod heads;
mod import;
mod net;
pub(crate) mod sentence;
mod shards;
pub(crate) mod tokenizer;
mod weights;

pub mod safetensors;
pub mod torch_bin;

pub use checkpoint::Checkpoint;
pub use import::{ImportOptions, import};
pub use safetensors::{SafetensorsFile, write_safetensors};
pub use torch_bin::TorchFile;
