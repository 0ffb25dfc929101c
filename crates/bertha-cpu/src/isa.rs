//! Instruction-set tiers as values that prove support.
//!
//! A token (`Avx512`, `Avx2`, `Portable`) can only be made by detection on the running CPU, so a function that
//! takes one may use the tier's instructions without asking again. [`Isa`] is the choice among them that kernels
//! carry; [`Tier`] is its mere name, for descriptors that may come from another machine.

use std::fmt;
use std::str::FromStr;

use crate::kernels::simd::{Simd, SimdOp};

/// Name of the environment variable that forces a tier; read by [`Isa::from_env`] only.
pub const ISA_ENV: &str = "BERTHA_ISA";

/// The name of an instruction-set tier. Says nothing about what this CPU supports: [`Isa`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Plain Rust, vectorised by the compiler for the target's baseline.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Tier {
    /// Every tier, weakest first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// The lower-case name that kernel names start with and [`ISA_ENV`] takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a tier cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// The name is none of [`Tier::ALL`].
    #[error("unknown instruction set '{0}': use one of portable, avx2, avx512")]
    Unknown(String),
    /// The tier exists, but this CPU lacks it.
    #[error("this CPU does not support {wanted}: its best tier is {best}")]
    Unsupported {
        /// The tier asked for.
        wanted: Tier,
        /// The best one this CPU has.
        best: Tier,
    },
}

impl FromStr for Tier {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.name().eq_ignore_ascii_case(name.trim()))
            .ok_or_else(|| IsaError::Unknown(name.to_owned()))
    }
}

/// Proof that the CPU has AVX-512 F, BW, DQ and VL (and AVX2 and FMA).
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx512(());

/// Proof that the CPU has what [`Avx512`] stands for and AVX-512 BF16: dot products of pairs of bf16 values.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx512Bf16(());

/// Proof that the CPU has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx2(());

/// Proof of nothing: plain Rust runs everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Portable(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// The token, where the running CPU and operating system support the tier.
    #[must_use]
    pub fn detect() -> Option<Self> {
        let supported = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && Avx2::detect().is_some();
        supported.then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512Bf16 {
    /// The token, where the running CPU and operating system support it.
    #[must_use]
    pub fn detect() -> Option<Self> {
        (Avx512::detect().is_some() && std::arch::is_x86_feature_detected!("avx512bf16")).then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// The token, where the running CPU and operating system support the tier.
    #[must_use]
    pub fn detect() -> Option<Self> {
        let supported =
            std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
        supported.then_some(Self(()))
    }
}

impl Portable {
    /// The token; always there.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

impl Default for Portable {
    fn default() -> Self {
        Self::new()
    }
}

/// A tier this CPU supports. Every kernel call takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// Plain Rust.
    Portable(Portable),
}

impl Isa {
    /// The best tier of the running CPU.
    #[must_use]
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// The tier [`ISA_ENV`] names, or the best one where the variable is unset or empty.
    ///
    /// # Errors
    /// When the variable names an unknown tier or one this CPU lacks.
    pub fn from_env() -> Result<Self, IsaError> {
        match std::env::var(ISA_ENV) {
            Ok(name) if !name.trim().is_empty() => Self::from_name(&name),
            _ => Ok(Self::detect()),
        }
    }

    /// The tier called `name` (`portable`, `avx2`, `avx512`, in any case).
    ///
    /// # Errors
    /// When the name is unknown or this CPU lacks the tier.
    pub fn from_name(name: &str) -> Result<Self, IsaError> {
        Self::from_tier(name.parse()?)
    }

    /// The proof for a tier's name.
    ///
    /// # Errors
    /// When this CPU lacks the tier.
    pub fn from_tier(wanted: Tier) -> Result<Self, IsaError> {
        Self::available()
            .into_iter()
            .find(|isa| isa.tier() == wanted)
            .ok_or_else(|| IsaError::Unsupported { wanted, best: Self::detect().tier() })
    }

    /// Every tier of the running CPU, best first; never empty.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut tiers = Vec::with_capacity(Tier::ALL.len());
        #[cfg(target_arch = "x86_64")]
        {
            tiers.extend(Avx512::detect().map(Self::Avx512));
            tiers.extend(Avx2::detect().map(Self::Avx2));
        }
        tiers.push(Self::Portable(Portable::new()));
        tiers
    }

    /// The tier's name.
    #[must_use]
    pub const fn tier(self) -> Tier {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Tier::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Tier::Avx2,
            Self::Portable(_) => Tier::Portable,
        }
    }

    /// Whether this tier, on this CPU, has kernels for products of bf16 operands.
    #[must_use]
    pub fn has_bf16(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512Bf16::detect().is_some(),
            _ => false,
        }
    }

    /// Runs `op` compiled for this tier with its bf16 instructions.
    ///
    /// # Panics
    /// Where [`Isa::has_bf16`] does not hold.
    #[inline]
    pub(crate) fn run_bf16<O: SimdOp>(self, op: O) -> O::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => match Avx512Bf16::detect() {
                Some(simd) => simd.vectorize(op),
                None => panic!("the CPU has no bf16 instructions"),
            },
            _ => panic!("there are no bf16 kernels for {self}"),
        }
    }

    /// Runs `op` compiled for this tier.
    #[inline]
    pub(crate) fn run<O: SimdOp>(self, op: O) -> O::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.vectorize(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.vectorize(op),
            Self::Portable(simd) => simd.vectorize(op),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tier().fmt(f)
    }
}

/// Sizes in bytes of the caches one core sees; block sizes follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Caches {
    /// First-level data cache.
    pub l1d: usize,
    /// Second-level cache.
    pub l2: usize,
    /// Last-level cache, shared by several cores; 0 where there is none or its size is unknown.
    pub l3: usize,
}

impl Caches {
    /// What block sizes assume where the operating system says nothing.
    pub const ASSUMED: Self = Self { l1d: 32 << 10, l2: 512 << 10, l3: 8 << 20 };

    /// The sizes the operating system reports, with [`Caches::ASSUMED`] for what it does not.
    #[must_use]
    pub fn detect() -> Self {
        let mut caches = Self::ASSUMED;
        let Ok(entries) = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache") else { return caches };
        for entry in entries.flatten() {
            let field = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            if field("type").trim() == "Instruction" {
                continue;
            }
            let Some(bytes) = parse_cache_size(field("size").trim()) else { continue };
            match field("level").trim() {
                "1" => caches.l1d = bytes,
                "2" => caches.l2 = bytes,
                "3" => caches.l3 = bytes,
                _ => {}
            }
        }
        caches
    }
}

/// Bytes in a size as the kernel prints it: `32K`, `1024K`, `32M`.
fn parse_cache_size(text: &str) -> Option<usize> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    digits.parse::<usize>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

/// What the machine offers to kernels: the listing behind `bertha doctor`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CpuInfo {
    /// Processor architecture (`x86_64`, `aarch64`).
    pub arch: &'static str,
    /// The processor's own name for itself; empty where unknown.
    pub model: String,
    /// Hardware threads this process may use.
    pub threads: usize,
    /// Cache sizes.
    pub caches: Caches,
    /// Supported tiers, best first.
    pub tiers: Vec<Tier>,
    /// 8-bit dot products on 512-bit registers.
    pub avx512_vnni: bool,
    /// bf16 dot products on 512-bit registers.
    pub avx512_bf16: bool,
}

impl CpuInfo {
    /// Asks the CPU and the operating system.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        let (avx512_vnni, avx512_bf16) = (
            std::arch::is_x86_feature_detected!("avx512vnni"),
            std::arch::is_x86_feature_detected!("avx512bf16"),
        );
        #[cfg(not(target_arch = "x86_64"))]
        let (avx512_vnni, avx512_bf16) = (false, false);
        Self {
            arch: std::env::consts::ARCH,
            model: model_name(),
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            caches: Caches::detect(),
            tiers: Isa::available().into_iter().map(Isa::tier).collect(),
            avx512_vnni,
            avx512_bf16,
        }
    }
}

/// The first `model name` line of `/proc/cpuinfo`, or nothing.
fn model_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_names_are_errors() {
        for tier in Tier::ALL {
            assert_eq!(tier.name().parse::<Tier>(), Ok(tier));
            assert_eq!(tier.name().to_uppercase().parse::<Tier>(), Ok(tier));
        }
        assert_eq!(Isa::from_name("sse9"), Err(IsaError::Unknown("sse9".into())));
    }

    #[test]
    fn every_tier_is_available_or_refused_by_name() {
        let available: Vec<Tier> = Isa::available().into_iter().map(Isa::tier).collect();
        assert!(available.is_sorted_by(|a, b| a > b));
        for tier in Tier::ALL {
            match Isa::from_tier(tier) {
                Ok(isa) => assert_eq!(isa.tier(), tier),
                Err(IsaError::Unsupported { wanted, best }) => {
                    assert_eq!(wanted, tier);
                    assert!(best < tier && !available.contains(&tier));
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn cache_sizes_parse() {
        assert_eq!(parse_cache_size("32K"), Some(32 << 10));
        assert_eq!(parse_cache_size("16M"), Some(16 << 20));
        assert_eq!(parse_cache_size("4096"), Some(4096));
        assert_eq!(parse_cache_size("0K"), None);
        assert_eq!(parse_cache_size("many"), None);
    }
}
