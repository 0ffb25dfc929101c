//! Files in and out: memory-mapped reading and atomic replacement.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use bytes::Bytes;

use crate::error::{ImportError, Result};

/// Maps a whole file. The returned [`Bytes`] and all its slices keep the mapping alive; nothing is read until touched.
///
/// # Errors
/// [`ImportError::Io`] when the file cannot be opened or mapped, or is not a regular file.
pub(crate) fn map_file(path: &Path) -> Result<Bytes> {
    // Asked before opening: opening a pipe would block.
    let metadata = fs::metadata(path).map_err(|error| ImportError::io(path, "open the file", error))?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "it is a folder" } else { "it is not a regular file" };
        return Err(ImportError::io(path, "open the file", std::io::Error::other(kind)));
    }
    if metadata.len() == 0 {
        return Ok(Bytes::new()); // a mapping of length 0 is an error on some systems
    }
    let file = File::open(path).map_err(|error| ImportError::io(path, "open the file", error))?;
    // SAFETY: the mapping is read-only and private to this process; it is never handed out as anything but bytes, and
    // every reader checks what it finds there. What the map cannot rule out is another process changing or truncating
    // the file while it is open; that is the documented contract of all memory-mapped model files (do not overwrite
    // a model in place while it is loaded; the writers of this crate replace files by renaming).
    let map = unsafe { memmap2::Mmap::map(&file) };
    let map = map.map_err(|error| ImportError::io(path, "map the file", error))?;
    Ok(Bytes::from_owner(map))
}

/// Writes a file beside its final place and renames it there when complete, so that readers see the old file or the
/// new one, and a mapping of the old one stays valid.
///
/// # Errors
/// [`ImportError::Io`] from the system, or whatever `fill` returns; the destination is untouched then.
pub(crate) fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>,
) -> Result<()> {
    let failed = |error| ImportError::io(path, "write the file", error);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".bertha-").suffix(".tmp");
    // Temporary files are private by default; a model should get the permissions any new file gets.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = builder.tempfile_in(folder).map_err(failed)?;
    let mut writer = BufWriter::with_capacity(1 << 20, temporary.as_file());
    fill(&mut writer).and_then(|()| writer.flush()).map_err(failed)?;
    drop(writer);
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Says what a file is when it is plainly none of the binary formats read here: the usual accidents of downloading.
pub(crate) fn look_alike(bytes: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 8] = [
        (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself: run `git lfs pull`"),
        (b"<!DOCTYPE", "it is a web page (a download that went wrong)"),
        (b"<!doctype", "it is a web page (a download that went wrong)"),
        (b"<html", "it is a web page (a download that went wrong)"),
        (b"<?xml", "it is XML (a download that went wrong)"),
        (b"{", "it is JSON text"),
        (b"PK\x03\x04", "it is a zip archive (perhaps a PyTorch or npz file)"),
        (b"\x1f\x8b", "it is packed with gzip: unpack it first"),
    ];
    if bytes.is_empty() {
        return Some("it is empty");
    }
    KINDS.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, kind)| *kind)
}
