//! `bertha plugin list`.

use std::sync::Arc;

use bertha::plugin::{FieldSpec, PluginDef};
use serde::Serialize;

use super::super::Failure;
use crate::args::{PluginListArgs, PluginOptions};
use crate::output;

/// A plugin as `--json` shows it.
#[derive(Serialize)]
struct Listed {
    name: String,
    version: u32,
    domain: String,
    op_type: String,
    signature: String,
    fields: Vec<ListedField>,
    /// Whether it has CUDA source and so runs on NVIDIA GPUs too.
    cuda: bool,
    description: String,
    library: Option<bertha::LibraryRecord>,
}

#[derive(Serialize)]
struct ListedField {
    name: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    /// `0.0 to 1.0`; absent where every number is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<String>,
    description: String,
}

impl From<&Arc<PluginDef>> for Listed {
    fn from(def: &Arc<PluginDef>) -> Self {
        let declaration = def.declaration();
        Listed {
            name: declaration.name.clone(),
            version: declaration.version,
            domain: declaration.domain.clone(),
            op_type: declaration.op_type.clone(),
            signature: declaration.signature.clone(),
            fields: declaration.fields.iter().map(ListedField::from).collect(),
            cuda: def.cuda().is_some(),
            description: declaration.description.clone(),
            library: def.library().map(bertha::LibraryRecord::from),
        }
    }
}

impl From<&FieldSpec> for ListedField {
    fn from(spec: &FieldSpec) -> Self {
        let bounded = spec.min != f64::NEG_INFINITY || spec.max != f64::INFINITY;
        ListedField {
            name: spec.name.clone(),
            kind: spec.kind.name(),
            default: spec.default.as_ref().map(ToString::to_string),
            range: bounded.then(|| spec.bounds()),
            description: spec.description.clone(),
        }
    }
}

pub(super) fn run(args: PluginListArgs) -> Result<(), Failure> {
    let libraries = PluginOptions { libraries: args.libraries, any_plugin_build: false };
    let plugins = libraries.options()?.plugins;
    if plugins.is_empty() {
        return Err(Failure::Usage("no library is named: bertha plugin list LIB".into()));
    }
    let listed: Vec<Listed> = plugins.iter().map(Listed::from).collect();
    if args.json {
        return output::json(&listed);
    }
    for (index, plugin) in listed.iter().enumerate() {
        if index > 0 {
            output::line("")?;
        }
        print(plugin)?;
    }
    Ok(())
}

fn print(plugin: &Listed) -> Result<(), Failure> {
    output::line(format!("{} version {}: {}", plugin.name, plugin.version, plugin.description))?;
    let mut table = output::table(&[]);
    let domain = if plugin.domain.is_empty() { "the default domain" } else { &plugin.domain };
    table.add_row(["  ONNX", &format!("{} of {domain}", plugin.op_type)]);
    table.add_row(["  signature", &plugin.signature]);
    for field in &plugin.fields {
        let mut text = field.kind.to_owned();
        if let Some(range) = &field.range {
            text += &format!(", {range}");
        }
        match &field.default {
            Some(default) => text += &format!(", {default} by default"),
            None => text += ", required",
        }
        if !field.description.is_empty() {
            text += &format!(": {}", field.description);
        }
        table.add_row([format!("  field {}", field.name), text]);
    }
    table.add_row(["  runs on", if plugin.cuda { "CPU, NVIDIA GPUs" } else { "CPU" }]);
    if let Some(library) = &plugin.library {
        table.add_row(["  library", &format!("{} (xxh3 {})", library.file, library.xxh3)]);
    }
    output::print_table(table, [])
}
