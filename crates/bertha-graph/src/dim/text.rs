//! How dimensions are written.

use std::fmt;
use std::str::FromStr;

use super::{Dim, Factor};

impl fmt::Display for Dim {
    /// `2*batch*seq + tokens - 1`, `floor((frames + 1)/4) - 1`; constants print as numbers. Highest-degree terms come first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        let mut terms: Vec<_> = self.terms.iter().collect();
        terms.sort_by_key(|(monomial, _)| std::cmp::Reverse(monomial.len()));
        for (index, (monomial, coefficient)) in terms.into_iter().enumerate() {
            let negative = *coefficient < 0;
            match (index, negative) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            let magnitude = coefficient.unsigned_abs();
            if monomial.is_empty() {
                write!(f, "{magnitude}")?;
                continue;
            }
            if magnitude != 1 {
                write!(f, "{magnitude}*")?;
            }
            for (i, factor) in monomial.iter().enumerate() {
                if i > 0 {
                    f.write_str("*")?;
                }
                match factor {
                    Factor::Symbol(name) => f.write_str(name)?,
                    Factor::Quotient(quotient) => {
                        let (dividend, divisor) = (quotient.dividend(), quotient.divisor());
                        match dividend.terms.len() {
                            1 => write!(f, "floor({dividend}/{divisor})")?,
                            _ => write!(f, "floor(({dividend})/{divisor})")?,
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Dim {
    type Err = String;

    /// Reads what [`Display`](fmt::Display) prints.
    fn from_str(text: &str) -> Result<Dim, String> {
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        parse_sum(&compact, MAX_DEPTH).map_err(|why| match compact.is_empty() {
            true => why,
            false => format!("dimension `{text}`: {why}"),
        })
    }
}

/// How deep parentheses may lie in one another.
const MAX_DEPTH: usize = 16;

fn parse_sum(text: &str, depth: usize) -> Result<Dim, String> {
    let mut rest = text;
    if rest.is_empty() {
        return Err("empty dimension".into());
    }
    let mut sum = Dim::from(0);
    while !rest.is_empty() {
        let (sign, body) = match rest.as_bytes().first() {
            Some(b'-') => (-1, &rest[1..]),
            Some(b'+') => (1, &rest[1..]),
            _ => (1, rest),
        };
        let (term, after) = body.split_at(outside(body, &['+', '-']).unwrap_or(body.len()));
        sum = manageable(&sum + &parse_term(term, sign, depth)?)?;
        rest = after;
    }
    Ok(sum)
}

/// Checked after every step: a short text can multiply out to any number of terms.
fn manageable(dim: Dim) -> Result<Dim, String> {
    if dim.is_unwieldy() { Err("the polynomial is too large".into()) } else { Ok(dim) }
}

/// Where one of `marks` first occurs outside of parentheses.
fn outside(text: &str, marks: &[char]) -> Option<usize> {
    let mut open = 0usize;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '(' => open += 1,
            ')' => open = open.saturating_sub(1),
            c if open == 0 && marks.contains(&c) => return Some(at),
            _ => {}
        }
        None
    })
}

fn parse_term(term: &str, sign: i64, depth: usize) -> Result<Dim, String> {
    let mut product = Dim::from(sign);
    let mut rest = Some(term);
    while let Some(text) = rest {
        let factor = match outside(text, &['*']) {
            Some(at) => {
                rest = Some(&text[at + 1..]);
                &text[..at]
            }
            None => {
                rest = None;
                text
            }
        };
        product = manageable(&product * &parse_factor(factor, depth)?)?;
    }
    Ok(product)
}

fn parse_factor(factor: &str, depth: usize) -> Result<Dim, String> {
    if factor.starts_with(|c: char| c.is_ascii_digit()) {
        let number: i64 = factor.parse().map_err(|_| format!("`{factor}` is not a number"))?;
        return Ok(Dim::from(number));
    }
    if is_symbol_name(factor) {
        return Ok(Dim::symbol(factor));
    }
    let inside = factor.strip_prefix("floor(").and_then(|rest| rest.strip_suffix(')'));
    let Some((dividend, divisor)) = inside.and_then(|inside| inside.rsplit_once('/')) else {
        return Err(format!("`{factor}` is neither a number nor a symbol nor `floor(.../number)`"));
    };
    let dividend = dividend.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(dividend);
    let divisor: i64 = divisor.parse().map_err(|_| format!("`{divisor}` is not a number"))?;
    let Some(depth) = depth.checked_sub(1) else {
        return Err(format!("quotients lie more than {MAX_DEPTH} deep in one another"));
    };
    let dividend = parse_sum(dividend, depth)?;
    dividend.floor_div(divisor).ok_or_else(|| format!("a divisor must be 1 or more, found {divisor}"))
}

/// Whether `name` can stand for a symbol in the text format: a letter, `_` or `?`, then letters, digits, `_`, `.`.
pub fn is_symbol_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_' || c == '?')
        && chars.all(|c| c.is_alphanumeric() || c == '_' || c == '.')
}
