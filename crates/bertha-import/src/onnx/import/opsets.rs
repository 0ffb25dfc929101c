//! Versions of operator sets.

use std::collections::HashMap;

use crate::onnx::proto::OperatorSetIdProto;

/// The newest version of the default operator set whose changes to the supported ops are known.
pub(super) const NEWEST: i64 = 28;

/// The version of each operator set that some nodes are written in, by domain.
#[derive(Clone, Debug, Default)]
pub(super) struct Opsets<'m>(HashMap<&'m str, i64>);

impl<'m> Opsets<'m> {
    pub(super) fn new(imports: &'m [OperatorSetIdProto]) -> Self {
        Opsets(imports.iter().map(|import| (domain(&import.domain), import.version)).collect())
    }

    /// The version of a domain (as [`domain`] gives it), when the file says it.
    pub(super) fn version(&self, domain: &str) -> Option<i64> {
        self.0.get(domain).copied()
    }

    /// These versions, and those of `outer` for the domains that are not named here.
    pub(super) fn or(mut self, outer: &Opsets<'m>) -> Self {
        for (domain, version) in &outer.0 {
            self.0.entry(domain).or_insert(*version);
        }
        self
    }
}

/// The one name of an operator set's domain: ONNX's own has two, of which this gives the empty one.
pub fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}
