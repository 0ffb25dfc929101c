//! Finding and replacing patterns in a model.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bertha_import::onnx::proto::{AttributeProto, AttributeType};
use bertha_import::onnx::tensor_proto;
use serde::Serialize;

use crate::clean::sweep;
use crate::error::{Result, SurgeryError};
use crate::graph::Graph;
use crate::matcher::scope::{Knowledge, Scope};
use crate::matcher::{Found, NearMiss, State, as_attribute, find};
use crate::model::Model;
use crate::names::{fresh, node_name};
use crate::node::{Attribute, Node};
use crate::pattern::{Conversion, NewAttribute, NewNode, NewValue, Pattern};
use crate::uses::{Uses, reads, redirect_all, sort};

/// What a pattern found, or replaced.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The pattern.
    pub pattern: String,
    /// The matches, in the order of the file.
    pub matches: Vec<Match>,
    /// What nearly matched, and why it did not.
    pub near_misses: Vec<Miss>,
}

/// One match.
#[derive(Clone, Debug, Serialize)]
pub struct Match {
    /// The inner graph it lies in, by the names of the nodes around it; empty for the graph itself.
    pub within: String,
    /// Names of the nodes that fit.
    pub nodes: Vec<String>,
    /// Names of those that go when it is replaced.
    pub removed: Vec<String>,
    /// What takes their place, as `name: op`; empty without a replacement.
    pub added: Vec<String>,
    /// The tensors that names of the pattern stand for.
    pub tensors: BTreeMap<String, String>,
    /// The attribute values that names of the pattern stand for.
    pub attributes: BTreeMap<String, String>,
}

/// One near miss.
#[derive(Clone, Debug, Serialize)]
pub struct Miss {
    /// The inner graph it lies in.
    pub within: String,
    /// The node at which the match would have ended.
    pub root: String,
    /// How many nodes fitted.
    pub fitted: usize,
    /// The node at which it failed.
    pub node: String,
    /// Why.
    pub why: String,
}

/// Finds a pattern, in inner graphs and functions too.
///
/// # Errors
/// [`SurgeryError::Request`] for a graph in which a tensor is made twice, and for a replacement that cannot be made.
pub fn find_pattern(model: &Model, pattern: &Pattern) -> Result<Report> {
    plan(model, pattern).map(|plan| plan.report)
}

/// Replaces all matches of a pattern, and takes out what only they read.
///
/// # Errors
/// As [`find_pattern`]; [`SurgeryError::Request`] when the pattern says no replacement. The model is then as it was.
pub fn rewrite(model: &mut Model, pattern: &Pattern) -> Result<Report> {
    if !pattern.replaces() {
        return Err(SurgeryError::request(format!("pattern `{}` has no `replace`", pattern.name)));
    }
    let plan = plan(model, pattern)?;
    let before = (model.graph.clone(), model.functions.clone());
    let used = model.used_domains();
    for (path, edits) in plan.edits {
        let result = match path.function {
            None => graph_at(&mut model.graph, &path.steps).map(|graph| apply(graph, edits)),
            Some(function) => model.functions.get_mut(function).and_then(|function| {
                let mut body = function.body();
                let result = graph_at(&mut body, &path.steps).map(|graph| apply(graph, edits));
                function.nodes = body.nodes;
                for (domain, version) in domains(pattern) {
                    function.use_domain(&domain, version);
                }
                result
            }),
        };
        if let Some(Err(error)) = result {
            (model.graph, model.functions) = before;
            return Err(error);
        }
    }
    if !plan.report.matches.is_empty() {
        for (domain, version) in domains(pattern) {
            model.use_domain(&domain, version);
        }
        model.drop_emptied_opsets(&used);
    }
    Ok(plan.report)
}

/// The operator sets of the new nodes.
fn domains(pattern: &Pattern) -> Vec<(String, i64)> {
    let calls = pattern.replacement.iter().filter_map(|node| match &node.value {
        NewValue::Call { op, version, .. } => Some((op.domain.clone(), *version)),
        NewValue::Tensor(_) => None,
    });
    calls.collect()
}

/// Where a graph lies: in a function or not, and then by node, attribute and graph.
#[derive(Clone, Debug, Default)]
struct GraphPath {
    function: Option<usize>,
    steps: Vec<(usize, usize)>,
}

/// One match, ready to be replaced.
struct Edit {
    removed: BTreeSet<usize>,
    nodes: Vec<Node>,
    /// Tensors that are forwarded: whoever read the first reads the second.
    forwards: Vec<(String, String)>,
    /// The node in whose place the new ones stand.
    root: usize,
}

struct Plan {
    report: Report,
    /// Inner graphs come before the graphs around them, whose edits move nodes.
    edits: Vec<(GraphPath, Vec<Edit>)>,
}

fn plan(model: &Model, pattern: &Pattern) -> Result<Plan> {
    let knowledge = Knowledge::new(model);
    let report = Report { pattern: pattern.name.clone(), matches: Vec::new(), near_misses: Vec::new() };
    let mut plan = Plan { report, edits: Vec::new() };
    plan_graph(&mut plan, pattern, &Scope::new(&model.graph, &knowledge, None)?, GraphPath::default(), "")?;
    for (at, function) in model.functions.iter().enumerate() {
        let body = function.body();
        let opset = function.opset("").or(model.opset("")).unwrap_or(1);
        let within = format!("function {}/", crate::names::op(&function.domain, &function.name));
        let path = GraphPath { function: Some(at), steps: Vec::new() };
        plan_graph(&mut plan, pattern, &Scope::of_function(&body, &knowledge, opset)?, path, &within)?;
    }
    Ok(plan)
}

fn plan_graph(
    plan: &mut Plan,
    pattern: &Pattern,
    scope: &Scope<'_, '_>,
    path: GraphPath,
    within: &str,
) -> Result<()> {
    let (found, near) = find(pattern, scope);
    // Entries of this graph stand before those of its inner graphs in the report, and after them in the list of edits.
    let mut edits = Vec::new();
    for found in &found {
        let edit = new_nodes(pattern, scope, found)?;
        plan.report.matches.push(describe_match(scope, found, &edit, within));
        edits.push(edit);
    }
    plan.report.near_misses.extend(near.iter().map(|miss| describe_miss(scope, miss, within)));
    for (at, node) in scope.graph.nodes.iter().enumerate() {
        for (number, inner) in node.graphs().enumerate() {
            let mut path = path.clone();
            path.steps.push((at, number));
            let within = format!("{within}{}/", node_name(node, at));
            plan_graph(plan, pattern, &scope.inner(inner)?, path, &within)?;
        }
    }
    if !edits.is_empty() {
        plan.edits.push((path, edits));
    }
    Ok(())
}

fn describe_match(scope: &Scope<'_, '_>, found: &Found, edit: &Edit, within: &str) -> Match {
    let name = |at: &usize| scope.graph.nodes.get(*at).map_or_else(String::new, |node| node_name(node, *at));
    let attributes = found.state.attributes.iter();
    let added = edit.nodes.iter().map(|node| format!("{}: {}", node.name, node.op()));
    let forwards = edit.forwards.iter().map(|(from, to)| format!("{from}: {to}"));
    Match {
        within: within.to_owned(),
        nodes: found.state.nodes.iter().map(name).collect(),
        removed: found.removed.iter().map(name).collect(),
        added: added.chain(forwards).collect(),
        tensors: found.state.tensors.clone(),
        attributes: attributes.map(|(name, value)| (name.clone(), crate::literal::describe(value))).collect(),
    }
}

fn describe_miss(scope: &Scope<'_, '_>, miss: &NearMiss, within: &str) -> Miss {
    let root = scope.graph.nodes.get(miss.root).map_or_else(String::new, |node| node_name(node, miss.root));
    let failure = miss.failure.clone();
    Miss { within: within.to_owned(), root, fitted: failure.fitted, node: failure.node, why: failure.why }
}

/// What takes the place of a match.
fn new_nodes(pattern: &Pattern, scope: &Scope<'_, '_>, found: &Found) -> Result<Edit> {
    let state = &found.state;
    let root_name =
        scope.graph.nodes.get(found.root).map_or_else(String::new, |node| node_name(node, found.root));
    let mut made: BTreeMap<&str, String> = BTreeMap::new();
    let mut edit =
        Edit { removed: found.removed.clone(), nodes: Vec::new(), forwards: Vec::new(), root: found.root };
    let tensor = |made: &BTreeMap<&str, String>, name: &str| {
        let tensor = made.get(name).or_else(|| state.tensors.get(name)).cloned();
        tensor.ok_or_else(|| {
            SurgeryError::request(format!(
                "pattern `{}`: `{name}` stands for nothing in the match at node `{root_name}`, because another \
                 alternative was found there",
                pattern.name
            ))
        })
    };
    for NewNode { targets, value } in &pattern.replacement {
        let outputs: Vec<String> = targets
            .iter()
            .map(|target| match state.tensors.get(&target.name) {
                Some(tensor) => tensor.clone(),
                None => fresh(scope.graph, &format!("{root_name}/{}", target.name)),
            })
            .collect();
        match value {
            NewValue::Tensor(source) => {
                let source = tensor(&made, &source.name)?;
                edit.forwards.extend(outputs.iter().map(|output| (output.clone(), source.clone())));
            }
            NewValue::Call { op, operands, attributes, .. } => {
                let inputs = operands.iter().map(|operand| tensor(&made, &operand.name));
                let mut node = Node {
                    name: new_name(
                        scope,
                        targets.first().map_or("", |target| &target.name),
                        &outputs,
                        &root_name,
                    ),
                    inputs: inputs.collect::<Result<_>>()?,
                    outputs: outputs.clone(),
                    domain: op.domain.clone(),
                    op_type: op.op_type.clone().unwrap_or_default(),
                    ..Node::default()
                };
                for (name, value) in attributes {
                    let value = new_attribute(name, value, scope, state).map_err(|why| {
                        SurgeryError::request(format!(
                            "pattern `{}`, match at node `{root_name}`: attribute `{name}`: {why}",
                            pattern.name
                        ))
                    })?;
                    node.set_attribute(Attribute::new(&value));
                }
                edit.nodes.push(node);
            }
        }
        made.extend(targets.iter().map(|target| target.name.as_str()).zip(outputs));
    }
    Ok(edit)
}

/// A new node is called like the node whose result it makes.
fn new_name(scope: &Scope<'_, '_>, target: &str, outputs: &[String], root: &str) -> String {
    let producer = outputs.first().and_then(|output| scope.uses.producer(output));
    match producer.and_then(|(at, _)| scope.graph.nodes.get(at)) {
        Some(node) => node.name.clone(),
        None => format!("{root}/{target}"),
    }
}

fn new_attribute(
    name: &str,
    value: &NewAttribute,
    scope: &Scope<'_, '_>,
    state: &State,
) -> Result<AttributeProto, String> {
    let (variable, conversion) = match value {
        NewAttribute::Literal(literal) => return literal.attribute(name),
        NewAttribute::Variable { variable, conversion } => (&variable.name, *conversion),
    };
    if let Some(attribute) = state.attributes.get(variable) {
        let mut attribute = attribute.clone();
        name.clone_into(&mut attribute.name);
        return match conversion {
            None => Ok(attribute),
            Some(conversion) => convert_attribute(attribute, conversion),
        };
    }
    let Some(tensor) = state.tensors.get(variable) else {
        return Err(format!("`{variable}` stands for nothing, because another alternative was found"));
    };
    if conversion == Some(Conversion::Tensor) {
        let data = scope.data(tensor).ok_or_else(|| format!("`{tensor}` is no constant that can be read"))?;
        return Ok(AttributeProto {
            name: name.to_owned(),
            r#type: AttributeType::Tensor as i32,
            t: Some(tensor_proto(name, &data)),
            ..AttributeProto::default()
        });
    }
    let mut elements = scope.elements(tensor).ok_or_else(|| {
        format!("`{tensor}` is no small constant; the condition `{variable}: constant` would leave such matches out")
    })?;
    match conversion {
        None | Some(Conversion::Tensor) if elements.numbers.len() == 1 => elements.dims.clear(),
        None | Some(Conversion::Tensor) => {}
        Some(Conversion::Float | Conversion::Int) if elements.numbers.len() != 1 => {
            return Err(format!("`{tensor}` has {} elements, not one", elements.numbers.len()));
        }
        Some(Conversion::Float | Conversion::Int) => elements.dims.clear(),
        Some(Conversion::Floats | Conversion::Ints) => elements.dims = vec![elements.numbers.len() as i64],
    }
    match conversion {
        Some(Conversion::Float | Conversion::Floats) => elements.whole = false,
        Some(Conversion::Int | Conversion::Ints) => {
            if elements.numbers.iter().any(|number| number.fract() != 0.0) {
                return Err(format!("`{tensor}` is {}, not whole", crate::matcher::describe(&elements)));
            }
            elements.whole = true;
        }
        None | Some(Conversion::Tensor) => {}
    }
    Ok(as_attribute(name, &elements))
}

fn convert_attribute(attribute: AttributeProto, conversion: Conversion) -> Result<AttributeProto, String> {
    use crate::literal::Literal;
    let literal = Literal::of_attribute(&attribute).ok_or("its value cannot be converted")?;
    let numbers = match (&literal, literal.number()) {
        (_, Some(number)) => vec![number],
        (literal, None) => literal.numbers().ok_or_else(|| format!("{literal} is no number"))?,
    };
    let whole = || {
        let whole = numbers.iter().all(|number| number.fract() == 0.0);
        if whole { Ok(()) } else { Err(format!("{literal} is not whole")) }
    };
    let one = || {
        numbers.first().copied().filter(|_| numbers.len() == 1).ok_or(format!("{literal} is not one number"))
    };
    let list =
        |item: &dyn Fn(f64) -> Literal| Literal::List(numbers.iter().map(|number| item(*number)).collect());
    match conversion {
        Conversion::Float => Literal::Float(one()?),
        Conversion::Floats => list(&Literal::Float),
        Conversion::Int => {
            whole()?;
            Literal::Int(one()? as i64)
        }
        Conversion::Ints => {
            whole()?;
            list(&|number| Literal::Int(number as i64))
        }
        Conversion::Tensor => return Err("only a constant tensor becomes a tensor".into()),
    }
    .attribute(&attribute.name)
}

/// The graph at the end of a path.
fn graph_at<'g>(graph: &'g mut Graph, steps: &[(usize, usize)]) -> Option<&'g mut Graph> {
    let Some(((node, number), rest)) = steps.split_first() else { return Some(graph) };
    graph_at(graph.nodes.get_mut(*node)?.graphs_mut().nth(*number)?, rest)
}

/// Where each forwarded tensor leads in the end: what one match forwards to, another may forward again.
fn resolve(forwards: &[(String, String)]) -> Result<HashMap<&str, &str>> {
    let direct: HashMap<&str, &str> =
        forwards.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    let mut ends: HashMap<&str, &str> = HashMap::new();
    for (from, to) in &direct {
        let (mut end, mut passed) = (*to, vec![*from]);
        while let Some(next) = direct.get(end) {
            if let Some(known) = ends.get(end) {
                end = *known;
                break;
            }
            if passed.len() > direct.len() {
                return Err(SurgeryError::request(format!("`{from}` would be forwarded to itself")));
            }
            passed.push(end);
            end = *next;
        }
        ends.extend(passed.into_iter().map(|name| (name, end)));
    }
    Ok(ends)
}

/// Puts the new nodes in the place of the old ones.
fn apply(graph: &mut Graph, edits: Vec<Edit>) -> Result<()> {
    let mut nodes: Vec<Option<Node>> = std::mem::take(&mut graph.nodes).into_iter().map(Some).collect();
    let mut new: BTreeMap<usize, Vec<Node>> = BTreeMap::new();
    let (mut loose, mut gone, mut forwards) = (Vec::new(), BTreeSet::new(), Vec::new());
    for edit in edits {
        for node in edit.removed.iter().filter_map(|at| nodes.get_mut(*at)?.take()) {
            loose.extend(node.inputs);
            gone.extend(node.outputs);
        }
        new.entry(edit.root).or_default().extend(edit.nodes);
        forwards.extend(edit.forwards);
    }
    for (at, node) in nodes.into_iter().enumerate() {
        // A root that stays comes first: the new nodes may read it.
        graph.nodes.extend(node);
        graph.nodes.extend(new.remove(&at).unwrap_or_default());
    }
    let forwards = resolve(&forwards)?;
    redirect_all(graph, &forwards);
    let outputs: Vec<String> = graph.outputs.iter().map(|value| value.name().to_owned()).collect();
    for output in outputs {
        // An output keeps its name.
        if let Some(to) = forwards.get(output.as_str()) {
            graph.nodes.push(Node {
                op_type: "Identity".into(),
                inputs: vec![(*to).to_owned()],
                outputs: vec![output],
                ..Node::default()
            });
        }
    }
    for output in graph.nodes.iter().flat_map(|node| &node.outputs) {
        gone.remove(output);
    }
    let outputs = graph.outputs.iter().map(|value| value.name());
    if let Some(lost) = graph.nodes.iter().flat_map(reads).chain(outputs).find(|name| gone.contains(*name)) {
        return Err(SurgeryError::request(format!(
            "tensor `{lost}` would still be read, but the replacement takes out what makes it: define it in `replace`, or \
             say that it is `shared`"
        )));
    }
    graph.value_infos.retain(|value| !gone.contains(value.name()));
    graph.annotations.retain(|annotation| !gone.contains(annotation.tensor()));
    loose.extend(gone);
    sort(graph)?;
    Uses::new(graph)?;
    sweep(graph, loose);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_that_leaves_a_reader_without_a_tensor_is_refused() {
        let node = |input: &str, output: &str| Node {
            op_type: "Neg".into(),
            inputs: vec![input.into()],
            outputs: vec![output.into()],
            ..Node::default()
        };
        let graph = Graph { nodes: vec![node("x", "a"), node("a", "b"), node("b", "y")], ..Graph::default() };
        let edit = |at: usize, forwards: &[(&str, &str)]| Edit {
            removed: BTreeSet::from([at]),
            nodes: Vec::new(),
            forwards: forwards.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect(),
            root: at,
        };
        let error = apply(&mut graph.clone(), vec![edit(1, &[])]).unwrap_err().to_string();
        assert!(error.contains("tensor `b` would still be read"), "{error}");
        // Each forwards to what the other took out.
        let circle = vec![edit(0, &[("a", "b")]), edit(1, &[("b", "a")])];
        let error = apply(&mut graph.clone(), circle).unwrap_err().to_string();
        assert!(error.contains("forwarded to itself"), "{error}");
        let mut whole = graph;
        apply(&mut whole, vec![edit(0, &[("a", "x")]), edit(1, &[("b", "a")])]).unwrap();
        assert_eq!(whole.nodes.len(), 1);
        assert_eq!(whole.nodes[0].inputs, ["x"]);
    }
}
