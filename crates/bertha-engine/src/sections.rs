//! All sections of an open file.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use crate::error::Fault;
use crate::layout::Entry;
use crate::memory::FileBytes;
use crate::name::SectionKind;
use crate::section::Section;

/// Sections up to this length are checked when the file is opened, whatever they are.
const SMALL: u64 = 1 << 20;

pub(crate) struct Sections {
    file: FileBytes,
    list: Vec<Section>,
    by_name: HashMap<String, usize>,
}

impl Sections {
    /// The sections of `file`, according to its validated table.
    pub(crate) fn new(file: FileBytes, entries: Vec<Entry>) -> Self {
        let list: Vec<_> = entries.into_iter().map(Section::new).collect();
        let by_name = list.iter().enumerate().map(|(at, section)| (section.info.name.clone(), at)).collect();
        Self { file, list, by_name }
    }

    pub(crate) fn file(&self) -> &Bytes {
        &self.file
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Section> {
        self.list.iter()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(crate) fn find(&self, name: &str) -> Result<&Section, Fault> {
        self.by_name
            .get(name)
            .and_then(|&at| self.list.get(at))
            .ok_or_else(|| Fault::MissingSection { section: name.to_owned() })
    }

    /// The bytes `range` of a section, checked.
    pub(crate) fn range(&self, section: &Section, range: Range<u64>) -> Result<Bytes, Fault> {
        let place = section.place(&range)?;
        self.verify_range(section, &range)?;
        Ok(self.file.slice(place))
    }

    /// Copies a section, checked.
    pub(crate) fn copy(&self, section: &Section, target: &mut [u8]) -> Result<(), Fault> {
        let (length, end) = (section.info.length, target.len() as u64);
        if end != length {
            let section = section.info.name.clone();
            return Err(Fault::OutOfRange { section, start: 0, end, length });
        }
        section.copy(&self.file, target, |range| self.file.forget(range))
    }

    /// Takes the file out of resident memory: [`FileBytes::release`].
    pub(crate) fn release(&self) {
        self.file.release();
    }

    /// All bytes of a section, checked.
    pub(crate) fn whole(&self, section: &Section) -> Result<Bytes, Fault> {
        self.range(section, 0..section.info.length)
    }

    /// Section `name` as text, checked.
    pub(crate) fn text(&self, name: &str) -> Result<&str, Fault> {
        let section = self.find(name)?;
        let all = 0..section.info.length;
        self.verify_range(section, &all)?;
        let bytes = self.file.get(section.place(&all)?).unwrap_or_default();
        str::from_utf8(bytes).map_err(|error| section.invalid(format!("it is not UTF-8 text: {error}")))
    }

    /// Checks the sections that are small, or that the container or every session reads anyway.
    pub(crate) fn verify_small(&self) -> Result<(), Fault> {
        let blob = |kind| matches!(kind, SectionKind::Weights | SectionKind::Packed(_) | SectionKind::Other);
        self.list
            .iter()
            .filter(|section| section.info.length <= SMALL || !blob(section.info.kind()))
            .try_for_each(|section| self.verify_range(section, &(0..section.info.length)))
    }

    /// Checks the pieces that hold a range. A large section's pages then leave the process's resident memory: much of
    /// what is checked is not read again, and what is comes back from the page cache.
    fn verify_range(&self, section: &Section, range: &Range<u64>) -> Result<(), Fault> {
        let large = section.info.length > SMALL;
        section.verify(&self.file, range, |range| {
            if large {
                self.file.forget(range);
            }
        })
    }

    /// Checks all sections.
    pub(crate) fn verify(&self) -> Result<(), Fault> {
        self.list.iter().try_for_each(|section| self.verify_range(section, &(0..section.info.length)))
    }
}
