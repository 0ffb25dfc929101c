//! The header of an `.npy` file: a magic number, a version, a length, and a Python dictionary literal
//! `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }` padded with spaces and ended by a newline.

use bertha_graph::DType;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header that is read; NumPy itself stops at 10,000 bytes unless told otherwise.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// NumPy allows 64 dimensions.
const MAX_RANK: usize = 64;
/// Data starts at a multiple of this, so that any element is aligned in a mapped file.
const ALIGNMENT: usize = 64;

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) dtype: DType,
    pub(super) big_endian: bool,
    /// Column-major: the first dimension varies fastest.
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
}

/// Reads the header; returns it and the offset of the data.
pub(super) fn parse(bytes: &[u8]) -> Result<(Header, usize), String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not start with NumPy's magic number")?;
    let (&[major, minor], rest) = rest.split_first_chunk().ok_or("it is cut off in the version")?;
    let (length, rest) = match (major, minor) {
        (1, 0) => {
            let (length, rest) = rest.split_first_chunk().ok_or("it is cut off in the header's length")?;
            (u16::from_le_bytes(*length).into(), rest)
        }
        (2 | 3, 0) => {
            let (length, rest) = rest.split_first_chunk().ok_or("it is cut off in the header's length")?;
            (u32::from_le_bytes(*length), rest)
        }
        _ => return Err(format!("format version {major}.{minor} is not known")),
    };
    let length = usize::try_from(length).ok().filter(|&length| length <= MAX_HEADER_BYTES);
    let length = length.ok_or_else(|| format!("its header is longer than {MAX_HEADER_BYTES} bytes"))?;
    let text = rest.get(..length).ok_or("it is cut off in the header")?;
    // Versions 1 and 2 are Latin-1, which differs from UTF-8 only in field names of record types, not supported here.
    let text = std::str::from_utf8(text).map_err(|_| "its header is not text")?;
    let header = Literal { rest: text }.header()?;
    Ok((header, bytes.len() - rest.len() + length))
}

/// Writes a header for row-major little-endian data.
pub(super) fn format(dtype: DType, shape: &[usize]) -> Vec<u8> {
    let dimensions: String = shape.iter().map(|length| format!("{length}, ")).collect();
    // A tuple of one needs its comma, longer ones end without.
    let dimensions = match shape.len() {
        1 => dimensions.trim_end(),
        _ => dimensions.trim_end_matches(", "),
    };
    let text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({dimensions}), }}", descr(dtype));
    let padded = |prefix: usize| (prefix + text.len() + 1).next_multiple_of(ALIGNMENT) - prefix;
    let mut header = MAGIC.to_vec();
    match u16::try_from(padded(MAGIC.len() + 4)) {
        Ok(length) => {
            header.extend([1, 0]);
            header.extend(length.to_le_bytes());
        }
        Err(_) => {
            header.extend([2, 0]);
            // A rank whose text exceeds 4 GiB cannot exist in memory.
            header.extend((padded(MAGIC.len() + 6) as u32).to_le_bytes());
        }
    }
    let end = (header.len() + text.len() + 1).next_multiple_of(ALIGNMENT);
    header.extend(text.as_bytes());
    header.resize(end - 1, b' ');
    header.push(b'\n');
    header
}

fn descr(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::BF16 | DType::U16 => "<u2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::I16 => "<i2",
        DType::I8 => "|i1",
        DType::U64 => "<u8",
        DType::U32 => "<u4",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
    }
}

fn dtype(descr: &str) -> Result<(DType, bool), String> {
    let unknown = || {
        format!("elements of type `{descr}` are not supported; expected f2, f4, f8, i1 to i8, u1 to u8 or b1")
    };
    let (order, kind) = descr.split_at_checked(1).ok_or_else(unknown)?;
    let dtype = match kind {
        "f8" => DType::F64,
        "f4" => DType::F32,
        "f2" => DType::F16,
        "i8" => DType::I64,
        "i4" => DType::I32,
        "i2" => DType::I16,
        "i1" => DType::I8,
        "u8" => DType::U64,
        "u4" => DType::U32,
        "u2" => DType::U16,
        "u1" => DType::U8,
        "b1" => DType::Bool,
        _ => return Err(unknown()),
    };
    match order {
        "<" => Ok((dtype, false)),
        ">" => Ok((dtype, true)),
        "|" if dtype.size() == 1 => Ok((dtype, false)),
        _ => Err(unknown()),
    }
}

/// The small part of Python's literal syntax that headers use.
struct Literal<'t> {
    rest: &'t str,
}

impl<'t> Literal<'t> {
    fn header(mut self) -> Result<Header, String> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect('{')?;
        while !self.accept('}') {
            let key = self.string()?;
            self.expect(':')?;
            let repeated = match key {
                "descr" => descr.replace(dtype(self.string()?)?).is_some(),
                "fortran_order" => fortran_order.replace(self.boolean()?).is_some(),
                "shape" => shape.replace(self.shape()?).is_some(),
                _ => return Err(format!("its header has an unknown key `{}`", key.escape_debug())),
            };
            if repeated {
                return Err(format!("its header has the key `{key}` twice"));
            }
            if !self.accept(',') {
                self.expect('}')?;
                break;
            }
        }
        if !self.rest.trim().is_empty() {
            return Err("its header goes on after the dictionary".into());
        }
        let missing = |key: &str| format!("its header has no `{key}`");
        let (dtype, big_endian) = descr.ok_or_else(|| missing("descr"))?;
        Ok(Header {
            dtype,
            big_endian,
            fortran_order: fortran_order.ok_or_else(|| missing("fortran_order"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
        })
    }

    fn accept(&mut self, symbol: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(symbol) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, symbol: char) -> Result<(), String> {
        if self.accept(symbol) { Ok(()) } else { Err(format!("its header lacks a `{symbol}`")) }
    }

    fn string(&mut self) -> Result<&'t str, String> {
        self.rest = self.rest.trim_start();
        let quoted = ['\'', '"'].iter().find_map(|&quote| self.rest.strip_prefix(quote)?.split_once(quote));
        let (text, rest) = quoted.ok_or(
            "its header lacks a string where one is expected (record types and Python objects are not supported)",
        )?;
        self.rest = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.rest = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err("its header lacks a True or False after `fortran_order`".into())
    }

    fn shape(&mut self) -> Result<Vec<usize>, String> {
        let mut shape = Vec::new();
        self.expect('(')?;
        while !self.accept(')') {
            if shape.len() == MAX_RANK {
                return Err(format!("an array of more than {MAX_RANK} dimensions"));
            }
            shape.push(self.length()?);
            if !self.accept(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(shape)
    }

    fn length(&mut self) -> Result<usize, String> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|symbol: char| !symbol.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        let length = digits.parse().map_err(|_| "its header has a shape that is not a tuple of lengths")?;
        // Python 2 wrote `3L`.
        self.rest = rest.strip_prefix('L').unwrap_or(rest);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_headers_parse_back_and_align() {
        for shape in [vec![], vec![0], vec![7], vec![2, 3], vec![1; 64], vec![usize::MAX; 64]] {
            for dtype in DType::ALL.into_iter().filter(|&dtype| dtype != DType::BF16) {
                let written = format(dtype, &shape);
                assert_eq!(written.len() % ALIGNMENT, 0);
                let (header, start) = parse(&written).unwrap();
                assert_eq!(start, written.len());
                let expected =
                    Header { dtype, big_endian: false, fortran_order: false, shape: shape.clone() };
                assert_eq!(header, expected);
            }
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let with = |text: &str| {
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend((text.len() as u16).to_le_bytes());
            bytes.extend(text.as_bytes());
            parse(&bytes)
        };
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 4), }  \n";
        assert_eq!(with(good).unwrap().0.shape, [3, 4]);
        for (text, complaint) in [
            ("", "lacks a `{`"),
            ("{}", "no `descr`"),
            ("{'descr': '<f4', 'fortran_order': False}", "no `shape`"),
            ("{'descr': '<f4', 'descr': '<f4'}", "twice"),
            ("{'descr': '|O'}", "`|O` are not supported"),
            ("{'descr': '<é'}", "not supported"),
            ("{'descr': '|f4'}", "not supported"),
            ("{'descr': [('a', '<f4')]}", "record types"),
            ("{'shape': (-1,)}", "not a tuple of lengths"),
            ("{'shape': (99999999999999999999999,)}", "not a tuple of lengths"),
            ("{'shape': (1 2)}", "lacks a `)`"),
            ("{'fortran_order': 1}", "True or False"),
            ("{'evil': 1}", "unknown key"),
            (&(good.to_owned() + "x"), "goes on after"),
            (&format!("{{'shape': ({})}}", "1,".repeat(65)), "more than 64 dimensions"),
        ] {
            let error = with(text).unwrap_err();
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }

    #[test]
    fn every_cut_is_an_error() {
        let written = format(DType::F32, &[2, 3]);
        for end in 0..written.len() {
            assert!(parse(&written[..end]).is_err(), "cut at {end}");
        }
    }
}
