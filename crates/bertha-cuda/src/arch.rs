//! Architectures that kernels are compiled for, and what each has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::driver::{CudaError, Device};
use crate::program::Storage;

/// A family of cards. Machine code for one runs on cards of the same major version and the same or a higher minor one;
/// code that uses features marked `a` runs on exactly that version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Arch {
    /// Turing: no bf16, no asynchronous copies.
    #[serde(rename = "sm_75")]
    Sm75,
    /// Ampere, A100.
    #[serde(rename = "sm_80")]
    Sm80,
    /// Ampere, everything else.
    #[serde(rename = "sm_86")]
    Sm86,
    /// Ada.
    #[serde(rename = "sm_89")]
    Sm89,
    /// Hopper, with its warpgroup products and copy engine.
    #[serde(rename = "sm_90a")]
    Sm90a,
    /// Blackwell for data centres.
    #[serde(rename = "sm_100a")]
    Sm100a,
    /// Blackwell for everyone else.
    #[serde(rename = "sm_120")]
    Sm120,
}

impl Arch {
    /// Every architecture, oldest first.
    pub const ALL: [Arch; 7] =
        [Arch::Sm75, Arch::Sm80, Arch::Sm86, Arch::Sm89, Arch::Sm90a, Arch::Sm100a, Arch::Sm120];

    /// The name that the compiler, command lines and engine files use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Arch::Sm75 => "sm_75",
            Arch::Sm80 => "sm_80",
            Arch::Sm86 => "sm_86",
            Arch::Sm89 => "sm_89",
            Arch::Sm90a => "sm_90a",
            Arch::Sm100a => "sm_100a",
            Arch::Sm120 => "sm_120",
        }
    }

    /// The architecture to compile for on a card.
    ///
    /// # Errors
    /// [`CudaError::UnsupportedDevice`] for cards older than Turing.
    pub fn of(device: &Device) -> Result<Self, CudaError> {
        let (major, minor) = device.capability;
        Ok(match (major, minor) {
            (7, 5..) => Arch::Sm75,
            (8, 0..=5) => Arch::Sm80,
            (8, 6..=8) => Arch::Sm86,
            (8, 9..) => Arch::Sm89,
            (9, _) => Arch::Sm90a,
            (10, 0) => Arch::Sm100a,
            (12, _) => Arch::Sm120,
            _ => {
                return Err(CudaError::UnsupportedDevice { name: device.name.clone(), major, minor });
            }
        })
    }

    /// Bytes of dynamic shared memory that a block can have.
    #[must_use]
    pub const fn shared_bytes(self) -> usize {
        match self {
            Arch::Sm75 => 64 * 1024,
            Arch::Sm80 => 163 * 1024,
            Arch::Sm86 | Arch::Sm89 | Arch::Sm120 => 99 * 1024,
            Arch::Sm90a | Arch::Sm100a => 227 * 1024,
        }
    }

    /// Whether kernels overlap with those before them (programmatic dependent launch).
    #[must_use]
    pub const fn overlaps(self) -> bool {
        matches!(self, Arch::Sm90a | Arch::Sm100a | Arch::Sm120)
    }

    /// Whether there is bf16 arithmetic.
    #[must_use]
    pub const fn has_bf16(self) -> bool {
        !matches!(self, Arch::Sm75)
    }

    /// Floating-point operations, two for each multiply-add, that a multiprocessor does in a clock: in its matrix units for
    /// 16-bit types, in its scalar ones for f32.
    #[must_use]
    pub const fn flops_per_clock(self, storage: Storage) -> f64 {
        match (storage.bytes(), self) {
            (4, Arch::Sm75 | Arch::Sm80) => 128.0,
            (4, _) => 256.0,
            (_, Arch::Sm75 | Arch::Sm86 | Arch::Sm89 | Arch::Sm120) => 1024.0,
            (_, Arch::Sm80) => 2048.0,
            (_, Arch::Sm90a) => 4096.0,
            (_, Arch::Sm100a) => 8192.0,
        }
    }

    /// Multiprocessors to plan for when no card is at hand: those of the family's largest common card.
    #[must_use]
    pub const fn typical_multiprocessors(self) -> usize {
        match self {
            Arch::Sm75 => 40,
            Arch::Sm80 => 108,
            Arch::Sm86 => 84,
            Arch::Sm89 => 142,
            Arch::Sm90a => 132,
            Arch::Sm100a => 148,
            Arch::Sm120 => 170,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of no architecture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown GPU architecture '{0}': use one of sm_75, sm_80, sm_86, sm_89, sm_90a, sm_100a, sm_120")]
pub struct UnknownArch(pub String);

impl FromStr for Arch {
    type Err = UnknownArch;

    /// Takes `sm_90` for `sm_90a` too: there is one kind of card behind both.
    fn from_str(name: &str) -> Result<Self, UnknownArch> {
        let same = |arch: &Arch| arch.name() == name || arch.name().strip_suffix('a') == Some(name);
        Arch::ALL.into_iter().find(same).ok_or_else(|| UnknownArch(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for arch in Arch::ALL {
            assert_eq!(arch.name().parse(), Ok(arch));
            assert_eq!(serde_json::to_string(&arch).unwrap(), format!("\"{arch}\""));
        }
        assert_eq!("sm_90".parse(), Ok(Arch::Sm90a));
        assert!("sm_70".parse::<Arch>().is_err());
    }
}
