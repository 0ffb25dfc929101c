//! Weights quantised by compressed-tensors to 8 bits, made f32 again.
//!
//! For a weight `W` the checkpoint holds `W` as int8, or `W_packed` (four values in each 32-bit word, the lowest byte
//! first, each plus 128) with `W_shape`; `W_scale` for the whole tensor, for each row (`[out, 1]`) or for each group of
//! columns (`[out, groups]`); and maybe `W_zero_point`. The value is `(q - zero_point) * scale`.

use std::collections::BTreeSet;

use bertha_graph::{DType, TensorData};
use serde_json::Value;

use super::checkpoint::Checkpoint;
use super::config::{Config, kind};
use super::weights::packed_name;
use crate::error::{ImportError, Result};

/// That a checkpoint is quantised in a way that can be undone.
#[derive(Debug)]
pub(crate) struct Compression;

/// Fields of `config.json` that hold the scheme.
const FIELDS: [&str; 2] = ["quantization_config", "compression_config"];
const FORMATS: [&str; 4] = ["int-quantized", "naive-quantized", "pack-quantized", "dense"];

impl Compression {
    /// What `config.json` says; `None` for plain weights.
    ///
    /// # Errors
    /// [`ImportError::Config`] naming the field for anything but weights in 8-bit integers.
    pub(crate) fn of(config: &Config) -> Result<Option<Self>> {
        for field in FIELDS {
            if config.object(field)?.is_some() {
                Scheme { config, field }.check()?;
                return Ok(Some(Compression));
            }
        }
        Ok(None)
    }

    /// The weight `stored` as f32 and what was used to make it, when it is quantised.
    pub(crate) fn load(
        &self,
        checkpoint: &Checkpoint,
        stored: &str,
        used: &mut BTreeSet<String>,
    ) -> Result<Option<TensorData>> {
        let scale_name = format!("{stored}_scale");
        if !checkpoint.contains(&scale_name) {
            return Ok(None);
        }
        let wrong = |reason: String| ImportError::tensor(checkpoint.path(), stored, reason);
        let packed = packed_name(stored);
        let (shape, values) = if checkpoint.contains(&packed) {
            let shape_name = format!("{stored}_shape");
            let unpacked =
                unpack(&checkpoint.tensor(&packed)?, &checkpoint.tensor(&shape_name)?).map_err(wrong)?;
            used.extend([packed, shape_name]);
            unpacked
        } else {
            let weight = checkpoint.tensor(stored)?;
            let values = weight.as_slice::<i8>().map_err(|error| wrong(error.to_string()))?.to_vec();
            used.insert(stored.to_owned());
            (weight.shape().to_vec(), values)
        };
        let scale = checkpoint.tensor(&scale_name)?;
        used.insert(scale_name);
        let zero_name = format!("{stored}_zero_point");
        let zero = if checkpoint.contains(&zero_name) { Some(checkpoint.tensor(&zero_name)?) } else { None };
        used.insert(zero_name);
        let data = dequantize(&shape, &values, &scale, zero.as_ref()).map_err(wrong)?;
        TensorData::from_vec(shape, data).map(Some).map_err(|error| wrong(error.to_string()))
    }
}

/// The scheme in one field of `config.json`.
struct Scheme<'a> {
    config: &'a Config,
    field: &'a str,
}

impl Scheme<'_> {
    fn wrong(&self, path: &str, reason: String) -> ImportError {
        self.config.wrong(&format!("{}.{path}", self.field), reason)
    }

    fn check(&self) -> Result<()> {
        let Some(scheme) = self.config.object(self.field)? else { return Ok(()) };
        if let Some(method) = scheme.get("quant_method").filter(|method| *method != "compressed-tensors") {
            return Err(self.wrong(
                "quant_method",
                format!(
                    "expected \"compressed-tensors\", the only method that is supported, found {}",
                    kind(method)
                ),
            ));
        }
        if let Some(format) = scheme.get("format").filter(|format| !format.is_null()) {
            let known = format.as_str().is_some_and(|name| FORMATS.contains(&name));
            if !known {
                return Err(self.wrong(
                    "format",
                    format!("expected one of {}, found {}", FORMATS.join(", "), kind(format)),
                ));
            }
        }
        let groups = match scheme.get("config_groups") {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Object(groups)) => groups,
            Some(other) => {
                return Err(self.wrong("config_groups", format!("expected an object, found {}", kind(other))));
            }
        };
        groups.iter().try_for_each(|(name, group)| self.check_group(name, group))
    }

    fn check_group(&self, name: &str, group: &Value) -> Result<()> {
        for activations in ["input_activations", "output_activations"] {
            if group.get(activations).is_some_and(|value| !value.is_null()) {
                return Err(self.wrong(
                    &format!("config_groups.{name}.{activations}"),
                    "quantised activations are not supported, only weights are; expected null".into(),
                ));
            }
        }
        let Some(weights) = group.get("weights").filter(|weights| !weights.is_null()) else { return Ok(()) };
        let expected = [("num_bits", Value::from(8)), ("type", Value::from("int"))];
        for (field, expected) in expected {
            let found = weights.get(field).unwrap_or(&Value::Null);
            // Older files leave the type out; integers are the default there.
            if *found != expected && !(field == "type" && found.is_null()) {
                return Err(self.wrong(
                    &format!("config_groups.{name}.weights.{field}"),
                    format!(
                        "only weights in 8-bit integers are supported; expected {expected}, found {}",
                        kind(found)
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Four values of each word, the lowest byte first, each stored plus 128.
fn unpack(packed: &TensorData, shape: &TensorData) -> Result<(Vec<usize>, Vec<i8>), String> {
    let dims = shape.to_i64().ok_or("its `weight_shape` is not of integers")?;
    let dims: Option<Vec<usize>> = dims.into_iter().map(|dim| usize::try_from(dim).ok()).collect();
    let Some([rows, columns]) = dims.as_deref().and_then(|dims| <[usize; 2]>::try_from(dims).ok()) else {
        return Err("its `weight_shape` is not two sizes".into());
    };
    let words_per_row = columns.div_ceil(4);
    if packed.dtype() != DType::I32 || packed.shape() != [rows, words_per_row] {
        return Err(format!(
            "expected `weight_packed` to be i32[{rows}, {words_per_row}] for the shape [{rows}, {columns}], found {}",
            packed.ty()
        ));
    }
    let words = packed.as_slice::<i32>().map_err(|error| error.to_string())?;
    let mut values = Vec::with_capacity(words.len() * 4);
    for row in words.chunks(words_per_row.max(1)) {
        let bytes = row.iter().flat_map(|word| word.to_le_bytes());
        values.extend(bytes.take(columns).map(|byte| (byte ^ 0x80) as i8));
    }
    Ok((vec![rows, columns], values))
}

/// `(q - zero) * scale`, where `scale` has one element, one for each row, or one for each group of columns.
fn dequantize(
    shape: &[usize],
    values: &[i8],
    scale: &TensorData,
    zero: Option<&TensorData>,
) -> Result<Vec<f32>, String> {
    let &[rows, columns] = shape else {
        return Err(format!("expected a matrix, found the shape {shape:?}"));
    };
    let groups = match scale.shape() {
        [] | [1] | [1, 1] => None,
        [r] if *r == rows => Some(1),
        [r, groups] if *r == rows && *groups > 0 && columns.is_multiple_of(*groups) => Some(*groups),
        other => {
            return Err(format!(
                "expected a scale for the tensor, each of {rows} rows or groups of {columns} columns, found {other:?}"
            ));
        }
    };
    let scales = scale.to_f32().ok_or_else(|| format!("its scale is {}, not floats", scale.dtype()))?;
    let zeros: Vec<f32> = match zero {
        None => vec![0.0; scales.len()],
        Some(zero) if zero.len() == scales.len() && matches!(zero.dtype(), DType::I8 | DType::U8) => {
            zero.to_f64().into_iter().map(|value| value as f32).collect()
        }
        Some(zero) => {
            return Err(format!(
                "expected a zero point of i8 for each of {} scales, found {}",
                scales.len(),
                zero.ty()
            ));
        }
    };
    let width = groups.map_or(values.len(), |groups| columns / groups).max(1);
    let mut data = Vec::with_capacity(values.len());
    for ((group, scale), zero) in values.chunks(width).zip(scales.iter()).zip(&zeros) {
        data.extend(group.iter().map(|q| (f32::from(*q) - zero) * scale));
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_go_by_tensor_row_or_group() {
        let q = [1i8, -2, 3, -4, 5, -6, 7, -8];
        let tensor = dequantize(&[2, 4], &q, &TensorData::vector(vec![0.5f32]), None).unwrap();
        assert_eq!(tensor, [0.5, -1.0, 1.5, -2.0, 2.5, -3.0, 3.5, -4.0]);
        let rows = TensorData::from_vec(vec![2, 1], vec![1.0f32, 10.0]).unwrap();
        let zeros = TensorData::from_vec(vec![2, 1], vec![1i8, -1]).unwrap();
        let by_row = dequantize(&[2, 4], &q, &rows, Some(&zeros)).unwrap();
        assert_eq!(by_row, [0.0, -3.0, 2.0, -5.0, 60.0, -50.0, 80.0, -70.0]);
        let groups = TensorData::from_vec(vec![2, 2], vec![1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let by_group = dequantize(&[2, 4], &q, &groups, None).unwrap();
        assert_eq!(by_group, [1.0, -2.0, 6.0, -8.0, 15.0, -18.0, 28.0, -32.0]);
        let misfit = TensorData::from_vec(vec![2, 3], vec![1.0f32; 6]).unwrap();
        assert!(dequantize(&[2, 4], &q, &misfit, None).unwrap_err().contains("[2, 3]"));
    }

    #[test]
    fn packed_words_hold_four_values_from_the_lowest_byte() {
        let q: Vec<i8> = vec![-128, 127, 0, 1, -1, 5];
        let pack = |bytes: &[i8]| {
            let mut word = [0u8; 4];
            for (slot, value) in word.iter_mut().zip(bytes) {
                *slot = (i16::from(*value) + 128) as u8;
            }
            i32::from_le_bytes(word)
        };
        let words = TensorData::from_vec(vec![1, 2], vec![pack(&q[..4]), pack(&q[4..])]).unwrap();
        let shape = TensorData::vector(vec![1i64, 6]);
        assert_eq!(unpack(&words, &shape).unwrap(), (vec![1, 6], q));
        assert!(unpack(&words, &TensorData::vector(vec![1i64, 9])).is_err());
        assert!(unpack(&words, &TensorData::vector(vec![i64::MAX, i64::MAX])).is_err());
    }
}
