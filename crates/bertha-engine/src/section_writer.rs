//! Writing one section piece by piece.

use std::collections::HashSet;

use crate::Result;
use crate::checksum::ChunkHasher;
use crate::error::Fault;
use crate::index::{TensorEntry, WeightsIndex, byte_length};
use crate::layout::{ALIGNMENT, Entry, align_up};
use crate::name::WEIGHTS_INDEX;
use crate::writer::EngineWriter;

/// A section in the making. It counts once [`Self::finish`] has run; if it is dropped before, the file cannot be
/// finished.
#[must_use]
pub struct SectionWriter<'w> {
    pub(crate) writer: &'w mut EngineWriter,
    name: String,
    offset: u64,
    length: u64,
    hasher: ChunkHasher,
}

impl<'w> SectionWriter<'w> {
    pub(crate) fn new(writer: &'w mut EngineWriter, name: String, offset: u64) -> Self {
        Self { writer, name, offset, length: 0, hasher: ChunkHasher::new() }
    }

    /// Bytes written so far: the offset, within the section, of what comes next.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// [`Fault::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.put(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Appends zeros up to the next multiple of [`ALIGNMENT`] and returns the offset reached, within the section.
    ///
    /// # Errors
    ///
    /// [`Fault::Io`].
    pub fn align(&mut self) -> Result<u64> {
        let padding = align_up(self.length).map_or(0, |aligned| aligned - self.length);
        self.append(&[0; ALIGNMENT][..padding as usize])?;
        Ok(self.length)
    }

    /// Ends the section.
    ///
    /// # Errors
    ///
    /// [`Fault::Io`].
    pub fn finish(self) -> Result<()> {
        let Self { writer, name, offset, length, hasher } = self;
        writer.close_section(Entry { name, offset, length, digests: hasher.finish() })
    }
}

/// The sections `weights` and `weights.index` in the making.
#[must_use]
pub struct WeightsWriter<'w> {
    section: SectionWriter<'w>,
    tensors: Vec<TensorEntry>,
    names: HashSet<String>,
}

impl<'w> WeightsWriter<'w> {
    pub(crate) fn new(section: SectionWriter<'w>) -> Self {
        Self { section, tensors: Vec::new(), names: HashSet::new() }
    }

    /// Appends tensor `name`: row-major, little-endian `bytes` of the given dtype (see [`crate::dtype_size`]) and
    /// shape.
    ///
    /// # Errors
    ///
    /// [`Fault::InvalidName`], [`Fault::Duplicate`], [`Fault::BadTensor`] if the bytes do not fit dtype and shape, or
    /// [`Fault::Io`].
    pub fn tensor(&mut self, name: &str, dtype: &str, shape: &[u64], bytes: &[u8]) -> Result<()> {
        self.check(name, dtype, shape, bytes.len() as u64)
            .map_err(|fault| self.section.writer.error(fault))?;
        let offset = self.section.align()?;
        self.section.append(bytes)?;
        self.names.insert(name.to_owned());
        self.tensors.push(TensorEntry {
            name: name.to_owned(),
            dtype: dtype.to_owned(),
            shape: shape.to_vec(),
            offset,
            length: bytes.len() as u64,
        });
        Ok(())
    }

    fn check(&self, name: &str, dtype: &str, shape: &[u64], actual: u64) -> Result<(), Fault> {
        if name.is_empty() {
            return Err(Fault::InvalidName { name: String::new(), reason: "a tensor name is not empty" });
        }
        if self.names.contains(name) {
            return Err(Fault::Duplicate { name: name.to_owned() });
        }
        let bad = |reason| Fault::BadTensor { tensor: name.to_owned(), reason };
        let expected = byte_length(dtype, shape).map_err(bad)?;
        if actual != expected {
            return Err(bad(format!("{dtype} {shape:?} has {expected} bytes, and {actual} were given")));
        }
        Ok(())
    }

    /// Ends both sections.
    ///
    /// # Errors
    ///
    /// [`Fault::Io`].
    pub fn finish(self) -> Result<()> {
        let Self { section: SectionWriter { writer, name, offset, length, hasher }, tensors, .. } = self;
        writer.close_section(Entry { name, offset, length, digests: hasher.finish() })?;
        let index = WeightsIndex::encode(tensors).map_err(|error| writer.json_error(error))?;
        writer.section(WEIGHTS_INDEX, &index)
    }
}
