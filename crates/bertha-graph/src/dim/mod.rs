//! Symbolic dimensions: polynomials with integer coefficients over named symbols.
//!
//! A dimension such as `batch*seq` or `2*tokens + 1` is known exactly before the symbols are; one engine can
//! therefore serve every length. A concrete dimension is the constant polynomial. Where a size is divided and rounded
//! down, as by a stride, the quotient stands beside the symbols: `floor((frames + 1)/4) - 1`.

mod factor;
mod text;

use std::collections::BTreeMap;
use std::ops::{Add, Mul, Sub};
use std::sync::Arc;

pub use factor::{Factor, Quotient};
pub use text::is_symbol_name;

/// Values of symbols, by name.
pub type Bindings = BTreeMap<Arc<str>, i64>;

/// A product of symbols and quotients, sorted; the empty product is 1. `seq*seq` holds `seq` twice.
type Monomial = Vec<Factor>;

/// A polynomial over named symbols with `i64` coefficients.
///
/// The terms are kept sorted and without zero coefficients, so equality is equality of polynomials.
/// Arithmetic saturates at the limits of `i64`; sizes that large fail when memory is planned.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    terms: Vec<(Monomial, i64)>,
}

impl Dim {
    /// The dimension called `name`, unknown until it is bound.
    pub fn symbol(name: &str) -> Self {
        Dim { terms: vec![(vec![Factor::Symbol(Arc::from(name))], 1)] }
    }

    /// The constant value, if no symbol occurs.
    pub fn as_const(&self) -> Option<i64> {
        match self.terms.as_slice() {
            [] => Some(0),
            [(monomial, coefficient)] if monomial.is_empty() => Some(*coefficient),
            _ => None,
        }
    }

    /// The name, if this is a lone symbol.
    pub fn as_symbol(&self) -> Option<&Arc<str>> {
        match self.terms.as_slice() {
            [(monomial, 1)] => match monomial.as_slice() {
                [Factor::Symbol(name)] => Some(name),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether no symbol occurs.
    pub fn is_const(&self) -> bool {
        self.as_const().is_some()
    }

    /// The terms: the factors of each product, sorted (one twice for its square), and the coefficient.
    pub fn terms(&self) -> impl ExactSizeIterator<Item = (&[Factor], i64)> {
        self.terms.iter().map(|(monomial, coefficient)| (monomial.as_slice(), *coefficient))
    }

    /// The symbols that occur, each once, in order of name.
    pub fn symbols(&self) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        self.collect_symbols(&mut names);
        names.sort();
        names.dedup();
        names
    }

    fn collect_symbols(&self, names: &mut Vec<Arc<str>>) {
        for factor in self.terms.iter().flat_map(|(monomial, _)| monomial) {
            match factor {
                Factor::Symbol(name) => names.push(name.clone()),
                Factor::Quotient(quotient) => quotient.dividend().collect_symbols(names),
            }
        }
    }

    /// The least value that this can have while no symbol is negative (sizes never are), if there is one.
    pub fn lower_bound(&self) -> Option<i64> {
        let mut bound = 0;
        for (monomial, coefficient) in &self.terms {
            match monomial.is_empty() {
                true => bound = *coefficient,
                false if *coefficient < 0 => return None,
                false => {}
            }
        }
        Some(bound)
    }

    /// The largest value that this can have while no symbol is negative, if there is one.
    pub fn upper_bound(&self) -> Option<i64> {
        let mut bound = 0;
        for (monomial, coefficient) in &self.terms {
            match monomial.is_empty() {
                true => bound = *coefficient,
                false if *coefficient > 0 => return None,
                false => {}
            }
        }
        Some(bound)
    }

    /// Whether the polynomial has outgrown what real models have (16 terms, degree 8, quotients in quotients to a depth
    /// of 4, and 1024 factors with those in quotients). Text that says one is refused, and the rules stop tracking such
    /// dimensions, so that a hostile graph cannot make arithmetic on them arbitrarily slow.
    pub fn is_unwieldy(&self) -> bool {
        !self.is_within(4, &mut 1024)
    }

    /// Whether quotients lie at most `depth` deep in one another, and at most `factors` are left to be counted: quotients
    /// that share their parts are larger than the memory that they take.
    fn is_within(&self, depth: usize, factors: &mut usize) -> bool {
        let mut is_small = |factor: &Factor| {
            let Some(left) = factors.checked_sub(1) else { return false };
            *factors = left;
            let Some(dividend) = factor.dividend() else { return true };
            depth.checked_sub(1).is_some_and(|depth| dividend.is_within(depth, factors))
        };
        self.terms.len() <= 16
            && self
                .terms
                .iter()
                .all(|(monomial, _)| monomial.len() <= 8 && monomial.iter().all(&mut is_small))
    }

    /// The value under `bindings`, or the name of the first symbol that has none.
    pub fn eval(&self, bindings: &Bindings) -> Result<i64, Arc<str>> {
        let mut sum = 0i64;
        for (monomial, coefficient) in &self.terms {
            let mut product = *coefficient;
            for factor in monomial {
                let value = match factor {
                    Factor::Symbol(name) => *bindings.get(name).ok_or_else(|| name.clone())?,
                    Factor::Quotient(quotient) => quotient.round(quotient.dividend().eval(bindings)?),
                };
                product = product.saturating_mul(value);
            }
            sum = sum.saturating_add(product);
        }
        Ok(sum)
    }

    /// This polynomial with each bound symbol replaced by its value; others stay.
    pub fn substitute(&self, bindings: &Bindings) -> Dim {
        self.replace(|name| bindings.get(name).map(|value| Dim::from(*value)))
    }

    /// This polynomial with each symbol replaced by what `by` gives for it; `None` keeps the symbol.
    pub fn replace(&self, by: impl Fn(&Arc<str>) -> Option<Dim>) -> Dim {
        self.replace_with(&by)
    }

    fn replace_with(&self, by: &dyn Fn(&Arc<str>) -> Option<Dim>) -> Dim {
        self.terms.iter().fold(Dim::from(0), |sum, (monomial, coefficient)| {
            let product = monomial
                .iter()
                .fold(Dim::from(*coefficient), |product, factor| &product * &factor.replace(by));
            &sum + &product
        })
    }

    /// `self / divisor` where the division leaves nothing over, as polynomials: `batch*seq*768 / (seq*64)` is
    /// `12*batch`. `None` when it does not divide, or `divisor` has several terms and is not `self` times a constant.
    pub fn exact_div(&self, divisor: &Dim) -> Option<Dim> {
        if self.terms.is_empty() {
            return (!divisor.terms.is_empty()).then(|| Dim::from(0));
        }
        match divisor.terms.as_slice() {
            [] => None,
            [(monomial, coefficient)] => {
                let terms = self.terms.iter().map(|(m, c)| {
                    let quotient = divide_monomial(m, monomial)?;
                    (c.checked_rem(*coefficient)? == 0).then(|| (quotient, c / coefficient))
                });
                Some(Dim::from_terms(terms.collect::<Option<Vec<_>>>()?))
            }
            _ => self.constant_multiple_of(divisor),
        }
    }

    /// The constant `k` with `self == k * divisor`, for divisors of several terms.
    fn constant_multiple_of(&self, divisor: &Dim) -> Option<Dim> {
        let (_, first) = self.terms.first()?;
        let (_, first_divisor) = divisor.terms.first()?;
        let factor = first.checked_div(*first_divisor)?;
        (&Dim::from(factor) * divisor == *self).then(|| Dim::from(factor))
    }

    fn from_terms(terms: impl IntoIterator<Item = (Monomial, i64)>) -> Dim {
        let mut sums: BTreeMap<Monomial, i64> = BTreeMap::new();
        for (monomial, coefficient) in terms {
            let sum = sums.entry(monomial).or_insert(0);
            *sum = sum.saturating_add(coefficient);
        }
        Dim { terms: sums.into_iter().filter(|(_, coefficient)| *coefficient != 0).collect() }
    }
}

/// `a / b` for products, if every factor of `b` occurs in `a`.
fn divide_monomial(a: &Monomial, b: &Monomial) -> Option<Monomial> {
    let mut quotient = a.clone();
    for name in b {
        let at = quotient.iter().position(|n| n == name)?;
        quotient.remove(at);
    }
    Some(quotient)
}

impl From<i64> for Dim {
    fn from(value: i64) -> Self {
        Dim { terms: if value == 0 { Vec::new() } else { vec![(Vec::new(), value)] } }
    }
}

impl From<usize> for Dim {
    fn from(value: usize) -> Self {
        Dim::from(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<i32> for Dim {
    fn from(value: i32) -> Self {
        Dim::from(i64::from(value))
    }
}

/// A name is a symbol: `Dim::from("tokens")`.
impl From<&str> for Dim {
    fn from(name: &str) -> Self {
        Dim::symbol(name)
    }
}

impl Add for &Dim {
    type Output = Dim;
    fn add(self, other: &Dim) -> Dim {
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return Dim::from(a.saturating_add(b));
        }
        Dim::from_terms(self.terms.iter().chain(&other.terms).cloned())
    }
}

/// `Dim::from("batch") + 1`.
impl Add<i64> for Dim {
    type Output = Dim;
    fn add(self, constant: i64) -> Dim {
        &self + &Dim::from(constant)
    }
}

impl Sub for &Dim {
    type Output = Dim;
    fn sub(self, other: &Dim) -> Dim {
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return Dim::from(a.saturating_sub(b));
        }
        let negated = other.terms.iter().map(|(m, c)| (m.clone(), c.saturating_neg()));
        Dim::from_terms(self.terms.iter().cloned().chain(negated))
    }
}

impl Mul for &Dim {
    type Output = Dim;
    fn mul(self, other: &Dim) -> Dim {
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return Dim::from(a.saturating_mul(b));
        }
        let mut terms = Vec::with_capacity(self.terms.len() * other.terms.len());
        for (m1, c1) in &self.terms {
            for (m2, c2) in &other.terms {
                let mut monomial: Monomial = m1.iter().chain(m2).cloned().collect();
                monomial.sort();
                terms.push((monomial, c1.saturating_mul(*c2)));
            }
        }
        Dim::from_terms(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dim(text: &str) -> Dim {
        text.parse().unwrap()
    }

    #[test]
    fn arithmetic_is_that_of_polynomials() {
        let sum = &dim("batch*seq + 1") + &dim("2*batch*seq - 1");
        assert_eq!(sum, dim("3*seq*batch"));
        assert_eq!(&dim("a + b") * &dim("a - b"), dim("a*a - b*b"));
        assert_eq!(&sum - &sum, Dim::from(0));
    }

    #[test]
    fn division_is_exact_or_refused() {
        assert_eq!(dim("768*batch*seq").exact_div(&dim("64*seq")), Some(dim("12*batch")));
        assert_eq!(dim("768*batch*seq").exact_div(&dim("1000")), None);
        assert_eq!(dim("seq + 1").exact_div(&dim("seq")), None);
        assert_eq!(dim("2*seq + 2").exact_div(&dim("seq + 1")), Some(Dim::from(2)));
        assert_eq!(Dim::from(0).exact_div(&dim("seq")), Some(Dim::from(0)));
        assert_eq!(dim("seq").exact_div(&Dim::from(0)), None);
    }

    #[test]
    fn printing_and_parsing_agree() {
        for text in [
            "0",
            "7",
            "-3",
            "tokens",
            "2*batch*seq + tokens - 1",
            "-a*a + 4",
            "?3 + 1",
            "floor((frames + 1)/4) - 1",
            "3*b*floor((t + floor((f + 1)/2))/3)",
            "floor(a*floor(b/3)/2)",
        ] {
            assert_eq!(dim(text).to_string(), text);
        }
        for bad in [
            "",
            "2x",
            "a**b",
            "a+",
            "*",
            "a b c-%",
            "(a)",
            "floor(a/0)",
            "floor(a/-2)",
            "floor(a/b)",
            "floor(a/2",
            "floor((a/2)",
            "a/2",
            "floor(/2)",
            "floor(a)",
        ] {
            assert!(bad.parse::<Dim>().is_err(), "{bad:?} must not parse");
        }
    }

    #[test]
    fn polynomials_that_are_too_large_are_refused_while_they_are_read() {
        let each = |count: usize, between: &str, one: &dyn Fn(usize) -> String| {
            (0..count).map(one).collect::<Vec<_>>().join(between)
        };
        // 2^40 terms when it is multiplied out.
        let product = each(40, "*", &|i| format!("floor((a{i} + b{i})/1)"));
        let nested = (0..5).fold("a".to_owned(), |inner, _| format!("floor(b*{inner}/2)"));
        // Every quotient stands in many terms of the next.
        let dense = (0..3).fold("a".to_owned(), |inner, level| {
            each(3, "*", &|i| format!("floor((x{i} + floor(({inner} + y{level})/7))/1)"))
        });
        for text in
            [product, each(17, " + ", &|i| format!("a{i}")), each(9, "*", &|_| "a".into()), nested, dense]
        {
            let error = text.parse::<Dim>().unwrap_err();
            assert!(error.ends_with("the polynomial is too large"), "{error}");
        }
        let long = each(20_000, " + ", &|_| "floor(a/2)".into());
        assert_eq!(dim(&long), dim("20000*floor(a/2)"));
    }

    #[test]
    fn quotients_are_rounded_down_and_have_one_form() {
        let forms = [
            ("2*frames + 3", 2, "frames + 1"),
            ("frames - 3", 4, "floor((frames + 1)/4) - 1"),
            ("3*frames + 2", 2, "frames + floor(frames/2) + 1"),
            ("2*frames + 1", 4, "floor(frames/2)"),
            ("2*floor(frames/3) + 1", 4, "floor(frames/6)"),
            ("floor((frames + 1)/2)", 2, "floor((frames + 1)/4)"),
            ("floor(frames/2) + 1", 3, "floor((frames + 2)/6)"),
            ("7", 2, "3"),
            ("-7", 2, "-4"),
            ("seq", 1, "seq"),
        ];
        for (dividend, divisor, form) in forms {
            let quotient = dim(dividend).floor_div(divisor).unwrap();
            assert_eq!(quotient, dim(form), "{dividend} over {divisor}");
            assert_eq!(quotient, dim(&quotient.to_string()), "{dividend} over {divisor}");
            for frames in 0..40 {
                let bindings = Bindings::from([(Arc::from("frames"), frames), (Arc::from("seq"), frames)]);
                let expected = dim(dividend).eval(&bindings).unwrap().div_euclid(divisor);
                assert_eq!(quotient.eval(&bindings), Ok(expected), "{dividend} over {divisor} at {frames}");
                assert_eq!(quotient.substitute(&bindings), Dim::from(expected));
            }
        }
        assert_eq!(dim("seq").floor_div(0), None);
        assert_eq!(dim("seq").floor_div(-2), None);
        assert_eq!(dim("floor((frames + 1)/4) - 1").lower_bound(), Some(-1));
        assert_eq!(dim("floor((a + b)/4)").symbols(), [Arc::from("a"), Arc::from("b")]);
        assert_eq!(dim("floor((a + b)/4)").as_symbol(), None);
    }

    #[test]
    fn evaluation_names_the_unbound_symbol() {
        let bindings = Bindings::from([(Arc::from("batch"), 3), (Arc::from("seq"), 5)]);
        assert_eq!(dim("2*batch*seq - 1").eval(&bindings), Ok(29));
        assert_eq!(dim("batch*other").eval(&bindings), Err(Arc::from("other")));
        assert_eq!(dim("batch*other + seq").substitute(&bindings), dim("3*other + 5"));
    }
}
