//! From words to patterns.

use super::ast::{
    AttributePattern, Call, Comparison, Condition, ConditionKind, Conversion, Expression, Fact, Named,
    NewAttribute, NewNode, NewValue, OpName, Operand, Pattern, Statement,
};
use super::check;
use super::token::{Kind, Place, Source, Token, tokens};
use crate::error::PatternError;
use crate::literal::Literal;

type Result<T> = std::result::Result<T, PatternError>;

/// Expressions within one another; real ones take a handful.
const MAX_DEPTH: usize = 64;

/// Statements of a pattern; real ones take a dozen.
const MAX_STATEMENTS: usize = 256;

/// Operators and alternatives of a pattern: matching goes as deep as they may lie behind one another.
const MAX_EXPRESSIONS: usize = 256;

/// See [`super::parse_patterns`].
pub(super) fn patterns(source: Source<'_>) -> Result<Vec<Pattern>> {
    let mut parser = Parser { source, tokens: tokens(source)?, at: 0, depth: 0, expressions: 0 };
    let mut patterns: Vec<Pattern> = Vec::new();
    parser.skip_separators();
    while !parser.is_end() {
        let place = parser.place();
        let pattern = parser.pattern()?;
        if patterns.iter().any(|other| other.name == pattern.name) {
            return Err(source.error(place, format!("there is a pattern `{}` already", pattern.name)));
        }
        patterns.push(pattern);
        parser.skip_separators();
    }
    if patterns.is_empty() {
        return Err(source.error(parser.place(), "expected a pattern, found nothing"));
    }
    Ok(patterns)
}

/// See [`super::parse_literal`].
pub(super) fn literal(source: Source<'_>) -> Result<Literal> {
    let mut parser = Parser { source, tokens: tokens(source)?, at: 0, depth: 0, expressions: 0 };
    let literal = parser.literal("a number, a text in quotes, or a list in brackets")?;
    if !parser.is_end() {
        return Err(parser.expected("the end"));
    }
    Ok(literal)
}

struct Parser<'t> {
    source: Source<'t>,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Operators and alternatives of the pattern so far.
    expressions: usize,
}

const SECTIONS: [&str; 3] = ["pattern", "where", "replace"];

impl Parser<'_> {
    // The words.

    fn kind_at(&self, ahead: usize) -> &Kind {
        self.tokens.get(self.at + ahead).map_or(&Kind::End, |token| &token.kind)
    }

    fn kind(&self) -> &Kind {
        self.kind_at(0)
    }

    fn place(&self) -> Place {
        let last = self.tokens.last().map(|token| token.place).unwrap_or_default();
        self.tokens.get(self.at).map_or(last, |token| token.place)
    }

    fn is_end(&self) -> bool {
        *self.kind() == Kind::End
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.kind(), Kind::Sign(found) if *found == sign)
    }

    fn takes(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.kind(), Kind::Name(name) if name == word)
    }

    /// Whether a section starts here. A name of a section followed by `=` is a variable.
    fn is_section(&self) -> bool {
        SECTIONS.iter().any(|word| self.is_word(word)) && !matches!(self.kind_at(1), Kind::Sign("="))
    }

    fn expected(&self, what: &str) -> PatternError {
        self.source.error(self.place(), format!("expected {what}, found {}", self.kind().describe()))
    }

    fn expect(&mut self, sign: &str, what: &str) -> Result<()> {
        if self.takes(sign) { Ok(()) } else { Err(self.expected(what)) }
    }

    fn name(&mut self, what: &str) -> Result<Named> {
        let place = self.place();
        match self.kind() {
            Kind::Name(name) if name != "_" => {
                let name = name.clone();
                self.at += 1;
                Ok(Named { name, place })
            }
            _ => Err(self.expected(what)),
        }
    }

    fn skip_separators(&mut self) {
        while *self.kind() == Kind::Newline || self.is_sign(";") {
            self.at += 1;
        }
    }

    fn skip_newlines(&mut self) {
        while *self.kind() == Kind::Newline {
            self.at += 1;
        }
    }

    fn end_of_statement(&mut self, what: &str) -> Result<()> {
        if *self.kind() == Kind::Newline || self.is_sign(";") || self.is_end() || self.is_section() {
            self.skip_separators();
            return Ok(());
        }
        Err(self.expected(what))
    }

    // The sections.

    fn pattern(&mut self) -> Result<Pattern> {
        let start = self.place();
        self.expressions = 0;
        let mut name = self.source.origin.to_owned();
        if self.is_word("pattern") && self.is_section() {
            self.at += 1;
            name = self.name("the pattern's name")?.name;
            self.expect(":", "`:` after the pattern's name")?;
            self.skip_separators();
        }
        let mut statements = Vec::new();
        while !self.is_end() && !self.is_section() {
            if statements.len() == MAX_STATEMENTS {
                let message = format!("a pattern has at most {MAX_STATEMENTS} statements");
                return Err(self.source.error(self.place(), message));
            }
            statements.push(self.statement()?);
        }
        let mut conditions = Vec::new();
        if self.is_word("where") {
            self.at += 1;
            self.takes(":");
            self.skip_separators();
            while !self.is_end() && !self.is_section() {
                conditions.push(self.condition()?);
            }
        }
        let mut replacement = Vec::new();
        if self.is_word("replace") {
            self.at += 1;
            self.takes(":");
            self.skip_separators();
            while !self.is_end() && !self.is_section() {
                replacement.push(self.new_node()?);
            }
            if replacement.is_empty() {
                return Err(self.expected("what takes the place, such as `y = Op(x)`"));
            }
        }
        if self.is_word("where") {
            return Err(self.source.error(self.place(), "`where` stands once, before `replace`"));
        }
        if self.is_word("replace") {
            return Err(self.source.error(self.place(), "`replace` stands once, at the end of a pattern"));
        }
        check::pattern(
            &self.source,
            start,
            Pattern { name, statements, conditions, replacement, roots: Vec::new() },
        )
    }

    fn targets(&mut self) -> Result<Vec<Named>> {
        let mut targets = vec![self.name("a name to define, as in `y = Op(x)`")?];
        while self.takes(",") {
            targets.push(self.name("another name to define")?);
        }
        self.expect("=", "`=` after the name")?;
        self.skip_newlines();
        Ok(targets)
    }

    fn statement(&mut self) -> Result<Statement> {
        let targets = self.targets()?;
        let expression = self.expression()?;
        self.end_of_statement("an operator, `|`, or the end of the statement")?;
        Ok(Statement { targets, expression })
    }

    // Expressions.

    fn expression(&mut self) -> Result<Expression> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.source.error(self.place(), "expressions are nested too deeply"));
        }
        let mut alternatives = vec![self.alternative()?];
        loop {
            // An alternative may stand on a line of its own that starts with `|`.
            let newlines = (0..).take_while(|ahead| *self.kind_at(*ahead) == Kind::Newline).count();
            if *self.kind_at(newlines) != Kind::Sign("|") {
                break;
            }
            self.at += newlines;
            self.count_expression(self.place())?;
            self.at += 1;
            self.skip_newlines();
            alternatives.push(self.alternative()?);
        }
        self.depth -= 1;
        Ok(match alternatives.len() {
            1 => alternatives.remove(0),
            _ => Expression::Either(alternatives),
        })
    }

    fn alternative(&mut self) -> Result<Expression> {
        if self.takes("(") {
            let inner = self.expression()?;
            self.expect(")", "`)`")?;
            return Ok(inner);
        }
        if matches!(self.kind(), Kind::Literal(_) | Kind::Sign("[")) {
            return Ok(Expression::Literal(self.literal("a number or a list")?));
        }
        let place = self.place();
        let calls = matches!(self.kind_at(1), Kind::Sign("(" | "::" | "?"));
        match self.kind() {
            Kind::Name(name) if name == "_" && !calls => {
                self.at += 1;
                Ok(Expression::Any)
            }
            Kind::Name(_) if calls => Ok(Expression::Call(self.call(place)?)),
            Kind::Name(_) => Ok(Expression::Variable(self.name("a tensor")?)),
            _ => Err(self.expected("an operator such as `Add(a, b)`, a name, a number, or `_`")),
        }
    }

    fn op_name(&mut self) -> Result<OpName> {
        let word = |parser: &mut Self| match parser.kind() {
            Kind::Name(name) => {
                let name = name.clone();
                parser.at += 1;
                Ok(name)
            }
            _ => Err(parser.expected("an operator")),
        };
        let first = word(self)?;
        let (domain, op_type) = if self.takes("::") { (first, word(self)?) } else { (String::new(), first) };
        Ok(OpName { domain, op_type: (op_type != "_").then_some(op_type) })
    }

    fn count_expression(&mut self, place: Place) -> Result<()> {
        self.expressions += 1;
        if self.expressions > MAX_EXPRESSIONS {
            let message = format!("a pattern has at most {MAX_EXPRESSIONS} operators and alternatives");
            return Err(self.source.error(place, message));
        }
        Ok(())
    }

    fn call(&mut self, place: Place) -> Result<Call> {
        self.count_expression(place)?;
        let op = self.op_name()?;
        let optional = self.takes("?");
        self.expect("(", "`(` and the operands")?;
        let mut call =
            Call { op, optional, operands: Vec::new(), open: false, attributes: Vec::new(), place };
        while !self.takes(")") {
            if self.takes("...") {
                call.open = true;
            } else if matches!((self.kind(), self.kind_at(1)), (Kind::Name(_), Kind::Sign("="))) {
                let name = self.name("an attribute")?;
                self.at += 1;
                call.attributes.push((name, self.attribute_pattern()?));
            } else if !call.attributes.is_empty() || call.open {
                return Err(self.expected("an attribute as `name=value`, or `)`: operands come first"));
            } else {
                call.operands.push(self.expression()?);
            }
            if !self.takes(",") && !self.is_sign(")") {
                return Err(self.expected("`,` or `)`"));
            }
        }
        Ok(call)
    }

    fn attribute_pattern(&mut self) -> Result<AttributePattern> {
        match self.kind() {
            Kind::Name(name) if name == "_" => {
                self.at += 1;
                Ok(AttributePattern::Any)
            }
            Kind::Name(_) => Ok(AttributePattern::Capture(self.name("a name")?)),
            _ => Ok(AttributePattern::Equals(self.literal("a value, a name that captures it, or `_`")?)),
        }
    }

    fn literal(&mut self, what: &str) -> Result<Literal> {
        if self.takes("[") {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(self.source.error(self.place(), "lists are nested too deeply"));
            }
            let mut items = Vec::new();
            while !self.takes("]") {
                items.push(self.literal("a value or `]`")?);
                if !self.takes(",") && !self.is_sign("]") {
                    return Err(self.expected("`,` or `]`"));
                }
            }
            self.depth -= 1;
            return Ok(Literal::List(items));
        }
        match self.kind() {
            Kind::Literal(literal) => {
                let literal = literal.clone();
                self.at += 1;
                Ok(literal)
            }
            _ => Err(self.expected(what)),
        }
    }

    // Conditions.

    fn condition(&mut self) -> Result<Condition> {
        let (start, place) = (self.at, self.place());
        let kind = if matches!((self.kind(), self.kind_at(1)), (Kind::Name(_), Kind::Sign(":"))) {
            let variable = self.name("a name")?.name;
            self.at += 1;
            let mut facts = vec![self.fact()?];
            while self.takes(",") {
                facts.push(self.fact()?);
            }
            ConditionKind::Facts { variable, facts }
        } else if matches!(self.kind_at(1), Kind::Name(word) if word == "in") {
            let variable = self.name("a name")?.name;
            self.at += 1;
            match self.literal("a list of values in brackets")? {
                Literal::List(values) => ConditionKind::OneOf { variable, values },
                _ => return Err(self.expected("a list of values in brackets")),
            }
        } else {
            let left = self.operand()?;
            let comparison = self.comparison()?;
            ConditionKind::Compare { left, comparison, right: self.operand()? }
        };
        let words = self.tokens.get(start..self.at).unwrap_or_default();
        let text = words.iter().map(|token| token.kind.describe().replace('`', "")).collect::<Vec<_>>();
        let text = text.join(" ").replace(" :", ":").replace(" ,", ",").replace("[ ", "[").replace(" ]", "]");
        self.end_of_statement("`,`, `;`, or the end of the condition")?;
        Ok(Condition { kind, text, place })
    }

    fn operand(&mut self) -> Result<Operand> {
        if matches!(self.kind(), Kind::Name(_)) {
            return Ok(Operand::Variable(self.name("a name or a value")?.name));
        }
        Ok(Operand::Literal(self.literal("a condition such as `gamma: constant` or `epsilon < 1e-3`")?))
    }

    fn comparison(&mut self) -> Result<Comparison> {
        let comparison = match self.kind() {
            Kind::Sign("==") => Comparison::Equal,
            Kind::Sign("!=") => Comparison::Unequal,
            Kind::Sign("<") => Comparison::Less,
            Kind::Sign("<=") => Comparison::LessOrEqual,
            Kind::Sign(">") => Comparison::Greater,
            Kind::Sign(">=") => Comparison::GreaterOrEqual,
            _ => return Err(self.expected("`:` and a fact, `in`, or a comparison such as `==` or `<`")),
        };
        self.at += 1;
        Ok(comparison)
    }

    fn fact(&mut self) -> Result<Fact> {
        const FACTS: &str = "`constant`, `scalar`, `rank N`, `shape [...]`, an element type such as `float32`, `shared`, or `not`";
        const TYPES: [&str; 14] = [
            "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint64",
            "uint32", "uint16", "uint8", "bool", "string",
        ];
        if self.is_word("not") {
            self.at += 1;
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(self.source.error(self.place(), "`not` is nested too deeply"));
            }
            let fact = self.fact()?;
            self.depth -= 1;
            return Ok(Fact::Not(Box::new(fact)));
        }
        let Kind::Name(word) = self.kind().clone() else { return Err(self.expected(FACTS)) };
        let fact = match word.as_str() {
            "constant" => Fact::Constant,
            "scalar" => Fact::Scalar,
            "shared" => Fact::Shared,
            "rank" => {
                self.at += 1;
                match self.literal("a number of dimensions")? {
                    Literal::Int(rank) if (0..=64).contains(&rank) => return Ok(Fact::Rank(rank as usize)),
                    _ => {
                        self.at -= 1;
                        return Err(self.expected("a number of dimensions"));
                    }
                }
            }
            "shape" => {
                self.at += 1;
                return Ok(Fact::Shape(self.lengths()?));
            }
            word if TYPES.contains(&word) => Fact::Type(word.to_owned()),
            _ => return Err(self.expected(FACTS)),
        };
        self.at += 1;
        Ok(fact)
    }

    fn lengths(&mut self) -> Result<Vec<Option<i64>>> {
        self.expect("[", "lengths in brackets, such as `[_, 256]`")?;
        let mut lengths = Vec::new();
        while !self.takes("]") {
            if self.is_word("_") {
                self.at += 1;
                lengths.push(None);
            } else if let Kind::Literal(Literal::Int(length)) = *self.kind() {
                self.at += 1;
                lengths.push(Some(length));
            } else {
                return Err(self.expected("a length or `_`"));
            }
            if !self.takes(",") && !self.is_sign("]") {
                return Err(self.expected("`,` or `]`"));
            }
        }
        Ok(lengths)
    }

    // What takes the place.

    fn new_node(&mut self) -> Result<NewNode> {
        let targets = self.targets()?;
        if matches!(self.kind(), Kind::Name(_)) && !matches!(self.kind_at(1), Kind::Sign("(" | "::" | "@")) {
            let value = NewValue::Tensor(self.name("a tensor")?);
            self.end_of_statement("`(` and operands, or the end of the statement")?;
            return Ok(NewNode { targets, value });
        }
        let place = self.place();
        let op = self.op_name()?;
        if op.op_type.is_none() {
            return Err(self.source.error(place, "expected an operator, found `_`: a new node needs one"));
        }
        let mut version = 1;
        if self.takes("@") {
            match self.literal("the version of the operator set")? {
                Literal::Int(number) if number > 0 => version = number,
                _ => {
                    self.at -= 1;
                    return Err(self.expected("a version of 1 or more"));
                }
            }
        }
        self.expect("(", "`(` and the operands")?;
        let mut operands = Vec::new();
        while !self.takes(")") {
            operands.push(self.name("a name: operands of new nodes are tensors that the pattern found")?);
            if !self.takes(",") && !self.is_sign(")") {
                return Err(self.expected("`,` or `)`"));
            }
        }
        let attributes = if self.takes("{") { self.new_attributes()? } else { Vec::new() };
        self.end_of_statement("attributes in `{`, or the end of the statement")?;
        Ok(NewNode { targets, value: NewValue::Call { op, version, operands, attributes } })
    }

    fn new_attributes(&mut self) -> Result<Vec<(String, NewAttribute)>> {
        let mut attributes: Vec<(String, NewAttribute)> = Vec::new();
        while !self.takes("}") {
            let name = self.name("an attribute as `name = value`, or `}`")?;
            if attributes.iter().any(|(other, _)| *other == name.name) {
                return Err(self
                    .source
                    .error(name.place, format!("attribute `{}` is given twice", name.name)));
            }
            self.expect("=", "`=` after the attribute's name")?;
            attributes.push((name.name, self.new_attribute()?));
            if !self.takes(",") && !self.takes(";") && !self.is_sign("}") {
                return Err(self.expected("`,` or `}`"));
            }
        }
        Ok(attributes)
    }

    fn new_attribute(&mut self) -> Result<NewAttribute> {
        if !matches!(self.kind(), Kind::Name(_)) {
            return Ok(NewAttribute::Literal(self.literal("a value or a captured name")?));
        }
        let variable = self.name("a captured name")?;
        if !self.is_sign("(") {
            return Ok(NewAttribute::Variable { variable, conversion: None });
        }
        let conversion = match variable.name.as_str() {
            "float" => Conversion::Float,
            "int" => Conversion::Int,
            "floats" => Conversion::Floats,
            "ints" => Conversion::Ints,
            "tensor" => Conversion::Tensor,
            other => {
                let message = format!(
                    "expected float(...), int(...), floats(...), ints(...) or tensor(...), found `{other}`"
                );
                return Err(self.source.error(variable.place, message));
            }
        };
        self.at += 1;
        let variable = self.name("a captured name")?;
        self.expect(")", "`)`")?;
        Ok(NewAttribute::Variable { variable, conversion: Some(conversion) })
    }
}
