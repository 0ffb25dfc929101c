//! Which kernels can run each step of a model, and how long each of them takes on this machine.
//!
//! Steps that are alike are timed once. The first of each kind form a graph of their own, which is lowered as the whole is,
//! for every tier and precision that the CPU has, and run with each step timed: so a kernel is timed with the layout of
//! operands that it would have in the model.

mod excerpt;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bertha_compile::{Precision, StepTactics, Tactic, describe_step};
use bertha_graph::{Graph, Node, NodeId, Op, Shape, TensorData, TensorType};

use self::excerpt::Excerpt;
use super::error::{LowerError, RunError};
use super::execute::execute;
use super::lower::lower;
use super::packed::PackedStore;
use super::session::CpuSession;
use super::workspace::Workspace;
use crate::generic::TensorRef;
use crate::isa::Isa;
use crate::kernels::Context;
use crate::kernels::registry::{KERNELS, Kernel};

/// Kinds of steps that run as one graph, which has at most as many outputs as a program may have.
const STEPS_AT_ONCE: usize = 32;
/// Runs of a graph of steps, at most.
const MOST_RUNS: usize = 20;
/// Runs at least: the first one of a model's own kernels also warms up the threads.
const LEAST_RUNS: usize = 2;
/// Weights of more bytes are not packed again for other tiers: packing takes longer than all the rest.
const MAX_PACKED_BYTES: usize = 64 << 20;

/// Nodes that are alike.
struct Group {
    step: String,
    nodes: Vec<NodeId>,
    /// Bytes of the first one's weights that are packed for each tier.
    packed: usize,
}

/// Seconds by node and kernel.
type Times = HashMap<(String, String), f64>;

/// A tier and a precision.
type Way = (Isa, Precision);

impl CpuSession {
    /// For each kind of step the kernels that can run it on this CPU, with the time that a call takes in a run of `inputs`,
    /// which are the model's. `flops` tells the arithmetic of a node by name. The model's own kernels are always timed, the
    /// others until `budget`, of which each tier and precision gets a share, is used up.
    ///
    /// # Errors
    /// When the model cannot run on such inputs.
    pub fn tactics(
        &mut self,
        inputs: &[(&str, &TensorData)],
        budget: Duration,
        flops: &dyn Fn(&str) -> f64,
    ) -> Result<Vec<StepTactics>, RunError> {
        let graph = specialized(self.model().graph(), inputs)?;
        let groups = grouped(&graph);
        let mut steps = Vec::new();
        for part in groups.chunks(STEPS_AT_ONCE) {
            let share = budget * part.len() as u32 / groups.len().max(1) as u32;
            let (own, times) = self.time(&graph, part, inputs, share)?;
            steps.extend(part.iter().filter_map(|group| {
                let node = graph.node(group.nodes[0]);
                let names = group.nodes.iter().map(|id| graph.node(*id).name.clone()).collect();
                let tactics = listed(&node.name, own, &times, group.packed)?;
                let step = group.step.clone();
                Some(StepTactics { step, nodes: names, flops: flops(&node.name), tactics })
            }));
        }
        Ok(steps)
    }

    /// Times the first node of each group in every way, the model's own first.
    fn time(
        &mut self,
        graph: &Graph,
        groups: &[Group],
        inputs: &[(&str, &TensorData)],
        budget: Duration,
    ) -> Result<(Way, Vec<(Way, Times)>), RunError> {
        let (start, all) = (Instant::now(), ways());
        let end = |timed: usize| start + budget * timed as u32 / all.len().max(1) as u32;
        let own = (self.model().isa(), self.model().precision());
        let firsts = |of: &dyn Fn(&Group) -> bool| -> Vec<NodeId> {
            groups.iter().filter(|group| of(group)).map(|group| group.nodes[0]).collect()
        };
        let whole = Excerpt::of(graph, &firsts(&|_| true), inputs).map_err(LowerError::from)?;
        let store = self.model().packed().shared();
        let mut times = vec![(own, time_excerpt(self.context(), &whole, &store, (LEAST_RUNS, end(1)))?)];
        let light = Excerpt::of(graph, &firsts(&|group| group.packed <= MAX_PACKED_BYTES), inputs)
            .map_err(LowerError::from)?;
        for way in all.iter().copied().filter(|way| *way != own) {
            if Instant::now() >= start + budget || light.graph.nodes().is_empty() {
                break;
            }
            let store = PackedStore::with_precision(way.0, way.1)?;
            let context = self.context();
            context.isa = way.0;
            let result = time_excerpt(context, &light, &store, (1, end(times.len() + 1)));
            context.isa = own.0;
            times.push((way, result?));
        }
        Ok((own, times))
    }
}

/// Every tier of the CPU in every precision that it has.
fn ways() -> Vec<Way> {
    let of_tier = |isa: Isa| {
        let bf16 = isa.has_bf16().then_some((isa, Precision::Bf16));
        [Some((isa, Precision::F32)), bf16].into_iter().flatten()
    };
    Isa::available().into_iter().flat_map(of_tier).collect()
}

/// The graph with the shapes that `inputs` give it.
fn specialized(graph: &Graph, inputs: &[(&str, &TensorData)]) -> Result<Graph, RunError> {
    let types: Result<Vec<TensorType>, RunError> = graph
        .inputs()
        .iter()
        .map(|id| {
            let tensor = graph.tensor(*id);
            let data = inputs.iter().find(|(name, _)| *name == tensor.name).map(|(_, data)| data);
            let missing =
                || RunError::MissingInput { name: tensor.name.clone(), expected: tensor.ty.to_string() };
            let data = data.ok_or_else(missing)?;
            Ok(TensorType::new(data.dtype(), data.shape().iter().copied().collect::<Shape>()))
        })
        .collect();
    Ok(graph.specialize(&types?).map_err(LowerError::from)?)
}

/// Nodes by what they compute on operands of which types.
fn grouped(graph: &Graph) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (id, node) in graph.node_ids().zip(graph.nodes()) {
        let step = describe_step(graph, node);
        let tensors = node.inputs.iter().chain(&node.outputs);
        let types =
            tensors.map(|tensor| tensor.map_or_else(String::new, |id| graph.tensor(id).ty.to_string()));
        let key = format!("{step}: {}", types.collect::<Vec<_>>().join(", "));
        match known.get(&key).and_then(|at| groups.get_mut(*at)) {
            Some(group) => group.nodes.push(id),
            None => {
                known.insert(key, groups.len());
                groups.push(Group { step, nodes: vec![id], packed: packed_bytes(graph, node) });
            }
        }
    }
    groups
}

/// Bytes of the constants of a product; other nodes read theirs as they are.
fn packed_bytes(graph: &Graph, node: &Node) -> usize {
    if !matches!(node.op, Op::Linear { .. } | Op::MatMul | Op::Gemm { .. } | Op::Conv(_)) {
        return 0;
    }
    let constants = node.inputs.iter().flatten().filter_map(|id| graph.tensor(*id).constant());
    constants.map(|data| data.bytes().len()).sum()
}

/// The least time of each step of an excerpt among several runs: the fewest that are allowed, and more until `end`.
fn time_excerpt(
    context: &mut Context,
    excerpt: &Excerpt,
    store: &PackedStore,
    (fewest, end): (usize, Instant),
) -> Result<Times, RunError> {
    let program = lower(&excerpt.graph, store)?;
    let inputs: Vec<TensorRef<'_>> = excerpt
        .inputs
        .iter()
        .map(|data| TensorRef { dtype: data.dtype(), shape: data.shape(), bytes: data.bytes() })
        .collect();
    let mut workspace = Workspace::default();
    let mut best = vec![f64::INFINITY; program.steps.len()];
    for run in 0..MOST_RUNS {
        if run >= fewest && Instant::now() >= end {
            break;
        }
        let mut seconds = vec![0.0; program.steps.len()];
        execute(&program, context, &mut workspace, &inputs, u64::MAX, Some(&mut seconds))?;
        best.iter_mut().zip(seconds).for_each(|(best, seconds)| *best = best.min(seconds));
    }
    let names = program.steps.iter().map(|step| {
        let kernel = program.implementation(step, context.isa.tier());
        (step.node.clone(), kernel)
    });
    Ok(names.zip(best).collect())
}

/// The kernels that can run a node: the model's own, and those of the same kind that the CPU has; `None` where the node
/// has no step.
fn listed(node: &str, own: Way, times: &[(Way, Times)], packed: usize) -> Option<Vec<Tactic>> {
    let of_way = |way: Way| {
        let times = times.iter().find(|(timed, _)| *timed == way).map(|(_, times)| times)?;
        times
            .iter()
            .find(|((name, _), _)| name == node)
            .map(|((_, kernel), seconds)| (kernel.as_str(), *seconds))
    };
    let (chosen, seconds) = of_way(own)?;
    let tactic = |kernel: &str, seconds: Option<f64>, note: String| Tactic {
        kernel: kernel.to_owned(),
        seconds,
        estimate: false,
        chosen: kernel == chosen,
        note,
    };
    let mut tactics = vec![tactic(chosen, Some(seconds), String::new())];
    let kind = KERNELS.iter().find(|kernel| kernel.name == chosen).map(|kernel| kernel.kind);
    for kernel in KERNELS.iter().filter(|kernel| Some(kernel.kind) == kind && kernel.name != chosen) {
        let Some(way) = way_of(kernel) else { continue };
        let asked = if way.1 == own.1 { String::new() } else { format!("--precision {}", way.1) };
        match of_way(way) {
            Some((name, seconds)) if name == kernel.name => {
                tactics.push(tactic(name, Some(seconds), asked));
            }
            // In this precision the node runs on another kernel, which is listed by itself.
            Some(_) => {}
            None if packed > MAX_PACKED_BYTES => {
                tactics.push(tactic(kernel.name, None, "not timed: its weights are large".into()));
            }
            None => tactics.push(tactic(kernel.name, None, "not timed: the time was up".into())),
        }
    }
    if let [only] = tactics.as_mut_slice() {
        only.note = "no other".into();
    }
    Some(tactics)
}

/// How a model would be compiled to run on a kernel; `None` where the CPU lacks it.
fn way_of(kernel: &Kernel) -> Option<Way> {
    let isa = Isa::from_tier(kernel.tier).ok()?;
    match kernel.dtype {
        "bf16" => isa.has_bf16().then_some((isa, Precision::Bf16)),
        _ => Some((isa, Precision::F32)),
    }
}
