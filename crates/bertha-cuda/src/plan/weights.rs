//! Weights in the form that kernels read.

use bertha_compile::Precision;
use bertha_graph::{Graph, RelativeBuckets, TensorData};
use bytes::Bytes;
use half::{bf16, f16};

use crate::program::{LowerError, WeightForm, WeightPlan};

/// Converts and lays out one weight of `graph`.
///
/// # Errors
/// When the graph has no such constant, or a value does not fit the precision.
pub(super) fn convert(graph: &Graph, plan: &WeightPlan, precision: Precision) -> Result<Bytes, LowerError> {
    let wrong = |why: String| LowerError::Weight { weight: plan.name.clone(), why };
    if let WeightForm::Zeros(length) = plan.form {
        let bytes = length.checked_mul(4).ok_or_else(|| wrong(format!("{length} zeros are too many")))?;
        return Ok(vec![0u8; bytes].into());
    }
    let tensor = graph.find(&plan.name).and_then(|id| graph.tensor(id).constant());
    let data = tensor.ok_or_else(|| wrong("the graph has no constant of this name".into()))?;
    match plan.form {
        WeightForm::I32 => integers(data).map_err(wrong),
        WeightForm::F32 => {
            Ok(floats(data, None).map_err(wrong)?.into_iter().flat_map(f32::to_le_bytes).collect())
        }
        WeightForm::Rows => narrow(floats(data, None).map_err(wrong)?, precision).map_err(wrong),
        WeightForm::Transposed => narrow(floats(data, Some(())).map_err(wrong)?, precision).map_err(wrong),
        WeightForm::Distances { buckets, max_distance, longest } => {
            let values = floats(data, None).map_err(wrong)?;
            let heads = values.len().checked_div(buckets).unwrap_or(0);
            let buckets = RelativeBuckets { buckets, max_distance };
            Ok(by_distance(&values, heads, buckets, longest).into_iter().flat_map(f32::to_le_bytes).collect())
        }
        WeightForm::Zeros(_) => Ok(Bytes::new()),
    }
}

/// Bytes that a weight takes on the card, from the graph's declaration alone.
pub(super) fn length(graph: &Graph, plan: &WeightPlan, precision: Precision) -> Option<usize> {
    let elements = || {
        let tensor = graph.find(&plan.name).and_then(|id| graph.tensor(id).constant())?;
        Some(tensor.len())
    };
    match plan.form {
        WeightForm::Zeros(length) => length.checked_mul(4),
        WeightForm::Distances { buckets, longest, .. } => {
            let heads = elements()?.checked_div(buckets)?;
            longest.checked_mul(2)?.checked_sub(1)?.checked_mul(heads)?.checked_mul(4)
        }
        WeightForm::F32 | WeightForm::I32 => elements()?.checked_mul(4),
        WeightForm::Rows | WeightForm::Transposed => elements()?.checked_mul(precision.bytes()),
    }
}

/// `[buckets, heads]` as `[heads, 2 * longest - 1]`.
fn by_distance(table: &[f32], heads: usize, buckets: RelativeBuckets, longest: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(heads * (2 * longest).saturating_sub(1));
    for head in 0..heads {
        for at in 0..(2 * longest).saturating_sub(1) {
            // Key minus query is `at - (longest - 1)`; either may stand at 0.
            let (query, key) = if at < longest { (longest - 1 - at, 0) } else { (0, at + 1 - longest) };
            values.push(table.get(buckets.bucket(query, key) * heads + head).copied().unwrap_or(0.0));
        }
    }
    values
}

fn integers(data: &TensorData) -> Result<Bytes, String> {
    let values = data.to_i64().ok_or_else(|| format!("expected integers, found {}", data.dtype()))?;
    let mut bytes = Vec::with_capacity(values.len() * 4);
    for value in values {
        let narrow = i32::try_from(value).map_err(|_| format!("{value} does not fit 32 bits"))?;
        bytes.extend(narrow.to_le_bytes());
    }
    Ok(bytes.into())
}

/// The values in f32, transposed on demand.
fn floats(data: &TensorData, transposed: Option<()>) -> Result<Vec<f32>, String> {
    if !data.dtype().is_float() {
        return Err(format!("expected floats, found {}", data.dtype()));
    }
    let values: Vec<f32> = match data.as_slice::<f32>() {
        Ok(values) => values.to_vec(),
        Err(_) => data.to_f64().into_iter().map(|value| value as f32).collect(),
    };
    if transposed.is_none() {
        return Ok(values);
    }
    let [rows, columns] = *data.shape() else {
        return Err(format!("expected a matrix, found {:?}", data.shape()));
    };
    let mut turned = Vec::with_capacity(values.len());
    for column in 0..columns {
        turned.extend((0..rows).map(|row| values[row * columns + column]));
    }
    Ok(turned)
}

/// Rounds to the precision. A finite value that becomes infinite is an error: the model would answer NaN.
fn narrow(values: Vec<f32>, precision: Precision) -> Result<Bytes, String> {
    let overflow = |value: f32| format!("{value:e} is more than {precision} can hold; use bf16 or f32");
    let mut bytes = Vec::with_capacity(values.len() * precision.bytes());
    for value in values {
        let kept = match precision {
            Precision::F32 => {
                bytes.extend(value.to_le_bytes());
                true
            }
            Precision::F16 => {
                let narrow = f16::from_f32(value);
                bytes.extend(narrow.to_le_bytes());
                narrow.is_finite()
            }
            Precision::Bf16 => {
                let narrow = bf16::from_f32(value);
                bytes.extend(narrow.to_le_bytes());
                narrow.is_finite()
            }
        };
        if !kept && value.is_finite() {
            return Err(overflow(value));
        }
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(data: TensorData) -> Graph {
        let mut graph = Graph::new("weights");
        graph.add_constant("w", data).unwrap();
        graph
    }

    fn plan(form: WeightForm) -> WeightPlan {
        WeightPlan { name: "w".into(), form }
    }

    #[test]
    fn matrices_are_laid_out_by_output_feature() {
        let graph = graph(TensorData::from_vec(vec![2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap());
        let values = |form| {
            let bytes = convert(&graph, &plan(form), Precision::F16).unwrap();
            assert_eq!(Some(bytes.len()), length(&graph, &plan(form), Precision::F16));
            let halves = bytes.chunks(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32());
            halves.collect::<Vec<_>>()
        };
        assert_eq!(values(WeightForm::Rows), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(values(WeightForm::Transposed), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn a_value_that_f16_cannot_hold_is_an_error() {
        let graph = graph(TensorData::vector(vec![1f32, 7e4]));
        assert!(
            convert(&graph, &plan(WeightForm::Rows), Precision::F16).unwrap_err().to_string().contains("7e4")
        );
        assert!(convert(&graph, &plan(WeightForm::Rows), Precision::Bf16).is_ok());
    }

    #[test]
    fn biases_are_spread_out_by_distance() {
        let buckets = RelativeBuckets { buckets: 8, max_distance: 16 };
        let (heads, longest) = (3, 20);
        let table: Vec<f32> = (0..8 * heads).map(|index| index as f32).collect();
        let spread = by_distance(&table, heads, buckets, longest);
        for head in 0..heads {
            for query in 0..longest {
                for key in 0..longest {
                    let at = head * (2 * longest - 1) + key + longest - 1 - query;
                    assert_eq!(spread[at], table[buckets.bucket(query, key) * heads + head]);
                }
            }
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = convert(&Graph::new("none"), &plan(WeightForm::F32), Precision::F32).unwrap_err();
        assert!(error.to_string().contains("`w`"));
    }
}
