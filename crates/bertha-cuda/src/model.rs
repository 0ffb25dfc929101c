//! A plan on a card: kernels loaded, weights in its memory. Shared by any number of sessions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::arch::Arch;
use crate::driver::{Context, CudaError, Device, DeviceBuffer, Kernel, Module};
use crate::kernels::{Launch, Setting};
use crate::nvrtc::Nvrtc;
use crate::plan::CudaPlan;
use crate::program::Program;
use crate::session::{CudaSession, DenseSession};

/// See the module.
#[derive(Debug)]
pub struct CudaModel {
    context: Context,
    plan: Arc<CudaPlan>,
    weights: DeviceBuffer,
    /// Where each weight lies in `weights`.
    offsets: Vec<usize>,
    /// Kernels by name, loaded when first launched, with the dynamic shared memory that they were allowed.
    kernels: Mutex<HashMap<String, (Kernel, usize)>>,
}

/// Weights start at multiples of this.
const ALIGNMENT: usize = 256;

impl CudaModel {
    /// Copies the plan's weights to the card.
    ///
    /// # Errors
    /// When the plan is for other cards, or the card has no room.
    pub fn new(device: Device, plan: Arc<CudaPlan>) -> Result<Self, CudaError> {
        let arch = Arch::of(&device)?;
        if arch != plan.arch() {
            return Err(CudaError::WrongArchitecture {
                built: plan.arch().to_string(),
                card: arch.to_string(),
            });
        }
        let context = Context::new(device)?;
        let mut offsets = Vec::with_capacity(plan.weights().len());
        let mut end = 0usize;
        for weight in plan.weights() {
            offsets.push(end);
            end += weight.len().next_multiple_of(ALIGNMENT);
        }
        let weights = DeviceBuffer::new(&context, end, "the model's weights")?;
        for (offset, weight) in offsets.iter().zip(plan.weights()) {
            weights.write(*offset, weight)?;
        }
        Ok(CudaModel { context, plan, weights, offsets, kernels: Mutex::default() })
    }

    /// The card.
    pub fn device(&self) -> &Device {
        self.context.device()
    }

    /// What runs on it.
    pub fn plan(&self) -> &CudaPlan {
        &self.plan
    }

    /// The steps.
    pub fn program(&self) -> &Program {
        self.plan.program()
    }

    /// The card's context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// A session of its own memory and stream.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn session(self: &Arc<Self>) -> Result<CudaSession, CudaError> {
        CudaSession::new(self.clone())
    }

    /// A session for a dense model.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn dense_session(self: &Arc<Self>) -> Result<DenseSession, CudaError> {
        DenseSession::new(self.clone())
    }

    /// Bytes of the card's memory that the weights take.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }

    pub(crate) fn weight_address(&self, index: usize) -> u64 {
        self.weights.address() + self.offsets[index] as u64
    }

    /// The smallest setting on this card; the session fills in a batch's capacity.
    pub(crate) fn base_setting(&self) -> Setting {
        Setting {
            multiprocessors: self.device().multiprocessors,
            planned_multiprocessors: self.plan.planned_multiprocessors(),
            ..Setting::typical(self.plan.arch())
        }
    }

    /// The kernel of a launch, loaded.
    pub(crate) fn kernel(&self, launch: &Launch) -> Result<Kernel, CudaError> {
        let name = launch.kernel.to_string();
        let shared = launch.config.shared_bytes as usize;
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kernel, allowed)) = kernels.get(&name)
            && *allowed >= shared
        {
            return Ok(kernel.clone());
        }
        let [x, y] = launch.config.cluster;
        let module = match self.plan.cubin(&launch.kernel) {
            Some(cubin) => Module::load(&self.context, cubin, &name)?,
            // A graph whose nodes differ from shape to shape may need a kernel that the plan's sample did not.
            None if self.plan.dense_graph().is_some() => {
                let compiled = launch.kernel.compile(Nvrtc::get()?, self.plan.arch())?;
                Module::load(&self.context, &compiled.cubin, &name)?
            }
            None => {
                let why = "the plan does not hold it".into();
                return Err(CudaError::BadImage { kernel: name, why });
            }
        };
        let kernel = module.kernel(&launch.kernel.entry, shared, x * y > 8)?;
        kernels.insert(name, (kernel.clone(), shared));
        Ok(kernel)
    }
}
