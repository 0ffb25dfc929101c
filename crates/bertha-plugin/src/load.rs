//! From a shared library to plugins.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bertha_graph::plugin::{Library, PluginDef, PluginError, PluginSet};
use twox_hash::XxHash3_128;

use crate::abi::{ABI_VERSION, LibraryFn, LibraryTable, PluginTable, SYMBOL};
use crate::foreign::Foreign;

/// Plugins of one library beyond which its table is taken for damage.
const MAX_PLUGINS: usize = 4096;

/// Why a library cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The library.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system does not load it.
    #[error("{}: is no library that this system can load: {why}", path.display())]
    Open {
        /// The library.
        path: PathBuf,
        /// The system's reason.
        why: String,
    },
    /// It does not export the one function.
    #[error("{}: has no function `{SYMBOL}`, so it is no library of Bertha plugins", path.display())]
    Symbol {
        /// The library.
        path: PathBuf,
    },
    /// It was built for another version of the interface.
    #[error(
        "{}: is built for version {found} of the plugin interface, and this is version {ABI_VERSION}; \
         build it again with the header of this Bertha", path.display()
    )]
    Version {
        /// The library.
        path: PathBuf,
        /// The version that it says.
        found: u32,
    },
    /// Its table makes no sense.
    #[error("{}: {why}", path.display())]
    Table {
        /// The library.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// One of its plugins cannot be used.
    #[error("{}: {source}", path.display())]
    Plugin {
        /// The library.
        path: PathBuf,
        /// Why not.
        source: Box<PluginError>,
    },
}

/// Loads a library and adds its plugins to `set`. Loading runs the library's code: load only what you trust.
///
/// The library stays loaded as long as anything made of its plugins is in use.
///
/// # Errors
/// Whatever is wrong with the library; `set` is then as it was.
pub fn load(path: impl AsRef<Path>, set: &mut PluginSet) -> Result<Vec<Arc<PluginDef>>, LoadError> {
    let path = path.as_ref();
    let owned = || path.to_owned();
    let bytes = std::fs::read(path).map_err(|source| LoadError::Read { path: owned(), source })?;
    let hash = format!("{:032x}", XxHash3_128::oneshot(&bytes));
    drop(bytes);
    // A bare name would be looked for in the system's folders.
    let full = path.canonicalize().map_err(|source| LoadError::Read { path: owned(), source })?;
    let open_error = |error: libloading::Error| LoadError::Open { path: owned(), why: reason(&error) };
    // SAFETY: loading runs the library's initialisers, which the caller trusts.
    let library = Arc::new(unsafe { libloading::Library::new(&full) }.map_err(open_error)?);
    let table_error = |why: String| LoadError::Table { path: owned(), why };
    // SAFETY: a library that exports this name gives it this type; that is the interface.
    let tables = unsafe {
        let function =
            library.get::<LibraryFn>(SYMBOL.as_bytes()).map_err(|_| LoadError::Symbol { path: owned() })?;
        check_table(function(), path)?
    };
    let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let origin = Library { file, abi: ABI_VERSION, hash };
    let mut added = set.clone();
    let mut defs = Vec::with_capacity(tables.len());
    for table in tables {
        // SAFETY: `check_table` has seen to version and sizes.
        let plugin = unsafe { Foreign::read(table, library.clone()) }.map_err(table_error)?;
        let name = plugin.declaration_name();
        if defs.iter().any(|def: &Arc<PluginDef>| (def.name(), def.version()) == name) {
            return Err(table_error(format!("plugin `{}` version {} is there twice", name.0, name.1)));
        }
        let def = added.add_from(Some(origin.clone()), Box::new(plugin));
        defs.push(def.map_err(|source| LoadError::Plugin { path: owned(), source: Box::new(source) })?);
    }
    *set = added;
    Ok(defs)
}

/// The plugins' tables, once version, sizes and count are right.
///
/// # Safety
/// `table` must be null or what a library of this interface returns.
unsafe fn check_table<'a>(table: *const LibraryTable, path: &Path) -> Result<&'a [PluginTable], LoadError> {
    let refused = |why: String| LoadError::Table { path: path.to_owned(), why };
    if table.is_null() || !table.is_aligned() {
        return Err(refused(format!("`{SYMBOL}` returns no table; a plugin failed over its declaration")));
    }
    // SAFETY: in every version the first word is the version.
    let found = unsafe { (&raw const (*table).abi).read() };
    if found != ABI_VERSION {
        return Err(LoadError::Version { path: path.to_owned(), found });
    }
    // SAFETY: the structure of this version.
    let table = unsafe { &*table };
    for ((name, expected), found) in LibraryTable::SIZES.into_iter().zip(table.sizes) {
        if expected != found {
            return Err(refused(format!(
                "its structure `{name}` has {found} bytes, and {expected} are expected; it is built with another \
                 header, or for another kind of machine"
            )));
        }
    }
    match (table.plugin_count, table.plugins) {
        (0, _) => Err(refused("it has no plugins".into())),
        (count, _) if count > MAX_PLUGINS => Err(refused(format!("it is said to have {count} plugins"))),
        (_, plugins) if plugins.is_null() || !plugins.is_aligned() => {
            Err(refused("the address of its plugins is null or not aligned".into()))
        }
        // SAFETY: the library says that there are as many.
        (count, plugins) => Ok(unsafe { std::slice::from_raw_parts(plugins, count) }),
    }
}

/// What the system says, which libloading keeps as the cause.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
