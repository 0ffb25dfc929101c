//! How far a kernel's results are from the reference.

use bertha_graph::DType;
use half::{bf16, f16};

/// The largest differences of some elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// The largest absolute difference.
    pub max_abs: f64,
    /// The larger of two: the norm of the difference over the norm of the reference, and the largest difference over
    /// 16 times the largest element of the reference. The first is what a model feels; the second finds single wrong
    /// elements in large tensors.
    pub relative: f64,
    /// The largest difference in units of the last place of the reference, as the results' dtype has it.
    pub ulp: f64,
}

impl Difference {
    pub(super) fn max(&self, other: &Difference) -> Difference {
        Difference {
            max_abs: self.max_abs.max(other.max_abs),
            relative: self.relative.max(other.relative),
            ulp: self.ulp.max(other.ulp),
        }
    }
}

/// The largest relative error that counts as right: some tens of roundings in the dtype; none for integers.
pub fn default_tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => 0.0,
    }
}

/// Fraction bits and the exponent of the least normal number.
fn precision(dtype: DType) -> Option<(i32, i32)> {
    match dtype {
        DType::F64 => Some((52, -1022)),
        DType::F32 => Some((23, -126)),
        DType::F16 => Some((10, -14)),
        DType::BF16 => Some((7, -126)),
        _ => None,
    }
}

/// The distance of `value` to the next number of the dtype; 1 for integers.
fn unit_in_the_last_place(value: f64, dtype: DType) -> f64 {
    let Some((bits, least)) = precision(dtype) else { return 1.0 };
    let exponent = if value == 0.0 { least } else { (value.abs().log2().floor() as i32).max(least) };
    2f64.powi(exponent - bits)
}

/// The elements as f64.
pub(super) fn decode(bytes: &[u8], dtype: DType) -> Vec<f64> {
    fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect()
    }
    match dtype {
        DType::F64 => each(bytes, f64::from_ne_bytes),
        DType::F32 => each(bytes, |b| f64::from(f32::from_ne_bytes(b))),
        DType::F16 => each(bytes, |b| f16::from_ne_bytes(b).to_f64()),
        DType::BF16 => each(bytes, |b| bf16::from_ne_bytes(b).to_f64()),
        DType::I64 => each(bytes, |b| i64::from_ne_bytes(b) as f64),
        DType::I32 => each(bytes, |b| f64::from(i32::from_ne_bytes(b))),
        DType::I16 => each(bytes, |b| f64::from(i16::from_ne_bytes(b))),
        DType::I8 => each(bytes, |b| f64::from(i8::from_ne_bytes(b))),
        DType::U64 => each(bytes, |b| u64::from_ne_bytes(b) as f64),
        DType::U32 => each(bytes, |b| f64::from(u32::from_ne_bytes(b))),
        DType::U16 => each(bytes, |b| f64::from(u16::from_ne_bytes(b))),
        DType::U8 | DType::Bool => each(bytes, |[b]: [u8; 1]| f64::from(b)),
    }
}

/// The bytes of `value` as an element of the dtype.
pub(super) fn encode(value: f64, dtype: DType, bytes: &mut Vec<u8>) {
    match dtype {
        DType::F64 => bytes.extend(value.to_ne_bytes()),
        DType::F32 => bytes.extend((value as f32).to_ne_bytes()),
        DType::F16 => bytes.extend(f16::from_f64(value).to_ne_bytes()),
        DType::BF16 => bytes.extend(bf16::from_f64(value).to_ne_bytes()),
        DType::I64 => bytes.extend((value as i64).to_ne_bytes()),
        DType::I32 => bytes.extend((value as i32).to_ne_bytes()),
        DType::I16 => bytes.extend((value as i16).to_ne_bytes()),
        DType::I8 => bytes.extend((value as i8).to_ne_bytes()),
        DType::U64 => bytes.extend((value as u64).to_ne_bytes()),
        DType::U32 => bytes.extend((value as u32).to_ne_bytes()),
        DType::U16 => bytes.extend((value as u16).to_ne_bytes()),
        DType::U8 => bytes.push(value as u8),
        DType::Bool => bytes.push(u8::from(value != 0.0)),
    }
}

/// Compares results of the kernel with the reference. Equal infinities and NaN on both sides are equal.
pub(super) fn difference(bytes: &[u8], dtype: DType, expected: &[f64]) -> Result<Difference, String> {
    let mut found = Difference::default();
    let (mut error, mut norm, mut scale) = (0f64, 0f64, 0f64);
    for (at, (actual, expected)) in decode(bytes, dtype).into_iter().zip(expected).enumerate() {
        let distance = if actual == *expected || (actual.is_nan() && expected.is_nan()) {
            0.0
        } else {
            (actual - expected).abs()
        };
        if !distance.is_finite() {
            return Err(format!("element {at} is {actual}, the reference {expected}"));
        }
        if expected.is_finite() {
            norm += expected * expected;
            scale = scale.max(expected.abs());
            found.ulp = found.ulp.max(distance / unit_in_the_last_place(*expected, dtype));
        }
        error += distance * distance;
        found.max_abs = found.max_abs.max(distance);
    }
    // Zeros as the reference leave nothing to be relative to but one.
    let over = |error: f64, whole: f64| {
        if error == 0.0 { 0.0 } else { error / if whole > 0.0 { whole } else { 1.0 } }
    };
    found.relative = over(error.sqrt(), norm.sqrt()).max(over(found.max_abs, 16.0 * scale));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f64], dtype: DType) -> Vec<u8> {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| encode(*value, dtype, &mut bytes));
        bytes
    }

    #[test]
    fn every_dtype_round_trips() {
        for dtype in DType::ALL {
            let values: &[f64] = if dtype == DType::Bool { &[0.0, 1.0] } else { &[0.0, 1.0, 7.0, 100.0] };
            assert_eq!(decode(&bytes(values, dtype), dtype), values, "{dtype}");
        }
    }

    #[test]
    fn differences_are_measured_in_units_of_the_dtype() {
        let one_ulp = f64::from(1.0f32.next_up());
        let found = difference(&bytes(&[one_ulp, 2.0], DType::F32), DType::F32, &[1.0, 2.0]).unwrap();
        assert_eq!(found.ulp, 1.0);
        assert_eq!(found.max_abs, one_ulp - 1.0);
        assert!((found.relative - found.max_abs / 5f64.sqrt()).abs() < 1e-12);
        // Near zero, units are those of subnormal numbers.
        let least = f64::from(f16::from_bits(1));
        assert_eq!(difference(&bytes(&[least], DType::F16), DType::F16, &[0.0]).unwrap().ulp, 1.0);
        let same = difference(
            &bytes(&[f64::NAN, f64::INFINITY], DType::F32),
            DType::F32,
            &[f64::NAN, f64::INFINITY],
        );
        assert_eq!(same.unwrap(), Difference::default());
        assert!(difference(&bytes(&[f64::NAN], DType::F32), DType::F32, &[1.0]).is_err());
        // One wrong element among very many.
        let mut many = vec![1.0; 1 << 16];
        let reference = many.clone();
        many[9] = 1.01;
        assert!(difference(&bytes(&many, DType::F32), DType::F32, &reference).unwrap().relative > 5e-4);
    }
}
