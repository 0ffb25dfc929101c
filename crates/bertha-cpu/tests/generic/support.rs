//! Random operands, and the comparison with the interpreter.

use bertha_cpu::generic::{Scratch, TensorMut, TensorRef, execute};
use bertha_graph::interp::{Precision, Value, eval};
use bertha_graph::{DType, Op, TensorData};
use half::{bf16, f16};
use proptest::prelude::ProptestConfig;

pub(crate) const FLOATS: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];
pub(crate) const NUMBERS: [DType; 12] = [
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U64,
    DType::U32,
    DType::U16,
    DType::U8,
];

/// So many cases. Failing seeds are printed, not written beside the sources.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Random choices from a seed (xorshift*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// `0..bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as usize) as i64
    }

    pub(crate) fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Mostly small dimensions, now and then a long one or none.
    pub(crate) fn dim(&mut self) -> usize {
        match self.below(12) {
            0 => 0,
            1 => 17 + self.below(30),
            2 | 3 => 1,
            _ => 2 + self.below(4),
        }
    }

    pub(crate) fn shape(&mut self, most_dims: usize) -> Vec<usize> {
        (0..self.below(most_dims + 1)).map(|_| self.dim()).collect()
    }

    /// A shape that broadcasts to `to`.
    pub(crate) fn broadcastable(&mut self, to: &[usize]) -> Vec<usize> {
        let dropped = if self.below(3) == 0 { self.below(to.len() + 1) } else { 0 };
        to[dropped..].iter().map(|dim| if self.below(3) == 0 { 1 } else { *dim }).collect()
    }

    fn float(&mut self, special: bool) -> f64 {
        if special && self.below(10) == 0 {
            return self.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0]);
        }
        (self.below(8001) as f64 - 4000.0) / 1000.0
    }

    fn int(&mut self, dtype: DType) -> i64 {
        let bits = 8 * dtype.size() as u32;
        let extreme = self.below(8) == 0;
        match (dtype.is_signed(), extreme) {
            (true, true) => self.pick(&[i64::MIN >> (64 - bits), i64::MAX >> (64 - bits)]),
            (true, false) => self.between(-6, 6),
            // As bits: the largest value is all ones.
            (false, true) => -1,
            (false, false) => self.between(0, 9),
        }
    }

    /// A tensor with contents of any kind.
    pub(crate) fn tensor(&mut self, dtype: DType, shape: &[usize]) -> TensorData {
        self.filled(dtype, shape, false)
    }

    /// As [`tensor`](Self::tensor), with infinities and NaN among the floats.
    pub(crate) fn special(&mut self, dtype: DType, shape: &[usize]) -> TensorData {
        self.filled(dtype, shape, true)
    }

    fn filled(&mut self, dtype: DType, shape: &[usize], special: bool) -> TensorData {
        let count = shape.iter().product();
        if dtype == DType::Bool {
            let values: Vec<bool> = (0..count).map(|_| self.flip()).collect();
            return TensorData::from_bools(shape.to_vec(), &values).unwrap();
        }
        if dtype.is_float() {
            let values: Vec<f64> = (0..count).map(|_| self.float(special)).collect();
            return floats(dtype, shape, &values);
        }
        let values: Vec<i64> = (0..count).map(|_| self.int(dtype)).collect();
        ints(dtype, shape, &values)
    }

    /// Integers of a range.
    pub(crate) fn within(&mut self, dtype: DType, shape: &[usize], low: i64, high: i64) -> TensorData {
        let values: Vec<i64> = (0..shape.iter().product()).map(|_: usize| self.between(low, high)).collect();
        ints(dtype, shape, &values)
    }

    /// Positive floats.
    pub(crate) fn scales(&mut self, dtype: DType, shape: &[usize]) -> TensorData {
        let values: Vec<f64> =
            (0..shape.iter().product()).map(|_: usize| self.between(1, 40) as f64 / 16.0).collect();
        floats(dtype, shape, &values)
    }
}

/// A float tensor, rounded to its dtype.
pub(crate) fn floats(dtype: DType, shape: &[usize], values: &[f64]) -> TensorData {
    let shape = shape.to_vec();
    match dtype {
        DType::F64 => TensorData::from_vec(shape, values.to_vec()),
        DType::F32 => TensorData::from_vec(shape, values.iter().map(|v| *v as f32).collect()),
        DType::F16 => TensorData::from_vec(shape, values.iter().map(|v| f16::from_f64(*v)).collect()),
        DType::BF16 => TensorData::from_vec(shape, values.iter().map(|v| bf16::from_f64(*v)).collect()),
        other => panic!("{other} is not a float"),
    }
    .unwrap()
}

/// An integer tensor of the low bits of `values`.
pub(crate) fn ints(dtype: DType, shape: &[usize], values: &[i64]) -> TensorData {
    let shape = shape.to_vec();
    match dtype {
        DType::I64 => TensorData::from_vec(shape, values.to_vec()),
        DType::I32 => TensorData::from_vec(shape, values.iter().map(|v| *v as i32).collect()),
        DType::I16 => TensorData::from_vec(shape, values.iter().map(|v| *v as i16).collect()),
        DType::I8 => TensorData::from_vec(shape, values.iter().map(|v| *v as i8).collect()),
        DType::U64 => TensorData::from_vec(shape, values.iter().map(|v| *v as u64).collect()),
        DType::U32 => TensorData::from_vec(shape, values.iter().map(|v| *v as u32).collect()),
        DType::U16 => TensorData::from_vec(shape, values.iter().map(|v| *v as u16).collect()),
        DType::U8 => TensorData::from_vec(shape, values.iter().map(|v| *v as u8).collect()),
        other => panic!("{other} is not an integer type"),
    }
    .unwrap()
}

pub(crate) fn i64s(values: &[i64]) -> TensorData {
    TensorData::vector(values.to_vec())
}

/// Bytes aligned to the largest element.
pub(crate) struct Buffer {
    words: Vec<u64>,
    len: usize,
}

impl Buffer {
    /// Full of a pattern that a kernel must not leave behind.
    pub(crate) fn new(len: usize) -> Self {
        Buffer { words: vec![0xa5a5_a5a5_a5a5_a5a5; len.div_ceil(8)], len }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

pub(crate) fn tensor_ref(data: &TensorData) -> TensorRef<'_> {
    TensorRef { dtype: data.dtype(), shape: data.shape(), bytes: data.bytes() }
}

/// What the interpreter says, and what the kernel makes of it.
pub(crate) fn check(op: &Op, inputs: &[Option<&TensorData>]) {
    let values: Vec<Option<Value>> = inputs.iter().map(|input| input.map(Value::from_tensor)).collect();
    let operands: Vec<Option<&Value>> = values.iter().map(Option::as_ref).collect();
    let expected =
        eval(op, &operands, Precision::Native).unwrap_or_else(|error| panic!("{error}: {inputs:?}"));
    let mut buffers: Vec<Buffer> =
        expected.iter().map(|value| Buffer::new(value.len() * value.dtype().size())).collect();
    let mut outputs: Vec<Option<TensorMut>> = buffers
        .iter_mut()
        .zip(&expected)
        .map(|(buffer, value)| {
            Some(TensorMut { dtype: value.dtype(), shape: value.shape(), bytes: buffer.bytes() })
        })
        .collect();
    let refs: Vec<Option<TensorRef>> = inputs.iter().map(|input| input.map(tensor_ref)).collect();
    let mut scratch = Scratch::new();
    if let Err(error) = execute(op, &refs, &mut outputs, &mut scratch) {
        panic!("{error}: {inputs:?}");
    }
    for (number, (buffer, value)) in buffers.iter_mut().zip(&expected).enumerate() {
        let bytes = buffer.bytes().to_vec();
        let actual = TensorData::from_bytes(value.dtype(), value.shape().to_vec(), bytes.into()).unwrap();
        assert_agrees(&actual, value, &format!("result {number} of {op:?} for {inputs:?}"));
    }
}

/// All operands present.
pub(crate) fn check_all(op: &Op, inputs: &[&TensorData]) {
    check(op, &inputs.iter().map(|input| Some(*input)).collect::<Vec<_>>());
}

/// Integers and booleans are equal; floats agree to a few units of their precision, relative to the largest of them.
fn assert_agrees(actual: &TensorData, expected: &Value, what: &str) {
    if !actual.dtype().is_float() {
        assert_eq!(actual, &expected.to_tensor(), "{what}");
        return;
    }
    let tolerance = match actual.dtype() {
        DType::F64 => 1e-12,
        DType::F32 => 2e-5,
        DType::F16 => 2e-3,
        _ => 1.6e-2,
    };
    let (actual, expected) = (actual.to_f64(), expected.to_f64());
    let largest = expected.iter().filter(|x| x.is_finite()).fold(1.0f64, |most, x| most.max(x.abs()));
    for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
        let agrees = a == e || (a.is_nan() && e.is_nan()) || (a - e).abs() <= tolerance * largest;
        assert!(agrees, "element {i} is {a}, expected {e}: {what}");
    }
}
