//! Random operands that fit a signature.

use std::collections::BTreeMap;
use std::sync::Arc;

use bertha_graph::plugin::{Element, FieldKind, FieldSpec, Operand, Pattern, Signature};
use bertha_graph::{DType, SplitMix64, TensorType, byte_count};

use super::{Options, measure, tensor_type};
use crate::{F64Tensor, Field, PluginDef, PluginOp};

/// Sizes that a named dimension takes: edges of vectors, and sizes of models.
const SIZES: [usize; 16] = [1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 100, 129, 256, 768, 1000];
/// Sizes of the dimensions of a run.
const RUN_SIZES: [usize; 5] = [1, 2, 3, 7, 16];
/// Elements of an operand, beyond which sizes are drawn again, and how often at most: sizes that are given may be large.
const MAX_ELEMENTS: usize = 1 << 16;
const MAX_DRAWS: usize = 100;
/// Bytes of one tensor in f64, as the reference gets it, beyond which no case is made.
const MAX_BYTES: usize = 1 << 30;
/// Choices of dtypes beyond which a plugin is not tested.
const MAX_CHOICES: usize = 256;

/// One operand with its contents, as the kernel gets it and in f64.
#[derive(Clone)]
pub(super) struct Input {
    pub(super) ty: TensorType,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
    pub(super) exact: F64Tensor,
}

/// An op and its operands.
pub(super) struct Case {
    pub(super) op: PluginOp,
    pub(super) inputs: Vec<Option<Input>>,
    pub(super) round: usize,
}

impl Case {
    /// How many bytes behind an aligned address a tensor begins: every other case is aligned to elements only.
    pub(super) fn offset(&self, dtype: DType) -> usize {
        if self.round.is_multiple_of(2) { 0 } else { dtype.size() }
    }

    /// The operands' types and the fields.
    pub(super) fn describe(&self) -> String {
        let inputs: Vec<String> = self
            .inputs
            .iter()
            .map(|input| input.as_ref().map_or("absent".into(), |input| input.ty.to_string()))
            .collect();
        let fields: Vec<String> =
            self.op.fields().iter().map(|(name, field)| format!("{name} {field}")).collect();
        let fields = if fields.is_empty() { String::new() } else { format!(" with {}", fields.join(", ")) };
        format!("{}{fields}", inputs.join(", "))
    }
}

/// Refuses a tensor that is too large to test, before memory is asked for.
///
/// # Errors
/// The tensor (`what`, such as "operand `x`") and its type.
pub(super) fn check_size(what: impl std::fmt::Display, ty: &TensorType) -> Result<(), String> {
    let shape = ty.shape.as_const().ok_or_else(|| format!("{what} ({ty}) has no known shape"))?;
    if byte_count(DType::F64, &shape).is_ok_and(|bytes| bytes <= MAX_BYTES) {
        return Ok(());
    }
    Err(format!(
        "{what} ({ty}) is too large to test: in f64, as the reference has it, it takes more than {MAX_BYTES} bytes; \
         choose smaller sizes with --size, or with --field where a field is the size"
    ))
}

/// Every way to choose the dtypes of a signature's variables.
///
/// # Errors
/// When there are too many.
pub(super) fn dtype_choices(signature: &Signature) -> Result<Vec<Vec<DType>>, String> {
    let counts = signature.variables.iter().map(|(_, dtypes)| dtypes.len());
    let count = counts.fold(1usize, usize::saturating_mul);
    if count > MAX_CHOICES {
        return Err(format!(
            "its dtype variables have {count} choices together, and no more than {MAX_CHOICES} are tested; declare \
             fewer variables, or fewer dtypes for each"
        ));
    }
    Ok(signature.variables.iter().fold(vec![Vec::new()], |choices, (_, dtypes)| {
        let with = |choice: &Vec<DType>, dtype: &DType| [choice.as_slice(), &[*dtype]].concat();
        choices.iter().flat_map(|choice| dtypes.iter().map(move |dtype| with(choice, dtype))).collect()
    }))
}

/// `T = f32`.
pub(super) fn describe_choice(signature: &Signature, choice: &[DType]) -> String {
    let pairs = signature.variables.iter().zip(choice);
    pairs.map(|((name, _), dtype)| format!("{name} = {dtype}")).collect::<Vec<_>>().join(", ")
}

/// Makes cases for one choice of dtypes.
pub(super) struct Cases<'a> {
    def: &'a Arc<PluginDef>,
    choice: &'a [DType],
    options: &'a Options,
    random: SplitMix64,
}

impl<'a> Cases<'a> {
    pub(super) fn new(def: &'a Arc<PluginDef>, choice: &'a [DType], options: &'a Options) -> Self {
        Cases { def, choice, options, random: SplitMix64::new(options.seed) }
    }

    /// The case of this round.
    ///
    /// # Errors
    /// When a field's value cannot be guessed, or an operand would be too large.
    pub(super) fn next(&mut self, round: usize) -> Result<Case, String> {
        let mut fields = self.options.fields.clone();
        for spec in &self.def.declaration().fields {
            if !fields.contains_key(&spec.name) {
                fields.insert(spec.name.clone(), self.field(spec)?);
            }
        }
        let op = self.def.op(fields)?;
        let signature = self.def.signature();
        let shapes = self.moderate_shapes(signature, &op);
        let style = Style::ALL[round % Style::ALL.len()];
        let inputs = signature
            .inputs
            .iter()
            .zip(shapes)
            .map(|(operand, (present, shape))| present.then(|| self.input(operand, shape, style)).transpose())
            .collect::<Result<_, _>>()?;
        Ok(Case { op, inputs, round })
    }

    /// A case with every operand, plain numbers, and the default of each field that is not given.
    ///
    /// # Errors
    /// When the fields do not fit or an operand would be too large.
    pub(super) fn complete(&mut self) -> Result<Case, String> {
        let op = self.def.op(self.options.fields.clone())?;
        let signature = self.def.signature();
        let shapes = self.moderate_shapes(signature, &op);
        let inputs = signature.inputs.iter().zip(shapes);
        let inputs = inputs
            .map(|(operand, (_, shape))| self.input(operand, shape, Style::Normal).map(Some))
            .collect::<Result<_, _>>()?;
        Ok(Case { op, inputs, round: 0 })
    }

    /// [`shapes`](Self::shapes) that make small operands, if such can be drawn.
    fn moderate_shapes(&mut self, signature: &Signature, op: &PluginOp) -> Vec<(bool, Vec<usize>)> {
        // Bytes are as many as elements.
        let is_small =
            |shape: &[usize]| byte_count(DType::U8, shape).is_ok_and(|count| count <= MAX_ELEMENTS);
        let mut shapes = self.shapes(signature, op);
        for _ in 0..MAX_DRAWS {
            if shapes.iter().all(|(_, shape)| is_small(shape)) {
                break;
            }
            shapes = self.shapes(signature, op);
        }
        shapes
    }

    /// For each operand whether it is there, and its shape.
    fn shapes(&mut self, signature: &Signature, op: &PluginOp) -> Vec<(bool, Vec<usize>)> {
        let mut sizes: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let mut runs: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        for (name, field) in op.fields().iter() {
            if let Field::Int(value) = field {
                sizes.insert(name.into(), usize::try_from(*value).unwrap_or(0));
            }
        }
        let mut shapes = Vec::new();
        for operand in &signature.inputs {
            // Drawn for absent operands too, so that what follows does not depend on it.
            let present = !operand.optional || self.random.below(3) > 0;
            let mut shape = Vec::new();
            for pattern in &operand.dims {
                match pattern {
                    Pattern::Size(size) => shape.push(usize::try_from(*size).unwrap_or(0)),
                    Pattern::Name(name) => {
                        let given = self.options.sizes.get(&**name).copied();
                        let drawn = given.unwrap_or(*pick(&mut self.random, &SIZES));
                        shape.push(*sizes.entry(name.clone()).or_insert(drawn));
                    }
                    Pattern::Run(name) => {
                        let run = match self.options.sizes.get(&**name) {
                            Some(size) => vec![*size],
                            None => self.run(),
                        };
                        shape.extend(runs.entry(name.clone()).or_insert(run).iter());
                    }
                }
            }
            shapes.push((present, shape));
        }
        shapes
    }

    /// Up to three dimensions, now and then an empty one.
    fn run(&mut self) -> Vec<usize> {
        let rank = self.random.below(4);
        let mut run: Vec<usize> = (0..rank).map(|_| *pick(&mut self.random, &RUN_SIZES)).collect();
        if rank > 0 && self.random.below(12) == 0 {
            run[0] = 0;
        }
        run
    }

    fn field(&mut self, spec: &FieldSpec) -> Result<Field, String> {
        let bounded = spec.min.is_finite() && spec.max.is_finite();
        if let Some(default) = &spec.default
            && self.random.below(2) == 0
        {
            return Ok(default.clone());
        }
        Ok(match (spec.kind, &spec.default) {
            // From 0 on: magnitudes matter more than places between.
            (FieldKind::Float, _) if spec.min == 0.0 && spec.max.is_finite() => {
                Field::Float(spec.max * 10f64.powf(-12.0 * self.random.unit()))
            }
            (FieldKind::Float, _) if bounded => {
                Field::Float(spec.min + (spec.max - spec.min) * self.random.unit())
            }
            (FieldKind::Int, _) if bounded && spec.max - spec.min < 65536.0 => {
                let range = (spec.max - spec.min) as usize + 1;
                Field::Int(spec.min as i64 + self.random.below(range) as i64)
            }
            (_, Some(default)) => default.clone(),
            (kind, None) => {
                let name = &spec.name;
                return Err(format!(
                    "field `{name}` ({kind}) has neither a default nor bounds to draw from; give its value with \
                     --field {name}=VALUE"
                ));
            }
        })
    }

    fn input(&mut self, operand: &Operand, shape: Vec<usize>, style: Style) -> Result<Input, String> {
        let dtype = match operand.element {
            Element::Is(dtype) => dtype,
            Element::Variable(index) => self.choice[index],
        };
        let ty = tensor_type(dtype, &shape);
        check_size(format_args!("operand `{}`", operand.name), &ty)?;
        let length = byte_count(dtype, &shape).map_err(|error| error.to_string())?;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            // Whether integers are indices into another operand is not known, and these are good ones.
            let value =
                if dtype.is_float() { style.value(&mut self.random) } else { self.random.below(2) as f64 };
            measure::encode(value, dtype, &mut bytes);
        }
        // The reference sees what the kernel sees: values as the dtype has them.
        let values = measure::decode(&bytes, dtype);
        let exact = F64Tensor { shape: shape.clone(), values };
        Ok(Input { ty, shape, bytes, exact })
    }
}

/// How the values of a case are distributed.
#[derive(Clone, Copy)]
enum Style {
    Normal,
    /// Far from zero: differences of large squares would show.
    Offset,
    Small,
    Large,
    Zero,
}

impl Style {
    const ALL: [Style; 5] = [Style::Normal, Style::Offset, Style::Small, Style::Large, Style::Zero];

    fn value(self, random: &mut SplitMix64) -> f64 {
        match self {
            Style::Normal => normal(random),
            Style::Offset => 30.0 + normal(random),
            Style::Small => 1e-2 * normal(random),
            Style::Large => 1e2 * normal(random),
            Style::Zero => 0.0,
        }
    }
}

/// Mean 0, variance 1 (Box and Muller).
fn normal(random: &mut SplitMix64) -> f64 {
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    radius * (2.0 * std::f64::consts::PI * random.unit()).cos()
}

fn pick<'t, T>(random: &mut SplitMix64, from: &'t [T]) -> &'t T {
    &from[random.below(from.len())]
}
