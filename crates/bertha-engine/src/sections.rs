//! All sections of an open file.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use crate::error::Fault;
use crate::layout::Entry;
use crate::name::SectionKind;
use crate::section::Section;

/// Sections up to this length are checked when the file is opened, whatever they are.
const SMALL: u64 = 1 << 20;

pub(crate) struct Sections {
    file: Bytes,
    list: Vec<Section>,
    by_name: HashMap<String, usize>,
}

impl Sections {
    /// The sections of `file`, according to its validated table.
    pub(crate) fn new(file: Bytes, entries: Vec<Entry>) -> Self {
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
        section.verify(&self.file, &range)?;
        Ok(self.file.slice(place))
    }

    /// All bytes of a section, checked.
    pub(crate) fn whole(&self, section: &Section) -> Result<Bytes, Fault> {
        self.range(section, 0..section.info.length)
    }

    /// Section `name` as text, checked.
    pub(crate) fn text(&self, name: &str) -> Result<&str, Fault> {
        let section = self.find(name)?;
        let all = 0..section.info.length;
        section.verify(&self.file, &all)?;
        let bytes = self.file.get(section.place(&all)?).unwrap_or_default();
        str::from_utf8(bytes).map_err(|error| section.invalid(format!("it is not UTF-8 text: {error}")))
    }

    /// Checks the sections that are small, or that the container or every session reads anyway.
    pub(crate) fn verify_small(&self) -> Result<(), Fault> {
        let blob = |kind| matches!(kind, SectionKind::Weights | SectionKind::Packed(_) | SectionKind::Other);
        self.list
            .iter()
            .filter(|section| section.info.length <= SMALL || !blob(section.info.kind()))
            .try_for_each(|section| section.verify(&self.file, &(0..section.info.length)))
    }

    /// Checks all sections.
    pub(crate) fn verify(&self) -> Result<(), Fault> {
        self.list.iter().try_for_each(|section| section.verify(&self.file, &(0..section.info.length)))
    }
}
