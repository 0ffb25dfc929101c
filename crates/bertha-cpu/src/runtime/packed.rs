//! Weights in the layout that the kernels read, by name.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bertha_compile::Precision;
use bertha_graph::{DType, TensorData, WeightLayout};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::LowerError;
use crate::isa::Isa;
use crate::kernels::gemm::{PackedB, PackedDesc, PackedType, Strided, pack_b};
use crate::memory::Memory;

/// Packed weights begin at multiples of this in their blob, so that vectors never straddle cache lines.
const ALIGNMENT: u64 = 64;

/// One packed weight: what it is and its values. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PackedWeight {
    desc: PackedDesc,
    /// `[desc.packed_len()]` words, as F32.
    values: TensorData,
}

impl PackedWeight {
    fn new(desc: PackedDesc, values: TensorData) -> Result<Self, String> {
        let floats = values.as_slice::<f32>().map_err(|error| error.to_string())?;
        PackedB::new(desc, floats).map_err(|error| error.to_string())?;
        Ok(PackedWeight { desc, values })
    }

    /// Shape and kernel.
    pub fn desc(&self) -> &PackedDesc {
        &self.desc
    }

    /// The operand, as the kernel takes it.
    pub(crate) fn operand(&self) -> Result<PackedB<'_>, String> {
        let floats = self.values.as_slice::<f32>().map_err(|error| error.to_string())?;
        PackedB::new(self.desc, floats).map_err(|error| error.to_string())
    }
}

/// A packed weight within a blob, as a CPU plan lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackedEntry {
    /// The weight's name in the graph.
    pub weight: String,
    /// How it lies in the graph.
    pub layout: WeightLayout,
    /// Shape and kernel.
    pub desc: PackedDesc,
    /// Where its values start in the blob, in bytes.
    pub offset: u64,
    /// How many bytes they take.
    pub length: u64,
}

/// The packed weights of one model. Weights that are not there yet are packed when a program first needs them.
#[derive(Debug)]
pub struct PackedStore {
    isa: Isa,
    precision: Precision,
    packed: Mutex<BTreeMap<(String, bool), PackedWeight>>,
}

impl PackedStore {
    /// An empty store for f32 kernels of `isa`.
    pub fn new(isa: Isa) -> Self {
        PackedStore { isa, precision: Precision::F32, packed: Mutex::default() }
    }

    /// An empty store for kernels of `isa` that multiply in `precision`.
    ///
    /// # Errors
    /// When there are no such kernels for the tier, or this CPU lacks their instructions.
    pub fn with_precision(isa: Isa, precision: Precision) -> Result<Self, LowerError> {
        packed_type(isa, precision)?;
        Ok(PackedStore { precision, ..Self::new(isa) })
    }

    /// A store of its own with the weights that are packed by now; none is copied.
    pub(super) fn shared(&self) -> Self {
        let packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PackedStore { isa: self.isa, precision: self.precision, packed: Mutex::new(packed) }
    }

    /// The precision that products with the weights multiply in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The store that a plan describes, over the blob it was written with. No copy is made.
    ///
    /// # Errors
    /// When an entry lies outside of the blob, or is packed for other kernels than those of `isa` and `precision`, or this
    /// CPU lacks their instructions.
    pub fn from_entries(
        isa: Isa,
        precision: Precision,
        entries: Vec<PackedEntry>,
        blob: &Bytes,
    ) -> Result<Self, LowerError> {
        let dtype = packed_type(isa, precision)?;
        let mut packed = BTreeMap::new();
        for entry in entries {
            let wrong = |why: String| LowerError::Packed { weight: entry.weight.clone(), why };
            if entry.desc.tier != isa.tier() {
                return Err(wrong(format!("it is packed for {}, not {}", entry.desc.tier, isa.tier())));
            }
            if entry.desc.dtype != dtype {
                return Err(wrong(format!("it is packed as {}, not {precision}", entry.desc.dtype.name())));
            }
            if entry.offset % ALIGNMENT != 0 {
                return Err(wrong(format!(
                    "its offset {} is not aligned to {ALIGNMENT} bytes",
                    entry.offset
                )));
            }
            let range = range_within(entry.offset, entry.length, blob.len())
                .ok_or_else(|| wrong("it lies outside of the packed section".into()))?;
            let bytes = blob.slice(range);
            let floats = bytes.len() / DType::F32.size();
            let values = TensorData::from_bytes(DType::F32, vec![floats], bytes)
                .map_err(|error| wrong(error.to_string()))?;
            let weight = PackedWeight::new(entry.desc, values).map_err(wrong)?;
            packed.insert(key(&entry.weight, entry.layout), weight);
        }
        Ok(PackedStore { isa, precision, packed: Mutex::new(packed) })
    }

    /// Every packed weight with its values, in order of name; offsets and lengths are left for the writer to set.
    pub fn entries(&self) -> Vec<(PackedEntry, Bytes)> {
        let packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |((weight, out_in), packed): (&(String, bool), &PackedWeight)| {
            let layout = if *out_in { WeightLayout::OutIn } else { WeightLayout::InOut };
            let entry =
                PackedEntry { weight: weight.clone(), layout, desc: packed.desc, offset: 0, length: 0 };
            (entry, packed.values.bytes().clone())
        };
        packed.iter().map(entry).collect()
    }

    /// Bytes of all packed weights.
    pub fn bytes(&self) -> usize {
        let packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        packed.values().map(|weight| weight.values.bytes().len()).sum()
    }

    /// The packed form of the constant matrix `data`, called `name`.
    pub(crate) fn get_or_pack(
        &self,
        name: &str,
        data: &TensorData,
        layout: WeightLayout,
    ) -> Result<PackedWeight, LowerError> {
        let wrong = |why: String| LowerError::Packed { weight: name.to_owned(), why };
        let (k, n) = match (layout, data.shape()) {
            (WeightLayout::InOut, [k, n]) | (WeightLayout::OutIn, [n, k]) => (*k, *n),
            (_, shape) => return Err(wrong(format!("expected a matrix, found {shape:?}"))),
        };
        let desc = PackedDesc::with_type(self.isa.tier(), packed_type(self.isa, self.precision)?, k, n);
        let mut packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = packed.get(&key(name, layout)) {
            if *found.desc() != desc {
                return Err(wrong(format!("packed as {:?}, but the weight is {desc:?}", found.desc())));
            }
            return Ok(found.clone());
        }
        let floats = data.as_slice::<f32>().map_err(|error| wrong(error.to_string()))?;
        let matrix = match layout {
            WeightLayout::InOut => Strided::row_major(floats, k, n),
            WeightLayout::OutIn => Strided::transposed(floats, k, n),
        };
        let words = desc.packed_len().map_err(|error| wrong(error.to_string()))?;
        let memory = words.checked_mul(DType::F32.size()).and_then(Memory::zeroed);
        let mut memory = memory.ok_or_else(|| wrong("there is no memory for its packed form".into()))?;
        pack_b(&desc, matrix, bytemuck::cast_slice_mut(&mut memory));
        let values = TensorData::from_bytes(DType::F32, vec![words], Bytes::from_owner(memory));
        let weight =
            PackedWeight::new(desc, values.map_err(|error| wrong(error.to_string()))?).map_err(wrong)?;
        packed.insert(key(name, layout), weight.clone());
        Ok(weight)
    }
}

/// The type that operands of `precision` are packed in.
fn packed_type(isa: Isa, precision: Precision) -> Result<PackedType, LowerError> {
    let lacks = |needs| Err(LowerError::Precision { precision, isa: isa.tier(), needs });
    match precision {
        Precision::F32 => Ok(PackedType::F32),
        Precision::Bf16 if isa.has_bf16() => Ok(PackedType::Bf16),
        Precision::Bf16 => lacks("they need the avx512 tier and AVX-512 BF16 instructions (`bertha doctor`)"),
        Precision::F16 => lacks("CPU targets multiply in f32 or bf16"),
    }
}

fn key(name: &str, layout: WeightLayout) -> (String, bool) {
    (name.to_owned(), layout == WeightLayout::OutIn)
}

fn range_within(offset: u64, length: u64, total: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (end <= total).then_some(start..end)
}
