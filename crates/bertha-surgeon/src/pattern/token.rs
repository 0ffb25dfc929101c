//! The words of a pattern.

use crate::error::PatternError;
use crate::literal::Literal;

/// A word with its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) place: Place,
}

/// A place in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Line, from 1.
    pub(crate) line: usize,
    /// Column in characters, from 1.
    pub(crate) column: usize,
}

/// Kinds of words.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A name; may hold dots and, inside, hyphens.
    Name(String),
    /// A number or a text.
    Literal(Literal),
    /// A sign such as `(` or `==`.
    Sign(&'static str),
    /// The end of a line, where a statement may end.
    Newline,
    /// The end of the text.
    End,
}

impl Kind {
    /// For messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Kind::Name(name) => format!("`{name}`"),
            Kind::Literal(literal) => format!("{literal}"),
            Kind::Sign(sign) => format!("`{sign}`"),
            Kind::Newline => "the end of the line".into(),
            Kind::End => "the end of the text".into(),
        }
    }
}

/// The longest first, so that `==` is not read as two `=`.
const SIGNS: [&str; 24] = [
    "...", "::", "==", "!=", "<=", ">=", "(", ")", "[", "]", "{", "}", ",", ":", ";", "=", "<", ">", "|",
    "?", "@", "≠", "≤", "≥",
];

/// A text and what it is called in messages.
#[derive(Clone, Copy)]
pub(super) struct Source<'t> {
    pub(super) origin: &'t str,
    pub(super) text: &'t str,
}

impl Source<'_> {
    pub(super) fn error(&self, place: Place, message: impl Into<String>) -> PatternError {
        PatternError {
            origin: self.origin.to_owned(),
            line: place.line,
            column: place.column,
            message: message.into(),
            source_line: self.text.lines().nth(place.line.saturating_sub(1)).unwrap_or_default().to_owned(),
        }
    }
}

/// Takes a text apart. Comments go from `#` to the end of the line; lines end nowhere inside of brackets.
pub(super) fn tokens(source: Source<'_>) -> Result<Vec<Token>, PatternError> {
    let mut reader = Reader { rest: source.text, place: Place { line: 1, column: 1 }, depth: 0 };
    let mut tokens = Vec::new();
    while let Some(first) = reader.rest.chars().next() {
        let place = reader.place;
        if first == '\n' {
            reader.take(1);
            if reader.depth == 0 {
                tokens.push(Token { kind: Kind::Newline, place });
            }
        } else if first.is_whitespace() {
            reader.take(first.len_utf8());
        } else if first == '#' {
            let length = reader.rest.find('\n').unwrap_or(reader.rest.len());
            reader.take(length);
        } else {
            let kind = reader.word(first).map_err(|message| source.error(place, message))?;
            tokens.push(Token { kind, place });
        }
    }
    tokens.push(Token { kind: Kind::End, place: reader.place });
    Ok(tokens)
}

struct Reader<'t> {
    rest: &'t str,
    place: Place,
    depth: usize,
}

impl<'t> Reader<'t> {
    /// Takes so many bytes off, which end at a character.
    fn take(&mut self, length: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        for c in taken.chars() {
            if c == '\n' {
                self.place = Place { line: self.place.line + 1, column: 1 };
            } else {
                self.place.column += 1;
            }
        }
        self.rest = rest;
        taken
    }

    fn word(&mut self, first: char) -> Result<Kind, String> {
        if first.is_alphabetic() || first == '_' {
            let length = name_length(self.rest);
            return Ok(Kind::Name(self.take(length).to_owned()));
        }
        let second = self.rest.chars().nth(1).unwrap_or(' ');
        if first.is_ascii_digit() || (matches!(first, '-' | '+' | '.') && second.is_ascii_digit()) {
            return self.number();
        }
        if first == '-' && self.rest[1..].starts_with("inf") {
            self.take(4);
            return Ok(Kind::Literal(Literal::Float(f64::NEG_INFINITY)));
        }
        if first == '"' {
            return self.text();
        }
        let sign = SIGNS.iter().find(|sign| self.rest.starts_with(**sign));
        let Some(sign) = sign else { return Err(format!("`{}` has no meaning here", first.escape_debug())) };
        self.take(sign.len());
        match *sign {
            "(" | "[" | "{" => self.depth += 1,
            ")" | "]" | "}" => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        Ok(Kind::Sign(match *sign {
            "≠" => "!=",
            "≤" => "<=",
            "≥" => ">=",
            sign => sign,
        }))
    }

    fn number(&mut self) -> Result<Kind, String> {
        let mut previous = ' ';
        let length = self
            .rest
            .find(|c: char| {
                let sign = matches!(c, '-' | '+') && matches!(previous, ' ' | 'e' | 'E');
                let inside = c.is_ascii_alphanumeric() || c == '.' || c == '_' || sign;
                previous = c;
                !inside
            })
            .unwrap_or(self.rest.len());
        let text = self.take(length);
        if let Ok(number) = text.parse::<i64>() {
            return Ok(Kind::Literal(Literal::Int(number)));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Kind::Literal(Literal::Float(number))),
            _ => Err(format!("`{text}` is no number")),
        }
    }

    fn text(&mut self) -> Result<Kind, String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.take(at + 1);
                    return Ok(Kind::Literal(Literal::Text(text)));
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c @ ('"' | '\\'))) => text.push(c),
                    _ => return Err("a backslash in a text stands before `\"`, `\\`, `n` or `t`".into()),
                },
                '\n' => break,
                c => text.push(c),
            }
        }
        Err("the text does not end on its line: a closing `\"` was expected".into())
    }
}

/// Letters, digits and `_`; dots and hyphens where such follow.
fn name_length(text: &str) -> usize {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let inside = c.is_alphanumeric() || c == '_';
        let joins = matches!(c, '.' | '-')
            && chars.peek().is_some_and(|(_, next)| next.is_alphanumeric() || *next == '_');
        if !inside && !joins {
            return at;
        }
    }
    text.len()
}
