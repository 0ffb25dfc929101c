//! Dense graphs: those that take other inputs than ragged encoders do.
//!
//! Such a graph is lowered anew for each choice of its inputs' shapes, after it was specialised to them. A kernel is the same
//! for every choice, so a plan holds those of a few [`samples`].

use bertha_graph::{DType, Dim, Graph, Shape, TensorId, TensorType};

use super::{Input, LowerError, Storage};

/// What a program of a dense graph has besides steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dense {
    /// The inputs, in the graph's order.
    pub inputs: Vec<GivenInput>,
    /// Nodes that may find an index outside of their operand, by the number that their kernel tells, from 1 on.
    pub faults: Vec<String>,
}

/// An input of a dense graph.
#[derive(Clone, Debug, PartialEq)]
pub struct GivenInput {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub storage: Storage,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Bytes that kernels may read, if those are more than its own.
    pub spare_bytes: usize,
}

impl GivenInput {
    /// Bytes of its elements.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>().saturating_mul(self.storage.bytes())
    }
}

/// Whether a graph takes what ragged encoders do and nothing else.
pub(crate) fn is_ragged(graph: &Graph) -> bool {
    graph.inputs().iter().all(|id| ragged_input(graph, *id).is_some())
}

/// The input of a ragged encoder that a tensor is.
pub(super) fn ragged_input(graph: &Graph, id: TensorId) -> Option<Input> {
    let tensor = graph.tensor(id);
    let known = Input::ALL.into_iter().find(|input| input.name() == tensor.name)?;
    let dim = match known {
        Input::CuSeqlens => Dim::symbol("batch") + 1,
        Input::InputIds | Input::TokenTypeIds | Input::PositionIds => Dim::symbol("tokens"),
    };
    (tensor.ty.dtype == DType::I32 && tensor.ty.shape == Shape(vec![dim])).then_some(known)
}

/// Sizes that the symbols of a graph stand for in a sample: the first symbol, as a rule the batch, and all others. What is
/// computed of positions is a constant up to 64 of them and has kernels beyond, also where a stride leaves a quarter.
const SAMPLES: [(i64, i64); 5] = [(2, 300), (2, 72), (2, 16), (1, 8), (3, 3)];

/// A dense graph for some shapes of its inputs, for the kernels that it needs.
///
/// # Errors
/// When the graph works on none of the shapes that are tried.
pub(crate) fn samples(graph: &Graph) -> Result<Vec<Graph>, LowerError> {
    let types = |id: &TensorId| &graph.tensor(*id).ty;
    let mut symbols: Vec<_> = Vec::new();
    for symbol in graph.inputs().iter().flat_map(|id| types(id).shape.dims()).flat_map(Dim::symbols) {
        if !symbols.contains(&symbol) {
            symbols.push(symbol);
        }
    }
    let (mut found, mut failure) = (Vec::new(), None);
    for (first, others) in SAMPLES {
        let size = |index: usize| if index == 0 { first } else { others };
        let bindings =
            symbols.iter().enumerate().map(|(index, symbol)| (symbol.clone(), size(index))).collect();
        let concrete =
            |id: &TensorId| TensorType::new(types(id).dtype, types(id).shape.substitute(&bindings));
        let inputs: Vec<TensorType> = graph.inputs().iter().map(concrete).collect();
        match graph.specialize(&inputs) {
            Ok(graph) => found.push(graph),
            Err(error) => failure = Some(error.to_string()),
        }
        if symbols.is_empty() {
            break;
        }
    }
    match failure {
        Some(why) if found.is_empty() => Err(LowerError::NoShape { why }),
        _ => Ok(found),
    }
}

impl Storage {
    /// The storage of a dtype, where there is one.
    pub(super) const fn of_dtype(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Storage::F32),
            DType::F16 => Some(Storage::F16),
            DType::BF16 => Some(Storage::Bf16),
            DType::I32 => Some(Storage::I32),
            DType::I64 => Some(Storage::I64),
            DType::Bool => Some(Storage::Bool),
            _ => None,
        }
    }
}
