//! Writing a file: section by section, all or nothing.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::NamedTempFile;

use crate::Result;
use crate::checksum::checksum;
use crate::content::{Metadata, SectionInfo};
use crate::error::{EngineError, Fault};
use crate::layout::{ALIGNMENT, Entry, FORMAT_VERSION, HEADER_LEN, Header, align_up, encode_table};
use crate::name::{
    GRAPH, META, PACKED_PREFIX, PLAN_PREFIX, TOKENIZER, WEIGHTS, section_name_problem, target_section,
};
use crate::plan::PlanHeader;
use crate::reader::EngineFile;
use crate::section_writer::{SectionWriter, WeightsWriter};

/// Writes an engine file.
///
/// The bytes go to a temporary file in the same folder, which takes the final name only in [`Self::finish`], when it is
/// complete and on disk. Until then an existing file of that name stays as it is; dropping the writer removes the
/// temporary file.
#[must_use]
pub struct EngineWriter {
    sink: Sink,
    name: String,
    position: u64,
    entries: Vec<Entry>,
    names: HashSet<String>,
    /// The section that was begun last, until it is finished.
    unfinished: Option<String>,
}

enum Sink {
    File { file: BufWriter<NamedTempFile>, path: PathBuf },
    Memory(Vec<u8>),
}

impl EngineWriter {
    /// Begins an engine file that will be at `path`.
    ///
    /// # Errors
    ///
    /// [`Fault::Io`] if the folder does not exist or cannot be written to.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let file = temporary_beside(path).map_err(|error| {
            Fault::Io { action: "create a temporary file beside it", error }.in_file(&name)
        })?;
        let file = BufWriter::with_capacity(1 << 16, file);
        Self::begin(Sink::File { file, path: path.to_owned() }, name)
    }

    /// Begins an engine file in memory.
    pub fn in_memory() -> Self {
        let header = vec![0; HEADER_LEN];
        let (position, sink) = (header.len() as u64, Sink::Memory(header));
        let (entries, names) = (Vec::new(), HashSet::new());
        Self { sink, name: "engine in memory".to_owned(), position, entries, names, unfinished: None }
    }

    fn begin(sink: Sink, name: String) -> Result<Self> {
        let (entries, names) = (Vec::new(), HashSet::new());
        let mut writer = Self { sink, name, position: 0, entries, names, unfinished: None };
        // A placeholder of zeros: what is not finished is no engine file.
        writer.put(&[0; HEADER_LEN])?;
        Ok(writer)
    }

    /// Writes section `meta`. Every file needs it.
    ///
    /// # Errors
    ///
    /// As for [`Self::section`].
    pub fn metadata(&mut self, metadata: &Metadata) -> Result<()> {
        let json = serde_json::to_vec(metadata).map_err(|error| self.json_error(error))?;
        self.section(META, &json)
    }

    /// Writes section `graph`: the text of the portable graph.
    ///
    /// # Errors
    ///
    /// As for [`Self::section`].
    pub fn graph(&mut self, text: &str) -> Result<()> {
        self.section(GRAPH, text.as_bytes())
    }

    /// Writes section `tokenizer`.
    ///
    /// # Errors
    ///
    /// As for [`Self::section`].
    pub fn tokenizer(&mut self, bytes: &[u8]) -> Result<()> {
        self.section(TOKENIZER, bytes)
    }

    /// Begins the sections `weights` and `weights.index`.
    ///
    /// # Errors
    ///
    /// As for [`Self::section`].
    pub fn begin_weights(&mut self) -> Result<WeightsWriter<'_>> {
        Ok(WeightsWriter::new(self.begin_section(WEIGHTS)?))
    }

    /// Writes the plan of `header.target`.
    ///
    /// # Errors
    ///
    /// As for [`Self::section`].
    pub fn plan(&mut self, header: &PlanHeader, payload: &[u8]) -> Result<()> {
        let name = target_section(PLAN_PREFIX, &header.target).map_err(|fault| self.error(fault))?;
        let header = header.encode().map_err(|error| self.json_error(error))?;
        let mut section = self.begin_section(&name)?;
        section.append(&header)?;
        section.append(payload)?;
        section.finish()
    }

    /// Begins the packed weights of `target`. The target needs a plan too, before or after.
    ///
    /// # Errors
    ///
    /// As for [`Self::section`].
    pub fn begin_packed(&mut self, target: &str) -> Result<SectionWriter<'_>> {
        let name = target_section(PACKED_PREFIX, target).map_err(|fault| self.error(fault))?;
        self.begin_section(&name)
    }

    /// Writes a section as it is.
    ///
    /// # Errors
    ///
    /// [`Fault::InvalidName`], [`Fault::Duplicate`], [`Fault::Unfinished`] if the section before it was not finished,
    /// or [`Fault::Io`].
    pub fn section(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut section = self.begin_section(name)?;
        section.append(bytes)?;
        section.finish()
    }

    /// Copies the sections of another file that `keep` approves of, in their order: to add or replace a plan, copy all
    /// but the old one and write the new one.
    ///
    /// # Errors
    ///
    /// As for [`Self::section`], and [`Fault::DamagedSection`] if a section of `source` is damaged.
    pub fn copy_sections(
        &mut self,
        source: &EngineFile,
        mut keep: impl FnMut(&SectionInfo) -> bool,
    ) -> Result<()> {
        let mut kept = source.sections().filter(|info| keep(info));
        kept.try_for_each(|info| self.section(&info.name, &source.section(&info.name)?))
    }

    /// Begins a section that is written piece by piece.
    ///
    /// # Errors
    ///
    /// As for [`Self::section`].
    pub fn begin_section(&mut self, name: &str) -> Result<SectionWriter<'_>> {
        self.check_finished()?;
        if let Some(reason) = section_name_problem(name) {
            return Err(self.error(Fault::InvalidName { name: name.to_owned(), reason }));
        }
        if !self.names.insert(name.to_owned()) {
            return Err(self.error(Fault::Duplicate { name: name.to_owned() }));
        }
        self.unfinished = Some(name.to_owned());
        let offset = self.align()?;
        Ok(SectionWriter::new(self, name.to_owned(), offset))
    }

    /// Completes the file, gives it its name, and opens it, which validates all that was written.
    ///
    /// # Errors
    ///
    /// [`Fault::Unfinished`], [`Fault::Io`], or what [`EngineFile::open`] finds wrong, such as a missing `meta`.
    pub fn finish(mut self) -> Result<EngineFile> {
        self.check_finished()?;
        let table_offset = self.align()?;
        let table = encode_table(&self.entries);
        self.put(&table)?;
        let header = Header {
            version: FORMAT_VERSION,
            section_count: self.entries.len() as u32,
            file_length: self.position,
            table_offset,
            table_checksum: checksum(&table),
        };
        let header = header.encode();
        match self.sink {
            Sink::Memory(mut bytes) => {
                bytes[..HEADER_LEN].copy_from_slice(&header);
                EngineFile::from_bytes(Bytes::from(bytes))
            }
            Sink::File { file, path } => {
                let io = |action, error| Fault::Io { action, error }.in_file(&self.name);
                let mut file = file.into_inner().map_err(|error| io("write the file", error.into_error()))?;
                file.seek(SeekFrom::Start(0))
                    .and_then(|_| file.write_all(&header))
                    .and_then(|()| file.as_file().sync_all())
                    .map_err(|error| io("write the file", error))?;
                // Validated under its temporary name, so that a bad file never takes the place of a good one.
                EngineFile::open(file.path()).map_err(|error| error.fault.in_file(&self.name))?;
                file.persist(&path).map_err(|error| io("rename the temporary file", error.error))?;
                sync_folder_of(&path).map_err(|error| io("write the folder", error))?;
                EngineFile::open(&path)
            }
        }
    }

    /// Appends bytes to the file.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match &mut self.sink {
            Sink::File { file, .. } => file.write_all(bytes),
            Sink::Memory(buffer) => {
                buffer.extend_from_slice(bytes);
                Ok(())
            }
        };
        written.map_err(|error| self.error(Fault::Io { action: "write the file", error }))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn close_section(&mut self, entry: Entry) -> Result<()> {
        self.entries.push(entry);
        self.unfinished = None;
        Ok(())
    }

    pub(crate) fn error(&self, fault: Fault) -> EngineError {
        fault.in_file(&self.name)
    }

    pub(crate) fn json_error(&self, error: serde_json::Error) -> EngineError {
        self.error(Fault::Io { action: "encode JSON", error: error.into() })
    }

    /// Appends zeros up to the next multiple of [`ALIGNMENT`] and returns the offset reached.
    fn align(&mut self) -> Result<u64> {
        let padding = align_up(self.position).map_or(0, |aligned| aligned - self.position);
        self.put(&[0; ALIGNMENT][..padding as usize])?;
        Ok(self.position)
    }

    fn check_finished(&self) -> Result<()> {
        match &self.unfinished {
            None => Ok(()),
            Some(section) => Err(self.error(Fault::Unfinished { section: section.clone() })),
        }
    }
}

/// A temporary file in the folder of `path`, with the permissions of any new file.
fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".bertha-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // The umask is taken off this, as usual.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder_of(path))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the rename itself survive a power cut, where the system can.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder_of(path))?.sync_all() } else { Ok(()) }
}
