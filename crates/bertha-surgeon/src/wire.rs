//! Protobuf fields as they stand in a file.
//!
//! A message that is read keeps every field with its bytes, known or not, in the order of the file. What nobody changes is
//! written back as it was.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

/// One field: its number, and its bytes with the key in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) number: u32,
    wire_type: u8,
    /// Key, length where there is one, and value.
    raw: Bytes,
    /// Where in `raw` the value starts.
    start: usize,
}

impl Field {
    /// A field that holds bytes, text or a message.
    pub(crate) fn bytes(number: u32, value: &[u8]) -> Field {
        let mut raw = BytesMut::with_capacity(value.len() + 12);
        put_varint(&mut raw, u64::from(number) << 3 | u64::from(DELIMITED));
        put_varint(&mut raw, value.len() as u64);
        let start = raw.len();
        raw.put_slice(value);
        Field { number, wire_type: DELIMITED, raw: raw.freeze(), start }
    }

    /// A field that holds a message.
    pub(crate) fn message(number: u32, message: &impl prost::Message) -> Field {
        Field::bytes(number, &message.encode_to_vec())
    }

    /// The value of a field of bytes; an empty one for other wire types.
    pub(crate) fn value(&self) -> Bytes {
        if self.wire_type == DELIMITED { self.raw.slice(self.start..) } else { Bytes::new() }
    }

    /// The value as text.
    pub(crate) fn text(&self) -> Result<String, String> {
        if self.wire_type != DELIMITED {
            return Err(format!("field {} should be text but is a number", self.number));
        }
        match std::str::from_utf8(&self.raw[self.start..]) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(format!("field {} is not text in UTF-8", self.number)),
        }
    }

    /// Whether it is this text.
    pub(crate) fn is_text(&self, text: &str) -> bool {
        self.wire_type == DELIMITED && self.raw[self.start..] == *text.as_bytes()
    }

    /// A field that holds an integer.
    pub(crate) fn varint(number: u32, value: u64) -> Field {
        let mut raw = BytesMut::with_capacity(12);
        put_varint(&mut raw, u64::from(number) << 3 | u64::from(VARINT));
        let start = raw.len();
        put_varint(&mut raw, value);
        Field { number, wire_type: VARINT, raw: raw.freeze(), start }
    }

    /// The value as an integer; zero for other wire types.
    pub(crate) fn integer(&self) -> u64 {
        let mut value = &self.raw[self.start..];
        if self.wire_type == VARINT { varint(&mut value).unwrap_or(0) } else { 0 }
    }

    /// Key and value as they stand in the file.
    pub(crate) fn raw(&self) -> &Bytes {
        &self.raw
    }
}

/// The fields of a message.
///
/// # Errors
/// A reason, when the bytes are cut off or no protobuf.
pub(crate) fn fields(message: &Bytes) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    let mut rest = &message[..];
    let position = |rest: &[u8]| message.len() - rest.len();
    while !rest.is_empty() {
        let begin = position(rest);
        let key = varint(&mut rest).ok_or("it is cut off inside a field's number")?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| format!("{} is no field number", key >> 3))?;
        let wire_type = (key & 7) as u8;
        let mut start = position(rest);
        let length = match wire_type {
            VARINT => {
                varint(&mut rest).ok_or("it is cut off inside an integer")?;
                0
            }
            FIXED64 => 8,
            FIXED32 => 4,
            DELIMITED => {
                let length = varint(&mut rest).ok_or("it is cut off inside a length")?;
                start = position(rest);
                usize::try_from(length).unwrap_or(usize::MAX)
            }
            other => {
                return Err(format!("field {number} has the wire type {other}, which ONNX does not use"));
            }
        };
        rest = rest.get(length..).ok_or_else(|| format!("field {number} is cut off"))?;
        let raw = message.slice(begin..position(rest));
        fields.push(Field { number, wire_type, raw, start: start - begin });
    }
    Ok(fields)
}

/// One after another.
pub(crate) fn concat(fields: &[Field]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(fields.iter().map(|field| field.raw.len()).sum());
    for field in fields {
        bytes.put_slice(&field.raw);
    }
    bytes.freeze()
}

/// Puts fields into the order of the file they came from.
///
/// `layout` are the field numbers of the message as it was read. Fields of one number keep the order they have in
/// `fields`; more of them than there were follow the last of their number, or stand where their number belongs.
pub(crate) fn arrange(mut fields: Vec<Field>, layout: &[u32]) -> Vec<Field> {
    // The n-th field of a number takes the n-th place of that number; later ones take the place after the last.
    let mut places: HashMap<u32, Vec<usize>> = HashMap::new();
    for (place, number) in layout.iter().enumerate() {
        places.entry(*number).or_default().push(place);
    }
    let mut seen: HashMap<u32, usize> = HashMap::new();
    let mut key_of = |field: &Field| {
        let count = seen.entry(field.number).or_default();
        let nth = *count;
        *count += 1;
        match places.get(&field.number) {
            Some(places) => (places.get(nth).or(places.last()).copied().unwrap_or(0), 0, 0),
            // Before the first field of a higher number.
            None => {
                let place = layout.iter().position(|number| *number > field.number);
                match place {
                    Some(place) => (place, -1, field.number),
                    None => (layout.len(), 0, field.number),
                }
            }
        }
    };
    let mut keyed: Vec<_> = fields.drain(..).map(|field| (key_of(&field), field)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, field)| field).collect()
}

/// The field numbers, for [`arrange`].
pub(crate) fn layout(fields: &[Field]) -> Vec<u32> {
    fields.iter().map(|field| field.number).collect()
}

/// A text field, unless it is empty and was not in the file either.
pub(crate) fn text(number: u32, text: &str, layout: &[u32]) -> Option<Field> {
    (!text.is_empty() || layout.contains(&number)).then(|| Field::bytes(number, text.as_bytes()))
}

/// Edits the message in the last field of this number, or in a new one; its fields that `edit` leaves alone stay as they are.
pub(crate) fn edit_message(fields: &mut Vec<Field>, number: u32, edit: &mut dyn FnMut(&mut Vec<Field>)) {
    let at = fields.iter().rposition(|field| field.number == number);
    // What is no message was found when the file was read.
    let mut inner = at.and_then(|at| self::fields(&fields[at].value()).ok()).unwrap_or_default();
    edit(&mut inner);
    let field = Field::bytes(number, &concat(&inner));
    match at {
        Some(at) => fields[at] = field,
        None => fields.push(field),
    }
}

/// Key and length of a field that holds a message of `length` bytes.
pub(crate) fn message_header(number: u32, length: usize) -> Bytes {
    let mut header = BytesMut::with_capacity(12);
    put_varint(&mut header, u64::from(number) << 3 | u64::from(DELIMITED));
    put_varint(&mut header, length as u64);
    header.freeze()
}

fn put_varint(bytes: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        bytes.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.put_u8(value as u8);
}

/// Reads an integer of at most 10 bytes.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for position in 0..10 {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
