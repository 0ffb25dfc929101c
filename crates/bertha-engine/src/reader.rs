//! Opening a file and handing out what it holds.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::Result;
use crate::content::{Metadata, SectionInfo};
use crate::error::Fault;
use crate::index::{TensorEntry, WeightsIndex};
use crate::layout::{Header, decode_table};
use crate::memory;
use crate::name::{GRAPH, META, PACKED_PREFIX, PLAN_PREFIX, SectionKind, TOKENIZER, WEIGHTS, WEIGHTS_INDEX};
use crate::plan::{Plan, PlanHeader};
use crate::section::Section;

/// Sections up to this length are checked when the file is opened, whatever they are.
const EAGER_LENGTH: u64 = 1 << 20;

/// An open engine file.
///
/// Cloning is cheap and shares the mapping, as does every [`Bytes`] handed out; the mapping goes when the last of them
/// does. Everything is handed out only after its checksum matched; a piece is checked once, when it is first asked for.
#[derive(Clone)]
pub struct EngineFile {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    data: Bytes,
    header: Header,
    sections: Vec<Section>,
    by_name: HashMap<String, usize>,
    metadata: Metadata,
    index: WeightsIndex,
    /// Header and start of the payload of each plan.
    plans: Vec<(PlanHeader, u64)>,
}

impl EngineFile {
    /// Maps the engine file at `path`, validates its structure, and checks the checksums of everything but blobs.
    ///
    /// The file must not be changed in place while it, or any slice of it, is in use. Replacing it by renaming another
    /// over it, as [`crate::EngineWriter`] does, is fine.
    ///
    /// # Errors
    ///
    /// An error that says what is wrong and where, if the file cannot be read, is no engine file, has a version that
    /// this crate does not read, is truncated or damaged, or contradicts itself.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let data = memory::map(path).map_err(|fault| fault.in_file(&name))?;
        Self::parse(name, data)
    }

    /// Reads an engine file that is in memory already, such as one embedded into a program.
    ///
    /// Bytes that are not aligned to [`crate::ALIGNMENT`] are copied once.
    ///
    /// # Errors
    ///
    /// As for [`Self::open`].
    pub fn from_bytes(bytes: Bytes) -> Result<Self> {
        Self::parse("engine in memory".to_owned(), memory::aligned(bytes))
    }

    fn parse(name: String, data: Bytes) -> Result<Self> {
        match Inner::parse(name.clone(), data) {
            Ok(inner) => Ok(Self { inner: Arc::new(inner) }),
            Err(fault) => Err(fault.in_file(&name)),
        }
    }

    /// The file's path, or `engine in memory`: as it appears in errors.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The version of the container format that the file is written in.
    #[must_use]
    pub fn format_version(&self) -> u32 {
        self.inner.header.version
    }

    /// Length of the file in bytes.
    #[must_use]
    pub fn file_length(&self) -> u64 {
        self.inner.header.file_length
    }

    /// The whole file as it is, unchecked but for its structure.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.inner.data.clone()
    }

    /// The sections, in file order.
    #[must_use]
    pub fn sections(&self) -> impl ExactSizeIterator<Item = &SectionInfo> {
        self.inner.sections.iter().map(|section| &section.info)
    }

    /// Whether there is a section of this name.
    #[must_use]
    pub fn has_section(&self, name: &str) -> bool {
        self.inner.by_name.contains_key(name)
    }

    /// The whole section `name`, aligned to [`crate::ALIGNMENT`] in memory.
    ///
    /// # Errors
    ///
    /// [`Fault::MissingSection`], or [`Fault::DamagedSection`] if a checksum does not match.
    pub fn section(&self, name: &str) -> Result<Bytes> {
        self.with(|inner| inner.section(name))
    }

    /// The bytes `range` of section `name`, counted from its start. Checks no more of the section than it must.
    ///
    /// # Errors
    ///
    /// [`Fault::MissingSection`], [`Fault::OutOfRange`], or [`Fault::DamagedSection`] if a checksum does not match.
    pub fn section_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.with(|inner| inner.range(inner.find(name)?, range))
    }

    /// Section `meta`.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// The text of the portable graph.
    ///
    /// # Errors
    ///
    /// [`Fault::MissingSection`].
    pub fn graph(&self) -> Result<&str> {
        self.with(|inner| inner.graph())
    }

    /// The tokenizer, if the file has one.
    ///
    /// # Errors
    ///
    /// [`Fault::DamagedSection`] if a checksum does not match.
    pub fn tokenizer(&self) -> Result<Option<Bytes>> {
        self.optional(TOKENIZER)
    }

    /// The tensors of the portable graph, in file order; none if the file has no weights.
    #[must_use]
    pub fn tensors(&self) -> &[TensorEntry] {
        self.inner.index.tensors()
    }

    /// What the file says of tensor `name`.
    #[must_use]
    pub fn tensor_entry(&self, name: &str) -> Option<&TensorEntry> {
        self.inner.index.get(name)
    }

    /// The bytes of tensor `name`, aligned to [`crate::ALIGNMENT`] in memory: row-major, little-endian.
    ///
    /// # Errors
    ///
    /// [`Fault::MissingTensor`], or [`Fault::DamagedSection`] if a checksum does not match.
    pub fn tensor(&self, name: &str) -> Result<Bytes> {
        self.with(|inner| {
            let missing = || Fault::MissingTensor { tensor: name.to_owned() };
            let TensorEntry { offset, length, .. } = inner.index.get(name).ok_or_else(missing)?;
            inner.range(inner.find(WEIGHTS)?, *offset..offset + length)
        })
    }

    /// The headers of all plans, in file order: one for each target.
    #[must_use]
    pub fn plans(&self) -> impl ExactSizeIterator<Item = &PlanHeader> {
        self.inner.plans.iter().map(|(header, _)| header)
    }

    /// The plan for `target`.
    ///
    /// # Errors
    ///
    /// [`Fault::MissingSection`], or [`Fault::DamagedSection`] if a checksum does not match.
    pub fn plan(&self, target: &str) -> Result<Plan> {
        self.with(|inner| {
            let name = format!("{PLAN_PREFIX}{target}");
            let section = inner.find(&name)?;
            let plan = inner.plans.iter().find(|(header, _)| header.target == target);
            let (header, start) = plan.ok_or(Fault::MissingSection { section: name })?;
            let payload = inner.range(section, *start..section.info.length)?;
            Ok(Plan { header: header.clone(), payload })
        })
    }

    /// The packed weights of `target`, if it has any.
    ///
    /// # Errors
    ///
    /// [`Fault::DamagedSection`] if a checksum does not match.
    pub fn packed(&self, target: &str) -> Result<Option<Bytes>> {
        self.optional(&format!("{PACKED_PREFIX}{target}"))
    }

    /// Checks every checksum that was not checked yet.
    ///
    /// # Errors
    ///
    /// [`Fault::DamagedSection`] for the first piece that does not match.
    pub fn verify(&self) -> Result<()> {
        self.with(|inner| {
            let mut sections = inner.sections.iter();
            sections.try_for_each(|section| section.verify(&inner.data, &(0..section.info.length)))
        })
    }

    fn optional(&self, name: &str) -> Result<Option<Bytes>> {
        if self.has_section(name) { self.section(name).map(Some) } else { Ok(None) }
    }

    fn with<'a, T>(&'a self, read: impl FnOnce(&'a Inner) -> Result<T, Fault>) -> Result<T> {
        read(&self.inner).map_err(|fault| fault.in_file(&self.inner.name))
    }
}

impl fmt::Debug for EngineFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineFile")
            .field("name", &self.inner.name)
            .field("sections", &self.sections().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn parse(name: String, data: Bytes) -> Result<Self, Fault> {
        if cfg!(target_endian = "big") {
            return Err(Fault::BigEndianHost);
        }
        let header = Header::decode(&data)?;
        let sections: Vec<_> = decode_table(&data, &header)?.into_iter().map(Section::new).collect();
        let by_name =
            sections.iter().enumerate().map(|(at, section)| (section.info.name.clone(), at)).collect();
        let metadata = Metadata { producer: String::new(), model: serde_json::Value::Null };
        let (index, plans) = (WeightsIndex::default(), Vec::new());
        let mut inner = Self { name, data, header, sections, by_name, metadata, index, plans };
        inner.read_contents()?;
        Ok(inner)
    }

    /// Checks the small sections and reads those that the container understands.
    fn read_contents(&mut self) -> Result<(), Fault> {
        for section in &self.sections {
            let blob = matches!(
                section.info.kind(),
                SectionKind::Weights | SectionKind::Packed(_) | SectionKind::Other
            );
            if !blob || section.info.length <= EAGER_LENGTH {
                section.verify(&self.data, &(0..section.info.length))?;
            }
        }
        let meta = self.find(META)?;
        self.metadata = serde_json::from_slice(&self.section(META)?)
            .map_err(|error| meta.invalid(format!("it is not the JSON of metadata: {error}")))?;
        if self.by_name.contains_key(GRAPH) {
            self.graph()?;
        }
        match (self.find(WEIGHTS), self.find(WEIGHTS_INDEX)) {
            (Ok(weights), Ok(index)) => {
                let json = self.section(WEIGHTS_INDEX)?;
                self.index = WeightsIndex::decode(&json, index.info.offset, weights.info.length)?;
            }
            (Ok(weights), Err(_)) => {
                return Err(weights.invalid(format!("section `{WEIGHTS_INDEX}` is missing beside it")));
            }
            (Err(_), Ok(index)) => {
                return Err(index.invalid(format!("section `{WEIGHTS}` is missing beside it")));
            }
            (Err(_), Err(_)) => {}
        }
        for section in &self.sections {
            let info = &section.info;
            match info.kind() {
                SectionKind::Plan(target) => {
                    let bytes = self.range(section, 0..info.length)?;
                    let (header, start) = PlanHeader::decode(&bytes, &info.name, target, info.offset)?;
                    self.plans.push((header, start as u64));
                }
                SectionKind::Packed(target)
                    if !self.by_name.contains_key(&format!("{PLAN_PREFIX}{target}")) =>
                {
                    return Err(
                        section.invalid(format!("section `{PLAN_PREFIX}{target}` is missing beside it"))
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<&Section, Fault> {
        self.by_name
            .get(name)
            .and_then(|&at| self.sections.get(at))
            .ok_or_else(|| Fault::MissingSection { section: name.to_owned() })
    }

    fn section(&self, name: &str) -> Result<Bytes, Fault> {
        let section = self.find(name)?;
        self.range(section, 0..section.info.length)
    }

    fn graph(&self) -> Result<&str, Fault> {
        let section = self.find(GRAPH)?;
        let all = 0..section.info.length;
        section.verify(&self.data, &all)?;
        let bytes = self.data.get(section.place(&all)?).unwrap_or_default();
        str::from_utf8(bytes).map_err(|error| section.invalid(format!("it is not UTF-8 text: {error}")))
    }

    /// The bytes `range` of a section, checked.
    fn range(&self, section: &Section, range: Range<u64>) -> Result<Bytes, Fault> {
        let place = section.place(&range)?;
        section.verify(&self.data, &range)?;
        Ok(self.data.slice(place))
    }
}
