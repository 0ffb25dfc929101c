//! Which tactics are legal and worth timing, and those that timing chose.

use std::collections::BTreeMap;
use std::fmt;

use bertha_graph::Activation;

use super::{Tactic, f32, mma, sm90a, small_sm90a};
use crate::kernels::{Rows, Setting};
use crate::program::{Linear, NormOf, Storage};

/// Slower than the rule's tactic by more than this factor, by estimate, is not worth timing.
pub(super) const WORTH_TIMING: f64 = 1.6;

/// Hertz of a multiprocessor at work, for estimates.
const TYPICAL_CLOCK: f64 = 1.6e9;

impl Tactic {
    /// Every tactic worth timing for a layer, the rule's first. All of them can be launched.
    pub(crate) fn candidates(storage: Storage, linear: &Linear, setting: &Setting) -> Vec<Self> {
        let Some(rule) = Self::by_rule(storage, linear, setting) else { return Vec::new() };
        let others = match rule {
            Tactic::GemmSmallSm90a { .. } | Tactic::GemmSm90a { .. } => {
                let mut others = small_sm90a::candidates(linear, setting);
                others.extend(sm90a::candidates(linear, setting));
                others
            }
            Tactic::GemmMma { .. } => mma::candidates(linear, setting),
            Tactic::GemmF32 { .. } => f32::candidates(linear, setting),
        };
        let mut found = vec![rule];
        for tactic in others {
            if !found.contains(&tactic) && tactic.launch(storage, linear, setting).is_some() {
                found.push(tactic);
            }
        }
        found
    }

    /// Seconds of a layer as the kernel's rule estimates them; `None` for a rule without estimates. Good for comparing tactics
    /// of one kernel: start and end of a launch, and memory, are not part of it.
    pub(crate) fn estimate(self, storage: Storage, linear: &Linear, setting: &Setting) -> Option<f64> {
        let results = match self {
            Tactic::GemmSmallSm90a { .. } => None,
            Tactic::GemmSm90a { columns, .. } => sm90a::estimate(columns, linear, setting),
            Tactic::GemmMma { rows, columns } => mma::estimate((rows, columns), linear, setting),
            Tactic::GemmF32 { rows, columns } => f32::estimate((rows, columns), linear, setting),
        }?;
        Some(results * 2.0 * linear.k as f64 / (setting.arch.flops_per_clock(storage) * TYPICAL_CLOCK))
    }
}

impl fmt::Display for Tactic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tactic::GemmSmallSm90a { tokens, split } => {
                write!(f, "gemm_small_sm90a, {tokens} tokens, K in {split}")
            }
            Tactic::GemmSm90a { columns, defer } => {
                write!(f, "gemm_sm90a, 128x{columns}{}", if *defer { ", deferred" } else { "" })
            }
            Tactic::GemmMma { rows, columns } => write!(f, "gemm_mma, {rows}x{columns}"),
            Tactic::GemmF32 { rows, columns } => write!(f, "gemm_f32, {rows}x{columns}"),
        }
    }
}

/// Tactics that were timed to be the best: by what a layer is (sizes, epilogue and norms, in words), and by the rows of the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tactics(BTreeMap<String, BTreeMap<usize, Tactic>>);

impl Tactics {
    /// Takes this tactic for layers of that name in the bucket of so many tokens.
    pub(crate) fn choose(&mut self, layer: &str, tokens: usize, tactic: Tactic) {
        self.0.entry(layer.to_owned()).or_default().insert(tokens, tactic);
    }

    /// The tactic that was chosen for a layer; `None` leaves it to the rule.
    pub(crate) fn get(&self, storage: Storage, linear: &Linear, setting: &Setting) -> Option<Tactic> {
        if self.0.is_empty() || linear.rows != Rows::Tokens {
            return None;
        }
        let layer = self.0.get(&layer_name(storage, linear))?;
        layer.get(&setting.rows_to_choose_by(Rows::Tokens)).copied()
    }

    /// All choices: name of the layer, tokens of the bucket, tactic.
    pub fn iter(&self) -> impl Iterator<Item = (&str, usize, Tactic)> {
        self.0.iter().flat_map(|(layer, choices)| {
            choices.iter().map(|(tokens, tactic)| (layer.as_str(), *tokens, *tactic))
        })
    }
}

/// Everything of a layer that its time depends on: layers of one name have one time, in whatever model they are.
pub(crate) fn layer_name(storage: Storage, linear: &Linear) -> String {
    // Named one by one, so that nobody adds a field without deciding whether times depend on it.
    let Linear {
        x: _,
        weight: _,
        bias: _,
        residual,
        norm,
        y: _,
        stats,
        n,
        k,
        activation,
        rows: _,
        output_f32,
        next: _,
    } = linear;
    let mut name = format!("{}, {n}x{k}", storage.c_name());
    let activation = match activation {
        Activation::None => None,
        Activation::Relu => Some("relu"),
        Activation::Tanh => Some("tanh"),
        Activation::GeluErf => Some("gelu_erf"),
        Activation::GeluTanh => Some("gelu_tanh"),
        Activation::Silu => Some("silu"),
    };
    // A norm of the residual says that there is one.
    let residual = (residual.is_some() && !matches!(norm.map(|norm| norm.of), Some(NormOf::Residual { .. })))
        .then_some("residual");
    let norm = norm.map(|norm| match norm.of {
        NormOf::Input => "norm of the input",
        NormOf::Residual { .. } => "norm of the residual",
    });
    let stats = stats.is_some().then_some("statistics");
    let to_f32 = output_f32.then_some("to f32");
    for what in [norm, activation, residual, stats, to_f32].into_iter().flatten() {
        name.push_str(", ");
        name.push_str(what);
    }
    name
}
