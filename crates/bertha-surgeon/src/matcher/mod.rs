//! Finding patterns in graphs.

mod conditions;
mod interior;
pub(crate) mod scope;
mod state;

use std::collections::BTreeSet;

use bertha_import::onnx::proto::{AttributeProto, AttributeType};

use crate::literal::Literal;
use crate::names::{is_default_domain, node_name, same_domain};
use crate::node::Node;
use crate::ops;
use crate::pattern::{AttributePattern, Call, Expression, Pattern};
use scope::{Elements, Scope};
pub(crate) use state::{Failure, State};

/// Ways to match that are followed at one place; alternatives and exchanged operands multiply.
const MAX_STATES: usize = 64;
/// Comparisons for one node at which a match may end.
const MAX_STEPS: usize = 20_000;

/// A place where everything fits.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) state: State,
    /// The node that makes the first result.
    pub(crate) root: usize,
    /// Nodes that go when the match is replaced.
    pub(crate) removed: BTreeSet<usize>,
}

/// A place where much fits, but not all.
#[derive(Clone, Debug)]
pub(crate) struct NearMiss {
    pub(crate) root: usize,
    pub(crate) failure: Failure,
}

/// Finds all matches in a graph that do not share nodes, the first ones first, and what nearly matched.
pub(crate) fn find(pattern: &Pattern, scope: &Scope<'_, '_>) -> (Vec<Found>, Vec<NearMiss>) {
    let total = size(pattern);
    let (mut found, mut near): (Vec<Found>, Vec<NearMiss>) = (Vec::new(), Vec::new());
    let mut taken: BTreeSet<usize> = BTreeSet::new();
    for (at, node) in scope.graph.nodes.iter().enumerate() {
        let (first, output) = first_root(pattern);
        let Some(tensor) = node.outputs.get(output).filter(|name| !name.is_empty()) else { continue };
        if !may_start(pattern, first, node) {
            continue;
        }
        let mut matcher = Matcher { pattern, scope, best: None, steps: 0 };
        match matcher.complete(first, output, tensor, &taken) {
            Some((state, removed)) => {
                taken.extend(&state.nodes);
                found.push(Found { state, root: at, removed });
            }
            None => {
                // A third of the pattern, and more than one node: less is chance.
                near.extend(
                    matcher
                        .best
                        .filter(|failure| failure.fitted >= 2 && failure.fitted * 3 >= total)
                        .map(|failure| NearMiss { root: at, failure }),
                );
            }
        }
    }
    near.retain(|miss| !taken.contains(&miss.root));
    (found, near)
}

/// The statement and result where matching begins.
fn first_root(pattern: &Pattern) -> (usize, usize) {
    let first = pattern.roots.first().copied().unwrap_or(0);
    let replaced = pattern.replacement.iter().flat_map(|node| &node.targets);
    let output = replaced.filter_map(|target| pattern.definition(&target.name)).find(|(at, _)| *at == first);
    (first, output.map_or(0, |(_, output)| output))
}

/// Nodes of the smallest form of the pattern.
fn size(pattern: &Pattern) -> usize {
    fn count(expression: &Expression) -> usize {
        match expression {
            Expression::Call(call) => {
                usize::from(!call.optional) + call.operands.iter().map(count).sum::<usize>()
            }
            Expression::Either(alternatives) => alternatives.iter().map(count).min().unwrap_or(0),
            Expression::Any | Expression::Variable(_) | Expression::Literal(_) => 0,
        }
    }
    pattern.statements.iter().map(|statement| count(&statement.expression)).sum()
}

/// Whether a node can be where a statement ends; only to save work and silence.
fn may_start(pattern: &Pattern, statement: usize, node: &Node) -> bool {
    /// Each statement is looked at once: alternatives that lead to the same one would double the work at every step.
    fn ends<'p>(expression: &'p Expression, node: &Node, open: &mut Vec<&'p str>) -> bool {
        match expression {
            Expression::Call(call) => {
                fits_op(call, node)
                    || call.optional && call.operands.first().is_some_and(|operand| ends(operand, node, open))
            }
            Expression::Either(alternatives) => alternatives.iter().any(|one| ends(one, node, open)),
            Expression::Variable(named) => {
                open.push(&named.name);
                false
            }
            Expression::Any | Expression::Literal(_) => false,
        }
    }
    let mut seen = BTreeSet::from([statement]);
    let mut next = Some(statement);
    let mut open = Vec::new();
    while let Some(at) = next {
        if ends(&pattern.statements[at].expression, node, &mut open) {
            return true;
        }
        next = None;
        while let (None, Some(name)) = (next, open.pop()) {
            next = pattern.definition(name).map(|(at, _)| at).filter(|at| seen.insert(*at));
        }
    }
    false
}

fn fits_op(call: &Call, node: &Node) -> bool {
    match &call.op.op_type {
        // `_` alone is any operator; with a domain before it, any of that domain.
        None => call.op.domain.is_empty() || same_domain(&call.op.domain, &node.domain),
        Some(op_type) => same_domain(&call.op.domain, &node.domain) && *op_type == node.op_type,
    }
}

struct Matcher<'p, 's, 'm, 'o> {
    pattern: &'p Pattern,
    scope: &'s Scope<'m, 'o>,
    best: Option<Failure>,
    steps: usize,
}

impl Matcher<'_, '_, '_, '_> {
    /// The whole pattern, ending at this tensor.
    fn complete(
        &mut self,
        first: usize,
        output: usize,
        tensor: &str,
        taken: &BTreeSet<usize>,
    ) -> Option<(State, BTreeSet<usize>)> {
        let mut states = self.statement(first, output, tensor, State::default());
        for root in self.pattern.roots.iter().skip(1) {
            states = self.further_root(*root, states);
        }
        for state in states {
            if let Some(shared) = state.nodes.intersection(taken).next() {
                let node = self.node_name(*shared);
                self.fail(&state, &node, "it is part of another match already".into());
                continue;
            }
            if let Err((node, why)) = self.conditions(&state) {
                self.fail(&state, &node, why);
                continue;
            }
            match self.removable(&state) {
                Ok(removed) => return Some((state, removed)),
                Err((node, why)) => self.fail(&state, &node, why),
            }
        }
        None
    }

    /// A result that is not made on the way to the first one: any node of the graph may be it.
    fn further_root(&mut self, root: usize, states: Vec<State>) -> Vec<State> {
        let mut next = Vec::new();
        for state in states {
            if state.statements.contains_key(&root) {
                next.push(state);
                continue;
            }
            let before = next.len();
            let graph = self.scope.graph;
            for (at, node) in graph.nodes.iter().enumerate() {
                if state.nodes.contains(&at) || !may_start(self.pattern, root, node) {
                    continue;
                }
                if let Some(tensor) = node.outputs.first().filter(|name| !name.is_empty()) {
                    next.extend(self.statement(root, 0, tensor, state.clone()));
                }
                if next.len() >= MAX_STATES {
                    break;
                }
            }
            if next.len() == before {
                let target = self.pattern.statements[root].targets.first().map_or("", |target| &target.name);
                self.fail(&state, "the graph", format!("no node fits `{target}`"));
            }
        }
        next.truncate(MAX_STATES);
        next
    }

    fn node_name(&self, at: usize) -> String {
        self.scope.graph.nodes.get(at).map_or_else(String::new, |node| node_name(node, at))
    }

    /// Notes a failure, unless another attempt came farther.
    fn fail(&mut self, state: &State, node: &str, why: String) {
        let fitted = state.nodes.len();
        if self.best.as_ref().is_none_or(|best| fitted > best.fitted) {
            self.best = Some(Failure { fitted, node: node.to_owned(), why });
        }
    }

    /// Where a tensor comes from, for messages.
    fn place(&self, tensor: &str) -> String {
        match self.scope.uses.producer(tensor) {
            Some((at, _)) => self.node_name(at),
            None => tensor.to_owned(),
        }
    }

    /// Result number `output` of a statement is this tensor.
    fn statement(&mut self, at: usize, output: usize, tensor: &str, mut state: State) -> Vec<State> {
        let pattern = self.pattern;
        let statement = &pattern.statements[at];
        if let [target] = &statement.targets[..] {
            state.tensors.insert(target.name.clone(), tensor.to_owned());
            let before = state.nodes.clone();
            let mut states = self.tensor(&statement.expression, tensor, state);
            for state in &mut states {
                let producer = self.scope.uses.producer(tensor).map(|(node, _)| node);
                if let Some(node) =
                    producer.filter(|node| state.nodes.contains(node) && !before.contains(node))
                {
                    state.statements.insert(at, node);
                }
            }
            return states;
        }
        let Expression::Call(call) = &statement.expression else { return Vec::new() };
        let Some((node, found)) = self.scope.uses.producer(tensor) else {
            self.fail(&state, tensor, format!("no node makes it; {} was expected", call.op.describe()));
            return Vec::new();
        };
        if found != output {
            let name = self.node_name(node);
            self.fail(&state, &name, format!("`{tensor}` is its output {found}, not {output}"));
            return Vec::new();
        }
        let outputs = &self.scope.graph.nodes[node].outputs;
        if outputs.len() < statement.targets.len() {
            let name = self.node_name(node);
            let why = format!("it has {} outputs, not {}", outputs.len(), statement.targets.len());
            self.fail(&state, &name, why);
            return Vec::new();
        }
        for (target, output) in statement.targets.iter().zip(outputs) {
            state.tensors.insert(target.name.clone(), output.clone());
        }
        state.statements.insert(at, node);
        self.call(call, node, state)
    }

    /// The states in which an expression is this tensor.
    fn tensor(&mut self, expression: &Expression, tensor: &str, mut state: State) -> Vec<State> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            self.fail(
                &state,
                &self.place(tensor),
                "there are too many ways to match: make the pattern stricter".into(),
            );
            return Vec::new();
        }
        match expression {
            Expression::Any => vec![state],
            Expression::Literal(literal) => match self.is_constant(tensor, literal) {
                Ok(()) => vec![state],
                Err(why) => {
                    self.fail(&state, &self.place(tensor), why);
                    Vec::new()
                }
            },
            Expression::Variable(named) => {
                if let Some(bound) = state.tensors.get(&named.name) {
                    if bound == tensor {
                        return vec![state];
                    }
                    let why = format!("`{}` would be both `{bound}` and `{tensor}`", named.name);
                    self.fail(&state, &self.place(tensor), why);
                    return Vec::new();
                }
                match self.pattern.definition(&named.name) {
                    Some((at, output)) => self.statement(at, output, tensor, state),
                    None => {
                        state.tensors.insert(named.name.clone(), tensor.to_owned());
                        vec![state]
                    }
                }
            }
            Expression::Either(alternatives) => {
                let mut states = Vec::new();
                for one in alternatives {
                    states.extend(self.tensor(one, tensor, state.clone()));
                }
                states.truncate(MAX_STATES);
                states
            }
            Expression::Call(call) => {
                let mut states = Vec::new();
                match self.scope.uses.producer(tensor) {
                    Some((node, 0)) => states = self.call(call, node, state.clone()),
                    Some((_, output)) if !call.optional => {
                        let why = format!("`{tensor}` is its output {output}, not the first");
                        self.fail(&state, &self.place(tensor), why);
                    }
                    None if !call.optional => {
                        let why = format!("no node makes `{tensor}`; {} was expected", call.op.describe());
                        self.fail(&state, &self.place(tensor), why);
                    }
                    _ => {}
                }
                if let (true, Some(operand)) = (call.optional, call.operands.first()) {
                    states.extend(self.tensor(operand, tensor, state));
                    states.truncate(MAX_STATES);
                }
                states
            }
        }
    }

    /// The states in which a node is what a call describes.
    fn call(&mut self, call: &Call, at: usize, mut state: State) -> Vec<State> {
        let graph = self.scope.graph;
        let node = &graph.nodes[at];
        let name = node_name(node, at);
        if !fits_op(call, node) {
            if !call.optional {
                let why = format!("it is {}; {} was expected", node.op(), call.op.describe());
                self.fail(&state, &name, why);
            }
            return Vec::new();
        }
        let mut operands_used = Vec::new();
        for (attribute, wanted) in &call.attributes {
            match self.attribute(node, &attribute.name, wanted) {
                Ok((value, operand)) => {
                    operands_used.extend(operand);
                    if let (AttributePattern::Capture(variable), Some(value)) = (wanted, value) {
                        let variable = &variable.name;
                        let known = state.attributes.get(variable).and_then(Literal::of_attribute);
                        if known.is_some() && known != Literal::of_attribute(&value) {
                            self.fail(&state, &name, format!("`{variable}` would have two values"));
                            return Vec::new();
                        }
                        state.attributes.insert(variable.clone(), value);
                    }
                }
                Err(why) => {
                    self.fail(&state, &name, why);
                    return Vec::new();
                }
            }
        }
        let mut inputs: Vec<&str> = node
            .inputs
            .iter()
            .enumerate()
            .filter(|(index, _)| !operands_used.contains(index))
            .map(|(_, input)| input.as_str())
            .collect();
        while inputs.last().is_some_and(|input| input.is_empty()) {
            inputs.pop();
        }
        let fits =
            if call.open { inputs.len() >= call.operands.len() } else { inputs.len() == call.operands.len() };
        if !fits {
            let more = if call.open { " or more" } else { "" };
            let why = format!("it has {} operands, not {}{more}", inputs.len(), call.operands.len());
            self.fail(&state, &name, why);
            return Vec::new();
        }
        state.nodes.insert(at);
        let commutes = is_default_domain(&node.domain) && ops::is_commutative(&node.op_type);
        let mut states = self.operands(&call.operands, &inputs, state.clone());
        if let (true, [left, right], [_, _]) = (commutes, &inputs[..], &call.operands[..])
            && left != right
        {
            states.extend(self.operands(&call.operands, &[*right, *left], state));
            states.truncate(MAX_STATES);
        }
        states
    }

    fn operands(&mut self, operands: &[Expression], inputs: &[&str], state: State) -> Vec<State> {
        let mut states = vec![state];
        for (operand, input) in operands.iter().zip(inputs) {
            let mut next = Vec::new();
            for state in states {
                next.extend(self.tensor(operand, input, state));
            }
            next.truncate(MAX_STATES);
            states = next;
        }
        states
    }

    /// The value of an attribute that fits, and the operand it was found in, if it was.
    fn attribute(
        &self,
        node: &Node,
        name: &str,
        wanted: &AttributePattern,
    ) -> Result<(Option<AttributeProto>, Option<usize>), String> {
        let own = is_default_domain(&node.domain);
        let operand = ops::operand_of_attribute(&node.op_type, name)
            .filter(|index| own && node.inputs.get(*index).is_some_and(|input| !input.is_empty()));
        let value = match (node.attribute(name), operand) {
            (Some(attribute), _) => Some(attribute.value()),
            (None, Some(index)) => {
                let tensor = &node.inputs[index];
                let elements = self.scope.elements(tensor);
                let elements =
                    elements.ok_or_else(|| format!("its operand `{name}` is no small constant"))?;
                Some(as_attribute(name, &elements))
            }
            (None, None) if own => ops::default_of(&node.op_type, name, self.scope.opset())
                .and_then(|literal| literal.attribute(name).ok()),
            (None, None) => None,
        };
        let operand = operand.filter(|_| node.attribute(name).is_none());
        let AttributePattern::Equals(literal) = wanted else {
            return match value {
                Some(value) => Ok((Some(value), operand)),
                None => Err(format!("it has no attribute `{name}`")),
            };
        };
        let Some(value) = value else {
            return Err(format!("it has no attribute `{name}`; {literal} was expected"));
        };
        let found = Literal::of_attribute(&value);
        let rank = || {
            let rank = node.inputs.first().and_then(|input| self.scope.rank(input))?;
            // Some ops count axes in their result.
            Some(match (node.op_type.as_str(), &found) {
                ("Unsqueeze", Some(Literal::List(axes))) => rank + axes.len(),
                ("Unsqueeze" | "OneHot", _) => rank + 1,
                _ => rank,
            })
        };
        let same = found.as_ref().is_some_and(|found| {
            same_value(found, literal) || own && ops::is_axis(name) && same_axes(found, literal, rank)
        });
        if same {
            return Ok((None, operand));
        }
        let found = found.map_or_else(|| "something else".into(), |found| found.to_string());
        Err(format!("its {name} is {found}; {literal} was expected"))
    }

    /// Whether a tensor is a constant of this value: a number for one element, a list for a vector.
    fn is_constant(&self, tensor: &str, literal: &Literal) -> Result<(), String> {
        let Some(elements) = self.scope.elements(tensor) else {
            return Err(format!("`{tensor}` is no small constant; {literal} was expected"));
        };
        let wanted = match literal {
            Literal::List(_) => literal.numbers().filter(|_| elements.dims.len() == 1),
            _ => literal.number().map(|number| vec![number]),
        };
        let close = |(found, wanted): (&f64, &f64)| is_close(*found, *wanted, elements.tolerance);
        match wanted {
            Some(wanted)
                if wanted.len() == elements.numbers.len()
                    && elements.numbers.iter().zip(&wanted).all(close) =>
            {
                Ok(())
            }
            _ => Err(format!("`{tensor}` is {}; {literal} was expected", describe(&elements))),
        }
    }
}

/// A short constant in words.
pub(crate) fn describe(elements: &Elements) -> String {
    let number =
        |number: &f64| if elements.whole { format!("{number}") } else { format!("{}", *number as f32) };
    match &elements.numbers[..] {
        [one] if elements.dims.is_empty() => number(one),
        numbers if numbers.len() <= 8 => {
            format!("[{}]", numbers.iter().map(number).collect::<Vec<_>>().join(", "))
        }
        numbers => format!("a constant of {} elements", numbers.len()),
    }
}

/// A small constant as an attribute: a list unless it has no dimensions.
pub(crate) fn as_attribute(name: &str, elements: &Elements) -> AttributeProto {
    let mut attribute = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    let ty = match (elements.whole, elements.dims.is_empty()) {
        (true, true) => {
            attribute.i = elements.numbers.first().map_or(0, |number| *number as i64);
            AttributeType::Int
        }
        (true, false) => {
            attribute.ints = elements.numbers.iter().map(|number| *number as i64).collect();
            AttributeType::Ints
        }
        (false, true) => {
            attribute.f = elements.numbers.first().map_or(0.0, |number| *number as f32);
            AttributeType::Float
        }
        (false, false) => {
            attribute.floats = elements.numbers.iter().map(|number| *number as f32).collect();
            AttributeType::Floats
        }
    };
    attribute.r#type = ty as i32;
    attribute
}

/// Whether a number is the one that is meant, as far as its type can tell.
pub(crate) fn is_close(found: f64, wanted: f64, tolerance: f64) -> bool {
    found == wanted || (found - wanted).abs() <= tolerance * wanted.abs()
}

/// Whether two written values are the same; numbers of attributes are f32.
pub(crate) fn same_value(found: &Literal, wanted: &Literal) -> bool {
    match (found, wanted) {
        (Literal::List(found), Literal::List(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| same_value(a, b))
        }
        (Literal::Text(found), Literal::Text(wanted)) => found == wanted,
        (Literal::Int(found), Literal::Int(wanted)) => found == wanted,
        _ => match (found.number(), wanted.number()) {
            (Some(found), Some(wanted)) => is_close(found, wanted, 1e-6),
            _ => false,
        },
    }
}

/// Whether axes are the same when counted from one end.
fn same_axes(found: &Literal, wanted: &Literal, rank: impl Fn() -> Option<usize>) -> bool {
    let axes = |literal: &Literal| match literal {
        Literal::Int(axis) => Some(vec![*axis]),
        Literal::List(items) => items
            .iter()
            .map(|item| match item {
                Literal::Int(axis) => Some(*axis),
                _ => None,
            })
            .collect::<Option<Vec<_>>>(),
        _ => None,
    };
    let (Some(found), Some(wanted)) = (axes(found), axes(wanted)) else { return false };
    if found.len() != wanted.len() {
        return false;
    }
    let Some(rank) = rank().and_then(|rank| i64::try_from(rank).ok()) else { return false };
    let from_front = |axis: i64| if axis < 0 { axis.saturating_add(rank) } else { axis };
    found.iter().zip(&wanted).all(|(a, b)| from_front(*a) == from_front(*b))
}
