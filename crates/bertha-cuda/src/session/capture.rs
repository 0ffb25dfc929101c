//! A program's launches with addresses, and the graph that they were captured into.

use crate::driver::{Arg, CudaError, Graph, Kernel, LaunchConfig, Stream};
use crate::kernels::{Launch, LaunchArg, Operand, Rows, Setting};
use crate::model::CudaModel;
use crate::program::{Input, Place, Program};

/// What lies in the piece of memory that every run brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Input(Input),
    Given(usize),
    Batch(Rows),
    WorkList,
    Fault,
}

/// Where it lies there, in bytes.
pub(super) trait Parts {
    /// The offset of a part; of one that this kind of program does not have, any.
    fn offset(&self, part: Part) -> usize;
}

/// Everything of a run that depends on the capacity alone.
#[derive(Debug)]
pub(super) struct Captured<L> {
    pub(super) graph: Graph,
    pub(super) layout: L,
    pub(super) launches: Vec<Bound>,
    tensors: Vec<u64>,
}

/// A launch whose arguments are known.
#[derive(Debug)]
pub(super) struct Bound {
    /// Index of the step in the program.
    pub(super) step: usize,
    pub(super) kernel: Kernel,
    pub(super) config: LaunchConfig,
    pub(super) args: Vec<Arg>,
}

/// What runs, and where its memory begins.
#[derive(Clone, Copy)]
pub(super) struct Bases<'a> {
    pub(super) stream: &'a Stream,
    pub(super) model: &'a CudaModel,
    pub(super) program: &'a Program,
    /// The address of each weight of the program.
    pub(super) weights: &'a dyn Fn(usize) -> u64,
    pub(super) inputs: u64,
    pub(super) arena: u64,
}

/// Where things are on the card.
struct Addresses<'a, L> {
    bases: Bases<'a>,
    layout: &'a L,
    tensors: &'a [u64],
}

impl<L: Parts> Captured<L> {
    /// Binds and captures the steps that the outputs in `wanted` need.
    pub(super) fn new(
        bases: Bases<'_>,
        setting: &Setting,
        layout: L,
        slots: &[usize],
        wanted: u64,
    ) -> Result<Self, CudaError> {
        let Bases { stream, program, inputs, arena, .. } = bases;
        let place = |place: Place| match place {
            Place::Input(input) => inputs + layout.offset(Part::Input(input)) as u64,
            Place::Given(input) => inputs + layout.offset(Part::Given(input)) as u64,
            Place::Slot(slot) => arena + slots[slot] as u64,
        };
        let tensors: Vec<u64> = program.tensors.iter().map(|tensor| place(tensor.place)).collect();
        let addresses = Addresses { bases, layout: &layout, tensors: &tensors };
        // Kernels are loaded and maps encoded before the capture, in which neither is allowed.
        let mut launches = Vec::new();
        for (index, (step, launch)) in program.steps.iter().zip(program.launches(setting)).enumerate() {
            if step.needed_by & wanted == 0 {
                continue;
            }
            launches.push(addresses.bind(index, &launch)?);
        }
        let graph = stream.capture(|| {
            launches.iter().try_for_each(|launch| {
                // SAFETY: launches follow the kernels' own headers, and `Layout` and `Arena` give every operand the room
                // that this setting needs. Weights live as long as the model, the rest as long as the session, which
                // drops captured graphs before it replaces either.
                unsafe { stream.launch(&launch.kernel, &launch.config, &launch.args) }
            })
        })?;
        Ok(Captured { graph, layout, launches, tensors })
    }

    /// Other launches of the program's steps, for the same capacity.
    pub(super) fn bind(&self, bases: Bases<'_>, launches: &[Launch]) -> Result<Vec<Bound>, CudaError> {
        let addresses = Addresses { bases, layout: &self.layout, tensors: &self.tensors };
        launches.iter().enumerate().map(|(index, launch)| addresses.bind(index, launch)).collect()
    }

    pub(super) fn tensor_address(&self, index: usize) -> u64 {
        self.tensors[index]
    }
}

impl<L: Parts> Addresses<'_, L> {
    /// Loads the kernel of a launch of a step and resolves its arguments.
    fn bind(&self, step: usize, launch: &Launch) -> Result<Bound, CudaError> {
        let kernel = self.bases.model.kernel(launch)?;
        let args: Result<Vec<Arg>, CudaError> = launch.args.iter().map(|arg| self.argument(arg)).collect();
        Ok(Bound { step, kernel, config: launch.config, args: args? })
    }

    fn argument(&self, arg: &LaunchArg) -> Result<Arg, CudaError> {
        Ok(match arg {
            LaunchArg::Address(operand) => Arg::Pointer(self.of(*operand)),
            LaunchArg::AddressAt(operand, bytes) => Arg::Pointer(self.of(*operand) + bytes),
            LaunchArg::Int(value) => Arg::Int(*value),
            LaunchArg::Long(value) => Arg::Long(*value),
            LaunchArg::Float(value) => Arg::Float(*value),
            LaunchArg::Double(value) => Arg::Double(*value),
            LaunchArg::Map(operand, desc) => {
                Arg::Map(desc.encode(self.bases.model.context(), self.of(*operand))?)
            }
        })
    }

    fn of(&self, operand: Operand) -> u64 {
        let part = match operand {
            Operand::Tensor(index) => return self.tensors[index],
            Operand::Weight(index) => return (self.bases.weights)(index),
            Operand::Null => return 0,
            Operand::Batch(rows) => Part::Batch(rows),
            Operand::CuSeqlens => Part::Input(Input::CuSeqlens),
            Operand::WorkList => Part::WorkList,
            Operand::Fault => Part::Fault,
        };
        self.bases.inputs + self.layout.offset(part) as u64
    }
}
