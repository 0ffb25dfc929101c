//! A dense graph for one choice of its inputs' shapes.

use std::collections::BTreeSet;
use std::sync::Arc;

use bertha_compile::Precision;
use bertha_graph::{Graph, TensorType};
use bytes::Bytes;

use super::{CudaPlan, PlanError, weights};
use crate::arch::Arch;
use crate::kernels::{KernelSpec, Launch, Rows, Setting};
use crate::program::{LowerError, Program, WeightForm, WeightPlan, is_ragged, lower, lower_case, samples};

/// The program for some shapes, and its weights in order.
pub(crate) struct Case {
    pub(crate) program: Program,
    pub(crate) constants: Vec<Constant>,
}

/// A weight of a case.
pub(crate) enum Constant {
    /// The plan's weight of this number.
    OfPlan(usize),
    /// One that follows from the shapes.
    OfCase(Bytes),
}

impl CudaPlan {
    /// The program for inputs of these types.
    ///
    /// # Errors
    /// When the graph does not take such inputs, or has nodes without kernels then.
    pub(crate) fn case(&self, types: &[TensorType]) -> Result<Case, PlanError> {
        let wrong = |why: String| PlanError::Shapes { why };
        let base = self.graph.as_ref().ok_or_else(|| wrong("the graph is not dense".into()))?;
        let graph = base.specialize(types).map_err(|error| wrong(error.to_string()))?;
        let program = lower_case(&graph, Some(base), self.precision, self.arch)?;
        let constant = |plan: &WeightPlan| -> Result<Constant, PlanError> {
            let known = self.program.weights.iter().position(|other| other == plan);
            if let Some(index) = known.filter(|_| is_of_base(base, plan)) {
                return Ok(Constant::OfPlan(index));
            }
            Ok(Constant::OfCase(weights::convert(&graph, plan, self.precision)?))
        };
        let constants = program.weights.iter().map(constant).collect::<Result<_, _>>()?;
        Ok(Case { program, constants })
    }
}

/// A graph as it was lowered to make a plan.
pub(super) struct Lowered {
    /// The program; of a dense graph that of a sample, without the weights that follow from its shapes: it is never run.
    pub(super) program: Program,
    /// Other samples of a dense graph, for the kernels that they add.
    pub(super) others: Vec<Program>,
    /// The graph, when it is dense.
    pub(super) base: Option<Arc<Graph>>,
}

impl Lowered {
    pub(super) fn of(graph: &Graph, precision: Precision, arch: Arch) -> Result<Self, LowerError> {
        if is_ragged(graph) {
            return Ok(Lowered { program: lower(graph, precision, arch)?, others: Vec::new(), base: None });
        }
        let mut others = samples(graph)?
            .iter()
            .map(|case| lower_case(case, Some(graph), precision, arch))
            .collect::<Result<Vec<Program>, _>>()?;
        let mut program = others.remove(0);
        program.weights.retain(|plan| is_of_base(graph, plan));
        Ok(Lowered { program, others, base: Some(Arc::new(graph.clone())) })
    }

    pub(super) fn programs(&self) -> impl Iterator<Item = &Program> {
        std::iter::once(&self.program).chain(&self.others)
    }

    /// The kernels of all launches in these settings.
    pub(super) fn kernels_in(&self, settings: &[Setting]) -> BTreeSet<KernelSpec> {
        let launches = self
            .programs()
            .flat_map(|program| settings.iter().flat_map(|setting| launches(program, setting)));
        launches.map(|launch| launch.kernel).collect()
    }
}

/// Whether a weight is the same for all shapes.
fn is_of_base(base: &Graph, plan: &WeightPlan) -> bool {
    let is_constant = || base.find(&plan.name).is_some_and(|id| base.tensor(id).constant().is_some());
    matches!(plan.form, WeightForm::Zeros(_)) || is_constant()
}

/// The launches of a program in a setting. A dense one has as many rows as the setting has tokens in all its matrices:
/// kernels are chosen by rows, and over all settings these are all that any shape may need.
pub(super) fn launches(program: &Program, setting: &Setting) -> Vec<Launch> {
    match program.dense {
        None => program.launches(setting),
        Some(_) => program.with_rows(Rows::Fixed(setting.tokens)).launches(setting),
    }
}
