//! A graph for one choice of input shapes.

use std::collections::HashSet;

use crate::dim::Dim;
use crate::dtype::{DType, Element};
use crate::error::GraphError;
use crate::graph::{Graph, Node, TensorId, first_free};
use crate::op::Op;
use crate::rules::{self, Fact, FreshSymbols};
use crate::shape::TensorType;
use crate::statements::Statement;
use crate::tensor::TensorData;

impl Graph {
    /// This graph for inputs of the given concrete types, by order of the inputs.
    ///
    /// Every type is inferred anew. A tensor whose contents follow from shapes and constants becomes a constant, an
    /// `If` with a known condition gives way to the nodes of its branch, and nodes and constants that no output needs
    /// any more are dropped. What stays keeps its name and its order; ids change. Weights are shared, not copied.
    ///
    /// An error names the input whose type contradicts the declared one, or the node that cannot work on such shapes.
    pub fn specialize(&self, input_types: &[TensorType]) -> Result<Graph, GraphError> {
        self.bind_inputs(input_types)?;
        let facts = input_types.iter().map(|ty| Fact::of(ty.clone())).collect();
        specialize(self, facts)
    }
}

/// The graph for inputs of which this is known; those with known contents become constants.
fn specialize(graph: &Graph, inputs: Vec<Fact>) -> Result<Graph, GraphError> {
    let first = inputs.iter().map(|fact| FreshSymbols::after(&fact.ty.shape)).max().unwrap_or(0);
    let mut replay = Replay {
        root: graph,
        values: Vec::with_capacity(graph.tensors().len()),
        steps: Vec::with_capacity(graph.tensors().len()),
        symbols: FreshSymbols::starting_at(first),
        tensor_names: HashSet::new(),
        node_names: HashSet::new(),
    };
    let mut scope = Scope::new(graph, None);
    replay.run(&mut scope, inputs)?;
    let mut outputs = Vec::with_capacity(graph.outputs().len());
    for (name, id) in graph.outputs() {
        outputs.push((name.clone(), scope.value(*id)?));
    }
    replay.mark_live(&outputs);
    replay.emit(outputs)
}

/// A tensor of the graph to be.
struct Value {
    name: String,
    fact: Fact,
    source: Source,
    live: bool,
}

/// Where a value comes from; a constant has its contents in [`Fact::constant`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Input,
    Constant,
    Step,
}

/// Something to write into the graph to be, in order.
enum Step<'a> {
    /// An input or a constant.
    Given(usize),
    /// A node.
    Run {
        node: &'a Node,
        /// Differs from the node's own within an inlined branch.
        name: String,
        /// Differs from the node's own for an `If` whose branches were specialised.
        op: Option<Op>,
        inputs: Vec<Option<usize>>,
        outputs: Vec<Option<usize>>,
    },
}

/// A graph that is being replayed, and what its tensors have become.
struct Scope<'a> {
    graph: &'a Graph,
    values: Vec<Option<usize>>,
    inlined: Option<Inlined>,
}

/// The branch of an `If` that takes its place.
struct Inlined {
    /// Name of the `If`, which begins the names of what comes from the branch.
    prefix: String,
    /// What each captured tensor is outside.
    captured: Vec<Option<usize>>,
    /// The names that the branch's outputs have outside.
    outputs: Vec<Option<String>>,
}

impl<'a> Scope<'a> {
    fn new(graph: &'a Graph, inlined: Option<Inlined>) -> Self {
        Scope { graph, values: vec![None; graph.tensors().len()], inlined }
    }

    fn value(&self, id: TensorId) -> Result<usize, GraphError> {
        self.values.get(id.index()).copied().flatten().ok_or_else(|| GraphError::Invalid {
            where_: format!("tensor `{}`", self.graph.tensor(id).name),
            what: "it is used before it is computed".into(),
        })
    }

    fn set(&mut self, id: TensorId, value: Option<usize>) {
        if let Some(slot) = self.values.get_mut(id.index()) {
            *slot = value;
        }
    }
}

struct Replay<'a> {
    root: &'a Graph,
    values: Vec<Value>,
    steps: Vec<Step<'a>>,
    symbols: FreshSymbols,
    /// Names given to what comes from inlined branches.
    tensor_names: HashSet<String>,
    node_names: HashSet<String>,
}

impl<'a> Replay<'a> {
    /// Adds the statements of a graph, given facts of its inputs (none for an inlined branch).
    fn run(&mut self, scope: &mut Scope<'a>, inputs: Vec<Fact>) -> Result<(), GraphError> {
        let graph = scope.graph;
        let mut inputs = inputs.into_iter();
        let captured = scope.inlined.as_ref().map_or_else(Vec::new, |inlined| inlined.captured.clone());
        let mut captured = captured.into_iter();
        for statement in graph.statements() {
            match statement {
                Statement::Input(id) => {
                    let value = match inputs.next() {
                        Some(fact) => Some(self.input(graph.tensor(id).name.clone(), fact)),
                        None => captured.next().flatten(),
                    };
                    scope.set(id, value);
                }
                Statement::Constant(id) => {
                    let name = self.name_of(scope, id);
                    let value = self.push(name, graph.fact(id), Source::Constant);
                    self.steps.push(Step::Given(value));
                    scope.set(id, Some(value));
                }
                Statement::Node(id) => self.node(scope, graph.node(id))?,
            }
        }
        Ok(())
    }

    fn input(&mut self, name: String, mut fact: Fact) -> usize {
        let known = contents(&fact);
        let source = if known.is_some() { Source::Constant } else { Source::Input };
        fact.constant = known.or(fact.constant);
        let value = self.push(name, fact, source);
        self.steps.push(Step::Given(value));
        value
    }

    fn push(&mut self, name: String, fact: Fact, source: Source) -> usize {
        self.values.push(Value { name, fact, source, live: false });
        self.values.len() - 1
    }

    fn node(&mut self, scope: &mut Scope<'a>, node: &'a Node) -> Result<(), GraphError> {
        let operand = |id: &Option<TensorId>| id.map(|id| scope.value(id)).transpose();
        let inputs: Vec<Option<usize>> = node.inputs.iter().map(operand).collect::<Result<_, _>>()?;
        let name = match &scope.inlined {
            Some(inlined) => self.fresh_node_name(&format!("{}/{}", inlined.prefix, node.name)),
            None => node.name.clone(),
        };
        let facts: Vec<Option<Fact>> = inputs.iter().map(|value| self.fact(*value)).collect();
        if let Op::If { then_branch, else_branch } = &node.op
            && let Some(holds) = facts.first().and_then(Option::as_ref).and_then(rules::known_condition)
        {
            let branch = if holds { then_branch } else { else_branch };
            return self.inline(scope, node, name, branch, inputs);
        }
        let results = rules::infer(&node.op, &facts, &mut self.symbols).map_err(|source| {
            GraphError::Rule { node: name.clone(), op: node.op.mnemonic().to_owned(), source }
        })?;
        let (op, inputs) = match &node.op {
            Op::If { then_branch, else_branch } => {
                let (op, inputs) = specialize_branches(then_branch, else_branch, facts, inputs)?;
                (Some(op), inputs)
            }
            _ => (None, inputs),
        };
        let outputs = self.outputs(scope, node, results);
        self.steps.push(Step::Run { node, name, op, inputs, outputs });
        Ok(())
    }

    /// Adds the results of a node. Those with known contents become constants and are no longer its outputs.
    fn outputs(&mut self, scope: &mut Scope<'a>, node: &Node, results: Vec<Fact>) -> Vec<Option<usize>> {
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for (id, mut fact) in node.outputs.iter().zip(results) {
            let Some(id) = *id else {
                outputs.push(None);
                continue;
            };
            fact.constant = contents(&fact);
            let source = if fact.constant.is_some() { Source::Constant } else { Source::Step };
            let name = self.name_of(scope, id);
            let value = self.push(name, fact, source);
            scope.set(id, Some(value));
            if source == Source::Constant {
                self.steps.push(Step::Given(value));
            }
            outputs.push((source == Source::Step).then_some(value));
        }
        outputs
    }

    /// Writes a branch in the place of its `If`.
    fn inline(
        &mut self,
        scope: &mut Scope<'a>,
        node: &'a Node,
        prefix: String,
        branch: &'a Graph,
        inputs: Vec<Option<usize>>,
    ) -> Result<(), GraphError> {
        let captured = inputs.get(1..).unwrap_or_default().to_vec();
        let given: Vec<Option<Fact>> = captured.iter().map(|value| self.fact(*value)).collect();
        rules::check_captured(branch, &given).map_err(|source| GraphError::Rule {
            node: prefix.clone(),
            op: node.op.mnemonic().to_owned(),
            source,
        })?;
        let outputs = node.outputs.iter().map(|id| id.map(|id| self.name_of(scope, id))).collect();
        let mut inner = Scope::new(branch, Some(Inlined { prefix, captured, outputs }));
        self.run(&mut inner, Vec::new())?;
        for (id, (_, result)) in node.outputs.iter().zip(branch.outputs()) {
            if let Some(id) = *id {
                scope.set(id, Some(inner.value(*result)?));
            }
        }
        Ok(())
    }

    fn fact(&self, value: Option<usize>) -> Option<Fact> {
        value.and_then(|value| self.values.get(value)).map(|value| value.fact.clone())
    }

    /// The name of a tensor, made unique when it comes from an inlined branch.
    fn name_of(&mut self, scope: &Scope<'a>, id: TensorId) -> String {
        let own = &scope.graph.tensor(id).name;
        let Some(inlined) = &scope.inlined else { return own.clone() };
        // What the branch gives takes the name of the output that it takes the place of.
        let output = scope.graph.outputs().iter().position(|(_, output)| *output == id);
        match output.and_then(|index| inlined.outputs.get(index).cloned().flatten()) {
            Some(name) => name,
            None => {
                let base = format!("{}/{own}", inlined.prefix);
                let taken = |name: &str| self.root.find(name).is_some() || self.tensor_names.contains(name);
                let name = first_free(&base, taken);
                self.tensor_names.insert(name.clone());
                name
            }
        }
    }

    fn fresh_node_name(&mut self, base: &str) -> String {
        let taken = |name: &str| self.root.find_node(name).is_some() || self.node_names.contains(name);
        let name = first_free(base, taken);
        self.node_names.insert(name.clone());
        name
    }

    /// Marks what the outputs need, from the end backwards.
    fn mark_live(&mut self, outputs: &[(String, usize)]) {
        let values = &mut self.values;
        for (_, value) in outputs {
            if let Some(value) = values.get_mut(*value) {
                value.live = true;
            }
        }
        for step in self.steps.iter().rev() {
            let Step::Run { inputs, outputs, .. } = step else { continue };
            let needed =
                outputs.iter().flatten().any(|value| values.get(*value).is_some_and(|value| value.live));
            if needed {
                for value in inputs.iter().flatten() {
                    if let Some(value) = values.get_mut(*value) {
                        value.live = true;
                    }
                }
            }
        }
    }

    /// Writes what is live into a graph.
    fn emit(self, outputs: Vec<(String, usize)>) -> Result<Graph, GraphError> {
        let Replay { root, mut values, steps, .. } = self;
        let mut graph = Graph::new(root.name.clone());
        let mut ids: Vec<Option<TensorId>> = vec![None; values.len()];
        for step in steps {
            match step {
                Step::Given(index) => {
                    let (Some(value), Some(id)) = (values.get_mut(index), ids.get_mut(index)) else {
                        continue;
                    };
                    let name = std::mem::take(&mut value.name);
                    *id = match (value.source, value.fact.constant.take()) {
                        (Source::Constant, Some(data)) if value.live => Some(graph.add_constant(name, data)?),
                        (Source::Input, _) => Some(graph.add_input(name, value.fact.ty.clone())?),
                        _ => None,
                    };
                }
                Step::Run { node, name, op, inputs, outputs } => {
                    let live = |value: &Option<usize>| {
                        value.and_then(|value| values.get(value)).filter(|value| value.live)
                    };
                    let names: Vec<&str> =
                        outputs.iter().map(|value| live(value).map_or("", |value| &value.name)).collect();
                    if names.iter().all(|name| name.is_empty()) {
                        continue;
                    }
                    let operands: Vec<Option<TensorId>> = inputs
                        .iter()
                        .map(|value| value.and_then(|value| ids.get(value).copied().flatten()))
                        .collect();
                    let op = op.unwrap_or_else(|| node.op.clone());
                    let id = graph.add_node(name, op, &operands, &names)?;
                    graph.set_sources(id, node.sources.clone());
                    for (value, id) in outputs.iter().zip(&graph.node(id).outputs) {
                        if let Some(slot) = value.and_then(|value| ids.get_mut(value)) {
                            *slot = *id;
                        }
                    }
                }
            }
        }
        for (name, value) in outputs {
            let id = ids.get(value).copied().flatten().ok_or_else(|| GraphError::Invalid {
                where_: format!("output `{name}`"),
                what: "it is computed nowhere".into(),
            })?;
            graph.add_output(name, id)?;
        }
        Ok(graph)
    }
}

/// Both branches for what is captured, and the operands that are left: what is known becomes part of the branches.
fn specialize_branches(
    then_branch: &Graph,
    else_branch: &Graph,
    facts: Vec<Option<Fact>>,
    inputs: Vec<Option<usize>>,
) -> Result<(Op, Vec<Option<usize>>), GraphError> {
    let captured: Vec<Fact> = facts.into_iter().skip(1).flatten().collect();
    let kept = inputs.into_iter().enumerate().filter(|(index, _)| {
        let fact = index.checked_sub(1).and_then(|index| captured.get(index));
        fact.is_none_or(|fact| contents(fact).is_none())
    });
    let inputs = kept.map(|(_, value)| value).collect();
    let op = Op::If {
        then_branch: Box::new(specialize(then_branch, captured.clone())?),
        else_branch: Box::new(specialize(else_branch, captured)?),
    };
    Ok((op, inputs))
}

/// The tensor whose contents are known to be numbers.
fn contents(fact: &Fact) -> Option<TensorData> {
    let numbers: Vec<i64> = fact.value.as_ref()?.iter().map(Dim::as_const).collect::<Option<_>>()?;
    integers(fact.ty.dtype, fact.ty.shape.as_const()?, &numbers)
}

/// A tensor of integers or booleans; `None` when they do not fit the type or the shape.
fn integers(dtype: DType, shape: Vec<usize>, numbers: &[i64]) -> Option<TensorData> {
    fn convert<T: Element + TryFrom<i64>>(shape: Vec<usize>, numbers: &[i64]) -> Option<TensorData> {
        let values = numbers.iter().map(|number| T::try_from(*number).ok()).collect::<Option<Vec<T>>>()?;
        TensorData::from_vec(shape, values).ok()
    }
    match dtype {
        DType::I64 => convert::<i64>(shape, numbers),
        DType::I32 => convert::<i32>(shape, numbers),
        DType::I16 => convert::<i16>(shape, numbers),
        DType::I8 => convert::<i8>(shape, numbers),
        DType::U64 => convert::<u64>(shape, numbers),
        DType::U32 => convert::<u32>(shape, numbers),
        DType::U16 => convert::<u16>(shape, numbers),
        DType::U8 => convert::<u8>(shape, numbers),
        DType::Bool => {
            let bools: Vec<bool> = numbers.iter().map(|number| *number != 0).collect();
            TensorData::from_bools(shape, &bools).ok()
        }
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => None,
    }
}
