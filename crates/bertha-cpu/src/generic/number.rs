//! Element types and the types in which they are computed.

use bertha_graph::Element;
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A type that arithmetic is done in: `f32`, `f64`, or an integer that wraps.
pub(super) trait Arith: Pod + PartialOrd + Send + Sync {
    const ZERO: Self;
    const ONE: Self;
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// Integers truncate toward zero; division by zero gives 0.
    fn over(self, other: Self) -> Self;
    /// NaN if either is NaN.
    fn larger(self, other: Self) -> Self;
    /// NaN if either is NaN.
    fn smaller(self, other: Self) -> Self;
    fn magnitude(self) -> Self;
    fn negated(self) -> Self;
    /// -1, 0 or 1; NaN stays NaN.
    fn sign(self) -> Self;
    fn to_f64(self) -> f64;
    /// Integers drop the fraction and saturate; NaN gives 0.
    fn from_f64(value: f64) -> Self;
}

/// A float type that arithmetic is done in.
pub(super) trait Real: Arith {
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn tanh(self) -> Self;
    fn erf(self) -> Self;
    fn erfc(self) -> Self;
    fn ceil(self) -> Self;
    fn pow(self, exponent: Self) -> Self;
    fn is_nan(self) -> bool;
    const NEG_INFINITY: Self;
}

/// An element type of tensors with numbers.
pub(super) trait Number: Element {
    /// What its values are computed in; itself but for the 16-bit floats.
    type Wide: Arith;
    fn widen(self) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> Self;

    /// Widens a run; both slices have one length.
    fn widen_all(from: &[Self], to: &mut [Self::Wide]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.widen();
        }
    }

    /// Narrows a run; both slices have one length.
    fn narrow_all(from: &[Self::Wide], to: &mut [Self]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Self::narrow(*from);
        }
    }
}

/// An element type of floats.
pub(super) trait Float: Number<Wide: Real> {}
impl<T: Number<Wide: Real>> Float for T {}

macro_rules! real {
    ($type:ident, $erf:path, $erfc:path) => {
        impl Arith for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }
            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self - other
            }
            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self * other
            }
            #[inline(always)]
            fn over(self, other: Self) -> Self {
                self / other
            }
            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                if self > other || self.is_nan() { self } else { other }
            }
            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                if self < other || self.is_nan() { self } else { other }
            }
            #[inline(always)]
            fn magnitude(self) -> Self {
                self.abs()
            }
            #[inline(always)]
            fn negated(self) -> Self {
                -self
            }
            #[inline(always)]
            fn sign(self) -> Self {
                if self.is_nan() { self } else { $type::from(i8::from(self > 0.0) - i8::from(self < 0.0)) }
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $type
            }
        }

        impl Real for $type {
            const NEG_INFINITY: Self = $type::NEG_INFINITY;
            fn exp(self) -> Self {
                $type::exp(self)
            }
            fn ln(self) -> Self {
                $type::ln(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $type::sqrt(self)
            }
            fn sin(self) -> Self {
                $type::sin(self)
            }
            fn cos(self) -> Self {
                $type::cos(self)
            }
            fn tanh(self) -> Self {
                $type::tanh(self)
            }
            fn erf(self) -> Self {
                $erf(self)
            }
            fn erfc(self) -> Self {
                $erfc(self)
            }
            fn ceil(self) -> Self {
                $type::ceil(self)
            }
            fn pow(self, exponent: Self) -> Self {
                self.powf(exponent)
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                $type::is_nan(self)
            }
        }

        impl Number for $type {
            type Wide = $type;
            #[inline(always)]
            fn widen(self) -> $type {
                self
            }
            #[inline(always)]
            fn narrow(wide: $type) -> Self {
                wide
            }
        }
    };
}
real!(f32, libm::erff, libm::erfcf);
real!(f64, libm::erf, libm::erfc);

macro_rules! integer {
    ($($type:ident: $magnitude:expr, $sign:expr;)*) => { $(
        impl Arith for $type {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn over(self, other: Self) -> Self {
                if other == 0 { 0 } else { self.wrapping_div(other) }
            }
            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                self.max(other)
            }
            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                self.min(other)
            }
            #[inline(always)]
            fn magnitude(self) -> Self {
                $magnitude(self)
            }
            #[inline(always)]
            fn negated(self) -> Self {
                self.wrapping_neg()
            }
            #[inline(always)]
            fn sign(self) -> Self {
                $sign(self)
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $type
            }
        }

        impl Number for $type {
            type Wide = $type;
            #[inline(always)]
            fn widen(self) -> $type {
                self
            }
            #[inline(always)]
            fn narrow(wide: $type) -> Self {
                wide
            }
        }
    )* };
}
integer! {
    i8: i8::wrapping_abs, i8::signum;
    i16: i16::wrapping_abs, i16::signum;
    i32: i32::wrapping_abs, i32::signum;
    i64: i64::wrapping_abs, i64::signum;
    u8: std::convert::identity, |x: u8| x.min(1);
    u16: std::convert::identity, |x: u16| x.min(1);
    u32: std::convert::identity, |x: u32| x.min(1);
    u64: std::convert::identity, |x: u64| x.min(1);
}

impl Number for f16 {
    type Wide = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn narrow(wide: f32) -> Self {
        f16::from_f32(wide)
    }
    fn widen_all(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
    fn narrow_all(from: &[f32], to: &mut [Self]) {
        to.convert_from_f32_slice(from);
    }
}

impl Number for bf16 {
    type Wide = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    /// To the nearest, ties to even. Branches as little as it can, so that loops over it become vector code.
    #[inline(always)]
    fn narrow(wide: f32) -> Self {
        let bits = wide.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16;
        // A NaN keeps its upper bits and stays quiet; rounding could turn it into an infinity.
        let quiet = (bits >> 16) | 0x40;
        bf16::from_bits(if wide.is_nan() { quiet } else { rounded } as u16)
    }
}

/// Runs `$body` with `$T` as the Rust type of a dtype that holds numbers; `Bool` is unsupported.
macro_rules! with_number {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            bertha_graph::DType::I64 => { type $T = i64; $body }
            bertha_graph::DType::I32 => { type $T = i32; $body }
            bertha_graph::DType::I16 => { type $T = i16; $body }
            bertha_graph::DType::I8 => { type $T = i8; $body }
            bertha_graph::DType::U64 => { type $T = u64; $body }
            bertha_graph::DType::U32 => { type $T = u32; $body }
            bertha_graph::DType::U16 => { type $T = u16; $body }
            bertha_graph::DType::U8 => { type $T = u8; $body }
            dtype => $crate::generic::number::with_float!(dtype, $T => $body),
        }
    };
}

/// Runs `$body` with `$T` as the Rust type of a float dtype; others are unsupported.
macro_rules! with_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            bertha_graph::DType::F64 => {
                type $T = f64;
                $body
            }
            bertha_graph::DType::F32 => {
                type $T = f32;
                $body
            }
            bertha_graph::DType::F16 => {
                type $T = half::f16;
                $body
            }
            bertha_graph::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            dtype => Err($crate::generic::error::Fault::Unsupported(dtype.to_string())),
        }
    };
}

/// Runs `$body` with `$W` as the unsigned word of the size of a dtype's elements.
macro_rules! with_word {
    ($dtype:expr, $W:ident => $body:expr) => {
        match $dtype.size() {
            8 => {
                type $W = u64;
                $body
            }
            4 => {
                type $W = u32;
                $body
            }
            2 => {
                type $W = u16;
                $body
            }
            _ => {
                type $W = u8;
                $body
            }
        }
    };
}
pub(super) use {with_float, with_number, with_word};
