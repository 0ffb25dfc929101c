//! Whether the names of a pattern make sense.

use std::collections::{BTreeMap, HashSet};

use super::ast::{
    AttributePattern, Condition, ConditionKind, Expression, Named, NewAttribute, NewNode, NewValue, Operand,
    Pattern, Statement,
};
use super::token::{Place, Source};
use crate::error::PatternError;

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The result of a statement.
    Defined,
    /// A tensor that the pattern uses.
    Free,
    /// An attribute's value.
    Attribute,
}

/// Checks every name, and finds the statements where matching begins.
pub(super) fn pattern(
    source: &Source<'_>,
    start: Place,
    mut pattern: Pattern,
) -> Result<Pattern, PatternError> {
    if pattern.statements.is_empty() {
        let message = "the pattern has no statement: expected one such as `y = Add(a, b)`";
        return Err(source.error(start, message));
    }
    let names = Names { source, meanings: meanings(source, &pattern.statements)? };
    for statement in &pattern.statements {
        circle(source, &pattern, statement)?;
    }
    pattern.conditions.iter().try_for_each(|condition| names.condition(condition))?;
    let replaced = names.replacement(&pattern.replacement)?;
    let mut roots: Vec<usize> =
        replaced.iter().filter_map(|target| pattern.definition(&target.name)).map(|(at, _)| at).collect();
    if roots.is_empty() {
        roots = vec![pattern.statements.len() - 1];
    }
    roots.dedup();
    connected(source, &pattern, &roots)?;
    pattern.roots = roots;
    Ok(pattern)
}

/// The names of a pattern.
struct Names<'s, 't> {
    source: &'s Source<'t>,
    meanings: BTreeMap<String, Meaning>,
}

impl Names<'_, '_> {
    fn wrong<T>(&self, place: Place, message: String) -> Result<T, PatternError> {
        Err(self.source.error(place, message))
    }

    /// All of them, for messages.
    fn list(&self) -> String {
        let names: Vec<_> = self.meanings.keys().map(|name| format!("`{name}`")).collect();
        format!("the names of the pattern are {}", names.join(", "))
    }

    fn condition(&self, condition: &Condition) -> Result<(), PatternError> {
        let variables: Vec<&String> = match &condition.kind {
            ConditionKind::Facts { variable, .. } | ConditionKind::OneOf { variable, .. } => vec![variable],
            ConditionKind::Compare { left, right, .. } => [left, right]
                .into_iter()
                .filter_map(|side| match side {
                    Operand::Variable(variable) => Some(variable),
                    Operand::Literal(_) => None,
                })
                .collect(),
        };
        for variable in variables {
            match (self.meanings.get(variable), &condition.kind) {
                (None, _) => {
                    let known = self.list();
                    let message = format!(
                        "the condition is about `{variable}`, which the pattern does not define; {known}"
                    );
                    return self.wrong(condition.place, message);
                }
                (Some(Meaning::Attribute), ConditionKind::Facts { .. }) => {
                    let message = format!("`{variable}` is an attribute's value: it can only be compared");
                    return self.wrong(condition.place, message);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The names that are replaced, in order.
    fn replacement<'p>(&self, nodes: &'p [NewNode]) -> Result<Vec<&'p Named>, PatternError> {
        let mut made: HashSet<&str> = HashSet::new();
        let mut replaced: Vec<&Named> = Vec::new();
        for node in nodes {
            self.new_value(&node.value, &made)?;
            for target in &node.targets {
                match self.meanings.get(&target.name) {
                    Some(Meaning::Defined) => replaced.push(target),
                    Some(_) => {
                        let message = format!(
                            "`{}` comes from outside of the pattern and cannot be replaced; replace what a statement \
                             defines",
                            target.name
                        );
                        return self.wrong(target.place, message);
                    }
                    None => {}
                }
                if !made.insert(&target.name) {
                    return self.wrong(target.place, format!("`{}` is replaced twice", target.name));
                }
            }
        }
        match nodes.first().and_then(|node| node.targets.first()) {
            Some(target) if replaced.is_empty() => {
                let message = format!("nothing of what the pattern found is replaced; {}", self.list());
                self.wrong(target.place, message)
            }
            _ => Ok(replaced),
        }
    }

    /// Operands are tensors that are there, attributes are captured.
    fn new_value(&self, value: &NewValue, made: &HashSet<&str>) -> Result<(), PatternError> {
        let tensors = match value {
            NewValue::Tensor(tensor) => std::slice::from_ref(tensor),
            NewValue::Call { operands, .. } => operands,
        };
        let is_tensor = |named: &Named| {
            let meaning = self.meanings.get(&named.name);
            made.contains(named.name.as_str()) || matches!(meaning, Some(Meaning::Defined | Meaning::Free))
        };
        if let Some(unknown) = tensors.iter().find(|named| !is_tensor(named)) {
            let message = format!("`{}` is no tensor that the pattern found; {}", unknown.name, self.list());
            return self.wrong(unknown.place, message);
        }
        let NewValue::Call { attributes, .. } = value else { return Ok(()) };
        for (_, value) in attributes {
            if let NewAttribute::Variable { variable, .. } = value
                && !self.meanings.contains_key(&variable.name)
            {
                let message =
                    format!("`{}` is nothing that the pattern captures; {}", variable.name, self.list());
                return self.wrong(variable.place, message);
            }
        }
        Ok(())
    }
}

fn meanings(
    source: &Source<'_>,
    statements: &[Statement],
) -> Result<BTreeMap<String, Meaning>, PatternError> {
    let mut names = BTreeMap::new();
    for target in statements.iter().flat_map(|statement| &statement.targets) {
        if names.insert(target.name.clone(), Meaning::Defined).is_some() {
            return Err(source.error(target.place, format!("`{}` is defined twice", target.name)));
        }
    }
    for statement in statements {
        if let (
            [_, second, ..],
            Expression::Any | Expression::Variable(_) | Expression::Literal(_) | Expression::Either(_),
        ) = (&statement.targets[..], &statement.expression)
        {
            return Err(source
                .error(second.place, "several results come from one node only, as in `a, b = Split(x)`"));
        }
        let mut failed = None;
        statement.expression.visit(&mut |expression| match expression {
            Expression::Variable(named) => {
                if *names.entry(named.name.clone()).or_insert(Meaning::Free) == Meaning::Attribute {
                    failed = Some((
                        named.place,
                        format!("`{}` is an attribute's value, not a tensor", named.name),
                    ));
                }
            }
            Expression::Call(call) => {
                if call.optional && call.operands.is_empty() {
                    let message = "a node that may be missing needs an operand to stand in its place";
                    failed = Some((call.place, message.to_owned()));
                }
                if call.optional && statement.targets.len() > 1 {
                    let message = "a node that may be missing has one result only";
                    failed = Some((call.place, message.to_owned()));
                }
                for (_, attribute) in &call.attributes {
                    let AttributePattern::Capture(named) = attribute else { continue };
                    if *names.entry(named.name.clone()).or_insert(Meaning::Attribute) != Meaning::Attribute {
                        failed = Some((
                            named.place,
                            format!("`{}` is a tensor, not an attribute's value", named.name),
                        ));
                    }
                }
            }
            Expression::Any | Expression::Literal(_) | Expression::Either(_) => {}
        });
        if let Some((place, message)) = failed {
            return Err(source.error(place, message));
        }
    }
    Ok(names)
}

/// The statements that a statement leads to.
fn reached(pattern: &Pattern, from: usize) -> Vec<usize> {
    let mut found = Vec::new();
    let Some(statement) = pattern.statements.get(from) else { return found };
    statement.expression.visit(&mut |expression| {
        if let Expression::Variable(named) = expression {
            found.extend(pattern.definition(&named.name).map(|(at, _)| at));
        }
    });
    found
}

/// A statement must not be about its own result.
fn circle(source: &Source<'_>, pattern: &Pattern, statement: &Statement) -> Result<(), PatternError> {
    let Some(target) = statement.targets.first() else { return Ok(()) };
    let Some((start, _)) = pattern.definition(&target.name) else { return Ok(()) };
    let mut open = reached(pattern, start);
    let mut seen = HashSet::new();
    while let Some(at) = open.pop() {
        if at == start {
            return Err(source.error(target.place, format!("`{}` is made from itself", target.name)));
        }
        if seen.insert(at) {
            open.extend(reached(pattern, at));
        }
    }
    Ok(())
}

/// Every statement must have to do with what is found.
fn connected(source: &Source<'_>, pattern: &Pattern, roots: &[usize]) -> Result<(), PatternError> {
    let mut seen: HashSet<usize> = HashSet::new();
    let mut open = roots.to_vec();
    while let Some(at) = open.pop() {
        if seen.insert(at) {
            open.extend(reached(pattern, at));
        }
    }
    let lost = pattern.statements.iter().enumerate().find(|(at, _)| !seen.contains(at));
    match lost.and_then(|(_, statement)| statement.targets.first()) {
        None => Ok(()),
        Some(target) => Err(source.error(
            target.place,
            format!("`{}` leads to nothing: the pattern's result is not made from it", target.name),
        )),
    }
}
