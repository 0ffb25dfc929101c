//! Elementwise functions and arithmetic.
//!
//! Layout: rows of values, any row stride; the right operand of arithmetic is a matrix of the same shape, one row for
//! all (a bias, a scale) or one number for all. One load or two and a store per vector: bound by memory, except the
//! transcendental functions.

use super::context::Context;
use super::math::{
    Abs, Erf, Exp, Function, GeluErf, GeluTanh, Log, Neg, Reciprocal, Relu, Sigmoid, Sqrt, Tanh,
};
use super::simd::{Simd, SimdOp};
use super::views::{Rows, RowsMut};

/// Functions of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnaryOp {
    /// |x|.
    Abs,
    /// -x.
    Neg,
    /// 1 / x.
    Reciprocal,
    /// Square root.
    Sqrt,
    /// e^x.
    Exp,
    /// Natural logarithm.
    Log,
    /// Error function.
    Erf,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// max(x, 0).
    Relu,
    /// x Phi(x).
    GeluErf,
    /// The GELU with the hyperbolic tangent.
    GeluTanh,
}

impl UnaryOp {
    /// Every function.
    pub const ALL: [Self; 12] = [
        Self::Abs,
        Self::Neg,
        Self::Reciprocal,
        Self::Sqrt,
        Self::Exp,
        Self::Log,
        Self::Erf,
        Self::Tanh,
        Self::Sigmoid,
        Self::Relu,
        Self::GeluErf,
        Self::GeluTanh,
    ];
}

/// out = op(x), or out = op(out) where `x` is `None`.
///
/// # Panics
/// When the shapes differ or rows reach beyond their values.
pub fn unary(ctx: &mut Context, op: UnaryOp, x: Option<Rows<'_>>, out: RowsMut<'_>) {
    match op {
        UnaryOp::Abs => map::<Abs>(ctx, x, out),
        UnaryOp::Neg => map::<Neg>(ctx, x, out),
        UnaryOp::Reciprocal => map::<Reciprocal>(ctx, x, out),
        UnaryOp::Sqrt => map::<Sqrt>(ctx, x, out),
        UnaryOp::Exp => map::<Exp>(ctx, x, out),
        UnaryOp::Log => map::<Log>(ctx, x, out),
        UnaryOp::Erf => map::<Erf>(ctx, x, out),
        UnaryOp::Tanh => map::<Tanh>(ctx, x, out),
        UnaryOp::Sigmoid => map::<Sigmoid>(ctx, x, out),
        UnaryOp::Relu => map::<Relu>(ctx, x, out),
        UnaryOp::GeluErf => map::<GeluErf>(ctx, x, out),
        UnaryOp::GeluTanh => map::<GeluTanh>(ctx, x, out),
    }
}

fn map<F: Function>(ctx: &mut Context, x: Option<Rows<'_>>, out: RowsMut<'_>) {
    let isa = ctx.isa;
    check_same_shape(x, &out);
    ctx.for_row_blocks(out, |first, mut block| {
        for row in 0..block.rows {
            let out = block.row(row);
            if let Some(x) = x {
                out.copy_from_slice(x.row(first + row));
            }
            isa.run(Map(std::marker::PhantomData::<F>, out));
        }
    });
}

/// Checks that `x`, where given, has the result's shape.
pub(super) fn check_same_shape(x: Option<Rows<'_>>, out: &RowsMut<'_>) {
    if let Some(x) = x {
        assert_eq!((x.rows, x.cols), (out.rows, out.cols), "operand and result have one shape");
        x.check();
    }
}

/// A function over one row, in place.
struct Map<'a, F>(std::marker::PhantomData<F>, &'a mut [f32]);

impl<F: Function> SimdOp for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut chunks = self.1.chunks_exact_mut(S::LANES);
        for chunk in &mut chunks {
            let x = s.load(chunk);
            s.store(chunk, F::apply(s, x));
        }
        let tail = chunks.into_remainder();
        if !tail.is_empty() {
            let x = s.load_first(tail);
            s.store_first(tail, F::apply(s, x));
        }
    }
}

/// Arithmetic on two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BinaryOp {
    /// a + b.
    Add,
    /// a - b.
    Sub,
    /// a * b.
    Mul,
    /// a / b.
    Div,
}

impl BinaryOp {
    /// Every operation.
    pub const ALL: [Self; 4] = [Self::Add, Self::Sub, Self::Mul, Self::Div];
}

/// The right operand of [`binary`].
#[derive(Clone, Copy, Debug)]
pub enum Right<'a> {
    /// A matrix of the left operand's shape.
    Matrix(Rows<'a>),
    /// One row for all.
    Row(&'a [f32]),
    /// One number for all.
    Scalar(f32),
}

/// out = a op b, or out = out op b where `a` is `None`.
///
/// # Panics
/// When the shapes do not fit or rows reach beyond their values.
pub fn binary(ctx: &mut Context, op: BinaryOp, a: Option<Rows<'_>>, b: Right<'_>, out: RowsMut<'_>) {
    match op {
        BinaryOp::Add => combine::<Add>(ctx, a, b, out),
        BinaryOp::Sub => combine::<Sub>(ctx, a, b, out),
        BinaryOp::Mul => combine::<Mul>(ctx, a, b, out),
        BinaryOp::Div => combine::<Div>(ctx, a, b, out),
    }
}

fn combine<F: Function2>(ctx: &mut Context, a: Option<Rows<'_>>, b: Right<'_>, out: RowsMut<'_>) {
    let isa = ctx.isa;
    check_same_shape(a, &out);
    match b {
        Right::Matrix(b) => check_same_shape(Some(b), &out),
        Right::Row(b) => assert_eq!(b.len(), out.cols, "the row has the result's columns"),
        Right::Scalar(_) => {}
    }
    ctx.for_row_blocks(out, |first, mut block| {
        for row in 0..block.rows {
            let out = block.row(row);
            if let Some(a) = a {
                out.copy_from_slice(a.row(first + row));
            }
            let marker = std::marker::PhantomData::<F>;
            match b {
                Right::Matrix(b) => isa.run(Combine(marker, out, b.row(first + row))),
                Right::Row(b) => isa.run(Combine(marker, out, b)),
                Right::Scalar(b) => isa.run(CombineScalar(marker, out, b)),
            }
        }
    });
}

/// A function of two vectors, chosen at compile time.
trait Function2 {
    fn apply<S: Simd>(s: S, a: S::F, b: S::F) -> S::F;
}

macro_rules! functions2 {
    ($($name:ident: $method:ident;)*) => {$(
        struct $name;
        impl Function2 for $name {
            #[inline(always)]
            fn apply<S: Simd>(s: S, a: S::F, b: S::F) -> S::F {
                s.$method(a, b)
            }
        }
    )*};
}

functions2! {
    Add: add;
    Sub: sub;
    Mul: mul;
    Div: div;
}

/// `out = out op right` over one row.
struct Combine<'a, F>(std::marker::PhantomData<F>, &'a mut [f32], &'a [f32]);

impl<F: Function2> SimdOp for Combine<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut outs = self.1.chunks_exact_mut(S::LANES);
        let mut rights = self.2.chunks_exact(S::LANES);
        for (out, right) in (&mut outs).zip(&mut rights) {
            let y = F::apply(s, s.load(out), s.load(right));
            s.store(out, y);
        }
        let (out, right) = (outs.into_remainder(), rights.remainder());
        if !out.is_empty() {
            let y = F::apply(s, s.load_first(out), s.load_first(right));
            s.store_first(out, y);
        }
    }
}

/// `out = out op right` over one row, with one number on the right.
struct CombineScalar<'a, F>(std::marker::PhantomData<F>, &'a mut [f32], f32);

impl<F: Function2> SimdOp for CombineScalar<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let right = s.splat(self.2);
        let mut outs = self.1.chunks_exact_mut(S::LANES);
        for out in &mut outs {
            let y = F::apply(s, s.load(out), right);
            s.store(out, y);
        }
        let out = outs.into_remainder();
        if !out.is_empty() {
            let y = F::apply(s, s.load_first(out), right);
            s.store_first(out, y);
        }
    }
}
