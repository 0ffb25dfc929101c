//! Shared by the tests of the readers.
#![allow(dead_code)] // each test file uses a part

use std::path::{Path, PathBuf};

use bertha_graph::{DType, TensorData};

/// A file under `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Asserts type, shape and values, all exact.
#[track_caller]
pub(crate) fn assert_tensor(tensor: &TensorData, dtype: DType, shape: &[usize], values: &[f64]) {
    assert_eq!((tensor.dtype(), tensor.shape()), (dtype, shape));
    assert_eq!(tensor.to_f64(), values);
}

/// `0, 1, 2, ...`
pub(crate) fn ramp(count: usize) -> Vec<f64> {
    (0..count).map(|value| value as f64).collect()
}

/// One tensor of every element type, shape `[2, 3]`, values 0 to 5 (booleans 0, 1, 1, 1, 1, 1).
pub(crate) fn all_dtypes() -> Vec<(String, TensorData)> {
    use half::{bf16, f16};
    fn tensor<T: bertha_graph::Element>(convert: impl Fn(u8) -> T) -> TensorData {
        TensorData::from_vec(vec![2, 3], (0..6).map(convert).collect()).unwrap()
    }
    DType::ALL
        .into_iter()
        .map(|dtype| {
            let data = match dtype {
                DType::F64 => tensor(f64::from),
                DType::F32 => tensor(f32::from),
                DType::F16 => tensor(f16::from),
                DType::BF16 => tensor(bf16::from),
                DType::I64 => tensor(i64::from),
                DType::I32 => tensor(i32::from),
                DType::I16 => tensor(i16::from),
                DType::I8 => tensor(|value| value as i8),
                DType::U64 => tensor(u64::from),
                DType::U32 => tensor(u32::from),
                DType::U16 => tensor(u16::from),
                DType::U8 => tensor(|value| value),
                DType::Bool => {
                    TensorData::from_bools(vec![2, 3], &[0, 1, 2, 3, 4, 5].map(|v| v != 0)).unwrap()
                }
            };
            (format!("{dtype}"), data)
        })
        .collect()
}

/// Runs `use_bytes` on every truncation of `bytes` and on copies with one byte changed at every place (three ways).
/// The point is that nothing panics; what comes back is up to the caller.
pub(crate) fn damage(bytes: &[u8], mut use_bytes: impl FnMut(Vec<u8>)) {
    for end in 0..bytes.len() {
        use_bytes(bytes[..end].to_vec());
        for change in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.to_vec();
            damaged[end] ^= change;
            use_bytes(damaged);
        }
    }
}
