//! Shape rules of plugins.
//!
//! A graph may be read (from an engine file, say) before anything else knows which plugins it uses, and plugins come
//! from shared libraries, which belong to the whole process. Their rules therefore lie in one table for the process,
//! to which a plugin adds its own when it is loaded.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::RuleError;
use crate::op::PluginRef;

use super::{Fact, FreshSymbols, Outcome};

/// Infers what a plugin gives: from its fields and operands to one fact for each output, in order.
///
/// It must give the same answer for the same operands, and hold for symbolic dimensions as for numbers.
pub type Rule = dyn Fn(&PluginRef, &[Option<Fact>], &mut FreshSymbols) -> Outcome + Send + Sync;

static RULES: RwLock<BTreeMap<(String, u32), Arc<Rule>>> = RwLock::new(BTreeMap::new());

/// Adds the rule of version `version` of plugin `name`. An error says that there is one already; rules cannot be
/// replaced, as graphs may have been typed with them.
pub fn register(name: &str, version: u32, rule: Arc<Rule>) -> Result<(), RuleError> {
    // A panic elsewhere cannot leave the map half changed, so a poisoned lock is as good as any.
    let mut rules = RULES.write().unwrap_or_else(PoisonError::into_inner);
    let key = (name.to_owned(), version);
    if rules.contains_key(&key) {
        return Err(RuleError(format!("plugin `{name}` version {version} is registered already")));
    }
    rules.insert(key, rule);
    Ok(())
}

/// Whether there is a rule for this plugin.
pub fn is_registered(name: &str, version: u32) -> bool {
    let rules = RULES.read().unwrap_or_else(PoisonError::into_inner);
    rules.contains_key(&(name.to_owned(), version))
}

pub(super) fn infer(plugin: &PluginRef, inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let rule = {
        let rules = RULES.read().unwrap_or_else(PoisonError::into_inner);
        rules.get(&(plugin.name.clone(), plugin.version)).cloned()
    };
    match rule {
        Some(rule) => rule(plugin, inputs, symbols),
        None => Err(RuleError(format!(
            "plugin `{}` version {} is not registered; load the library that provides it first",
            plugin.name, plugin.version
        ))),
    }
}
