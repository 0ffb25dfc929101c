//! Operands and results of a plugin: their dtypes and shapes, in one line.
//!
//! ```text
//! x: T[..., hidden], gamma: T[hidden], beta?: T[hidden] -> y: T[..., hidden]; T = f32 | f16
//! ```
//!
//! An operand is `name: dtype[dims]`, with `?` behind the name when it may be absent. Its dimensions are numbers, names,
//! and at most one run of any number of dimensions, `...` or `...name`. A name stands for the same size wherever it
//! occurs, a run for the same dimensions; the name of an int field stands for the field's value. A dtype is one of
//! Bertha's or a variable, whose choices follow behind `;`.
//!
//! A result's dimensions are polynomials over the names (`2*heads + 1`), runs, and `?` for a size that only the
//! plugin's own rule knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dim::{Dim, is_symbol_name};
use crate::dtype::DType;
use crate::rules;
use crate::shape::TensorType;

/// The longest signature that is read.
const MAX_LENGTH: usize = 4096;

/// What operands a plugin takes and what results it gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// The operands, in order.
    pub inputs: Vec<Operand>,
    /// Names, dtypes and dimensions of the results, in order.
    pub outputs: Vec<(String, Element, Vec<Extent>)>,
    /// Dtype variables with their choices.
    pub variables: Vec<(String, Vec<DType>)>,
}

/// One operand.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// The name, for messages.
    pub name: String,
    /// Whether it may be absent.
    pub optional: bool,
    /// Its dtype.
    pub element: Element,
    /// Its dimensions.
    pub dims: Vec<Pattern>,
}

/// The dtype of an operand or a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Always this one.
    Is(DType),
    /// The variable of this number.
    Variable(usize),
}

/// A dimension of an operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// This size.
    Size(i64),
    /// The same size wherever the name occurs.
    Name(Arc<str>),
    /// Any number of dimensions, the same wherever the name occurs.
    Run(Arc<str>),
}

/// A dimension of a result.
#[derive(Clone, Debug, PartialEq)]
pub enum Extent {
    /// A polynomial over names.
    Size(Dim),
    /// The dimensions of a run.
    Run(Arc<str>),
    /// What the plugin's own rule says.
    Open,
}

/// Dtype and dimensions of a result; `None` for a dimension that only the plugin's own rule tells.
pub type OpenType = (DType, Vec<Option<Dim>>);

/// What the names of a signature stand for at one node.
#[derive(Clone, Debug, Default)]
pub struct Binding {
    /// Sizes by name, the int fields among them.
    pub dims: BTreeMap<Arc<str>, Dim>,
    /// Dimensions by the name of the run.
    pub runs: BTreeMap<Arc<str>, Vec<Dim>>,
    /// The dtype of each variable; `None` for one that only absent operands have.
    pub dtypes: Vec<Option<DType>>,
}

impl Signature {
    /// Reads a signature. `ints` are the names of the int fields.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str, ints: &[&str]) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("the signature is longer than {MAX_LENGTH} bytes"));
        }
        let (operands, variables) = text.split_once(';').unwrap_or((text, ""));
        let (inputs, outputs) =
            operands.split_once("->").ok_or("the signature has no `->` between operands and results")?;
        let variables = parts(variables)?.into_iter().map(variable).collect::<Result<Vec<_>, _>>()?;
        let inputs: Vec<Operand> = parts(inputs)?
            .into_iter()
            .map(|part| operand(part, &variables).map_err(|why| format!("operand `{part}`: {why}")))
            .collect::<Result<_, _>>()?;
        let outputs = parts(outputs)?
            .into_iter()
            .map(|part| result(part, &variables).map_err(|why| format!("result `{part}`: {why}")))
            .collect::<Result<Vec<_>, _>>()?;
        let signature = Signature { inputs, outputs, variables };
        signature.check(ints)?;
        Ok(signature)
    }

    fn check(&self, ints: &[&str]) -> Result<(), String> {
        if self.outputs.is_empty() || self.outputs.len() > rules::MAX_OUTPUTS {
            return Err(format!("{} results; expected 1 to {}", self.outputs.len(), rules::MAX_OUTPUTS));
        }
        let mut names: Vec<&str> = self.inputs.iter().map(|input| input.name.as_str()).collect();
        names.extend(self.outputs.iter().map(|(name, ..)| name.as_str()));
        names.sort_unstable();
        if let Some([twice, _]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("two operands or results are called `{twice}`"));
        }
        // Only operands that are always there tell what a result needs.
        let certain = self.inputs.iter().filter(|input| !input.optional);
        let known: Vec<&Pattern> = certain.clone().flat_map(|input| &input.dims).collect();
        let elements: Vec<Element> = certain.map(|input| input.element).collect();
        for (name, element, dims) in &self.outputs {
            if let Element::Variable(index) = element
                && !elements.contains(element)
            {
                let variable = &self.variables[*index].0;
                return Err(format!(
                    "result `{name}`: no operand that is always there has the dtype {variable}"
                ));
            }
            for extent in dims {
                let unknown = match extent {
                    Extent::Open => None,
                    Extent::Run(run) => (!known.iter().any(|p| matches!(p, Pattern::Run(r) if r == run)))
                        .then_some(run.clone()),
                    Extent::Size(dim) => dim.symbols().into_iter().find(|symbol| {
                        !ints.contains(&&**symbol)
                            && !known.iter().any(|p| matches!(p, Pattern::Name(n) if n == symbol))
                    }),
                };
                if let Some(unknown) = unknown {
                    return Err(format!(
                        "result `{name}`: no operand that is always there has the dimension `{unknown}`"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether the signature can be that of an op that works row by row: the first operand begins with a run, every
    /// result begins with it, and no other operand has it.
    pub(super) fn check_row_wise(&self) -> Result<(), String> {
        let refused = |why: &str| Err(format!("it is said to work row by row, but {why}"));
        let Some(Pattern::Run(run)) = self.inputs.first().and_then(|x| x.dims.first()) else {
            return refused("its first operand begins with no run (`...rows`)");
        };
        let has_run = |operand: &Operand| operand.dims.contains(&Pattern::Run(run.clone()));
        if self.inputs.iter().skip(1).any(has_run) {
            return refused("another operand has rows too");
        }
        let begins_with_it = |dims: &[Extent]| dims.first() == Some(&Extent::Run(run.clone()));
        match self.outputs.iter().find(|(_, _, dims)| !begins_with_it(dims)) {
            None => Ok(()),
            Some((name, ..)) => {
                refused(&format!("its result `{name}` does not begin with the rows of its operand"))
            }
        }
    }

    /// Names of sizes and runs in order of first occurrence in the operands.
    pub fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for pattern in self.inputs.iter().flat_map(|input| &input.dims) {
            if let Pattern::Name(name) | Pattern::Run(name) = pattern
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        }
        names
    }

    /// What the names stand for when the operands have these types. `ints` are the values of the int fields.
    ///
    /// # Errors
    /// Which operand does not fit, what it is and what was expected.
    pub fn bind(&self, ints: &[(&str, i64)], inputs: &[Option<&TensorType>]) -> Result<Binding, String> {
        if inputs.len() > self.inputs.len() {
            return Err(format!("{} operands; expected at most {}", inputs.len(), self.inputs.len()));
        }
        let mut binding = Binding { dtypes: vec![None; self.variables.len()], ..Binding::default() };
        binding.dims.extend(ints.iter().map(|(name, value)| (Arc::from(*name), Dim::from(*value))));
        for (index, operand) in self.inputs.iter().enumerate() {
            match inputs.get(index).copied().flatten() {
                Some(ty) => self
                    .bind_operand(operand, ty, &mut binding)
                    .map_err(|why| format!("operand {index} (`{}`) is {ty}: {why}", operand.name))?,
                None if operand.optional => {}
                None => return Err(format!("operand {index} (`{}`) is missing", operand.name)),
            }
        }
        Ok(binding)
    }

    fn bind_operand(&self, operand: &Operand, ty: &TensorType, binding: &mut Binding) -> Result<(), String> {
        match operand.element {
            Element::Is(dtype) if dtype != ty.dtype => return Err(format!("expected {dtype}")),
            Element::Is(_) => {}
            Element::Variable(index) => {
                let (name, choices) = &self.variables[index];
                if !choices.contains(&ty.dtype) {
                    let choices: Vec<&str> = choices.iter().map(|dtype| dtype.name()).collect();
                    return Err(format!("expected {name} = {}", choices.join(" or ")));
                }
                match binding.dtypes[index] {
                    Some(bound) if bound != ty.dtype => {
                        return Err(format!("expected {bound}, which {name} is at an operand before"));
                    }
                    _ => binding.dtypes[index] = Some(ty.dtype),
                }
            }
        }
        let dims = ty.shape.dims();
        let run = operand.dims.iter().position(|pattern| matches!(pattern, Pattern::Run(_)));
        let fixed = operand.dims.len() - usize::from(run.is_some());
        if dims.len() < fixed || (run.is_none() && dims.len() > fixed) {
            let least = if run.is_some() { "at least " } else { "" };
            return Err(format!("expected {least}{fixed} dimensions"));
        }
        let run_length = dims.len() - fixed;
        let mut rest = dims;
        for pattern in &operand.dims {
            let taken = if matches!(pattern, Pattern::Run(_)) { run_length } else { 1 };
            let (head, tail) = rest.split_at(taken);
            rest = tail;
            binding.meet(pattern, head)?;
        }
        Ok(())
    }

    /// Dtype and dimensions of each result; `None` where only the plugin's own rule knows the size.
    pub fn results(&self, binding: &Binding) -> Result<Vec<OpenType>, String> {
        self.outputs
            .iter()
            .map(|(name, element, extents)| {
                let dtype = match element {
                    Element::Is(dtype) => *dtype,
                    Element::Variable(index) => binding.dtypes[*index]
                        .ok_or_else(|| format!("the dtype of the result `{name}` is not known"))?,
                };
                let mut dims = Vec::new();
                for extent in extents {
                    match extent {
                        Extent::Open => dims.push(None),
                        Extent::Size(dim) => {
                            dims.push(Some(dim.replace(|symbol| binding.dims.get(symbol).cloned())));
                        }
                        Extent::Run(run) => {
                            dims.extend(binding.runs.get(run).into_iter().flatten().cloned().map(Some));
                        }
                    }
                }
                Ok((dtype, dims))
            })
            .collect()
    }
}

impl Binding {
    /// A part of an operand's shape meets its pattern.
    fn meet(&mut self, pattern: &Pattern, dims: &[Dim]) -> Result<(), String> {
        match pattern {
            Pattern::Size(size) => match rules::unify(&Dim::from(*size), &dims[0]) {
                Some(_) => Ok(()),
                None => Err(format!("expected a dimension of {size}, found {}", dims[0])),
            },
            Pattern::Name(name) => {
                let shared = match self.dims.get(name) {
                    None => dims[0].clone(),
                    Some(bound) => rules::unify(bound, &dims[0])
                        .ok_or_else(|| format!("expected `{name}` = {bound}, found {}", dims[0]))?,
                };
                self.dims.insert(name.clone(), shared);
                Ok(())
            }
            Pattern::Run(name) => {
                let shared = match self.runs.get(name) {
                    None => dims.to_vec(),
                    Some(bound) => rules::unify_all(bound, dims).ok_or_else(|| {
                        format!(
                            "expected the dimensions {} of another operand, found {}",
                            crate::Shape(bound.clone()),
                            crate::Shape(dims.to_vec())
                        )
                    })?,
                };
                self.runs.insert(name.clone(), shared);
                Ok(())
            }
        }
    }

    /// The value of a polynomial over names, in which a run is the product of its dimensions.
    pub fn value(&self, polynomial: &Dim) -> Dim {
        polynomial.replace(|symbol| {
            let run =
                || Some(self.runs.get(symbol)?.iter().fold(Dim::from(1), |product, dim| &product * dim));
            self.dims.get(symbol).cloned().or_else(run)
        })
    }
}

/// The parts between commas that are not within brackets.
fn parts(text: &str) -> Result<Vec<&str>, String> {
    let mut parts = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            '[' if !inside => inside = true,
            ']' if inside => inside = false,
            '[' | ']' => return Err(format!("a bracket too many in `{}`", text.trim())),
            ',' if !inside => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(format!("a bracket is not closed in `{}`", text.trim()));
    }
    let last = text[start..].trim();
    if !last.is_empty() || !parts.is_empty() {
        parts.push(last);
    }
    Ok(parts)
}

/// `T = f32 | f16`.
fn variable(part: &str) -> Result<(String, Vec<DType>), String> {
    let (name, choices) =
        part.split_once('=').ok_or_else(|| format!("`{part}` is not of the form `T = f32 | f16`"))?;
    let name = name.trim();
    if !is_symbol_name(name) || name.parse::<DType>().is_ok() {
        return Err(format!("`{name}` is no name for a dtype variable"));
    }
    let choices: Vec<DType> =
        choices.split('|').map(|choice| choice.trim().parse()).collect::<Result<_, _>>()?;
    Ok((name.to_owned(), choices))
}

/// Name, dtype and the text between the brackets of `name: dtype[dims]`.
fn typed<'a>(
    part: &'a str,
    variables: &[(String, Vec<DType>)],
) -> Result<(&'a str, Element, Vec<&'a str>), String> {
    const FORM: &str = "expected the form `name: dtype[dims]`";
    let (name, ty) = part.split_once(':').ok_or(FORM)?;
    let (dtype, dims) = ty.split_once('[').ok_or(FORM)?;
    let dims = dims.trim_end().strip_suffix(']').ok_or(FORM)?;
    let dtype = dtype.trim();
    let element = match variables.iter().position(|(variable, _)| variable == dtype) {
        Some(index) => Element::Variable(index),
        None => Element::Is(dtype.parse().map_err(|_| {
            format!(
                "`{dtype}` is neither a dtype nor a variable; variables are declared as `; T = f32 | f16`"
            )
        })?),
    };
    let dims: Vec<&str> =
        if dims.trim().is_empty() { Vec::new() } else { dims.split(',').map(str::trim).collect() };
    Ok((name.trim(), element, dims))
}

fn named(name: &str) -> Result<String, String> {
    if is_symbol_name(name) { Ok(name.to_owned()) } else { Err(format!("`{name}` is no name")) }
}

/// The name of a run, `...` when it has none.
fn run(dim: &str) -> Option<Result<Arc<str>, String>> {
    let name = dim.strip_prefix("...")?.trim();
    Some(if name.is_empty() { Ok(Arc::from("...")) } else { named(name).map(Arc::from) })
}

fn operand(part: &str, variables: &[(String, Vec<DType>)]) -> Result<Operand, String> {
    let (name, element, dims) = typed(part, variables)?;
    let (name, optional) = match name.strip_suffix('?') {
        Some(name) => (name.trim(), true),
        None => (name, false),
    };
    let dims = dims
        .into_iter()
        .map(|dim| match (run(dim), dim.parse::<i64>()) {
            (Some(name), _) => name.map(Pattern::Run),
            (None, Ok(size)) if size >= 0 => Ok(Pattern::Size(size)),
            (None, Ok(size)) => Err(format!("the dimension {size} is below 0")),
            (None, Err(_)) => named(dim).map(|name| Pattern::Name(Arc::from(name))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if dims.iter().filter(|dim| matches!(dim, Pattern::Run(_))).count() > 1 {
        return Err("an operand has at most one run (`...`)".into());
    }
    Ok(Operand { name: named(name)?, optional, element, dims })
}

fn result(part: &str, variables: &[(String, Vec<DType>)]) -> Result<(String, Element, Vec<Extent>), String> {
    let (name, element, dims) = typed(part, variables)?;
    let dims = dims
        .into_iter()
        .map(|dim| match (run(dim), dim) {
            (Some(name), _) => name.map(Extent::Run),
            (None, "?") => Ok(Extent::Open),
            (None, dim) => dim.parse::<Dim>().map(Extent::Size),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok((named(name)?, element, dims))
}
