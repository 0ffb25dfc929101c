//! The plugins of an engine file: which they are, and whether those at hand are the same.

use std::path::Path;

use bertha_engine::{EngineFile, EngineWriter};
use bertha_graph::Graph;
use bertha_plugin::{Library, PluginDef};
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Options};
use crate::error::Error;

/// Section with a JSON list of [`PluginRecord`]; engines that use no plugin have none.
const SECTION: &str = "plugins";

/// A plugin that an engine was built with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginRecord {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// The library that it came from; none for a plugin of the program that built the engine.
    pub library: Option<LibraryRecord>,
}

/// The library of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LibraryRecord {
    /// The file's name, a hint for people.
    pub file: String,
    /// Version of the plugin interface that it was built for.
    pub abi: u32,
    /// XXH3 with 128 bits over the file, in hexadecimal digits.
    pub xxh3: String,
}

impl From<&Library> for LibraryRecord {
    fn from(library: &Library) -> Self {
        LibraryRecord { file: library.file.clone(), abi: library.abi, xxh3: library.hash.clone() }
    }
}

/// Writes which plugins the engine uses.
pub(crate) fn write(writer: &mut EngineWriter, engine: &Engine, path: &Path) -> Result<(), Error> {
    let mut used = engine.graph().plugins();
    used.extend(engine.padded_graph().map(Graph::plugins).unwrap_or_default());
    let record = |def: &std::sync::Arc<PluginDef>| PluginRecord {
        name: def.name().to_owned(),
        version: def.version(),
        library: def.library().map(LibraryRecord::from),
    };
    let mut records: Vec<PluginRecord> = used.iter().map(record).collect();
    records.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
    records.dedup();
    if records.is_empty() {
        return Ok(());
    }
    let json = serde_json::to_vec(&records)
        .map_err(|error| Error::EngineContent { path: path.to_owned(), why: error.to_string() })?;
    Ok(writer.section(SECTION, &json)?)
}

/// The plugins that an engine file was built with. They need not be loaded.
///
/// # Errors
/// When the section is damaged.
pub fn plugin_records(file: &EngineFile) -> Result<Vec<PluginRecord>, Error> {
    if !file.has_section(SECTION) {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&file.section(SECTION)?).map_err(|error| Error::EngineContent {
        path: Path::new(file.name()).to_owned(),
        why: format!("its list of plugins is not one: {error}"),
    })
}

/// Checks that every plugin of the file's list is at hand, in the build that the engine was built with; gives the list.
pub(crate) fn require(
    file: &EngineFile,
    path: &Path,
    options: &Options,
    notices: &mut Vec<String>,
) -> Result<Vec<PluginRecord>, Error> {
    let mut problems = Vec::new();
    let records = plugin_records(file)?;
    for PluginRecord { name, version, library } in &records {
        let built_with = library.as_ref().map_or("the program that built it".to_owned(), |library| {
            format!("`{}` (xxh3 {})", library.file, library.xxh3)
        });
        let Some(def) = options.plugins.find(name, *version) else {
            problems.push(format!(
                "the engine was built with {built_with}: {}",
                options.plugins.missing(name, *version)
            ));
            continue;
        };
        let here = def.library().map(LibraryRecord::from);
        let same = match (library, &here) {
            (Some(then), Some(now)) => then.xxh3 == now.xxh3,
            (then, now) => then == now,
        };
        if same {
            continue;
        }
        let here = here.map_or("this program".to_owned(), |library| {
            format!("`{}` (xxh3 {})", library.file, library.xxh3)
        });
        let what = format!(
            "plugin `{name}` version {version} is of {here}, and the engine was built with that of {built_with}"
        );
        match options.any_plugin_build {
            true => notices.push(format!("The {what}.")),
            false => problems.push(format!(
                "{what}; build the engine again, or allow other builds with --any-plugin-build"
            )),
        }
    }
    if problems.is_empty() { Ok(records) } else { Err(Error::Plugins { path: path.to_owned(), problems }) }
}

/// A plugin that the graph uses and the file's list leaves out: nothing says with which build of it the engine was made.
pub(crate) fn unrecorded(graph: &Graph, records: &[PluginRecord]) -> Option<String> {
    let listed = |def: &PluginDef| records.iter().any(|r| r.name == def.name() && r.version == def.version());
    let def = graph.plugins().into_iter().find(|def| !listed(def))?;
    Some(format!(
        "its graph uses plugin `{}` version {}, which is not in its list of plugins",
        def.name(),
        def.version()
    ))
}
