//! What products are made of: symbols, and quotients rounded down.

use std::sync::Arc;

use super::Dim;

/// A factor of a product.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Factor {
    /// A dimension that is unknown until it is bound.
    Symbol(Arc<str>),
    /// A dimension divided by a number and rounded down.
    Quotient(Arc<Quotient>),
}

/// `floor(dividend / divisor)`, in the one form that [`Dim::floor_div`] gives it: every coefficient of the dividend,
/// the constant included, lies in `0..divisor`, and not all but the constant have a divisor in common with it. So equal
/// quotients look alike, and like a symbol a quotient is never negative.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Quotient {
    dividend: Dim,
    divisor: i64,
}

impl Quotient {
    /// What is divided.
    pub fn dividend(&self) -> &Dim {
        &self.dividend
    }

    /// By what: 2 or more.
    pub fn divisor(&self) -> i64 {
        self.divisor
    }

    /// The quotient when this is what the dividend has become.
    pub fn round(&self, dividend: i64) -> i64 {
        dividend.div_euclid(self.divisor)
    }
}

impl Factor {
    pub(super) fn dividend(&self) -> Option<&Dim> {
        match self {
            Factor::Symbol(_) => None,
            Factor::Quotient(quotient) => Some(&quotient.dividend),
        }
    }

    /// What is left when symbols are replaced; `None` keeps one.
    pub(super) fn replace(&self, by: &dyn Fn(&Arc<str>) -> Option<Dim>) -> Dim {
        match self {
            Factor::Symbol(name) => by(name).unwrap_or_else(|| self.clone().into()),
            Factor::Quotient(quotient) => {
                let dividend = quotient.dividend.replace_with(by);
                dividend.floor_div(quotient.divisor).unwrap_or_else(|| self.clone().into())
            }
        }
    }
}

impl From<Factor> for Dim {
    fn from(factor: Factor) -> Self {
        Dim { terms: vec![(vec![factor], 1)] }
    }
}

impl Dim {
    /// `floor(self / divisor)`; `None` when the divisor is not positive.
    ///
    /// What divides leaves the quotient: `floor((2*frames + 3)/2)` is `frames + 1`, and a quotient of a quotient is one:
    /// `floor((floor(frames/2) + 1)/2)` is `floor((frames + 2)/4)`.
    pub fn floor_div(&self, divisor: i64) -> Option<Dim> {
        if divisor <= 0 {
            return None;
        }
        let whole = self.terms.iter().map(|(monomial, c)| (monomial.clone(), c.div_euclid(divisor)));
        let rest = self.terms.iter().map(|(monomial, c)| (monomial.clone(), c.rem_euclid(divisor)));
        Some(&Dim::from_terms(whole) + &Dim::from_terms(rest).proper_quotient(divisor))
    }

    /// The quotient of a dividend whose coefficients lie in `0..divisor`.
    fn proper_quotient(&self, divisor: i64) -> Dim {
        if self.is_const() {
            return Dim::from(0);
        }
        // The constant's part below a common factor cannot carry over: floor((2*x + 1)/4) is floor(x/2).
        let variable = self.terms.iter().filter(|(monomial, _)| !monomial.is_empty());
        let common = variable.fold(divisor, |common, (_, coefficient)| gcd(common, *coefficient));
        let terms = self.terms.iter().map(|(monomial, c)| (monomial.clone(), c.div_euclid(common)));
        let (dividend, divisor) = (Dim::from_terms(terms), divisor / common);
        if divisor == 1 {
            return dividend;
        }
        // Merged only without the common factor, which hides a lone quotient: floor((2*floor(x/3) + 1)/4) is floor(x/6).
        dividend
            .merged_quotient(divisor)
            .unwrap_or_else(|| Factor::Quotient(Arc::new(Quotient { dividend, divisor })).into())
    }

    /// `floor((floor(a/m) + b)/n)` as `floor((a + b*m)/(m*n))`.
    fn merged_quotient(&self, divisor: i64) -> Option<Dim> {
        let (constant, inner) = match self.terms.as_slice() {
            [(inner, 1)] => (0, inner),
            [(none, constant), (inner, 1)] if none.is_empty() => (*constant, inner),
            _ => return None,
        };
        let [Factor::Quotient(inner)] = inner.as_slice() else { return None };
        let product = inner.divisor.checked_mul(divisor)?;
        let shift = constant.checked_mul(inner.divisor)?;
        (&inner.dividend + &Dim::from(shift)).floor_div(product)
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
