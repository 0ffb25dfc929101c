//! Access to an op's operands, with the error messages that all rules share.

use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::RuleError;

use super::Fact;

/// Integer operands such as axes are read up to this many elements.
const MAX_INTS: usize = 4096;

/// A set of element types and what messages call it.
pub(super) struct Types {
    name: &'static str,
    dtypes: &'static [DType],
}

impl Types {
    pub(super) const ANY: Types = Types { name: "any type", dtypes: &DType::ALL };
    pub(super) const BOOL: Types = Types { name: "bool", dtypes: &[DType::Bool] };
    pub(super) const INDEX: Types = Types { name: "i64 or i32", dtypes: &[DType::I64, DType::I32] };
    pub(super) const I32: Types = Types { name: "i32", dtypes: &[DType::I32] };
    pub(super) const F32: Types = Types { name: "f32", dtypes: &[DType::F32] };
    pub(super) const BYTE: Types = Types { name: "i8 or u8", dtypes: &[DType::I8, DType::U8] };
    pub(super) const FLOAT: Types = Types {
        name: "a float type (f32, f16, bf16 or f64)",
        dtypes: &[DType::F32, DType::F16, DType::BF16, DType::F64],
    };
    pub(super) const FLOAT_OR_I32: Types = Types {
        name: "i32 or a float type",
        dtypes: &[DType::F32, DType::F16, DType::BF16, DType::F64, DType::I32],
    };
    pub(super) const BOOL_OR_FLOAT: Types = Types {
        name: "bool or a float type",
        dtypes: &[DType::Bool, DType::F32, DType::F16, DType::BF16, DType::F64],
    };
    pub(super) const SIGNED: Types = Types {
        name: "a float or signed integer type",
        dtypes: &[
            DType::F32,
            DType::F16,
            DType::BF16,
            DType::F64,
            DType::I64,
            DType::I32,
            DType::I16,
            DType::I8,
        ],
    };
    pub(super) const NUMBER: Types = Types {
        name: "a float or integer type",
        dtypes: &[
            DType::F64,
            DType::F32,
            DType::F16,
            DType::BF16,
            DType::I64,
            DType::I32,
            DType::I16,
            DType::I8,
            DType::U64,
            DType::U32,
            DType::U16,
            DType::U8,
        ],
    };
    pub(super) const QUANTIZED: Types =
        Types { name: "i8, u8, i16 or u16", dtypes: &[DType::I8, DType::U8, DType::I16, DType::U16] };
    pub(super) const DEQUANTIZABLE: Types = Types {
        name: "i8, u8, i16, u16 or i32",
        dtypes: &[DType::I8, DType::U8, DType::I16, DType::U16, DType::I32],
    };

    pub(super) fn contains(&self, dtype: DType) -> bool {
        self.dtypes.contains(&dtype)
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}

/// The operands of one node, with their names from the op's signature.
#[derive(Clone, Copy)]
pub(super) struct Args<'a> {
    facts: &'a [Option<Fact>],
    signature: &'static [&'static str],
}

impl<'a> Args<'a> {
    /// Checks the number of operands against `signature`, where `name?` is optional and a last `name..` stands for
    /// one or more.
    pub(super) fn new(
        facts: &'a [Option<Fact>],
        signature: &'static [&'static str],
    ) -> Result<Self, RuleError> {
        let variadic = signature.last().is_some_and(|name| name.ends_with(".."));
        if !variadic && facts.len() > signature.len() {
            let most = signature.len();
            let list = signature.join(", ");
            return Err(RuleError(format!("takes at most {most} inputs ({list}), found {}", facts.len())));
        }
        let args = Args { facts, signature };
        for index in 0..signature.len().max(facts.len()) {
            if !args.is_optional(index) {
                args.get(index)?;
            }
        }
        Ok(args)
    }

    fn is_optional(&self, index: usize) -> bool {
        self.signature.get(index).is_some_and(|name| name.ends_with('?'))
    }

    /// How many operands were given, absent ones in between included.
    pub(super) fn len(&self) -> usize {
        self.facts.len()
    }

    /// ``input 1 `shape` ``.
    pub(super) fn name(&self, index: usize) -> String {
        let name = self.signature.get(index).or(self.signature.last()).copied().unwrap_or("x");
        format!("input {index} `{}`", name.trim_end_matches(['?', '.']))
    }

    /// A required operand.
    pub(super) fn get(&self, index: usize) -> Result<&'a Fact, RuleError> {
        self.opt(index).ok_or_else(|| RuleError(format!("{} is missing", self.name(index))))
    }

    /// An operand that may be absent.
    pub(super) fn opt(&self, index: usize) -> Option<&'a Fact> {
        self.facts.get(index).and_then(Option::as_ref)
    }

    /// "expected ..., found f32[2] for input 1 `x`".
    pub(super) fn error(&self, index: usize, expected: impl std::fmt::Display) -> RuleError {
        match self.opt(index) {
            Some(fact) => {
                RuleError(format!("expected {expected}, found {} for {}", fact.ty, self.name(index)))
            }
            None => RuleError(format!("expected {expected} for {}, which is missing", self.name(index))),
        }
    }

    /// A required operand of one of these types.
    pub(super) fn typed(&self, index: usize, types: &Types) -> Result<&'a Fact, RuleError> {
        let fact = self.get(index)?;
        match types.contains(fact.dtype()) {
            true => Ok(fact),
            false => Err(self.error(index, types.name())),
        }
    }

    /// An operand that may be absent, but if not must be of one of these types.
    pub(super) fn opt_typed(&self, index: usize, types: &Types) -> Result<Option<&'a Fact>, RuleError> {
        match self.opt(index) {
            Some(_) => self.typed(index, types).map(Some),
            None => Ok(None),
        }
    }

    /// A required operand of the type of operand `like`.
    pub(super) fn like(&self, index: usize, like: usize) -> Result<&'a Fact, RuleError> {
        let (fact, dtype) = (self.get(index)?, self.get(like)?.dtype());
        match fact.dtype() == dtype {
            true => Ok(fact),
            false => Err(self.error(index, format_args!("{dtype} as {} has", self.name(like)))),
        }
    }

    /// An operand that may be absent, but if not must be of the type of operand `like`.
    pub(super) fn opt_like(&self, index: usize, like: usize) -> Result<Option<&'a Fact>, RuleError> {
        match self.opt(index) {
            Some(_) => self.like(index, like).map(Some),
            None => Ok(None),
        }
    }

    /// Requires a rank.
    pub(super) fn rank(&self, index: usize, rank: usize) -> Result<&'a Fact, RuleError> {
        let fact = self.get(index)?;
        match fact.rank() == rank {
            true => Ok(fact),
            false => Err(self.error(index, format_args!("{rank} dimensions"))),
        }
    }

    /// Requires a single element, as far as the shape is known: a scalar, or all dimensions 1.
    pub(super) fn single(&self, index: usize) -> Result<(), RuleError> {
        let several = |dim: &Dim| dim.as_const().is_some_and(|size| size != 1);
        match self.get(index)?.dims().iter().any(several) {
            true => Err(self.error(index, "a single element")),
            false => Ok(()),
        }
    }

    /// Requires a list of integers (a scalar counts as a list of one) and gives its length, when that is known.
    pub(super) fn list_len(&self, index: usize) -> Result<Option<usize>, RuleError> {
        let fact = self.typed(index, &Types::INDEX)?;
        match fact.dims() {
            [] => Ok(Some(1)),
            [len] => Ok(len.as_const().and_then(|len| usize::try_from(len).ok())),
            _ => Err(self.error(index, "a vector")),
        }
    }

    /// The elements of a list of integers as far as they are known; of `None`, only the length may be.
    pub(super) fn list(&self, index: usize) -> Result<Option<Vec<Dim>>, RuleError> {
        self.list_len(index)?;
        let fact = self.get(index)?;
        if fact.value.is_some() {
            return Ok(fact.value.clone());
        }
        let Some(data) = &fact.constant else { return Ok(None) };
        if data.len() > MAX_INTS {
            return Err(self.error(index, format_args!("at most {MAX_INTS} elements")));
        }
        Ok(data.to_i64().map(|values| values.into_iter().map(Dim::from).collect()))
    }

    /// The elements of a list of integers, when all are known numbers.
    pub(super) fn ints(&self, index: usize) -> Result<Option<Vec<i64>>, RuleError> {
        Ok(self.list(index)?.and_then(|dims| dims.iter().map(Dim::as_const).collect()))
    }

    /// The length of a list of integers that is given, but whose elements only the data decide. `None` when it is absent
    /// or its elements are known; an error when not even its length is.
    pub(super) fn unknown_list(&self, index: usize) -> Result<Option<usize>, RuleError> {
        if self.opt(index).is_none() || self.ints(index)?.is_some() {
            return Ok(None);
        }
        match self.list_len(index)? {
            Some(len) => Ok(Some(len)),
            None => Err(self.error(index, "a length that is known before the graph runs")),
        }
    }

    /// The axes that an optional operand lists, as positions within `rank`, each once; `None` when it is absent.
    /// Axes that are not known before the graph runs are an error.
    pub(super) fn axes(&self, index: usize, rank: usize) -> Result<Option<Vec<usize>>, RuleError> {
        if self.opt(index).is_none() {
            return Ok(None);
        }
        let Some(axes) = self.ints(index)? else {
            return Err(self.error(index, "axes that are known before the graph runs"));
        };
        let mut positions = Vec::with_capacity(axes.len().min(rank));
        for axis in axes {
            let position = normalize_axis(axis, rank)
                .map_err(|RuleError(why)| RuleError(format!("{why} in {}", self.name(index))))?;
            if positions.contains(&position) {
                return Err(RuleError(format!("axis {axis} occurs twice in {}", self.name(index))));
            }
            positions.push(position);
        }
        Ok(Some(positions))
    }
}

/// The position that `axis` names among `rank` dimensions; negative ones count from the end.
pub(super) fn normalize_axis(axis: i64, rank: usize) -> Result<usize, RuleError> {
    let signed_rank = rank as i64;
    let position = if axis < 0 { axis.checked_add(signed_rank) } else { Some(axis) };
    match position {
        Some(position) if (0..signed_rank).contains(&position) => Ok(position as usize),
        _ if rank == 0 => Err(RuleError(format!("axis {axis} is out of range: a scalar has no axes"))),
        _ => {
            let last = signed_rank - 1;
            Err(RuleError(format!(
                "axis {axis} is out of range: expected -{rank}..={last} for {rank} dimensions"
            )))
        }
    }
}
