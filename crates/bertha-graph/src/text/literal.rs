//! Elements of tensors as text: exact both ways.

use bytes::Bytes;
use half::{bf16, f16};

use crate::dtype::{DType, Element};
use crate::tensor::TensorData;

/// The shortest text that reads back as this number. NaNs other than the usual one show their bits.
pub(super) fn f32_text(value: f32) -> String {
    match value.is_nan() {
        true if value.to_bits() == f32::NAN.to_bits() => "nan".into(),
        true => format!("nan:0x{:08x}", value.to_bits()),
        false => format!("{value:?}"),
    }
}

/// As [`f32_text`].
pub(super) fn f64_text(value: f64) -> String {
    match value.is_nan() {
        true if value.to_bits() == f64::NAN.to_bits() => "nan".into(),
        true => format!("nan:0x{:016x}", value.to_bits()),
        false => format!("{value:?}"),
    }
}

fn f16_text(value: f16) -> String {
    match value.is_nan() && value.to_bits() != f16::NAN.to_bits() {
        true => format!("nan:0x{:04x}", value.to_bits()),
        false => f32_text(value.to_f32()),
    }
}

fn bf16_text(value: bf16) -> String {
    match value.is_nan() && value.to_bits() != bf16::NAN.to_bits() {
        true => format!("nan:0x{:04x}", value.to_bits()),
        false => f32_text(value.to_f32()),
    }
}

/// The elements as text, in row-major order; `None` for booleans that are neither 0 nor 1.
pub(super) fn element_texts(data: &TensorData) -> Option<Vec<String>> {
    fn texts<T: Element>(data: &TensorData, text: impl Fn(T) -> String) -> Option<Vec<String>> {
        Some(data.as_slice::<T>().ok()?.iter().map(|value| text(*value)).collect())
    }
    match data.dtype() {
        DType::F64 => texts(data, f64_text),
        DType::F32 => texts(data, f32_text),
        DType::F16 => texts(data, f16_text),
        DType::BF16 => texts(data, bf16_text),
        DType::I64 => texts(data, |v: i64| v.to_string()),
        DType::I32 => texts(data, |v: i32| v.to_string()),
        DType::I16 => texts(data, |v: i16| v.to_string()),
        DType::I8 => texts(data, |v: i8| v.to_string()),
        DType::U64 => texts(data, |v: u64| v.to_string()),
        DType::U32 => texts(data, |v: u32| v.to_string()),
        DType::U16 => texts(data, |v: u16| v.to_string()),
        DType::U8 => texts(data, |v: u8| v.to_string()),
        DType::Bool => data.bytes().iter().map(|byte| bool_text(*byte)).collect(),
    }
}

fn bool_text(byte: u8) -> Option<String> {
    match byte {
        0 => Some("false".into()),
        1 => Some("true".into()),
        _ => None,
    }
}

/// Appends the bytes of the element that `text` stands for.
pub(super) fn push_element(dtype: DType, text: &str, bytes: &mut Vec<u8>) -> Result<(), String> {
    match dtype {
        DType::F64 => bytes.extend(parse_f64(text)?.to_le_bytes()),
        DType::F32 => bytes.extend(parse_f32(text)?.to_le_bytes()),
        DType::F16 => bytes.extend(narrow(text, dtype, f16::from_bits, f16::from_f64)?.to_le_bytes()),
        DType::BF16 => bytes.extend(narrow(text, dtype, bf16::from_bits, bf16::from_f64)?.to_le_bytes()),
        DType::I64 => bytes.extend(int::<i64>(text, dtype)?.to_le_bytes()),
        DType::I32 => bytes.extend(int::<i32>(text, dtype)?.to_le_bytes()),
        DType::I16 => bytes.extend(int::<i16>(text, dtype)?.to_le_bytes()),
        DType::I8 => bytes.extend(int::<i8>(text, dtype)?.to_le_bytes()),
        DType::U64 => bytes.extend(int::<u64>(text, dtype)?.to_le_bytes()),
        DType::U32 => bytes.extend(int::<u32>(text, dtype)?.to_le_bytes()),
        DType::U16 => bytes.extend(int::<u16>(text, dtype)?.to_le_bytes()),
        DType::U8 => bytes.extend(int::<u8>(text, dtype)?.to_le_bytes()),
        DType::Bool => bytes.push(match text {
            "false" => 0,
            "true" => 1,
            _ => return Err(format!("expected true or false, found `{text}`")),
        }),
    }
    Ok(())
}

fn int<T: std::str::FromStr>(text: &str, dtype: DType) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected a number of type {dtype}, found `{text}`"))
}

/// The bits of a NaN that shows them, when `text` is one.
fn nan_bits(text: &str) -> Option<Option<u64>> {
    let digits = text.strip_prefix("nan:0x")?;
    Some(u64::from_str_radix(digits, 16).ok())
}

/// Reads what [`f32_text`] prints.
pub(super) fn parse_f32(text: &str) -> Result<f32, String> {
    let wrong = || format!("expected a number of type f32, found `{text}`");
    if let Some(bits) = nan_bits(text) {
        let bits = bits.and_then(|bits| u32::try_from(bits).ok()).ok_or_else(wrong)?;
        return Some(f32::from_bits(bits)).filter(|value| value.is_nan()).ok_or_else(wrong);
    }
    let value: f32 = text.parse().map_err(|_| wrong())?;
    if value.is_infinite() && !is_infinity(text) {
        return Err(format!("`{text}` is out of range for f32"));
    }
    Ok(value)
}

/// Reads what [`f64_text`] prints.
pub(super) fn parse_f64(text: &str) -> Result<f64, String> {
    let wrong = || format!("expected a number, found `{text}`");
    if let Some(bits) = nan_bits(text) {
        let value = bits.map(f64::from_bits);
        return value.filter(|value| value.is_nan()).ok_or_else(wrong);
    }
    let value: f64 = text.parse().map_err(|_| wrong())?;
    if value.is_infinite() && !is_infinity(text) {
        return Err(format!("`{text}` is out of range for f64"));
    }
    Ok(value)
}

fn is_infinity(text: &str) -> bool {
    matches!(text, "inf" | "-inf")
}

/// A 16-bit float, rounded once.
fn narrow<T>(text: &str, dtype: DType, from_bits: fn(u16) -> T, from_f64: fn(f64) -> T) -> Result<T, String>
where
    T: Copy + Into<f64>,
{
    let wrong = || format!("expected a number of type {dtype}, found `{text}`");
    if let Some(bits) = nan_bits(text) {
        let value = bits.and_then(|bits| u16::try_from(bits).ok()).map(from_bits);
        return value.filter(|value| (*value).into().is_nan()).ok_or_else(wrong);
    }
    if text == "nan" {
        return Ok(from_f64(f64::NAN));
    }
    let value = from_f64(parse_f64(text).map_err(|_| wrong())?);
    if value.into().is_infinite() && !is_infinity(text) {
        return Err(format!("`{text}` is out of range for {dtype}"));
    }
    Ok(value)
}

/// A tensor over elements that were read one by one.
pub(super) fn tensor(dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<TensorData, String> {
    TensorData::from_bytes(dtype, shape, Bytes::from(bytes)).map_err(|error| error.to_string())
}
