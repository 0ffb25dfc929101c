//! Whether a host can run a plan: one plain sentence for each reason why not.

use std::collections::BTreeSet;

use crate::plan::PlanHeader;

/// What a target's runtime on this machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The target, such as `cpu`.
    pub target: String,
    /// The plan encoding that the runtime reads.
    pub plan_format: u32,
    /// The features that the machine has, in the target's own words.
    pub features: BTreeSet<String>,
}

/// One reason why a host cannot run a plan.
///
/// Every mismatch can be mended in the same way: lower the portable graph again on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The plan is for another target.
    #[error("The plan is for target `{plan}`, and this runtime is `{host}`.")]
    Target {
        /// The plan's target.
        plan: String,
        /// The runtime's.
        host: String,
    },
    /// The plan is encoded for another version of the runtime.
    #[error(
        "The plan was made by {producer} in plan format {plan}, and this runtime reads plan format {host}."
    )]
    PlanFormat {
        /// Who made the plan.
        producer: String,
        /// Its format.
        plan: u32,
        /// The format that the runtime reads.
        host: u32,
    },
    /// The machine lacks a feature.
    #[error("The plan needs `{feature}`, which this machine does not have.")]
    MissingFeature {
        /// The feature.
        feature: String,
    },
}

impl PlanHeader {
    /// Every reason why `host` cannot run the plan; empty if it can.
    #[must_use]
    pub fn mismatches(&self, host: &Host) -> Vec<Mismatch> {
        // Taken apart without `..`, so that a new field cannot be forgotten here.
        let Self { target, producer, plan_format, requirements } = self;
        let mut mismatches = Vec::new();
        if *target != host.target {
            mismatches.push(Mismatch::Target { plan: target.clone(), host: host.target.clone() });
        }
        if *plan_format != host.plan_format {
            let (plan, host) = (*plan_format, host.plan_format);
            mismatches.push(Mismatch::PlanFormat { producer: producer.clone(), plan, host });
        }
        let missing = requirements.iter().filter(|feature| !host.features.contains(*feature));
        mismatches.extend(missing.map(|feature| Mismatch::MissingFeature { feature: feature.clone() }));
        mismatches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> PlanHeader {
        PlanHeader {
            target: "cpu".into(),
            producer: "bertha 0.1.0".into(),
            plan_format: 3,
            requirements: vec!["avx2".into(), "fma".into(), "avx512f".into()],
        }
    }

    fn host() -> Host {
        let features = ["avx2", "fma", "avx512f", "f16c"].map(String::from).into();
        Host { target: "cpu".into(), plan_format: 3, features }
    }

    #[test]
    fn a_host_with_more_features_than_needed_runs_the_plan() {
        assert_eq!(plan().mismatches(&host()), []);
    }

    #[test]
    fn each_mismatch_is_one_sentence() {
        let mut host = host();
        host.target = "cuda".into();
        host.plan_format = 4;
        host.features.remove("avx512f");
        host.features.remove("fma");
        let sentences: Vec<_> = plan().mismatches(&host).iter().map(ToString::to_string).collect();
        assert_eq!(
            sentences,
            [
                "The plan is for target `cpu`, and this runtime is `cuda`.",
                "The plan was made by bertha 0.1.0 in plan format 3, and this runtime reads plan format 4.",
                "The plan needs `fma`, which this machine does not have.",
                "The plan needs `avx512f`, which this machine does not have.",
            ]
        );
    }
}
