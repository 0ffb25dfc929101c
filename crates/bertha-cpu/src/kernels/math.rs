//! Elementary functions on vectors, to f32 accuracy, and the activations made of them.
//!
//! Polynomial coefficients are minimax fits (weighted Lawson iterations in f64 on a dense Chebyshev grid), rounded to
//! f32; each table says on what interval and with what error before rounding. Errors of the whole functions, measured
//! against f64 over their range, stand with the functions and are asserted by the tests.

// Coefficients are printed with the nine digits that name an f32.
#![allow(clippy::excessive_precision)]

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use super::simd::Simd;

/// `c[0] + c[1] x + ... `, by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::F, c: &[f32; N]) -> S::F {
    let mut acc = s.splat(c[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        acc = s.fma(acc, x, s.splat(c[i]));
    }
    acc
}

/// ln 2 in two parts, the first with trailing zeros enough for `n * LN2_HI` to be exact.
const LN2_HI: f32 = 0.693_359_375;
const LN2_LO: f32 = -2.121_944_4e-4;

/// (e^r - 1 - r) / r^2 for |r| <= 0.347; error of e^r 3e-9.
const EXP: [f32; 5] = [0.5, 1.666651815e-1, 4.166620225e-2, 8.368969895e-3, 1.395063126e-3];

/// e^x. At most 2 ulp (subnormal results: 2 ulp of the smallest normal's spacing); 0 below -104, inf above 88.73.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // The bounds lie beyond underflow to 0 and overflow to infinity. The second operand passes NaN on.
    let x = s.min(s.splat(90.0), s.max(s.splat(-110.0), x));
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_LO), s.fma(n, s.splat(-LN2_HI), x));
    let p = s.fma(s.mul(r, r), polynomial(s, r, &EXP), r);
    s.scale_by_pow2(s.add(p, s.splat(1.0)), n)
}

/// (ln(1+t) - t + t^2/2) / t^3 for t in [sqrt(1/2)-1, sqrt(2)-1]; error of the logarithm 6e-9.
const LOG: [f32; 8] = [
    3.333331645e-1,
    -2.500081062e-1,
    2.000228614e-1,
    -1.662455350e-1,
    1.418119073e-1,
    -1.312875599e-1,
    1.288165897e-1,
    -7.859621942e-2,
];

/// Natural logarithm. At most 2 ulp; -inf at 0, NaN below, subnormals included.
#[inline(always)]
pub(crate) fn log<S: Simd>(s: S, x: S::F) -> S::F {
    let (zero, one) = (s.zero(), s.splat(1.0));
    // Subnormals are brought into the normal range.
    let tiny = s.lt(x, s.splat(f32::MIN_POSITIVE));
    let scaled = s.select(tiny, s.mul(x, s.splat(33_554_432.0)), x); // 2^25
    let (m, e) = s.split_exponent(scaled);
    let e = s.sub(e, s.select(tiny, s.splat(25.0), zero));
    // m in [sqrt(1/2), sqrt(2)), so that t is small and ln(1+t) does not cancel against the exponent's part.
    let low = s.lt(m, s.splat(FRAC_1_SQRT_2));
    let t = s.sub(s.select(low, s.add(m, m), m), one);
    let e = s.sub(e, s.select(low, one, zero));
    let t2 = s.mul(t, t);
    let tail = s.fma(s.mul(t, t2), polynomial(s, t, &LOG), s.mul(e, s.splat(LN2_LO)));
    let y = s.fma(e, s.splat(LN2_HI), s.add(t, s.fma(t2, s.splat(-0.5), tail)));
    // Specials: what is not positive and finite.
    let y = s.select(s.lt(x, s.splat(f32::INFINITY)), y, x); // inf and NaN
    let y = s.select(s.eq(x, zero), s.splat(f32::NEG_INFINITY), y);
    s.select(s.lt(x, zero), s.splat(f32::NAN), y)
}

/// (tanh(x)/x - 1) / x^2 as a polynomial in x^2 for |x| <= 0.628; error 4e-9.
const TANH: [f32; 5] = [-3.333328068e-1, 1.333142519e-1, -5.373761058e-2, 2.063040808e-2, -5.693515297e-3];

/// Hyperbolic tangent. At most 3 ulp.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let a = s.abs(x);
    let x2 = s.mul(x, x);
    let small = s.fma(s.mul(x, x2), polynomial(s, x2, &TANH), x);
    let large = s.sub(one, s.div(s.splat(2.0), s.add(exp(s, s.add(a, a)), one)));
    s.select(s.lt(a, s.splat(0.625)), small, s.copysign(large, x))
}

/// 1 / (1 + e^-x). At most 4 ulp.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    // e^-|x| cannot overflow, and both branches keep their relative accuracy.
    let one = s.splat(1.0);
    let e = exp(s, s.sub(s.zero(), s.abs(x)));
    let numerator = s.select(s.lt(x, s.zero()), e, one);
    let y = s.div(numerator, s.add(one, e));
    s.select(s.eq(x, x), y, x)
}

/// erf(x)/x - 1 as a polynomial in x^2 for |x| <= 1; relative error of erf 1.3e-9. Less 1, so that the first
/// coefficient's rounding does not show.
const ERF_SMALL: [f32; 7] = [
    1.283791660e-1,
    -3.761262596e-1,
    1.128357500e-1,
    -2.685335279e-2,
    5.187363364e-3,
    -8.000931120e-4,
    7.820704923e-5,
];
/// sqrt(erfc(x)) as a polynomial in u = x - 2.5 for x in [1, 4]; error of erfc 1e-9. The square root halves the
/// dynamic range: the polynomial is shorter, and its far end keeps its sign.
const ERFC_ROOT: [f32; 12] = [
    2.017302811e-02,
    -5.398995429e-02,
    6.272820383e-02,
    -3.908058628e-02,
    1.158407703e-02,
    9.084015037e-04,
    -2.067120280e-03,
    6.248352583e-04,
    5.740508641e-05,
    -9.053462418e-05,
    8.456965588e-06,
    6.331086297e-06,
];

/// The error function. At most 2 ulp.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    let a = s.abs(x);
    let small = s.fma(x, polynomial(s, s.mul(x, x), &ERF_SMALL), x);
    let u = s.sub(a, s.splat(2.5));
    let root = polynomial(s, u, &ERFC_ROOT);
    let one = s.splat(1.0);
    let tail = s.sub(one, s.mul(root, root));
    let large = s.copysign(s.select(s.lt(a, s.splat(4.0)), tail, one), x);
    let y = s.select(s.lt(a, one), small, large);
    s.select(s.eq(x, x), y, x)
}

/// sqrt(Q(a)), Q the normal distribution's upper tail, as a polynomial in u = a - 1.5 for a in [0, 6]; error
/// of a Q(a) 1.1e-8. The root is what shortens the polynomial; the center lies where a Q(a) is large, so that Horner's
/// roundings are smallest there.
const GELU_TAIL_ROOT: [f32; 14] = [
    2.584708929e-01,
    -2.505457103e-01,
    6.647764891e-02,
    1.224139333e-02,
    -8.426886983e-03,
    3.797449972e-05,
    6.403853185e-04,
    -7.030468987e-05,
    -3.131027188e-05,
    6.994193427e-06,
    7.102036079e-07,
    -4.008300039e-07,
    5.028789474e-08,
    -2.156484769e-09,
];

/// x * Phi(x), the GELU with the error function. At most 2 ulp or 1e-7.
///
/// Written as max(x, 0) - |x| Q(|x|): the second term is a bump below 0.17 that vanishes beyond 6, so no `1 + erf`
/// cancels, and neither an exponential nor a division is needed: 13 multiply-adds and a square.
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(s: S, x: S::F) -> S::F {
    let a = s.abs(x);
    let u = s.sub(a, s.splat(1.5));
    let root = polynomial(s, u, &GELU_TAIL_ROOT);
    let bump = s.mul(a, s.mul(root, root));
    let bump = s.select(s.lt(a, s.splat(6.0)), bump, s.zero());
    s.sub(s.max(s.zero(), x), bump)
}

/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the GELU with the hyperbolic tangent: an approximation of
/// [`gelu_erf`] that some models are trained with.
///
/// As x * sigmoid(2z), which is the same function and does not cancel for negative x.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    /// 2 sqrt(2/pi).
    const SCALE: f32 = 1.595_769_122;
    let cubic = s.fma(s.mul(x, x), s.splat(SCALE * 0.044_715), s.splat(SCALE));
    let y = s.mul(x, sigmoid(s, s.mul(x, cubic)));
    // -inf * 0 is no number; the limit is 0.
    s.select(s.lt(x, s.splat(-1e30)), s.zero(), y)
}

/// max(x, 0); NaN stays NaN.
#[inline(always)]
pub(crate) fn relu<S: Simd>(s: S, x: S::F) -> S::F {
    s.max(s.zero(), x)
}

/// A function of one vector, chosen at compile time.
pub(crate) trait Function {
    fn apply<S: Simd>(s: S, x: S::F) -> S::F;
}

macro_rules! functions {
    ($($name:ident: $s:ident, $x:ident => $value:expr;)*) => {$(
        pub(crate) struct $name;
        impl Function for $name {
            #[inline(always)]
            fn apply<S: Simd>($s: S, $x: S::F) -> S::F {
                $value
            }
        }
    )*};
}

functions! {
    Identity: _s, x => x;
    Relu: s, x => relu(s, x);
    Tanh: s, x => tanh(s, x);
    GeluErf: s, x => gelu_erf(s, x);
    GeluTanh: s, x => gelu_tanh(s, x);
    Exp: s, x => exp(s, x);
    Log: s, x => log(s, x);
    Erf: s, x => erf(s, x);
    Sigmoid: s, x => sigmoid(s, x);
    Silu: s, x => s.mul(x, sigmoid(s, x));
    Abs: s, x => s.abs(x);
    Neg: s, x => s.mul(x, s.splat(-1.0));
    Sqrt: s, x => s.sqrt(x);
    Reciprocal: s, x => s.div(s.splat(1.0), x);
}
