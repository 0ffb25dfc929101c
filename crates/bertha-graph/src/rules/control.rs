//! Conditional execution.

use crate::error::RuleError;
use crate::graph::Graph;

use super::args::{Args, Types};
use super::{Fact, FreshSymbols, Outcome, dims};

pub(super) fn if_(
    then_branch: &Graph,
    else_branch: &Graph,
    inputs: &[Option<Fact>],
    symbols: &mut FreshSymbols,
) -> Outcome {
    let args = Args::new(inputs, &["condition or captured.."])?;
    let captured = inputs.get(1..).unwrap_or_default();
    args.typed(0, &Types::BOOL)?;
    args.single(0)?;
    if then_branch.outputs().len() != else_branch.outputs().len() {
        let (a, b) = (then_branch.outputs().len(), else_branch.outputs().len());
        return Err(RuleError(format!("the then-branch has {a} outputs, the else-branch {b}")));
    }
    let mut run = |which: &str, branch: &Graph| {
        replay(branch, captured, symbols)
            .map_err(|RuleError(why)| RuleError(format!("in the {which}-branch: {why}")))
    };
    let (then_facts, else_facts) = match known_condition(args.get(0)?) {
        Some(true) => return run("then", then_branch),
        Some(false) => return run("else", else_branch),
        None => (run("then", then_branch)?, run("else", else_branch)?),
    };
    let pairs = then_facts.into_iter().zip(else_facts).enumerate();
    pairs.map(|(index, (a, b))| merge(index, a, b, symbols)).collect()
}

/// Whether a condition holds, when that is known before the graph runs.
pub(crate) fn known_condition(condition: &Fact) -> Option<bool> {
    condition.value.as_ref()?.first()?.as_const().map(|value| value != 0)
}

/// What is known of an output whichever branch runs.
fn merge(index: usize, a: Fact, b: Fact, symbols: &mut FreshSymbols) -> Result<Fact, RuleError> {
    if a.dtype() != b.dtype() || a.rank() != b.rank() {
        return Err(RuleError(format!(
            "output {index} is {} in the then-branch but {} in the else-branch; element type and rank must agree",
            a.ty, b.ty
        )));
    }
    let mut merged = a.clone();
    for (dim, other) in merged.ty.shape.0.iter_mut().zip(b.dims()) {
        if dim != other {
            *dim = symbols.fresh();
        }
    }
    merged.value = a.value.filter(|value| b.value.as_ref() == Some(value));
    Ok(merged)
}

/// What is known of the outputs of a graph that is given `inputs`.
fn replay(graph: &Graph, inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let mut facts = input_facts(graph, inputs)?;
    for node in graph.nodes() {
        let operands: Vec<Option<Fact>> =
            node.inputs.iter().map(|id| id.and_then(|id| facts.get(id.index()).cloned().flatten())).collect();
        let results = super::infer(&node.op, &operands, symbols).map_err(|RuleError(why)| {
            RuleError(format!("node `{}` ({}): {why}", node.name, node.op.mnemonic()))
        })?;
        for (id, fact) in node.outputs.iter().zip(results) {
            if let Some(slot) = id.and_then(|id| facts.get_mut(id.index())) {
                *slot = Some(fact);
            }
        }
    }
    let outputs = graph.outputs().iter().map(|(name, id)| {
        let fact = facts.get(id.index()).cloned().flatten();
        let fact = fact.ok_or_else(|| RuleError(format!("output `{name}` is computed nowhere")))?;
        Ok(Fact { constant: None, ..fact })
    });
    outputs.collect()
}

/// Checks that captured tensors fit what a branch declares.
pub(crate) fn check_captured(graph: &Graph, inputs: &[Option<Fact>]) -> Result<(), RuleError> {
    if graph.inputs().len() != inputs.len() {
        let (takes, given) = (graph.inputs().len(), inputs.len());
        return Err(RuleError(format!("the branch takes {takes} tensors, but {given} are captured")));
    }
    for (id, fact) in graph.inputs().iter().zip(inputs) {
        let declared = graph.tensor(*id);
        let Some(fact) = fact else {
            return Err(RuleError(format!("captured tensor `{}` is missing", declared.name)));
        };
        let fits = declared.ty.dtype == fact.dtype()
            && dims::unify_all(declared.ty.shape.dims(), fact.dims()).is_some();
        if !fits {
            let (name, ty) = (&declared.name, &declared.ty);
            return Err(RuleError(format!("expected {ty} for captured tensor `{name}`, found {}", fact.ty)));
        }
    }
    Ok(())
}

/// The facts of inputs and constants, by tensor.
fn input_facts(graph: &Graph, inputs: &[Option<Fact>]) -> Result<Vec<Option<Fact>>, RuleError> {
    check_captured(graph, inputs)?;
    let constants = graph.tensors().iter().map(|tensor| {
        let data = tensor.constant()?;
        Some(Fact { ty: tensor.ty.clone(), value: tensor.value.clone(), constant: Some(data.clone()) })
    });
    let mut facts: Vec<Option<Fact>> = constants.collect();
    for (id, fact) in graph.inputs().iter().zip(inputs) {
        if let Some(slot) = facts.get_mut(id.index()) {
            *slot = fact.clone();
        }
    }
    Ok(facts)
}
