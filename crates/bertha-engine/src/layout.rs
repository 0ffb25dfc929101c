//! The bytes of the header and of the section table. `docs/engine-format.md` is the same in prose.
//!
//! ```text
//! header | section, padding | section, padding | ... | table | digests
//! ```

use std::collections::HashSet;

use crate::checksum::checksum;
use crate::error::Fault;
use crate::name::{MAX_NAME, section_name_problem};

/// Sections, and tensors within `weights`, begin at multiples of this many bytes, in the file and in memory: enough
/// for any vector load, cache line or GPU copy.
pub const ALIGNMENT: usize = 256;

/// Bytes under one checksum. A damaged piece is reported this precisely, and a tensor is checked without reading
/// much more than itself.
pub const CHUNK: usize = 1 << 20;

/// The format version that this crate writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The oldest format version that this crate reads.
pub const OLDEST_FORMAT_VERSION: u32 = 1;

/// The high bit and the line ends reveal a transfer that treated the file as text, as in PNG.
pub const MAGIC: [u8; 8] = *b"\x89BRTH\r\n\x1a";
pub(crate) const HEADER_LEN: usize = 256;
pub(crate) const ENTRY_LEN: usize = 64;
pub(crate) const DIGEST_LEN: usize = 8;

/// Offset of each header field.
pub(crate) mod field {
    pub(crate) const VERSION: usize = 8;
    pub(crate) const SECTION_COUNT: usize = 12;
    pub(crate) const FILE_LENGTH: usize = 16;
    pub(crate) const TABLE_OFFSET: usize = 24;
    pub(crate) const TABLE_CHECKSUM: usize = 32;
    pub(crate) const RESERVED: usize = 40;
    pub(crate) const HEADER_CHECKSUM: usize = 248;
}

/// `value` rounded up to the next multiple of [`ALIGNMENT`].
pub(crate) fn align_up(value: u64) -> Option<u64> {
    value.checked_next_multiple_of(ALIGNMENT as u64)
}

/// How many digests a section of `length` bytes has.
pub(crate) fn chunk_count(length: u64) -> u64 {
    length.div_ceil(CHUNK as u64)
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

pub(crate) fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

/// The fixed fields at the start of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) section_count: u32,
    pub(crate) file_length: u64,
    pub(crate) table_offset: u64,
    /// Covers the table and the digests behind it.
    pub(crate) table_checksum: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC);
        put(field::VERSION, &self.version.to_le_bytes());
        put(field::SECTION_COUNT, &self.section_count.to_le_bytes());
        put(field::FILE_LENGTH, &self.file_length.to_le_bytes());
        put(field::TABLE_OFFSET, &self.table_offset.to_le_bytes());
        put(field::TABLE_CHECKSUM, &self.table_checksum.to_le_bytes());
        let sum = checksum(&bytes[..field::HEADER_CHECKSUM]);
        bytes[field::HEADER_CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads and validates the header of `file`, the whole file.
    pub(crate) fn decode(file: &[u8]) -> Result<Self, Fault> {
        let actual = file.len() as u64;
        let prefix = &file[..file.len().min(MAGIC.len())];
        if !MAGIC.starts_with(prefix) || prefix.is_empty() {
            return Err(Fault::NotAnEngine);
        }
        // The version comes before everything else, because it says what everything else means.
        let version = read_u32(file, field::VERSION);
        match version {
            Some(found) if found > FORMAT_VERSION => {
                return Err(Fault::TooNew { found, newest: FORMAT_VERSION });
            }
            Some(found) if found < OLDEST_FORMAT_VERSION => {
                return Err(Fault::TooOld { found, oldest: OLDEST_FORMAT_VERSION });
            }
            _ => {}
        }
        let truncated = Fault::Truncated { expected: HEADER_LEN as u64, actual };
        let Some(bytes) = file.first_chunk::<HEADER_LEN>() else {
            return Err(truncated);
        };
        let fields = || {
            Some(Self {
                version: version?,
                section_count: read_u32(bytes, field::SECTION_COUNT)?,
                file_length: read_u64(bytes, field::FILE_LENGTH)?,
                table_offset: read_u64(bytes, field::TABLE_OFFSET)?,
                table_checksum: read_u64(bytes, field::TABLE_CHECKSUM)?,
            })
        };
        let (Some(header), Some(sum)) = (fields(), read_u64(bytes, field::HEADER_CHECKSUM)) else {
            return Err(truncated);
        };
        if checksum(&bytes[..field::HEADER_CHECKSUM]) != sum {
            return Err(Fault::DamagedHeader);
        }
        if bytes[field::RESERVED..field::HEADER_CHECKSUM].iter().any(|&byte| byte != 0) {
            return Err(invalid("header", field::RESERVED as u64, "reserved bytes are not zero".into()));
        }
        if actual < header.file_length {
            return Err(Fault::Truncated { expected: header.file_length, actual });
        }
        if actual > header.file_length {
            return Err(Fault::TooLong { expected: header.file_length, actual });
        }
        Ok(header)
    }
}

/// One row of the section table, with the digests of the section's pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) digests: Vec<u64>,
}

/// The bytes of the table and the digests.
pub(crate) fn encode_table(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let mut name = [0; MAX_NAME];
        let used = entry.name.len().min(MAX_NAME);
        name[..used].copy_from_slice(&entry.name.as_bytes()[..used]);
        bytes.extend_from_slice(&name);
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        bytes.extend_from_slice(&entry.length.to_le_bytes());
    }
    for digest in entries.iter().flat_map(|entry| &entry.digests) {
        bytes.extend_from_slice(&digest.to_le_bytes());
    }
    bytes
}

/// Reads and validates the table of `file`, the whole file, and the padding between sections.
///
/// There is exactly one way to lay out given sections (in table order, each at the first aligned offset behind the
/// one before, zeros between, the table at the first aligned offset behind the last), so overlaps, gaps and hidden
/// bytes cannot be expressed.
pub(crate) fn decode_table(file: &[u8], header: &Header) -> Result<Vec<Entry>, Fault> {
    let at = header.table_offset;
    let table = usize::try_from(at)
        .ok()
        .filter(|&at| at >= HEADER_LEN)
        .and_then(|at| file.get(at..))
        .ok_or_else(|| {
            invalid("header", field::TABLE_OFFSET as u64, format!("table offset {at} is outside the file"))
        })?;
    if checksum(table) != header.table_checksum {
        return Err(Fault::DamagedTable { offset: at });
    }
    let rows = u64::from(header.section_count) * ENTRY_LEN as u64;
    let (rows, digests) =
        usize::try_from(rows).ok().and_then(|rows| table.split_at_checked(rows)).ok_or_else(|| {
            let reason = format!("{} sections do not fit into the file", header.section_count);
            invalid("header", field::SECTION_COUNT as u64, reason)
        })?;

    let mut entries = Vec::new();
    let mut names = HashSet::new();
    let mut end = HEADER_LEN as u64;
    for (row, bytes) in rows.chunks_exact(ENTRY_LEN).enumerate() {
        let offset = at + (row * ENTRY_LEN) as u64;
        let entry = decode_entry(bytes).map_err(|reason| invalid("section table", offset, reason))?;
        let place = place_problem(&entry, end, at);
        if let Some(reason) = place {
            return Err(invalid("section table", offset, reason));
        }
        if !names.insert(entry.name.clone()) {
            let reason = format!("section `{}` is listed twice", entry.name);
            return Err(invalid("section table", offset, reason));
        }
        check_padding(file, end, entry.offset)?;
        end = entry.offset + entry.length;
        entries.push(entry);
    }
    if align_up(end) != Some(at) {
        let reason = format!("the table is at {at}, and the sections end at {end}");
        return Err(invalid("header", field::TABLE_OFFSET as u64, reason));
    }
    check_padding(file, end, at)?;
    attach_digests(&mut entries, digests, at + rows.len() as u64)?;
    Ok(entries)
}

fn decode_entry(row: &[u8]) -> Result<Entry, String> {
    let short = || "the row is too short".to_owned();
    let name = row.get(..MAX_NAME).ok_or_else(short)?;
    let used = name.iter().position(|&byte| byte == 0).unwrap_or(MAX_NAME);
    let (name, rest) = name.split_at(used);
    if rest.iter().any(|&byte| byte != 0) {
        return Err("a section name is followed by bytes that are not zero".into());
    }
    let name = str::from_utf8(name).map_err(|_| "a section name is not ASCII".to_owned())?;
    if let Some(problem) = section_name_problem(name) {
        return Err(format!("{problem}, unlike {name:?}"));
    }
    let offset = read_u64(row, MAX_NAME).ok_or_else(short)?;
    let length = read_u64(row, MAX_NAME + 8).ok_or_else(short)?;
    Ok(Entry { name: name.to_owned(), offset, length, digests: Vec::new() })
}

/// Why `entry` cannot lie where it says it does, given where the section before it ends and the table begins.
fn place_problem(entry: &Entry, previous_end: u64, table: u64) -> Option<String> {
    let Entry { name, offset, length, .. } = entry;
    if !offset.is_multiple_of(ALIGNMENT as u64) {
        return Some(format!("section `{name}` is at {offset}, not a multiple of {ALIGNMENT}"));
    }
    if *offset < previous_end {
        return Some(format!(
            "section `{name}` is at {offset} and overlaps what is before it, which ends at {previous_end}"
        ));
    }
    if align_up(previous_end) != Some(*offset) {
        return Some(format!("section `{name}` is at {offset}, leaving a gap behind {previous_end}"));
    }
    match offset.checked_add(*length) {
        Some(end) if end <= table => None,
        _ => Some(format!("section `{name}` has {length} bytes at {offset}, past the table at {table}")),
    }
}

/// Bytes between sections belong to no section and no checksum, so they must be zero.
fn check_padding(file: &[u8], from: u64, to: u64) -> Result<(), Fault> {
    let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
    let padding = range.and_then(|(from, to)| file.get(from..to)).unwrap_or_default();
    match padding.iter().position(|&byte| byte != 0) {
        None => Ok(()),
        Some(at) => Err(invalid("padding", from + at as u64, "a byte is not zero".into())),
    }
}

fn attach_digests(entries: &mut [Entry], digests: &[u8], offset: u64) -> Result<(), Fault> {
    // Sections lie one behind the other in the file, so the sum cannot overflow.
    let expected: u64 = entries.iter().map(|entry| chunk_count(entry.length)).sum();
    if digests.len() as u64 != expected * DIGEST_LEN as u64 {
        let reason = format!("{} bytes of checksums where {expected} checksums belong", digests.len());
        return Err(invalid("section table", offset, reason));
    }
    let (digests, _) = digests.as_chunks::<DIGEST_LEN>();
    let mut digests = digests.iter().map(|&digest| u64::from_le_bytes(digest));
    for entry in entries {
        let count = chunk_count(entry.length) as usize;
        entry.digests = digests.by_ref().take(count).collect();
    }
    Ok(())
}

fn invalid(part: &'static str, offset: u64, reason: String) -> Fault {
    Fault::InvalidTable { part, offset, reason }
}
