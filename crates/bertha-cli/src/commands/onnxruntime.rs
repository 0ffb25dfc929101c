//! ONNX Runtime, loaded from its shared library when it is asked for.

use std::path::{Path, PathBuf};

use bertha::TensorData;
use bertha::graph::{DType, Element};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::{DynValue, Tensor};

use super::Failure;

/// Names the shared library.
const LIBRARY_VARIABLE: &str = "BERTHA_ONNXRUNTIME";
#[cfg(target_os = "windows")]
const LIBRARY_NAME: &str = "onnxruntime.dll";
#[cfg(target_os = "macos")]
const LIBRARY_NAME: &str = "libonnxruntime.dylib";
#[cfg(not(any(target_os = "windows", target_os = "macos")))]
const LIBRARY_NAME: &str = "libonnxruntime.so";

/// A model in ONNX Runtime, with its graph optimisations off: the plain answer of each node.
pub(super) struct OnnxRuntime {
    session: Session,
    /// Must outlive the session.
    _environment: Environment,
}

impl OnnxRuntime {
    /// Loads the library (the argument, the variable, or the system's search path) and the model.
    pub(super) fn open(library: Option<&Path>, model: &Path) -> Result<Self, Failure> {
        let library = library
            .map(Path::to_owned)
            .or_else(|| std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from(LIBRARY_NAME));
        let unloadable = |why: String| {
            Failure::Other(format!(
                "cannot load ONNX Runtime from {}: {why}; name its shared library with --library or {LIBRARY_VARIABLE} \
                 (the Python package has it as onnxruntime/capi/libonnxruntime.so.*)",
                library.display()
            ))
        };
        let environment = ort::init_from(&library)
            .map_err(|error| unloadable(error.to_string()))?
            .build()
            .map_err(|error| unloadable(error.to_string()))?;
        let refused =
            |error: String| Failure::Other(format!("ONNX Runtime refuses {}: {error}", model.display()));
        let mut builder = Session::builder(&environment).map_err(|error| refused(error.to_string()))?;
        let session = builder.commit_from_file(model).map_err(|error| refused(error.to_string()))?;
        Ok(OnnxRuntime { session, _environment: environment })
    }

    /// Runs named tensors and returns all outputs.
    pub(super) fn run(
        &mut self,
        inputs: &[(&str, &TensorData)],
    ) -> Result<Vec<(String, TensorData)>, Failure> {
        let failed = |what: &str, error: String| Failure::Other(format!("ONNX Runtime: {what}: {error}"));
        let mut values: Vec<(String, DynValue)> = Vec::new();
        for (name, data) in inputs {
            values.push(((*name).to_owned(), to_value(data).map_err(|error| failed(name, error))?));
        }
        let names: Vec<String> =
            self.session.outputs().iter().map(|output| output.name().to_owned()).collect();
        let outputs = self.session.run(values).map_err(|error| failed("run", error.to_string()))?;
        let mut results = Vec::new();
        for name in names {
            let value = outputs.get(&name).ok_or_else(|| failed(&name, "it gave no such output".into()))?;
            let data = from_value(value).map_err(|error| failed(&name, error))?;
            results.push((name, data));
        }
        Ok(results)
    }
}

fn to_value(data: &TensorData) -> Result<DynValue, String> {
    fn tensor<T>(data: &TensorData) -> Result<DynValue, String>
    where
        T: Element + ort::value::PrimitiveTensorElementType + Clone,
    {
        let shape: Vec<i64> = data.shape().iter().map(|dim| *dim as i64).collect();
        let values = data.as_slice::<T>().map_err(|error| error.to_string())?.to_vec();
        Ok(Tensor::from_array((shape, values)).map_err(|error| error.to_string())?.into_dyn())
    }
    match data.dtype() {
        DType::F32 => tensor::<f32>(data),
        DType::F64 => tensor::<f64>(data),
        DType::I64 => tensor::<i64>(data),
        DType::I32 => tensor::<i32>(data),
        DType::I8 => tensor::<i8>(data),
        DType::U8 => tensor::<u8>(data),
        DType::Bool => {
            let shape: Vec<i64> = data.shape().iter().map(|dim| *dim as i64).collect();
            let values = data.as_bools().map_err(|error| error.to_string())?;
            Ok(Tensor::from_array((shape, values)).map_err(|error| error.to_string())?.into_dyn())
        }
        other => Err(format!("inputs of {other} are not passed on")),
    }
}

fn from_value(value: &DynValue) -> Result<TensorData, String> {
    fn tensor<T>(value: &DynValue) -> Option<Result<TensorData, String>>
    where
        T: Element + ort::value::PrimitiveTensorElementType,
    {
        let (shape, values) = value.try_extract_tensor::<T>().ok()?;
        let shape: Vec<usize> = shape.iter().map(|dim| *dim as usize).collect();
        Some(TensorData::from_vec(shape, values.to_vec()).map_err(|error| error.to_string()))
    }
    fn bools(value: &DynValue) -> Option<Result<TensorData, String>> {
        let (shape, values) = value.try_extract_tensor::<bool>().ok()?;
        let shape: Vec<usize> = shape.iter().map(|dim| *dim as usize).collect();
        Some(TensorData::from_bools(shape, values).map_err(|error| error.to_string()))
    }
    tensor::<f32>(value)
        .or_else(|| tensor::<i64>(value))
        .or_else(|| tensor::<f64>(value))
        .or_else(|| tensor::<i32>(value))
        .or_else(|| tensor::<i8>(value))
        .or_else(|| tensor::<u8>(value))
        .or_else(|| bools(value))
        .unwrap_or_else(|| Err("its type is not one that is compared".into()))
}
