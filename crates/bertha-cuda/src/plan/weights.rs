//! Weights in the form that kernels read.

use bertha_compile::Precision;
use bertha_graph::{DType, Graph, RelativeBuckets, TensorData, WeightLayout};
use bytes::Bytes;
use half::{bf16, f16};

use crate::program::{LowerError, WeightForm, WeightPlan};

/// Converts and lays out one weight of `graph`.
///
/// # Errors
/// When the graph has no such constant, or a value does not fit the precision.
pub(super) fn convert(graph: &Graph, plan: &WeightPlan, precision: Precision) -> Result<Bytes, LowerError> {
    let wrong = |why: String| LowerError::Weight { weight: plan.name.clone(), why };
    let named = |name: &str| constant(graph, name).map_err(wrong);
    let of_f32 = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect::<Bytes>();
    match &plan.form {
        WeightForm::I32 => integers(named(&plan.name)?).map_err(wrong),
        WeightForm::I64 => {
            let data = named(&plan.name)?;
            let values =
                data.to_i64().ok_or_else(|| wrong(format!("expected integers, found {}", data.dtype())))?;
            Ok(values.into_iter().flat_map(i64::to_le_bytes).collect())
        }
        WeightForm::Bool => {
            let data = named(&plan.name)?;
            match data.dtype() {
                DType::Bool => Ok(data.bytes().clone()),
                dtype => Err(wrong(format!("expected bool, found {dtype}"))),
            }
        }
        WeightForm::F32 => Ok(of_f32(floats(named(&plan.name)?).map_err(wrong)?)),
        WeightForm::Rows => {
            narrow(matrix(named(&plan.name)?, WeightLayout::OutIn).map_err(wrong)?, precision).map_err(wrong)
        }
        WeightForm::Transposed => {
            narrow(matrix(named(&plan.name)?, WeightLayout::InOut).map_err(wrong)?, precision).map_err(wrong)
        }
        WeightForm::Distances { buckets, max_distance, longest } => {
            let values = floats(named(&plan.name)?).map_err(wrong)?;
            let heads = values.len().checked_div(*buckets).unwrap_or(0);
            let buckets = RelativeBuckets { buckets: *buckets, max_distance: *max_distance };
            Ok(of_f32(by_distance(&values, heads, buckets, *longest)))
        }
        WeightForm::Zeros(length) => {
            let bytes = length.checked_mul(4).ok_or_else(|| wrong(format!("{length} zeros are too many")))?;
            Ok(vec![0u8; bytes].into())
        }
        WeightForm::Centred { layout, gamma } => {
            let gamma = floats(named(gamma)?).map_err(wrong)?;
            let values = matrix(named(&plan.name)?, *layout).map_err(wrong)?;
            narrow(centred(values, &gamma), precision).map_err(wrong)
        }
        WeightForm::BiasOfNorm { matrix: weight, layout, beta } => {
            let beta = floats(named(beta)?).map_err(wrong)?;
            let rows = matrix(named(weight)?, *layout).map_err(wrong)?;
            let products = rows.chunks(beta.len().max(1)).map(|row| dot(row, &beta));
            Ok(of_f32(with_bias(graph, &plan.name, products).map_err(wrong)?))
        }
        WeightForm::BiasAndShift { beta } => {
            let beta = floats(named(beta)?).map_err(wrong)?;
            Ok(of_f32(with_bias(graph, &plan.name, beta.into_iter().map(f64::from)).map_err(wrong)?))
        }
    }
}

/// Bytes that a weight takes on the card, from the graph's declaration alone.
pub(super) fn length(graph: &Graph, plan: &WeightPlan, precision: Precision) -> Option<usize> {
    let elements = |name: &str| constant(graph, name).ok().map(TensorData::len);
    match &plan.form {
        WeightForm::Zeros(length) => length.checked_mul(4),
        WeightForm::Distances { buckets, longest, .. } => {
            let heads = elements(&plan.name)?.checked_div(*buckets)?;
            longest.checked_mul(2)?.checked_sub(1)?.checked_mul(heads)?.checked_mul(4)
        }
        WeightForm::F32 | WeightForm::I32 => elements(&plan.name)?.checked_mul(4),
        WeightForm::I64 => elements(&plan.name)?.checked_mul(8),
        WeightForm::Bool => elements(&plan.name),
        WeightForm::Rows | WeightForm::Transposed | WeightForm::Centred { .. } => {
            elements(&plan.name)?.checked_mul(precision.bytes())
        }
        WeightForm::BiasOfNorm { matrix, beta, .. } => {
            elements(matrix)?.checked_div(elements(beta)?)?.checked_mul(4)
        }
        WeightForm::BiasAndShift { beta } => elements(beta)?.checked_mul(4),
    }
}

fn constant<'a>(graph: &'a Graph, name: &str) -> Result<&'a TensorData, String> {
    let tensor = graph.find(name).and_then(|id| graph.tensor(id).constant());
    tensor.ok_or_else(|| format!("the graph has no constant `{name}`"))
}

/// The matrix of a layer behind a norm, row by row: times `gamma`, less each row's mean. A row that takes the mean out of
/// what it is multiplied with needs no mean of it.
fn centred(mut rows: Vec<f32>, gamma: &[f32]) -> Vec<f32> {
    for row in rows.chunks_mut(gamma.len().max(1)) {
        let mean = dot(row, gamma) / gamma.len() as f64;
        for (value, gamma) in row.iter_mut().zip(gamma) {
            *value = (f64::from(*value) * f64::from(*gamma) - mean) as f32;
        }
    }
    rows
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// `values` with the bias of this name added, if it has one.
fn with_bias(graph: &Graph, name: &str, values: impl Iterator<Item = f64>) -> Result<Vec<f32>, String> {
    if name.is_empty() {
        return Ok(values.map(|value| value as f32).collect());
    }
    let bias = floats(constant(graph, name)?)?;
    Ok(values.zip(bias).map(|(value, bias)| (value + f64::from(bias)) as f32).collect())
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

/// The values in f32.
fn floats(data: &TensorData) -> Result<Vec<f32>, String> {
    if !data.dtype().is_float() {
        return Err(format!("expected floats, found {}", data.dtype()));
    }
    Ok(match data.as_slice::<f32>() {
        Ok(values) => values.to_vec(),
        Err(_) => data.to_f64().into_iter().map(|value| value as f32).collect(),
    })
}

/// The values of a matrix in f32, by output feature.
fn matrix(data: &TensorData, layout: WeightLayout) -> Result<Vec<f32>, String> {
    let values = floats(data)?;
    if layout == WeightLayout::OutIn {
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
mod norm_tests;

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
            let plan = plan(form);
            let bytes = convert(&graph, &plan, Precision::F16).unwrap();
            assert_eq!(Some(bytes.len()), length(&graph, &plan, Precision::F16));
            let halves = bytes.chunks(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32());
            halves.collect::<Vec<_>>()
        };
        assert_eq!(values(WeightForm::Rows), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(values(WeightForm::Transposed), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn layers_behind_a_deferred_norm_have_centred_rows_and_its_shift_in_the_bias() {
        let mut graph = graph(TensorData::from_vec(vec![2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap());
        graph.add_constant("gamma", TensorData::vector(vec![2f32, 1.0, 4.0])).unwrap();
        graph.add_constant("beta", TensorData::vector(vec![1f32, -1.0, 2.0])).unwrap();
        let turned = TensorData::from_vec(vec![3, 2], vec![1f32, 4.0, 2.0, 5.0, 3.0, 6.0]).unwrap();
        graph.add_constant("turned", turned).unwrap();
        graph.add_constant("bias", TensorData::vector(vec![10f32, 20.0])).unwrap();
        graph.add_constant("row", TensorData::vector(vec![1f32, 2.0, 3.0])).unwrap();
        let values = |name: &str, form: WeightForm| {
            let plan = WeightPlan { name: name.into(), form };
            let bytes = convert(&graph, &plan, Precision::F32).unwrap();
            assert_eq!(Some(bytes.len()), length(&graph, &plan, Precision::F32));
            let words = bytes.chunks(4).map(|word| f32::from_le_bytes(word.try_into().unwrap()));
            words.collect::<Vec<_>>()
        };
        let (gamma, beta) = (String::from("gamma"), String::from("beta"));
        for (name, layout) in [("w", WeightLayout::OutIn), ("turned", WeightLayout::InOut)] {
            let matrix = values(name, WeightForm::Centred { layout, gamma: gamma.clone() });
            let third = 16.0 / 3.0;
            let expected = [
                2.0 - third,
                2.0 - third,
                12.0 - third,
                8.0 - 37.0 / 3.0,
                5.0 - 37.0 / 3.0,
                24.0 - 37.0 / 3.0,
            ];
            assert!(
                matrix.iter().zip(expected).all(|(a, b): (&f32, f64)| (f64::from(*a) - b).abs() < 1e-5),
                "{matrix:?}"
            );
            let of_norm = || WeightForm::BiasOfNorm { matrix: name.into(), layout, beta: beta.clone() };
            assert_eq!(values("bias", of_norm()), [15.0, 31.0]);
            assert_eq!(values("", of_norm()), [5.0, 11.0]);
        }
        let and_shift = || WeightForm::BiasAndShift { beta: beta.clone() };
        assert_eq!(values("row", and_shift()), [2.0, 1.0, 5.0]);
        assert_eq!(values("", and_shift()), [1.0, -1.0, 2.0]);
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
