//! Attention over padded sequences: what is padding is hidden from every query.

use bertha_graph::{DType, Node, RelativeBuckets, TensorData, TensorId};

use super::values::{Exporter, Kind, Lowered, operand_id};
use super::writer::int;

impl Exporter<'_> {
    pub(super) fn attention(
        &mut self,
        node: &Node,
        heads: usize,
        scale: f32,
        relative: Option<&RelativeBuckets>,
    ) -> Lowered {
        let q_id = operand_id(node, 0)?;
        let packed = node.inputs.get(1).copied().flatten().is_none();
        let (dtype, columns) = (self.dtype(q_id), self.width(q_id)?);
        let width = if packed { columns / 3 } else { columns };
        let heads_count = i64::try_from(heads).map_err(|_| "has too many heads")?;
        if heads_count == 0 || width % heads_count != 0 {
            return Err(format!("has {heads} heads for a width of {width}"));
        }
        let split = [0, 0, heads_count, width / heads_count];
        let at = |part: &str| format!("{}/{part}", node.name);
        let mut operands = Vec::with_capacity(3);
        // Keys are laid out for the product with queries.
        for (index, (name, perm)) in
            [("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])].into_iter().enumerate()
        {
            let (mut x, kind) = self.operand(node, if packed { 0 } else { index })?;
            if kind != Kind::Tokens {
                return Err(format!("has {name} vectors that are not those of tokens"));
            }
            if packed {
                let start = width * index as i64;
                let (first, past, axis) =
                    (self.writer.ints(&[start]), self.writer.ints(&[start + width]), self.writer.ints(&[-1]));
                x = self.writer.op(&at(&format!("{name}_part")), "Slice", &[&x, &first, &past, &axis]);
            }
            let x = self.writer.reshape(&at(&format!("{name}_heads")), &x, &split);
            operands.push(self.writer.transpose(&at(name), &x, &perm));
        }
        let scale = self.writer.float(dtype, f64::from(scale))?;
        let scores = self.writer.op(&at("scores"), "MatMul", &[&operands[0], &operands[1]]);
        let mut scores = self.writer.op(&at("scaled"), "Mul", &[&scores, &scale]);
        if let Some(relative) = relative {
            let bias = self.relative_bias(operand_id(node, 4)?, relative)?;
            scores = self.writer.op(&at("with_distance"), "Add", &[&scores, &bias]);
        }
        let mask = self.attention_bias(dtype)?;
        let w = &mut self.writer;
        let scores = w.op(&at("masked"), "Add", &[&scores, &mask]);
        let weights = w.node(&at("weights"), "Softmax", &[&scores], vec![int("axis", -1)]);
        let context = w.op(&at("context"), "MatMul", &[&weights, &operands[2]]);
        let context = w.transpose(&at("context_tokens"), &context, &[0, 2, 1, 3]);
        Ok(w.reshape(&at("joined"), &context, &[0, 0, width]))
    }

    /// The last dimension of a tensor, which must be a number.
    pub(super) fn width(&self, tensor: TensorId) -> Lowered<i64> {
        let dims = self.graph.tensor(tensor).ty.shape.dims();
        dims.last().and_then(|dim| dim.as_const()).ok_or_else(|| "has an unknown width".into())
    }

    /// 0 for tokens and the smallest number for padding, `[batch, 1, 1, sequence]`. Not infinity: a row of padding
    /// alone would become NaN.
    fn attention_bias(&mut self, dtype: DType) -> Lowered {
        let least = match dtype {
            DType::F32 => f64::from(f32::MIN),
            DType::F64 => f64::MIN,
            DType::F16 => half::f16::MIN.to_f64(),
            DType::BF16 => half::bf16::MIN.to_f64(),
            other => return Err(format!("computes attention in {other}")),
        };
        self.shared(&format!("attention bias {dtype}"), |this| {
            let (zero, least) = (this.writer.float(dtype, 0.0)?, this.writer.float(dtype, least)?);
            let mask = this.mask.clone();
            let w = &mut this.writer;
            let mask = w.cast("is_not_padding", &mask, DType::Bool);
            let bias = w.op("padding_bias", "Where", &[&mask, &zero, &least]);
            Ok(w.unsqueeze("attention_bias", &bias, &[1, 2]))
        })
    }

    /// The bias for each distance between query and key, `[1, heads, sequence, sequence]`.
    ///
    /// From `max_distance` on the bucket stays the same, so a table over the distances up to there holds all biases.
    fn relative_bias(&mut self, table: TensorId, relative: &RelativeBuckets) -> Lowered {
        let tensor = self.graph.tensor(table);
        let data = tensor.constant().ok_or("has relative biases that are not a constant")?;
        let by_distance = by_distance(data, relative)?;
        let most = i64::try_from(relative.max_distance).map_err(|_| "has too many distances")?;
        let distance = self.clipped_distance(most)?;
        self.shared(&format!("relative bias {}", tensor.name), |this| {
            let w = &mut this.writer;
            let table = w.weight(&format!("{}/by_distance", tensor.name), &by_distance);
            let bias = w.node("relative_rows", "Gather", &[&table, &distance], vec![int("axis", 0)]);
            let bias = w.transpose("relative_heads", &bias, &[2, 0, 1]);
            Ok(w.unsqueeze("relative_bias", &bias, &[0]))
        })
    }

    /// How far each key is after each query, at most `most` either way, counted from `-most`: `[sequence, sequence]`.
    fn clipped_distance(&mut self, most: i64) -> Lowered {
        let range = self.range()?;
        self.shared(&format!("distance {most}"), |this| {
            let offset = this.writer.int(most);
            let w = &mut this.writer;
            let keys = w.unsqueeze("key_position", &range, &[0]);
            let queries = w.unsqueeze("query_position", &range, &[1]);
            let distance = w.op("distance", "Sub", &[&keys, &queries]);
            // Integers can be clipped from version 12 on.
            let clipped = if w.opset >= 12 {
                let (low, high) = (w.int(-most), w.int(most));
                w.op("clipped_distance", "Clip", &[&distance, &low, &high])
            } else {
                let (low, high) = (w.float(DType::F32, -most as f64)?, w.float(DType::F32, most as f64)?);
                let distance = w.cast("distance_float", &distance, DType::F32);
                let clipped = w.op("clipped_distance_float", "Clip", &[&distance, &low, &high]);
                w.cast("clipped_distance", &clipped, DType::I64)
            };
            Ok(w.op("distance_row", "Add", &[&clipped, &offset]))
        })
    }
}

/// The rows of the table of biases by distance, from `-max_distance` to `max_distance`: `[2 * max_distance + 1, heads]`.
fn by_distance(table: &TensorData, relative: &RelativeBuckets) -> Lowered<TensorData> {
    let &[buckets, heads] = table.shape() else {
        return Err(format!("has relative biases of shape {:?}", table.shape()));
    };
    let row_bytes = heads * table.dtype().size();
    let most = relative.max_distance;
    // Tables of this size are an error of the model, not a need.
    if most > 1 << 20 {
        return Err(format!("has relative biases up to distance {most}"));
    }
    let mut bytes = Vec::with_capacity((2 * most + 1) * row_bytes);
    for shift in 0..=2 * most {
        // A key at `shift` seen from a query at `most`.
        let bucket = relative.bucket(most, shift);
        if bucket >= buckets {
            return Err(format!("has {buckets} relative biases, but a distance needs number {bucket}"));
        }
        bytes.extend_from_slice(&table.bytes()[bucket * row_bytes..(bucket + 1) * row_bytes]);
    }
    TensorData::from_bytes(table.dtype(), vec![2 * most + 1, heads], bytes.into())
        .map_err(|error| error.to_string())
}
