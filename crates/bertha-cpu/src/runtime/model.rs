//! A graph made ready for the CPU, shared by any number of sessions.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bertha_compile::Precision;
use bertha_compile::memory::largest_sizes;
use bertha_graph::{Graph, Op, Shape, TensorType};

use super::error::{LowerError, RunError};
use super::lower::lower;
use super::packed::PackedStore;
use super::program::{Place, Program};
use super::session::CpuSession;
use crate::generic::TensorRef;
use crate::isa::Isa;

/// Programs for recently seen input shapes that a dense model keeps.
const KEPT_PROGRAMS: usize = 64;

/// The shapes of all inputs, and the program for them.
type Specialized = (Vec<Vec<usize>>, Arc<Program>);

/// A piece of memory that tensors share which are never needed at the same time.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SlotPlan {
    /// Its size in bytes, as a function of the batch.
    pub bytes: String,
    /// The tensors that lie in it, in the order in which they are written.
    pub tensors: Vec<String>,
}

/// A graph with its packed weights on one instruction-set tier. Immutable but for its cache of programs; share it
/// in an [`Arc`].
#[derive(Debug)]
pub struct CpuModel {
    graph: Graph,
    isa: Isa,
    store: PackedStore,
    /// The one program for every batch, where all shapes follow from the inputs' by polynomials.
    direct: Option<Arc<Program>>,
    /// Programs by concrete input shapes, most recently used last, where they do not.
    specialized: Mutex<VecDeque<Specialized>>,
}

impl CpuModel {
    /// Lowers `graph` for `isa` in f32 and packs its weights.
    pub fn new(graph: Graph, isa: Isa) -> Result<Self, LowerError> {
        Self::with_packed(graph, isa, PackedStore::new(isa))
    }

    /// Lowers `graph` in the precision of `store`, with weights that were packed before; what it lacks is packed now.
    pub fn with_packed(graph: Graph, isa: Isa, store: PackedStore) -> Result<Self, LowerError> {
        let is_direct = shapes_follow_from_inputs(&graph);
        // Lowering a dense graph once before its shapes are known packs its weights and finds what cannot run.
        let program = lower(&graph, &store)?;
        let direct = is_direct.then(|| Arc::new(program));
        Ok(CpuModel { graph, isa, store, direct, specialized: Mutex::default() })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The tier that the weights are packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The precision that products with constant weights multiply in.
    pub fn precision(&self) -> Precision {
        self.store.precision()
    }

    /// The packed weights.
    pub fn packed(&self) -> &PackedStore {
        &self.store
    }

    /// A session with `threads` workers, the caller included.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn session(self: &Arc<Self>, threads: usize) -> io::Result<CpuSession> {
        CpuSession::new(self.clone(), threads)
    }

    /// The slots of memory that a run uses; `None` for a model that is planned anew for each input shape.
    pub fn memory_plan(&self) -> Option<Vec<SlotPlan>> {
        let program = self.direct.as_ref()?;
        let slot = |(slot, sizes): (usize, &Vec<bertha_graph::Dim>)| {
            let sizes: Vec<String> = largest_sizes(sizes).into_iter().map(ToString::to_string).collect();
            let bytes = match sizes.as_slice() {
                [size] => size.clone(),
                sizes => format!("max({})", sizes.join(", ")),
            };
            let here = program.tensors.iter().filter(|tensor| tensor.place == Place::Slot(slot));
            SlotPlan { bytes, tensors: here.map(|tensor| tensor.name.clone()).collect() }
        };
        Some(program.slot_sizes.iter().enumerate().map(slot).collect())
    }

    /// The kernel of every step, in order, with the node that it computes; `None` as for [`Self::memory_plan`].
    pub fn steps(&self) -> Option<Vec<(String, &'static str)>> {
        let program = self.direct.as_ref()?;
        Some(program.steps.iter().map(|step| (step.node.clone(), step.kernel.name())).collect())
    }

    /// The program for these inputs, which come in the graph's order.
    pub(crate) fn program(&self, inputs: &[TensorRef<'_>]) -> Result<Arc<Program>, RunError> {
        if let Some(program) = &self.direct {
            return Ok(program.clone());
        }
        let same =
            |shapes: &[Vec<usize>]| shapes.iter().zip(inputs).all(|(shape, input)| shape == input.shape);
        {
            let mut kept = self.specialized.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = kept.iter().position(|(shapes, _)| same(shapes)) {
                // Most recently used last, so that the first is the one to drop.
                if let Some(entry) = kept.remove(found) {
                    let program = entry.1.clone();
                    kept.push_back(entry);
                    return Ok(program);
                }
            }
        }
        let types: Vec<TensorType> = inputs
            .iter()
            .map(|input| TensorType::new(input.dtype, input.shape.iter().copied().collect::<Shape>()))
            .collect();
        let graph = self.graph.specialize(&types).map_err(LowerError::from)?;
        let program = Arc::new(lower(&graph, &self.store)?);
        let shapes = inputs.iter().map(|input| input.shape.to_vec()).collect();
        let mut kept = self.specialized.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_PROGRAMS {
            kept.pop_front();
        }
        kept.push_back((shapes, program.clone()));
        Ok(program)
    }
}

/// Whether no shape depends on data and none is computed at run time, so that one program serves every batch.
fn shapes_follow_from_inputs(graph: &Graph) -> bool {
    let symbolic = graph
        .tensors()
        .iter()
        .flat_map(|tensor| tensor.ty.shape.dims())
        .all(|dim| dim.symbols().iter().all(|name| !name.starts_with('?')));
    symbolic && !graph.nodes().iter().any(|node| matches!(node.op, Op::Shape { .. } | Op::If { .. }))
}
