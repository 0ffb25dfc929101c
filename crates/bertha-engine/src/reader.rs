//! Opening a file and handing out what it holds.

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
use crate::memory::{self, FileBytes};
use crate::name::{GRAPH, META, PACKED_PREFIX, PLAN_PREFIX, SectionKind, TOKENIZER, WEIGHTS, WEIGHTS_INDEX};
use crate::plan::{Plan, PlanHeader};
use crate::sections::Sections;

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
    header: Header,
    sections: Sections,
    metadata: Metadata,
    index: WeightsIndex,
    plans: Vec<Plan>,
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
        Self::parse("engine in memory".to_owned(), memory::aligned(bytes).into())
    }

    fn parse(name: String, data: FileBytes) -> Result<Self> {
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
        self.inner.sections.file().clone()
    }

    /// The sections, in file order.
    #[must_use]
    pub fn sections(&self) -> impl ExactSizeIterator<Item = &SectionInfo> {
        self.inner.sections.iter().map(|section| &section.info)
    }

    /// Whether there is a section of this name.
    #[must_use]
    pub fn has_section(&self, name: &str) -> bool {
        self.inner.sections.contains(name)
    }

    /// The whole section `name`, aligned to [`crate::ALIGNMENT`] in memory.
    ///
    /// # Errors
    ///
    /// [`Fault::MissingSection`], or [`Fault::DamagedSection`] if a checksum does not match.
    pub fn section(&self, name: &str) -> Result<Bytes> {
        self.with(|inner| inner.sections.whole(inner.sections.find(name)?))
    }

    /// Copies section `name` to `target`, which must have its length ([`SectionInfo::length`]), and checks the copy. For
    /// what will be read over and over: the caller's memory can have larger pages than a mapping, whose pages leave the
    /// process's resident memory as they are copied.
    ///
    /// # Errors
    ///
    /// [`Fault::MissingSection`], [`Fault::OutOfRange`] if `target` has another length, or [`Fault::DamagedSection`] if a
    /// checksum does not match; then `target` holds a part of the section.
    pub fn copy_section(&self, name: &str, target: &mut [u8]) -> Result<()> {
        self.with(|inner| inner.sections.copy(inner.sections.find(name)?, target))
    }

    /// The bytes `range` of section `name`, counted from its start. Checks no more of the section than it must.
    ///
    /// # Errors
    ///
    /// [`Fault::MissingSection`], [`Fault::OutOfRange`], or [`Fault::DamagedSection`] if a checksum does not match.
    pub fn section_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.with(|inner| inner.sections.range(inner.sections.find(name)?, range))
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
        self.with(|inner| inner.sections.text(GRAPH))
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
            inner.sections.range(inner.sections.find(WEIGHTS)?, *offset..offset + length)
        })
    }

    /// The headers of all plans, in file order: one for each target.
    #[must_use]
    pub fn plans(&self) -> impl ExactSizeIterator<Item = &PlanHeader> {
        self.inner.plans.iter().map(|plan| &plan.header)
    }

    /// The plan for `target`.
    ///
    /// # Errors
    ///
    /// [`Fault::MissingSection`].
    pub fn plan(&self, target: &str) -> Result<Plan> {
        self.with(|inner| {
            let plan = inner.plans.iter().find(|plan| plan.header.target == target);
            plan.cloned().ok_or_else(|| Fault::MissingSection { section: format!("{PLAN_PREFIX}{target}") })
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

    /// Takes the file's pages out of the process's resident memory, once what is read of all of it has been read. Slices
    /// stay valid: what is read of them comes back, page by page and no more, which suits tables that rows are looked up in.
    pub fn release(&self) {
        self.inner.sections.release();
    }

    /// Checks every checksum that was not checked yet.
    ///
    /// # Errors
    ///
    /// [`Fault::DamagedSection`] for the first piece that does not match.
    pub fn verify(&self) -> Result<()> {
        self.with(|inner| inner.sections.verify())
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
    fn parse(name: String, data: FileBytes) -> Result<Self, Fault> {
        if cfg!(target_endian = "big") {
            return Err(Fault::BigEndianHost);
        }
        let header = Header::decode(&data)?;
        let entries = decode_table(&data, &header)?;
        let sections = Sections::new(data, entries);
        sections.verify_small()?;
        let metadata = read_metadata(&sections)?;
        let index = read_index(&sections)?;
        let plans = read_plans(&sections)?;
        if sections.contains(GRAPH) {
            sections.text(GRAPH)?;
        }
        Ok(Self { name, header, sections, metadata, index, plans })
    }
}

fn read_metadata(sections: &Sections) -> Result<Metadata, Fault> {
    let section = sections.find(META)?;
    serde_json::from_slice(&sections.whole(section)?)
        .map_err(|error| section.invalid(format!("it is not the JSON of metadata: {error}")))
}

fn read_index(sections: &Sections) -> Result<WeightsIndex, Fault> {
    let beside = |name| format!("section `{name}` is missing beside it");
    match (sections.find(WEIGHTS), sections.find(WEIGHTS_INDEX)) {
        (Ok(weights), Ok(index)) => {
            WeightsIndex::decode(&sections.whole(index)?, index.info.offset, weights.info.length)
        }
        (Ok(weights), Err(_)) => Err(weights.invalid(beside(WEIGHTS_INDEX))),
        (Err(_), Ok(index)) => Err(index.invalid(beside(WEIGHTS))),
        (Err(_), Err(_)) => Ok(WeightsIndex::default()),
    }
}

fn read_plans(sections: &Sections) -> Result<Vec<Plan>, Fault> {
    let mut plans = Vec::new();
    for section in sections.iter() {
        let SectionInfo { name, offset, .. } = &section.info;
        match section.info.kind() {
            SectionKind::Plan(target) => {
                let bytes = sections.whole(section)?;
                let (header, start) = PlanHeader::decode(&bytes, name, target, *offset)?;
                plans.push(Plan { header, payload: bytes.slice(start..) });
            }
            SectionKind::Packed(target) => {
                let plan = format!("{PLAN_PREFIX}{target}");
                if !sections.contains(&plan) {
                    return Err(section.invalid(format!("section `{plan}` is missing beside it")));
                }
            }
            _ => {}
        }
    }
    Ok(plans)
}
