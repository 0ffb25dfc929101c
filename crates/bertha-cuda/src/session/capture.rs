//! A program's launches with addresses, and the graph that they were captured into.

use crate::driver::{Arg, CudaError, Graph, Kernel, LaunchConfig};
use crate::kernels::{LaunchArg, Operand, Rows, Setting};
use crate::model::CudaModel;
use crate::program::{Input, Place};

use super::CudaSession;
use super::batch::{Layout, SEQUENCE_BATCH};

/// Everything of a run that depends on the capacity alone.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) graph: Graph,
    pub(super) layout: Layout,
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

/// Where things are on the card.
struct Addresses<'a> {
    model: &'a CudaModel,
    inputs: u64,
    layout: &'a Layout,
    tensors: &'a [u64],
}

impl Captured {
    /// Binds and captures the steps that the outputs in `wanted` need.
    pub(super) fn new(
        session: &CudaSession,
        setting: &Setting,
        layout: Layout,
        slots: &[usize],
        wanted: u64,
    ) -> Result<Self, CudaError> {
        let model = &*session.model;
        let program = model.program();
        let (inputs, arena) = (session.inputs.address(), session.arena.address());
        let place = |place: Place| match place {
            Place::Input(input) => inputs + layout.input(input) as u64,
            Place::Slot(slot) => arena + slots[slot] as u64,
        };
        let tensors: Vec<u64> = program.tensors.iter().map(|tensor| place(tensor.place)).collect();
        let addresses = Addresses { model, inputs, layout: &layout, tensors: &tensors };
        // Kernels are loaded and maps encoded before the capture, in which neither is allowed.
        let mut launches = Vec::new();
        for (index, (step, launch)) in program.steps.iter().zip(program.launches(setting)).enumerate() {
            if step.needed_by & wanted == 0 {
                continue;
            }
            let kernel = model.kernel(&launch)?;
            let args: Result<Vec<Arg>, CudaError> =
                launch.args.iter().map(|arg| addresses.bind(arg)).collect();
            launches.push(Bound { step: index, kernel, config: launch.config, args: args? });
        }
        let stream = &session.stream;
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

    pub(super) fn tensor_address(&self, index: usize) -> u64 {
        self.tensors[index]
    }
}

impl Addresses<'_> {
    fn bind(&self, arg: &LaunchArg) -> Result<Arg, CudaError> {
        Ok(match arg {
            LaunchArg::Address(operand) => Arg::Pointer(self.of(*operand)),
            LaunchArg::AddressAt(operand, bytes) => Arg::Pointer(self.of(*operand) + bytes),
            LaunchArg::Int(value) => Arg::Int(*value),
            LaunchArg::Long(value) => Arg::Long(*value),
            LaunchArg::Float(value) => Arg::Float(*value),
            LaunchArg::Double(value) => Arg::Double(*value),
            LaunchArg::Map(operand, desc) => Arg::Map(desc.encode(self.model.context(), self.of(*operand))?),
        })
    }

    fn of(&self, operand: Operand) -> u64 {
        match operand {
            Operand::Tensor(index) => self.tensors[index],
            Operand::Weight(index) => self.model.weight_address(index),
            Operand::Batch(Rows::Tokens) => self.inputs,
            Operand::Batch(Rows::Sequences) => self.inputs + SEQUENCE_BATCH as u64,
            Operand::CuSeqlens => self.inputs + self.layout.input(Input::CuSeqlens) as u64,
            Operand::WorkList => self.inputs + self.layout.work_list() as u64,
            Operand::Null => 0,
        }
    }
}
