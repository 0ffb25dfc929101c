//! Whole models: reading, writing, operator sets.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bertha_import::onnx::proto::{DataLocation, OperatorSetIdProto, TensorProto, ValueInfoProto};
use bertha_import::onnx::{ExternalFiles, OnnxFile, write_file};
use bytes::Bytes;
use prost::Message;

use crate::error::{Result, SurgeryError};
use crate::graph::Graph;
use crate::names;
use crate::node::Node;
use crate::tensor::Value;
use crate::wire::{self, Field};

const GRAPH: u32 = 7;
const OPSET: u32 = 8;
const FUNCTION: u32 = 25;
const IR_VERSION: u32 = 1;
const PRODUCER_NAME: u32 = 2;
const PRODUCER_VERSION: u32 = 3;
const TRAINING_INFO: u32 = 20;

/// An ONNX model in parts that can be changed. Whatever nobody changes is written as it was read, byte for byte: unknown
/// fields, unknown operators and the form in which numbers are stored.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    externals: ExternalFiles,
    /// The computation.
    pub graph: Graph,
    /// Functions that nodes may call by domain and name.
    pub functions: Vec<Function>,
    opsets: Vec<OperatorSet>,
    rest: Vec<Field>,
    layout: Vec<u32>,
}

/// An operator set that the model uses.
#[derive(Clone, Debug)]
struct OperatorSet {
    domain: String,
    version: i64,
    field: Field,
}

impl OperatorSet {
    fn read(field: Field) -> Result<OperatorSet, String> {
        let set = OperatorSetIdProto::decode(field.value())
            .map_err(|error| format!("an operator set is damaged ({error})"))?;
        Ok(OperatorSet { domain: set.domain, version: set.version, field })
    }
}

impl Model {
    /// Opens a model. The tensors stay in the mapped file.
    ///
    /// # Errors
    /// [`SurgeryError::Import`] and [`SurgeryError::Format`] when the file cannot be read or is no ONNX model.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        // Reading it the ordinary way finds what is damaged, nested too deeply or too large, in all messages.
        Model::from_file(OnnxFile::open(path)?)
    }

    /// A model in memory. `path` is what messages call it; it can have no external data.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(path: impl AsRef<Path>, bytes: Bytes) -> Result<Model> {
        Model::from_file(OnnxFile::from_bytes(path, bytes)?)
    }

    fn from_file(file: OnnxFile) -> Result<Model> {
        let path = file.path().to_owned();
        let bytes = file.bytes().clone();
        let parts =
            Parts::read(&bytes).map_err(|reason| SurgeryError::Format { path: path.clone(), reason })?;
        let Parts { graph, functions, opsets, rest, layout } = parts;
        Ok(Model { path, externals: file.externals, graph, functions, opsets, rest, layout })
    }

    /// The file it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its external tensors are.
    pub fn externals(&self) -> &ExternalFiles {
        &self.externals
    }

    /// The operator sets: domain (empty for ONNX's own) and version.
    pub fn opsets(&self) -> impl Iterator<Item = (&str, i64)> {
        self.opsets.iter().map(|set| (set.domain.as_str(), set.version))
    }

    /// Version of an operator set.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        self.opsets().find(|(found, _)| names::same_domain(found, domain)).map(|(_, version)| version)
    }

    /// Makes sure that the operator sets name this domain. The version of a set that is there already stays.
    pub fn use_domain(&mut self, domain: &str, version: i64) {
        if self.opset(domain).is_none() {
            let set = OperatorSetIdProto { domain: domain.to_owned(), version };
            let field = Field::message(OPSET, &set);
            self.opsets.push(OperatorSet { domain: set.domain, version, field });
        }
    }

    /// Forgets operator sets whose domain no node uses; ONNX's own stays.
    pub(crate) fn drop_unused_opsets(&mut self) {
        let used = self.used_domains();
        self.opsets.retain(|set| names::is_default_domain(&set.domain) || used.contains(&set.domain));
    }

    /// Forgets operator sets whose domain nodes used before (see [`Model::used_domains`]) and none uses any more. Parts for
    /// training have nodes that are not looked at, so beside them all sets stay.
    pub(crate) fn drop_emptied_opsets(&mut self, before: &BTreeSet<String>) {
        if self.has_training_info() {
            return;
        }
        let used = self.used_domains();
        let emptied = |domain: &String| before.contains(domain) && !used.contains(domain);
        self.opsets.retain(|set| names::is_default_domain(&set.domain) || !emptied(&set.domain));
    }

    /// The domains of all nodes and functions.
    pub(crate) fn used_domains(&self) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        let mut note = |nodes: &[Node]| used.extend(nodes.iter().map(|node| node.domain.clone()));
        self.graph.for_each(&mut |graph| note(&graph.nodes));
        for function in &self.functions {
            note(&function.nodes);
            function.nodes.iter().flat_map(Node::graphs).for_each(|graph| {
                graph.for_each(&mut |graph| note(&graph.nodes));
            });
        }
        used.extend(self.functions.iter().map(|function| function.domain.clone()));
        used
    }

    fn integer(&self, number: u32) -> i64 {
        self.rest.iter().rev().find(|field| field.number == number).map_or(0, |field| field.integer() as i64)
    }

    fn text(&self, number: u32) -> String {
        let field = self.rest.iter().rev().find(|field| field.number == number);
        field.and_then(|field| field.text().ok()).unwrap_or_default()
    }

    /// Version of the file format.
    pub fn ir_version(&self) -> i64 {
        self.integer(IR_VERSION)
    }

    /// The tool that wrote the file, and its version.
    pub fn producer(&self) -> String {
        format!("{} {}", self.text(PRODUCER_NAME), self.text(PRODUCER_VERSION)).trim().to_owned()
    }

    /// Whether there are training parts, which refer to tensors of the graph by name.
    pub fn has_training_info(&self) -> bool {
        self.rest.iter().any(|field| field.number == TRAINING_INFO)
    }

    /// The parts of the file in order; only headers of messages are new.
    fn chunks(&self) -> Vec<Bytes> {
        // The graph stands as one empty field, in whose place its fields are written: the weights are copied once only.
        let mut fields = vec![Field::bytes(GRAPH, &[])];
        fields.extend(self.opsets.iter().map(|set| set.field.clone()));
        fields.extend(self.functions.iter().map(|function| function.field(FUNCTION)));
        fields.extend(self.rest.iter().cloned());
        let mut chunks = Vec::new();
        for field in wire::arrange(fields, &self.layout) {
            if field.number == GRAPH {
                let parts = self.graph.fields();
                let length = parts.iter().map(|part| part.raw().len()).sum();
                chunks.push(wire::message_header(GRAPH, length));
                chunks.extend(parts.iter().map(|part| part.raw().clone()));
            } else {
                chunks.push(field.raw().clone());
            }
        }
        chunks
    }

    /// How many bytes the file has.
    pub fn encoded_len(&self) -> u64 {
        self.chunks().iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from(self.chunks().concat())
    }

    /// Writes the model, and beside it copies of the external files it refers to, unless it stays in its folder. The file is
    /// complete or not there; it may be the one that was read.
    ///
    /// # Errors
    /// [`SurgeryError::Import`] from the system; [`SurgeryError::Request`] when an external file would replace another.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<u64> {
        let path = path.as_ref();
        let chunks = self.chunks();
        let length: usize = chunks.iter().map(Bytes::len).sum();
        if i32::try_from(length).is_err() {
            return Err(SurgeryError::request(format!(
                "the model would have {length} bytes, more than the 2 GiB a protobuf message may have"
            )));
        }
        // Last before the file itself: external data may be gigabytes, for nothing if the model cannot be written.
        self.copy_externals(path)?;
        write_file(path, chunks.iter().map(|chunk| &chunk[..]))?;
        Ok(length as u64)
    }

    fn copy_externals(&self, path: &Path) -> Result<()> {
        let mut wanted = BTreeSet::new();
        for tensor in self.external_tensors() {
            let location = tensor.external_data.iter().find(|entry| entry.key == "location");
            let location = location.map(|entry| entry.value.clone()).unwrap_or_default();
            wanted.insert((location, self.externals.locate(&tensor)?));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        for (location, source) in wanted {
            let target = folder.join(&location);
            let problem = |action: &str, error: std::io::Error| {
                SurgeryError::request(format!("cannot {action} `{}`: {error}", target.display()))
            };
            if fs::canonicalize(&target).is_ok_and(|target| target == source) {
                continue;
            }
            if target.exists() {
                if same_content(&source, &target).map_err(|error| problem("compare", error))? {
                    continue;
                }
                return Err(SurgeryError::request(format!(
                    "the model refers to the external file `{location}`, but `{}` is another file: choose another \
                     folder for the output",
                    target.display()
                )));
            }
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(|error| problem("make the folder of", error))?;
            }
            fs::copy(&source, &target).map_err(|error| problem("write", error))?;
        }
        Ok(())
    }

    /// All tensors that lie in other files.
    pub fn external_tensors(&self) -> Vec<TensorProto> {
        let mut found = Vec::new();
        let mut note = |tensor: TensorProto| {
            if tensor.data_location == DataLocation::External as i32 {
                found.push(tensor);
            }
        };
        tensors_in_graph(&self.graph, &mut note);
        self.functions.iter().for_each(|function| tensors_in_nodes(&function.nodes, &mut note));
        found
    }
}

fn tensors_in_graph(graph: &Graph, note: &mut dyn FnMut(TensorProto)) {
    graph.initializers.iter().for_each(|tensor| note(tensor.proto()));
    tensors_in_nodes(&graph.nodes, note);
}

fn tensors_in_nodes(nodes: &[Node], note: &mut dyn FnMut(TensorProto)) {
    for node in nodes {
        for attribute in &node.attributes {
            let value = attribute.value();
            value.t.into_iter().chain(value.tensors).for_each(&mut *note);
        }
        node.graphs().for_each(|graph| tensors_in_graph(graph, note));
    }
}

fn same_content(a: &Path, b: &Path) -> std::io::Result<bool> {
    use std::io::Read;
    let (a, b) = (fs::File::open(a)?, fs::File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (std::io::BufReader::new(a).bytes(), std::io::BufReader::new(b).bytes());
    loop {
        match (a.next().transpose()?, b.next().transpose()?) {
            (None, None) => return Ok(true),
            (left, right) if left != right => return Ok(false),
            _ => {}
        }
    }
}

/// A model taken apart.
struct Parts {
    graph: Graph,
    functions: Vec<Function>,
    opsets: Vec<OperatorSet>,
    rest: Vec<Field>,
    layout: Vec<u32>,
}

impl Parts {
    fn read(bytes: &Bytes) -> Result<Parts, String> {
        let fields = wire::fields(bytes)?;
        let layout = wire::layout(&fields);
        let (mut graph, mut functions, mut opsets, mut rest) = (None, Vec::new(), Vec::new(), Vec::new());
        for field in fields {
            match field.number {
                GRAPH if graph.is_some() => return Err("it has two graphs".into()),
                GRAPH => graph = Some(Graph::read(&field.value())?),
                FUNCTION => functions.push(Function::read(&field.value())?),
                OPSET => opsets.push(OperatorSet::read(field)?),
                _ => rest.push(field),
            }
        }
        let graph = graph.ok_or("it has no graph")?;
        Ok(Parts { graph, functions, opsets, rest, layout })
    }
}

/// Nodes that stand for an operator. Fields that are not here are kept as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Function {
    /// The operator's name.
    pub name: String,
    /// The operator's domain.
    pub domain: String,
    /// Names of its inputs inside of the body.
    pub inputs: Vec<String>,
    /// Names of its outputs inside of the body.
    pub outputs: Vec<String>,
    /// The body.
    pub nodes: Vec<Node>,
    rest: Vec<Field>,
    layout: Vec<u32>,
}

const FUNCTION_NAME: u32 = 1;
const FUNCTION_INPUT: u32 = 4;
const FUNCTION_OUTPUT: u32 = 5;
const FUNCTION_NODE: u32 = 7;
const FUNCTION_OPSET: u32 = 9;
const FUNCTION_DOMAIN: u32 = 10;

impl Function {
    fn read(message: &Bytes) -> Result<Function, String> {
        let fields = wire::fields(message)?;
        let mut function = Function { layout: wire::layout(&fields), ..Function::default() };
        for field in fields {
            match field.number {
                FUNCTION_NAME => function.name = field.text()?,
                FUNCTION_INPUT => function.inputs.push(field.text()?),
                FUNCTION_OUTPUT => function.outputs.push(field.text()?),
                FUNCTION_DOMAIN => function.domain = field.text()?,
                FUNCTION_NODE => function.nodes.push(
                    Node::read(&field.value())
                        .map_err(|reason| format!("in function `{}`: {reason}", function.name))?,
                ),
                _ => function.rest.push(field),
            }
        }
        Ok(function)
    }

    fn field(&self, number: u32) -> Field {
        let mut fields: Vec<_> = wire::text(FUNCTION_NAME, &self.name, &self.layout).into_iter().collect();
        fields.extend(self.inputs.iter().map(|name| Field::bytes(FUNCTION_INPUT, name.as_bytes())));
        fields.extend(self.outputs.iter().map(|name| Field::bytes(FUNCTION_OUTPUT, name.as_bytes())));
        fields.extend(self.nodes.iter().map(|node| node.field(FUNCTION_NODE)));
        fields.extend(wire::text(FUNCTION_DOMAIN, &self.domain, &self.layout));
        fields.extend(self.rest.iter().cloned());
        Field::bytes(number, &wire::concat(&wire::arrange(fields, &self.layout)))
    }

    /// The body as a graph, whose values have no types.
    pub(crate) fn body(&self) -> Graph {
        let value = |name: &String| Value::new(&ValueInfoProto { name: name.clone(), ..Default::default() });
        Graph {
            nodes: self.nodes.clone(),
            inputs: self.inputs.iter().map(value).collect(),
            outputs: self.outputs.iter().map(value).collect(),
            ..Graph::default()
        }
    }

    /// Version of an operator set of the body.
    pub(crate) fn opset(&self, domain: &str) -> Option<i64> {
        let sets = self.rest.iter().filter(|field| field.number == FUNCTION_OPSET);
        let mut sets = sets.filter_map(|field| OperatorSetIdProto::decode(field.value()).ok());
        sets.find(|set| names::same_domain(&set.domain, domain)).map(|set| set.version)
    }

    /// Makes sure that the operator sets of the body name this domain.
    pub(crate) fn use_domain(&mut self, domain: &str, version: i64) {
        if self.opset(domain).is_none() {
            let set = OperatorSetIdProto { domain: domain.to_owned(), version };
            self.rest.push(Field::message(FUNCTION_OPSET, &set));
        }
    }
}
