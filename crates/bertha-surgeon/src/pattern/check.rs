//! Whether the names of a pattern make sense.

use std::collections::{BTreeMap, HashSet};

use super::ast::{
    AttributePattern, ConditionKind, Expression, Named, NewAttribute, NewValue, Operand, Pattern, Statement,
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
    let wrong = |place: Place, message: String| Err(source.error(place, message));
    if pattern.statements.is_empty() {
        return wrong(start, "the pattern has no statement: expected one such as `y = Add(a, b)`".into());
    }
    let names = meanings(source, &pattern.statements)?;
    for statement in &pattern.statements {
        circle(source, &pattern, statement)?;
    }
    let known = || {
        let names: Vec<_> = names.keys().map(|name| format!("`{name}`")).collect();
        format!("the names of the pattern are {}", names.join(", "))
    };
    for condition in &pattern.conditions {
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
            match (names.get(variable), &condition.kind) {
                (None, _) => {
                    return wrong(
                        condition.place,
                        format!(
                            "the condition is about `{variable}`, which the pattern does not define; {}",
                            known()
                        ),
                    );
                }
                (Some(Meaning::Attribute), ConditionKind::Facts { .. }) => {
                    return wrong(
                        condition.place,
                        format!("`{variable}` is an attribute's value: it can only be compared"),
                    );
                }
                _ => {}
            }
        }
    }
    let mut made: HashSet<&str> = HashSet::new();
    let mut replaced: Vec<&Named> = Vec::new();
    for node in &pattern.replacement {
        let is_tensor = |named: &Named| {
            made.contains(named.name.as_str())
                || matches!(names.get(&named.name), Some(Meaning::Defined | Meaning::Free))
        };
        let tensors = match &node.value {
            NewValue::Tensor(tensor) => std::slice::from_ref(tensor),
            NewValue::Call { operands, .. } => operands,
        };
        if let Some(unknown) = tensors.iter().find(|named| !is_tensor(named)) {
            return wrong(
                unknown.place,
                format!("`{}` is no tensor that the pattern found; {}", unknown.name, known()),
            );
        }
        if let NewValue::Call { attributes, .. } = &node.value {
            for (_, value) in attributes {
                if let NewAttribute::Variable { variable, .. } = value
                    && !names.contains_key(&variable.name)
                {
                    return wrong(
                        variable.place,
                        format!("`{}` is nothing that the pattern captures; {}", variable.name, known()),
                    );
                }
            }
        }
        for target in &node.targets {
            match names.get(&target.name) {
                Some(Meaning::Defined) => replaced.push(target),
                Some(_) => {
                    return wrong(
                        target.place,
                        format!(
                            "`{}` comes from outside of the pattern and cannot be replaced; replace what a statement \
                             defines",
                            target.name
                        ),
                    );
                }
                None => {}
            }
            if !made.insert(&target.name) {
                return wrong(target.place, format!("`{}` is replaced twice", target.name));
            }
        }
    }
    if let (Some(node), true) = (pattern.replacement.first(), replaced.is_empty()) {
        let place = node.targets.first().map_or(start, |target| target.place);
        return wrong(place, format!("nothing of what the pattern found is replaced; {}", known()));
    }
    let mut roots: Vec<usize> =
        replaced.iter().filter_map(|target| pattern.definition(&target.name)).map(|(at, _)| at).collect();
    if roots.is_empty() {
        roots = vec![pattern.statements.len() - 1];
    }
    roots.dedup();
    connected(source, &pattern, &mut roots)?;
    pattern.roots = roots;
    Ok(pattern)
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
fn connected(source: &Source<'_>, pattern: &Pattern, roots: &mut [usize]) -> Result<(), PatternError> {
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
