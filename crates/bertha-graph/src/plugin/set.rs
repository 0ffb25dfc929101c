//! The plugins that a program knows.

use std::sync::Arc;

use super::{Plugin, PluginDef};

/// The shared library that a plugin came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// The file's name, without its folder.
    pub file: String,
    /// Version of the interface that it was built for.
    pub abi: u32,
    /// XXH3 with 128 bits over the whole file, in hexadecimal digits.
    pub hash: String,
}

/// Why a plugin cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// What the plugin says of itself makes no sense.
    #[error("plugin `{plugin}`: {why}")]
    Declaration {
        /// The plugin's name.
        plugin: String,
        /// What is wrong.
        why: String,
    },
    /// Two plugins of one name and version.
    #[error(
        "plugin `{plugin}` version {version} is there twice: from {first} and from {second}; load only one of them"
    )]
    Twice {
        /// The plugin's name.
        plugin: String,
        /// Its version.
        version: u32,
        /// Where the first one came from.
        first: String,
        /// Where the second one came from.
        second: String,
    },
    /// Two plugins that answer to the same ONNX nodes.
    #[error(
        "plugin `{plugin}` of {origin} and plugin `{other}` of {other_origin} both answer to ONNX nodes {op_type}; \
         load only one of them"
    )]
    Contested {
        /// The plugin that was added.
        plugin: String,
        /// Where it came from.
        origin: String,
        /// The one that was there.
        other: String,
        /// Where that came from.
        other_origin: String,
        /// Domain and op type.
        op_type: String,
    },
}

/// Why `def` cannot stand beside `other`: ONNX nodes that both answer to.
fn contested(def: &PluginDef, other: &PluginDef) -> Option<PluginError> {
    let (a, b) = (def.declaration(), other.declaration());
    let same = a.name != b.name && (&a.domain, &a.op_type) == (&b.domain, &b.op_type);
    same.then(|| PluginError::Contested {
        plugin: a.name.clone(),
        origin: def.origin().to_owned(),
        other: b.name.clone(),
        other_origin: other.origin().to_owned(),
        op_type: if a.domain.is_empty() { a.op_type.clone() } else { format!("{}.{}", a.domain, a.op_type) },
    })
}

/// Plugins by name and version, and by the ONNX nodes that they answer to. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PluginSet(Vec<Arc<PluginDef>>);

impl PluginSet {
    /// No plugins.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a plugin of this program.
    ///
    /// # Errors
    /// When its declaration makes no sense, when there is one of its name and version, and when one of another name answers
    /// to the same ONNX nodes.
    pub fn add(&mut self, plugin: impl Plugin + 'static) -> Result<Arc<PluginDef>, PluginError> {
        self.add_from(None, Box::new(plugin))
    }

    /// Adds a plugin that came from `library`. The same plugin of the same library again changes nothing.
    ///
    /// # Errors
    /// As [`PluginSet::add`].
    pub fn add_from(
        &mut self,
        library: Option<Library>,
        plugin: Box<dyn Plugin>,
    ) -> Result<Arc<PluginDef>, PluginError> {
        let def = PluginDef::new(plugin, library)?;
        if let Some(first) = self.find(def.name(), def.version()) {
            if def.library().is_some() && def.library() == first.library() {
                return Ok(first.clone());
            }
            return Err(PluginError::Twice {
                plugin: def.name().to_owned(),
                version: def.version(),
                first: first.origin().to_owned(),
                second: def.origin().to_owned(),
            });
        }
        if let Some(error) = self.0.iter().find_map(|other| contested(&def, other)) {
            return Err(error);
        }
        self.0.push(Arc::new(def));
        Ok(self.0[self.0.len() - 1].clone())
    }

    /// The plugin of this name and version.
    pub fn find(&self, name: &str, version: u32) -> Option<&Arc<PluginDef>> {
        self.0.iter().find(|def| def.name() == name && def.version() == version)
    }

    /// The plugin that ONNX nodes of this domain and op type become: of several versions, the newest.
    pub fn for_onnx(&self, domain: &str, op_type: &str) -> Option<&Arc<PluginDef>> {
        let answers = |def: &&Arc<PluginDef>| {
            let declaration = def.declaration();
            declaration.domain == domain && declaration.op_type == op_type
        };
        self.0.iter().filter(answers).max_by_key(|def| def.version())
    }

    /// All plugins, in the order they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<PluginDef>> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What to say when a graph needs a plugin that is not here.
    pub fn missing(&self, name: &str, version: u32) -> String {
        let others: Vec<String> =
            self.0.iter().filter(|def| def.name() == name).map(|def| def.version().to_string()).collect();
        let others = match others.as_slice() {
            [] => String::new(),
            versions => format!(" (loaded: version {})", versions.join(", ")),
        };
        format!("plugin `{name}` version {version} is not loaded{others}; give its library with --plugin")
    }
}
