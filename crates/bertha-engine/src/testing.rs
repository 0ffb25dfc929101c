//! Tools for this crate's tests and fuzz target: making files that [`crate::EngineWriter`] would refuse to make, and
//! using everything that a file offers.

use bytes::Bytes;

use crate::checksum::{checksum, digests_of};
use crate::layout::{
    ALIGNMENT, CHUNK, DIGEST_LEN, ENTRY_LEN, Entry, FORMAT_VERSION, HEADER_LEN, Header, MAGIC, encode_table,
    field, read_u32, read_u64,
};
use crate::name::MAX_NAME;
use crate::reader::EngineFile;

/// A file with matching checksums that holds `sections` without asking whether they make sense.
#[must_use]
pub fn assemble(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; HEADER_LEN];
    let mut entries = Vec::new();
    for (name, bytes) in sections {
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        let (offset, length) = (file.len() as u64, bytes.len() as u64);
        entries.push(Entry { name: (*name).to_owned(), offset, length, digests: digests_of(bytes) });
        file.extend_from_slice(bytes);
    }
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    let table = encode_table(&entries);
    let header = Header {
        version: FORMAT_VERSION,
        section_count: entries.len() as u32,
        file_length: (file.len() + table.len()) as u64,
        table_offset: file.len() as u64,
        table_checksum: checksum(&table),
    };
    file.extend_from_slice(&table);
    file[..HEADER_LEN].copy_from_slice(&header.encode());
    file
}

/// Makes the checksums of a changed file match again, as far as its fields lead to them: what a hostile writer does.
pub fn reseal(file: &mut [u8]) {
    reseal_digests(file);
    let table = read_u64(file, field::TABLE_OFFSET).and_then(|at| usize::try_from(at).ok());
    if let Some(sum) = table.and_then(|at| file.get(at..)).map(checksum) {
        put_u64(file, field::TABLE_CHECKSUM, sum);
    }
    if let Some(sum) = file.get(..field::HEADER_CHECKSUM).map(checksum) {
        put_u64(file, field::HEADER_CHECKSUM, sum);
    }
}

fn reseal_digests(file: &mut [u8]) -> Option<()> {
    let table = usize::try_from(read_u64(file, field::TABLE_OFFSET)?).ok()?;
    let count = read_u32(file, field::SECTION_COUNT)? as usize;
    let mut digest_at = table.checked_add(count.checked_mul(ENTRY_LEN)?)?;
    for row in 0..count {
        let row = table + row * ENTRY_LEN;
        let offset = usize::try_from(read_u64(file, row.checked_add(MAX_NAME)?)?).ok()?;
        let length = usize::try_from(read_u64(file, row.checked_add(MAX_NAME + 8)?)?).ok()?;
        let digests: Vec<_> = file.get(offset..)?.get(..length)?.chunks(CHUNK).map(checksum).collect();
        for digest in digests {
            put_u64(file, digest_at, digest)?;
            digest_at += DIGEST_LEN;
        }
    }
    Some(())
}

fn put_u64(file: &mut [u8], at: usize, value: u64) -> Option<()> {
    file.get_mut(at..at.checked_add(8)?)?.copy_from_slice(&value.to_le_bytes());
    Some(())
}

/// What the fuzz target does with its input.
///
/// Input that begins like an engine file is read as it is, and again with its checksums mended, to reach what lies
/// behind them. Any other input is a list of sections (length of the name in one byte, name, length of the section in
/// two bytes, section), from which a file is assembled.
pub fn fuzz(input: &[u8]) {
    files_of(input).iter().for_each(|file| exercise(file));
}

/// The files that [`fuzz`] makes of its input.
#[must_use]
pub fn files_of(input: &[u8]) -> Vec<Vec<u8>> {
    if input.first() == MAGIC.first() {
        let mut resealed = input.to_vec();
        reseal(&mut resealed);
        vec![input.to_vec(), resealed]
    } else {
        vec![assemble(&split_sections(input))]
    }
}

fn split_sections(mut input: &[u8]) -> Vec<(&str, &[u8])> {
    let mut sections = Vec::new();
    while let Some((&name_length, rest)) = input.split_first() {
        let (name, rest) = rest.split_at(rest.len().min(name_length as usize));
        let (length, rest) = rest.split_first_chunk().unwrap_or((&[0; 2], &[]));
        let (section, rest) = rest.split_at(rest.len().min(u16::from_le_bytes(*length).into()));
        sections.push((str::from_utf8(name).unwrap_or("not-utf8"), section));
        input = rest;
    }
    sections
}

/// Opens a file and asks it for everything it holds. An error is fine; a panic, a misaligned slice or a file that
/// contradicts itself is not.
///
/// # Panics
///
/// If the reader breaks one of its promises.
pub fn exercise(file: &[u8]) {
    let Ok(engine) = EngineFile::from_bytes(Bytes::copy_from_slice(file)) else {
        return;
    };
    let intact = engine.verify().is_ok();
    assert_eq!(engine.file_length(), file.len() as u64);
    for info in engine.sections() {
        let section = engine.section(&info.name);
        assert!(section.is_ok() || !intact, "{section:?} after verify");
        let Ok(section) = section else { continue };
        assert_eq!(section.len() as u64, info.length);
        assert!(section.is_empty() || section.as_ptr().addr().is_multiple_of(ALIGNMENT));
        assert!(engine.section_range(&info.name, info.length..info.length + 1).is_err());
    }
    for entry in engine.tensors() {
        let Ok(tensor) = engine.tensor(&entry.name) else { continue };
        assert_eq!(tensor.len() as u64, entry.length);
        assert!(tensor.is_empty() || tensor.as_ptr().addr().is_multiple_of(ALIGNMENT));
    }
    for header in engine.plans() {
        let plan = engine.plan(&header.target);
        assert!(plan.is_ok_and(|plan| plan.header == *header), "plans are checked on opening");
    }
    if engine.has_section("graph") {
        assert!(engine.graph().is_ok(), "the graph is checked on opening");
    }
    assert!(engine.tokenizer().is_ok(), "the tokenizer is checked on opening");
}
