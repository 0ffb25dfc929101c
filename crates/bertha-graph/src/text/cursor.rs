//! A position in a text, and the smallest things that are read from there.

use crate::dim::Dim;
use crate::dtype::DType;
use crate::rules::MAX_RANK;
use crate::shape::{Shape, TensorType};

use super::ParseError;

/// Reads a text from front to back.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

type Parsed<T> = Result<T, ParseError>;

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Cursor { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The position after spaces and comments, for messages.
    pub(super) fn position(&mut self) -> usize {
        self.skip();
        self.at
    }

    /// Passes over spaces and comments.
    fn skip(&mut self) {
        loop {
            let trimmed = self.rest().trim_start();
            self.at = self.text.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// The next character that is neither space nor comment.
    pub(super) fn peek(&mut self) -> Option<char> {
        self.skip();
        self.rest().chars().next()
    }

    /// An error at `position`.
    pub(super) fn error_at(&self, position: usize, message: impl Into<String>) -> ParseError {
        let before = self.text.get(..position).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        ParseError { line, column, message: message.into() }
    }

    /// "expected ..., found ..." at the next thing in the text.
    pub(super) fn expected(&mut self, what: &str) -> ParseError {
        let position = self.position();
        let rest = self.rest();
        let found = match rest.chars().next() {
            None => "the end of the text".to_owned(),
            Some(c) if is_word(c) => format!("`{}`", cut(rest, is_word)),
            Some(c) => format!("`{}`", c.escape_debug()),
        };
        self.error_at(position, format!("expected {what}, found {found}"))
    }

    /// Passes over `token` if it comes next.
    pub(super) fn eat(&mut self, token: &str) -> bool {
        self.skip();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Requires `token`.
    pub(super) fn expect(&mut self, token: &str) -> Parsed<()> {
        match self.eat(token) {
            true => Ok(()),
            false => Err(self.expected(&format!("`{token}`"))),
        }
    }

    /// The next word, which stays.
    pub(super) fn peek_word(&mut self) -> &'a str {
        self.skip();
        cut(self.rest(), is_word)
    }

    /// Passes over `word` if it comes next as a whole.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found = self.peek_word() == word;
        if found {
            self.at += word.len();
        }
        found
    }

    /// A word of letters, digits, `_` and `.`.
    pub(super) fn word(&mut self, what: &str) -> Parsed<&'a str> {
        let word = self.peek_word();
        if word.is_empty() {
            return Err(self.expected(what));
        }
        self.at += word.len();
        Ok(word)
    }

    /// A word, or any characters in quotes.
    pub(super) fn name(&mut self, what: &str) -> Parsed<String> {
        match self.peek() {
            Some('"') => self.quoted(),
            _ => self.word(what).map(str::to_owned),
        }
    }

    /// The name of a tensor, after `%`.
    pub(super) fn tensor_name(&mut self) -> Parsed<String> {
        if !self.eat("%") {
            return Err(self.expected("a tensor `%name`"));
        }
        self.name("the name of a tensor")
    }

    /// Characters in quotes.
    pub(super) fn quoted(&mut self) -> Parsed<String> {
        self.expect("\"")?;
        let start = self.at - 1;
        let mut name = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((offset, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += offset + 1;
                    return Ok(name);
                }
                '\\' => match escape(&mut chars) {
                    Some(c) => name.push(c),
                    None => {
                        let position = self.at + offset;
                        let known = "expected one of \\\" \\\\ \\n \\r \\t \\u{...}";
                        return Err(self.error_at(position, known));
                    }
                },
                c => name.push(c),
            }
        }
        Err(self.error_at(start, "expected a closing `\"`, found the end of the text"))
    }

    /// A number, or `inf`, `nan`, `true` and the like: what an element is written as.
    pub(super) fn number(&mut self) -> Parsed<&'a str> {
        self.skip();
        let rest = self.rest();
        let mut len = 0;
        let mut previous = ' ';
        for c in rest.chars() {
            let sign = matches!(c, '+' | '-');
            let exponent = matches!(previous, 'e' | 'E') && !rest.starts_with("nan");
            if !(is_word(c) || (sign && (len == 0 || exponent))) {
                break;
            }
            len += c.len_utf8();
            previous = c;
        }
        let (mut number, after) = rest.split_at(len);
        if number == "nan" && after.starts_with(":0x") {
            let digits = cut(after.get(3..).unwrap_or_default(), is_word);
            number = rest.get(..len + 3 + digits.len()).unwrap_or(number);
        }
        if number.is_empty() {
            return Err(self.expected("a number"));
        }
        self.at += number.len();
        Ok(number)
    }

    /// `f32[tokens, 384]`.
    pub(super) fn tensor_type(&mut self) -> Parsed<TensorType> {
        let position = self.position();
        let word = self.word("an element type")?;
        let dtype: DType = word.parse().map_err(|why: String| self.error_at(position, why))?;
        Ok(TensorType::new(dtype, self.shape()?))
    }

    /// `[tokens, 384]`.
    pub(super) fn shape(&mut self) -> Parsed<Shape> {
        self.expect("[")?;
        let mut dims = Vec::new();
        if self.eat("]") {
            return Ok(Shape(dims));
        }
        loop {
            let position = self.position();
            if dims.len() == MAX_RANK {
                return Err(self.error_at(position, format!("expected at most {MAX_RANK} dimensions")));
            }
            let text = cut(self.rest(), |c| !matches!(c, ',' | ']' | '\n'));
            if has_gap(text) {
                let message = format!("expected one dimension, found `{}`", text.trim());
                return Err(self.error_at(position, message));
            }
            let dim: Dim = text.trim().parse().map_err(|why: String| self.error_at(position, why))?;
            if dim.as_const().is_some_and(|size| size < 0) {
                return Err(self.error_at(position, format!("expected a size, found {dim}")));
            }
            dims.push(dim);
            self.at += text.len();
            if self.eat("]") {
                return Ok(Shape(dims));
            }
            if !self.eat(",") {
                return Err(self.expected("`,` or `]`"));
            }
        }
    }
}

/// Whether a name with this character needs no quotes.
pub(super) fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.')
}

/// Whether spaces stand between two words, as in `2 3`: dimensions are read without regard to spaces.
fn has_gap(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let mut previous = words.next();
    words.any(|word| {
        let ends_in_word = previous.replace(word).is_some_and(|previous| previous.ends_with(is_word));
        ends_in_word && word.starts_with(|c: char| is_word(c) || c == '?')
    })
}

/// The longest beginning of `text` whose characters all fit.
fn cut(text: &str, fits: impl Fn(char) -> bool) -> &str {
    let end = text.find(|c| !fits(c)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// The character that comes after a backslash.
fn escape(chars: &mut std::str::CharIndices<'_>) -> Option<char> {
    match chars.next()?.1 {
        c @ ('"' | '\\') => Some(c),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'u' => {
            if chars.next()?.1 != '{' {
                return None;
            }
            let mut code = 0u32;
            loop {
                match chars.next()?.1 {
                    '}' => return char::from_u32(code),
                    digit => code = code.checked_mul(16)?.checked_add(digit.to_digit(16)?)?,
                }
            }
        }
        _ => None,
    }
}

/// A name as it is printed: in quotes where it must be.
pub(super) fn name_text(name: &str) -> String {
    match !name.is_empty() && name.chars().all(is_word) {
        true => name.to_owned(),
        false => quote(name),
    }
}

/// Characters in quotes, so that they stay on one line.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
