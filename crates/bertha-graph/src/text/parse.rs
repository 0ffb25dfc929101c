//! Text to graph.

use crate::error::GraphError;
use crate::graph::{Graph, NodeId, TensorId};
use crate::op::Op;
use crate::plugin::PluginSet;
use crate::renaming::Renaming;
use crate::shape::TensorType;
use crate::tensor::TensorData;

use super::attributes::{self, Attributes};
use super::cursor::Cursor;
use super::{MAX_DEPTH, ParseError, literal, operation};

/// Gives the contents of a constant that the text only names.
pub type Resolver<'a> = dyn FnMut(&str, &TensorType) -> Option<TensorData> + 'a;

type Parsed<T> = Result<T, ParseError>;

/// Reads a graph. `resolve` is asked for the contents of each constant that is written as `@name`, with that name and
/// the declared type.
///
/// An error says in which line and column what was expected. The graph is typed by the rules, so it cannot be
/// inconsistent; types that the text gives must agree with them.
pub fn parse(text: &str, resolve: &mut Resolver<'_>) -> Result<Graph, ParseError> {
    parse_with(text, &PluginSet::new(), resolve)
}

/// [`parse`] for a graph that may use any of `plugins`.
pub fn parse_with(text: &str, plugins: &PluginSet, resolve: &mut Resolver<'_>) -> Result<Graph, ParseError> {
    let mut parser = Parser { cursor: Cursor::new(text), plugins, resolve };
    let graph = parser.graph(MAX_DEPTH)?;
    match parser.cursor.peek() {
        None => Ok(graph),
        Some(_) => Err(parser.cursor.expected("the end of the text")),
    }
}

struct Parser<'t, 'r, 'f> {
    cursor: Cursor<'t>,
    plugins: &'r PluginSet,
    resolve: &'r mut Resolver<'f>,
}

/// A result on the left of `=`: its name and, where it is given, its type.
type Declared = Option<(String, Option<TensorType>)>;

impl Parser<'_, '_, '_> {
    fn graph(&mut self, depth: usize) -> Parsed<Graph> {
        if depth == 0 {
            let position = self.cursor.position();
            let message = format!("expected at most {MAX_DEPTH} branches within one another");
            return Err(self.cursor.error_at(position, message));
        }
        if !self.cursor.eat_word("graph") {
            return Err(self.cursor.expected("`graph`"));
        }
        let mut graph = Graph::new(self.cursor.name("the name of the graph")?);
        let mut renaming = Renaming::default();
        self.cursor.expect("{")?;
        while !self.cursor.eat("}") {
            match self.cursor.peek_word() {
                "input" => self.input(&mut graph, &mut renaming)?,
                "const" => self.constant(&mut graph)?,
                "output" => self.output(&mut graph)?,
                _ => self.node(&mut graph, &mut renaming, depth)?,
            }
        }
        Ok(graph)
    }

    fn input(&mut self, graph: &mut Graph, renaming: &mut Renaming) -> Parsed<()> {
        self.cursor.eat_word("input");
        let position = self.cursor.position();
        let name = self.cursor.tensor_name()?;
        self.cursor.expect(":")?;
        let ty = self.cursor.tensor_type()?;
        renaming.matches(&ty, &ty);
        let added = graph.add_input(name, ty);
        self.at(position, added).map(drop)
    }

    fn constant(&mut self, graph: &mut Graph) -> Parsed<()> {
        self.cursor.eat_word("const");
        let position = self.cursor.position();
        let name = self.cursor.tensor_name()?;
        self.cursor.expect(":")?;
        let type_position = self.cursor.position();
        let ty = self.cursor.tensor_type()?;
        let Some(shape) = ty.shape.as_const() else {
            let message = format!("expected the sizes of a constant to be numbers, found {}", ty.shape);
            return Err(self.cursor.error_at(type_position, message));
        };
        self.cursor.expect("=")?;
        let data = match self.cursor.peek() {
            Some('@') => self.resolved(&ty)?,
            Some('[') => attributes::parse_elements(&mut self.cursor, ty.dtype, shape, ("[", "]"))?,
            _ => self.scalar(&ty, shape)?,
        };
        let added = graph.add_constant(name, data);
        self.at(position, added).map(drop)
    }

    /// `@name`.
    fn resolved(&mut self, ty: &TensorType) -> Parsed<TensorData> {
        self.cursor.expect("@")?;
        let position = self.cursor.position();
        let name = self.cursor.name("the name of a constant")?;
        match (self.resolve)(&name, ty) {
            Some(data) if data.ty() == *ty => Ok(data),
            Some(data) => {
                let message = format!("expected `{name}` to be {ty}, found {}", data.ty());
                Err(self.cursor.error_at(position, message))
            }
            None => {
                Err(self.cursor.error_at(position, format!("the contents of `{name}` ({ty}) are missing")))
            }
        }
    }

    /// The one element of a scalar.
    fn scalar(&mut self, ty: &TensorType, shape: Vec<usize>) -> Parsed<TensorData> {
        let position = self.cursor.position();
        if !shape.is_empty() {
            return Err(self.cursor.expected("`[` or `@`"));
        }
        let mut bytes = Vec::new();
        let text = self.cursor.number()?;
        literal::push_element(ty.dtype, text, &mut bytes)
            .and_then(|()| literal::tensor(ty.dtype, shape, bytes))
            .map_err(|why| self.cursor.error_at(position, why))
    }

    fn output(&mut self, graph: &mut Graph) -> Parsed<()> {
        self.cursor.eat_word("output");
        let position = self.cursor.position();
        let name = self.cursor.name("the name of an output")?;
        self.cursor.expect("=")?;
        let tensor = self.tensor(graph)?;
        let added = graph.add_output(name, tensor);
        self.at(position, added)
    }

    /// A tensor that is there already.
    fn tensor(&mut self, graph: &Graph) -> Parsed<TensorId> {
        let position = self.cursor.position();
        let name = self.cursor.tensor_name()?;
        graph
            .find(&name)
            .ok_or_else(|| self.cursor.error_at(position, format!("there is no tensor `{name}` before this")))
    }

    /// `%y: f32[..], _ = op(%x, _) {..} @name from [".."] then graph .. else graph ..`.
    fn node(&mut self, graph: &mut Graph, renaming: &mut Renaming, depth: usize) -> Parsed<()> {
        let position = self.cursor.position();
        let declared = self.results()?;
        let op_position = self.cursor.position();
        let mnemonic = self.cursor.word("an operation")?.to_owned();
        let operands = self.operands(graph)?;
        let attributes = match self.cursor.peek() {
            Some('{') => attributes::parse(&mut self.cursor, MAX_DEPTH)?,
            _ => Attributes::default(),
        };
        let name = match self.cursor.eat("@") {
            true => Some(self.cursor.name("the name of a node")?),
            false => declared.first().and_then(Option::as_ref).map(|(name, _)| name.clone()),
        };
        let Some(name) = name else {
            return Err(self.cursor.expected("`@` and a name, as the first output has none"));
        };
        let sources = if self.cursor.eat_word("from") { self.sources()? } else { Vec::new() };
        let op = match mnemonic.as_str() {
            "if" => self.branches(attributes, op_position, depth)?,
            _ => operation::operation(&mnemonic, attributes, self.plugins)
                .map_err(|why| self.cursor.error_at(op_position, why))?,
        };
        let names: Vec<&str> =
            declared.iter().map(|result| result.as_ref().map_or("", |(name, _)| name)).collect();
        let added = graph.add_node(name, op, &operands, &names);
        let node = self.at(position, added)?;
        graph.set_sources(node, sources);
        self.check_types(graph, node, &declared, renaming, position)
    }

    /// What stands before `=`.
    fn results(&mut self) -> Parsed<Vec<Declared>> {
        let mut results = Vec::new();
        if self.cursor.eat("(") {
            self.cursor.expect(")")?;
            self.cursor.expect("=")?;
            return Ok(results);
        }
        loop {
            results.push(match self.cursor.peek() {
                Some('_') if self.cursor.eat_word("_") => None,
                Some('%') => {
                    let name = self.cursor.tensor_name()?;
                    let ty = if self.cursor.eat(":") { Some(self.cursor.tensor_type()?) } else { None };
                    Some((name, ty))
                }
                _ if results.is_empty() => return Err(self.cursor.expected("a statement or `}`")),
                _ => return Err(self.cursor.expected("`%name` or `_`")),
            });
            if self.cursor.eat("=") {
                return Ok(results);
            }
            if !self.cursor.eat(",") {
                return Err(self.cursor.expected("`,` or `=`"));
            }
        }
    }

    fn operands(&mut self, graph: &Graph) -> Parsed<Vec<Option<TensorId>>> {
        self.cursor.expect("(")?;
        let mut operands = Vec::new();
        while !self.cursor.eat(")") {
            if !operands.is_empty() {
                self.cursor.expect(",")?;
            }
            operands.push(if self.cursor.eat_word("_") { None } else { Some(self.tensor(graph)?) });
        }
        Ok(operands)
    }

    fn sources(&mut self) -> Parsed<Vec<String>> {
        self.cursor.expect("[")?;
        let mut sources = Vec::new();
        while !self.cursor.eat("]") {
            if !sources.is_empty() {
                self.cursor.expect(",")?;
            }
            sources.push(self.cursor.quoted()?);
        }
        Ok(sources)
    }

    fn branches(&mut self, attributes: Attributes, position: usize, depth: usize) -> Parsed<Op> {
        attributes.finish().map_err(|why| self.cursor.error_at(position, format!("if: {why}")))?;
        let mut branch = |word: &str| match self.cursor.eat_word(word) {
            true => self.graph(depth - 1).map(Box::new),
            false => Err(self.cursor.expected(&format!("`{word}` and a branch"))),
        };
        Ok(Op::If { then_branch: branch("then")?, else_branch: branch("else")? })
    }

    /// Compares the types that the text gives with those inferred.
    fn check_types(
        &self,
        graph: &Graph,
        node: NodeId,
        declared: &[Declared],
        renaming: &mut Renaming,
        position: usize,
    ) -> Parsed<()> {
        for (declared, id) in declared.iter().zip(&graph.node(node).outputs) {
            let (Some((name, Some(ty))), Some(id)) = (declared, id) else { continue };
            let inferred = &graph.tensor(*id).ty;
            if !renaming.matches(ty, inferred) {
                let message = format!("`{name}` is said to be {ty}, but its operands make it {inferred}");
                return Err(self.cursor.error_at(position, message));
            }
        }
        Ok(())
    }

    /// Says where an error of the graph comes from.
    fn at<T>(&self, position: usize, result: Result<T, GraphError>) -> Parsed<T> {
        result.map_err(|error| self.cursor.error_at(position, error.to_string()))
    }
}
