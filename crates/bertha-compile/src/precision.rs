//! In which type a compiled model multiplies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The element type of the operands of a model's matrix products. Sums accumulate in f32 whatever it is, and what lies
/// between the products (norms, softmax, activations) is computed in f32.
///
/// Every precision but [`Precision::F32`] rounds the weights, so it is asked for by name and never chosen silently. Which
/// ones there are kernels for is the target's to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point: the model as it is.
    #[default]
    F32,
    /// 16-bit floating point: 11 significant bits; values of 65,520 and more overflow.
    F16,
    /// 16-bit floating point with the exponent of f32: 8 significant bits.
    Bf16,
}

impl Precision {
    /// Every precision, most exact first.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// The lower-case name that command lines and engine files use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of one operand element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Bound of the relative error of rounding one value to the precision (no overflow, no subnormal): half a unit in the
    /// last place.
    #[must_use]
    pub const fn unit_roundoff(self) -> f64 {
        match self {
            Self::F32 => 1.0 / (1u64 << 24) as f64,
            Self::F16 => 1.0 / (1u64 << 11) as f64,
            Self::Bf16 => 1.0 / (1u64 << 8) as f64,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of no precision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown precision '{0}': use one of f32, f16, bf16")]
pub struct UnknownPrecision(pub String);

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        let name = name.trim();
        Self::ALL
            .into_iter()
            .find(|precision| precision.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownPrecision(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for precision in Precision::ALL {
            assert_eq!(precision.name().parse(), Ok(precision));
            let json = serde_json::to_string(&precision).unwrap();
            assert_eq!(json, format!("\"{precision}\""));
            assert_eq!(serde_json::from_str::<Precision>(&json).unwrap(), precision);
        }
        assert_eq!("fp16".parse::<Precision>(), Err(UnknownPrecision("fp16".into())));
    }

    #[test]
    fn rounding_a_value_stays_within_the_bound() {
        let x = 1.0 + 1.0 / 3.0;
        for precision in [Precision::F16, Precision::Bf16] {
            let rounded = match precision {
                Precision::F16 => f64::from(half::f16::from_f64(x)),
                _ => f64::from(half::bf16::from_f64(x)),
            };
            let error = ((rounded - x) / x).abs();
            assert!(error > 0.0 && error <= precision.unit_roundoff(), "{precision}: {error}");
        }
    }
}
