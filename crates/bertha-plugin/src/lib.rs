//! Plugins: ops that are not built in.
//!
//! A plugin is a type that implements [`Plugin`]. A program adds it to the [`PluginSet`] that it hands to the importer
//! and the engine; or a library exports it with [`export_plugins!`], and [`load`] reads it from there. Libraries
//! written in C or C++ include `include/bertha_plugin.h`, whose structures are those of [`abi`]. [`check`] runs a
//! kernel against the plugin's own reference on random shapes.
//!
//! ```
//! use bertha_plugin::{Declaration, F64Tensor, Fields, Parallel, Plugin, PluginSet, TensorView, TensorViewMut};
//!
//! /// `y = max(x, 0)^2`
//! struct SquaredRelu;
//!
//! impl Plugin for SquaredRelu {
//!     fn declaration(&self) -> Declaration {
//!         Declaration {
//!             name: "SquaredRelu".into(),
//!             version: 1,
//!             domain: "com.example".into(),
//!             op_type: "SquaredRelu".into(),
//!             signature: "x: f32[...] -> y: f32[...]".into(),
//!             ..Declaration::default()
//!         }
//!     }
//!
//!     fn reference(&self, _: &Fields, inputs: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
//!         let x = inputs[0].ok_or("x is missing")?;
//!         let values = x.values.iter().map(|x| x.max(0.0).powi(2)).collect();
//!         Ok(vec![F64Tensor { shape: x.shape.clone(), values }])
//!     }
//!
//!     fn run(
//!         &self,
//!         _: &Fields,
//!         inputs: &[Option<TensorView<'_>>],
//!         outputs: &mut [Option<TensorViewMut<'_>>],
//!         _: &mut dyn Parallel,
//!     ) -> Result<(), String> {
//!         let x = inputs[0].ok_or("x is missing")?.as_slice::<f32>()?;
//!         let Some(y) = &mut outputs[0] else { return Ok(()) };
//!         for (y, x) in y.as_mut_slice::<f32>()?.iter_mut().zip(x) {
//!             *y = x.max(0.0).powi(2);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let mut plugins = PluginSet::new();
//! let def = plugins.add(SquaredRelu)?;
//! let report = bertha_plugin::check::check(&def, &bertha_plugin::check::Options::default())?;
//! assert!(report.failures.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod abi;
pub mod check;
mod export;
mod foreign;
mod load;
mod rows;

pub use bertha_graph::interp::F64Tensor;
pub use bertha_graph::plugin::{
    CudaSource, Declaration, Field, FieldKind, FieldSpec, Fields, Library, Parallel, Plugin, PluginDef,
    PluginError, PluginOp, PluginSet, Sequential, Signature, TensorView, TensorViewMut,
};
pub use bertha_graph::{DType, Element};
pub use export::Exported;
pub use load::{LoadError, load};
pub use rows::for_rows;
