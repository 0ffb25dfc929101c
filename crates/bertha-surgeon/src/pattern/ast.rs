//! What a pattern says.

use super::token::Place;
use crate::literal::Literal;

/// A pattern: nodes to look for, what must hold for them, and what takes their place.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// Its name, for reports.
    pub name: String,
    pub(crate) statements: Vec<Statement>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) replacement: Vec<NewNode>,
    /// Statements whose results are found or replaced: matching begins at the first.
    pub(crate) roots: Vec<usize>,
}

impl Pattern {
    /// Whether it says what takes the place of what it finds.
    pub fn replaces(&self) -> bool {
        !self.replacement.is_empty()
    }

    /// The statement that defines a variable, and as which of its results.
    pub(crate) fn definition(&self, variable: &str) -> Option<(usize, usize)> {
        self.statements.iter().enumerate().find_map(|(at, statement)| {
            statement.targets.iter().position(|target| target.name == variable).map(|output| (at, output))
        })
    }

    /// Whether a condition lets a variable be read outside of what is replaced.
    pub(crate) fn may_be_shared(&self, variable: &str) -> bool {
        self.conditions.iter().any(|condition| match &condition.kind {
            ConditionKind::Facts { variable: about, facts } => {
                about == variable && facts.contains(&Fact::Shared)
            }
            ConditionKind::Compare { .. } | ConditionKind::OneOf { .. } => false,
        })
    }
}

/// A name with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) place: Place,
}

/// `y = Add(a, b)`.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) targets: Vec<Named>,
    pub(crate) expression: Expression,
}

/// What a tensor must be.
#[derive(Clone, Debug)]
pub(crate) enum Expression {
    /// Anything: `_`.
    Any,
    /// The same tensor wherever the name occurs.
    Variable(Named),
    /// A constant of this value.
    Literal(Literal),
    /// The result of a node.
    Call(Call),
    /// One of these.
    Either(Vec<Expression>),
}

/// An operator: `Add`, `com.microsoft::Gelu`, or `_` for any.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OpName {
    pub(crate) domain: String,
    /// `None` for any.
    pub(crate) op_type: Option<String>,
}

impl OpName {
    pub(crate) fn describe(&self) -> String {
        match &self.op_type {
            Some(op_type) => crate::names::op(&self.domain, op_type),
            None => "any op".into(),
        }
    }
}

/// A node: its operator, operands and attributes.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) op: OpName,
    /// Without such a node, its first operand stands in its place.
    pub(crate) optional: bool,
    pub(crate) operands: Vec<Expression>,
    /// Whether further operands may follow: `...`.
    pub(crate) open: bool,
    pub(crate) attributes: Vec<(Named, AttributePattern)>,
    pub(crate) place: Place,
}

/// What an attribute must be.
#[derive(Clone, Debug)]
pub(crate) enum AttributePattern {
    /// Of this value.
    Equals(Literal),
    /// Anything, which the variable then stands for.
    Capture(Named),
    /// Anything.
    Any,
}

/// What must hold besides.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(crate) kind: ConditionKind,
    /// As it is written, for reports.
    pub(crate) text: String,
    pub(crate) place: Place,
}

#[derive(Clone, Debug)]
pub(crate) enum ConditionKind {
    /// `gamma: constant, rank 1`.
    Facts { variable: String, facts: Vec<Fact> },
    /// `epsilon < 1e-3`.
    Compare { left: Operand, comparison: Comparison, right: Operand },
    /// `axis in [-1, 2]`.
    OneOf { variable: String, values: Vec<Literal> },
}

/// Something about a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    /// Known without inputs.
    Constant,
    /// Of one element.
    Scalar,
    /// Of so many dimensions.
    Rank(usize),
    /// Of these lengths; `None` is any.
    Shape(Vec<Option<i64>>),
    /// Of this element type, in NumPy's words.
    Type(String),
    /// May be read elsewhere: its node then stays.
    Shared,
    /// The contrary.
    Not(Box<Fact>),
}

/// One side of a comparison.
#[derive(Clone, Debug)]
pub(crate) enum Operand {
    Literal(Literal),
    Variable(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What takes the place: `y = bertha::LayerNorm(x, gamma, beta) { axis = -1 }`.
#[derive(Clone, Debug)]
pub(crate) struct NewNode {
    pub(crate) targets: Vec<Named>,
    pub(crate) value: NewValue,
}

#[derive(Clone, Debug)]
pub(crate) enum NewValue {
    /// A tensor that is there already.
    Tensor(Named),
    /// A new node.
    Call { op: OpName, version: i64, operands: Vec<Named>, attributes: Vec<(String, NewAttribute)> },
}

/// The value of a new node's attribute.
#[derive(Clone, Debug)]
pub(crate) enum NewAttribute {
    Literal(Literal),
    /// What a variable stands for, converted where asked.
    Variable {
        variable: Named,
        conversion: Option<Conversion>,
    },
}

/// How a constant becomes an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conversion {
    Float,
    Int,
    Floats,
    Ints,
    Tensor,
}

impl Expression {
    /// Calls `visit` for every expression in this one.
    pub(crate) fn visit<'e>(&'e self, visit: &mut dyn FnMut(&'e Expression)) {
        visit(self);
        match self {
            Expression::Call(call) => call.operands.iter().for_each(|operand| operand.visit(visit)),
            Expression::Either(alternatives) => alternatives.iter().for_each(|one| one.visit(visit)),
            Expression::Any | Expression::Variable(_) | Expression::Literal(_) => {}
        }
    }
}
