//! A plan in an engine file: a list in JSON, and a blob with machine code and weights.

use std::collections::{BTreeMap, HashMap};

use bertha_compile::Precision;
use bertha_graph::Graph;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::build::checked;
use super::case::Lowered;
use super::{CudaPlan, PlanError, base_setting, everywhere, target_name, weights};
use crate::arch::Arch;
use crate::elf;
use crate::kernels::{Tactic, fingerprint};
use crate::program::{WeightForm, WeightPlan};
use crate::tune;

/// The list of a plan's parts. Offsets and lengths are in bytes of the blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredPlan {
    /// The architecture.
    pub arch: Arch,
    /// The precision.
    pub precision: Precision,
    /// Multiprocessors of the card that kernels were chosen for.
    pub multiprocessors: usize,
    /// A hash of the kernels' sources, in hexadecimal: another version of Bertha chooses and compiles anew.
    pub sources: String,
    /// Kernels that timing chose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tactics: Vec<StoredTactic>,
    /// Machine code.
    pub cubins: Vec<StoredCubin>,
    /// Weights.
    pub weights: Vec<StoredWeight>,
}

/// The tactic that timing chose for layers of one kind in one bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredTactic {
    /// What the layers are.
    pub layer: String,
    /// Tokens of the bucket.
    pub tokens: usize,
    /// What they run on.
    pub tactic: Tactic,
}

/// Machine code of one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredCubin {
    /// The kernel's name with its macros.
    pub kernel: String,
    /// Where it starts.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

/// One weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredWeight {
    /// Its name in the graph.
    pub name: String,
    /// How it lies.
    pub form: WeightForm,
    /// Where it starts.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

/// Parts begin at multiples of this.
const ALIGNMENT: u64 = 256;

impl CudaPlan {
    /// The list and the pieces of the blob, in order; each piece begins at the next multiple of 256 behind the one before.
    pub fn to_stored(&self) -> (StoredPlan, Vec<Bytes>) {
        let mut end = 0u64;
        let mut pieces = Vec::new();
        let mut place = |bytes: &Bytes| {
            let offset = end.next_multiple_of(ALIGNMENT);
            end = offset + bytes.len() as u64;
            pieces.push(bytes.clone());
            (offset, bytes.len() as u64)
        };
        let mut cubins = Vec::new();
        for (kernel, cubin) in &self.cubins {
            let (offset, length) = place(cubin);
            cubins.push(StoredCubin { kernel: kernel.clone(), offset, length });
        }
        let mut weights = Vec::new();
        for (plan, bytes) in self.program.weights.iter().zip(&self.weights) {
            let (offset, length) = place(bytes);
            weights.push(StoredWeight { name: plan.name.clone(), form: plan.form.clone(), offset, length });
        }
        let tactics = self.program.tactics.iter().map(|(layer, tokens, tactic)| StoredTactic {
            layer: layer.to_owned(),
            tokens,
            tactic,
        });
        let stored = StoredPlan {
            arch: self.arch,
            precision: self.precision,
            multiprocessors: self.multiprocessors,
            sources: format!("{:016x}", fingerprint()),
            tactics: tactics.collect(),
            cubins,
            weights,
        };
        (stored, pieces)
    }

    /// The plan that `stored` lists, over its blob, for `graph`. No copy is made.
    ///
    /// # Errors
    /// [`PlanError::Stored`] when anything does not fit: the graph's program needs a kernel or weight that is not there,
    /// a part lies outside of the blob, a weight has another size than the graph says, or machine code is none.
    pub fn from_stored(graph: &Graph, stored: StoredPlan, blob: &Bytes) -> Result<Self, PlanError> {
        let StoredPlan { arch, precision, multiprocessors, sources, tactics, cubins, weights } = stored;
        let wrong = |why: String| PlanError::Stored { target: target_name(arch, precision), why };
        if sources != format!("{:016x}", fingerprint()) {
            return Err(wrong("it was made from other kernels than this version of Bertha has".into()));
        }
        // Bounds the work that a hostile number could cause; no card comes near.
        if !(1..=4096).contains(&multiprocessors) {
            return Err(wrong(format!("it was made for a card of {multiprocessors} multiprocessors")));
        }
        let mut lowered = checked(graph, arch, precision)?;
        let tactics = tactics.into_iter().map(|one| (one.layer, one.tokens, one.tactic));
        tune::take(&mut lowered.program, base_setting(arch, multiprocessors), tactics).map_err(wrong)?;
        let part = |offset: u64, length: u64, what: &str| {
            slice(blob, offset, length).ok_or_else(|| {
                wrong(format!("{what} lies outside of the {} bytes that are there", blob.len()))
            })
        };
        let mut code = BTreeMap::new();
        for cubin in cubins {
            let image = part(cubin.offset, cubin.length, &cubin.kernel)?;
            elf::check(&image)
                .map_err(|why| wrong(format!("the machine code of {}: {why}", cubin.kernel)))?;
            code.insert(cubin.kernel, image);
        }
        for kernel in lowered.kernels_in(&everywhere(arch, multiprocessors)) {
            if !code.contains_key(&kernel.to_string()) {
                return Err(wrong(format!("the machine code of {kernel} is missing")));
            }
        }
        let Lowered { program, base, .. } = lowered;
        let mut by_plan = HashMap::new();
        for weight in weights {
            let bytes = part(weight.offset, weight.length, &format!("weight `{}`", weight.name))?;
            by_plan.insert(WeightPlan { name: weight.name, form: weight.form }, bytes);
        }
        let mut found = Vec::with_capacity(program.weights.len());
        for plan in &program.weights {
            let bytes = by_plan
                .get(plan)
                .ok_or_else(|| wrong(format!("weight `{}` ({:?}) is missing", plan.name, plan.form)))?;
            if weights::length(graph, plan, precision) != Some(bytes.len()) {
                return Err(wrong(format!("weight `{}` has {} bytes", plan.name, bytes.len())));
            }
            found.push(bytes.clone());
        }
        Ok(CudaPlan { arch, precision, multiprocessors, program, graph: base, cubins: code, weights: found })
    }
}

fn slice(blob: &Bytes, offset: u64, length: u64) -> Option<Bytes> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (end <= blob.len()).then(|| blob.slice(start..end))
}
