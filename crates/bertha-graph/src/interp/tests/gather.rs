use super::*;
use crate::op::PadMode;

#[test]
fn slices_clamp_and_step() {
    let x = tensor(&[2, 4], &[1i64, 2, 3, 4, 5, 6, 7, 8]);
    let ints = |v: &[i64]| i64s(v);
    let slice = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]| {
        result(&Op::Slice, &[&x, &ints(starts), &ints(ends), &ints(axes), &ints(steps)])
    };
    assert_eq!(slice(&[1, 0], &[2, 3], &[0, 1], &[1, 2]), tensor(&[1, 2], &[5i64, 7]));
    assert_eq!(slice(&[-1], &[i64::MIN], &[1], &[-1]), tensor(&[2, 4], &[4i64, 3, 2, 1, 8, 7, 6, 5]));
    assert_eq!(slice(&[0], &[i64::MAX], &[-1], &[3]), tensor(&[2, 2], &[1i64, 4, 5, 8]));
    assert_eq!(slice(&[20], &[30], &[0], &[1]).shape(), [0, 4]);
    assert_eq!(slice(&[20], &[0], &[1], &[-2]), tensor(&[2, 2], &[4i64, 2, 8, 6]));
    let leading = result(&Op::Slice, &[&x, &ints(&[1]), &ints(&[-1])]);
    assert_eq!(leading.shape(), [0, 4], "without axes the first dimensions are cut");
    let empty = tensor::<i64>(&[0], &[]);
    let back = result(&Op::Slice, &[&empty, &ints(&[-1]), &ints(&[-9]), &ints(&[0]), &ints(&[-1])]);
    assert_eq!(back.shape(), [0]);
    refusal(&Op::Slice, &[&x, &ints(&[0]), &ints(&[1]), &ints(&[0]), &ints(&[0])]);
    refusal(&Op::Slice, &[&x, &ints(&[0]), &ints(&[1]), &ints(&[2])]);
    refusal(&Op::Slice, &[&x, &ints(&[0, 0]), &ints(&[1, 1]), &ints(&[0, -2])]);
}

#[test]
fn gather_takes_slices() {
    let x = tensor(&[3, 2], &[1i64, 2, 3, 4, 5, 6]);
    let at = tensor(&[2, 2], &[0i32, -1, 1, 0]);
    let rows = result(&Op::Gather { axis: 0 }, &[&x, &at]);
    assert_eq!(rows, tensor(&[2, 2, 2], &[1i64, 2, 5, 6, 3, 4, 1, 2]));
    let columns = result(&Op::Gather { axis: -1 }, &[&x, &tensor(&[], &[1i64])]);
    assert_eq!(columns, i64s(&[2, 4, 6]));
    for bad in [3, -4, i64::MAX, i64::MIN] {
        assert!(refusal(&Op::Gather { axis: 0 }, &[&x, &i64s(&[bad])]).contains("out of range"));
    }
    refusal(&Op::Gather { axis: 2 }, &[&x, &at]);
    let none = tensor::<i64>(&[0, 2], &[]);
    assert_eq!(result(&Op::Gather { axis: 0 }, &[&none, &i64s(&[])]).shape(), [0, 2]);
}

#[test]
fn gather_elements_takes_single_elements() {
    let x = tensor(&[2, 3], &[1i64, 2, 3, 4, 5, 6]);
    let at = tensor(&[2, 2], &[0i64, -1, 2, 1]);
    assert_eq!(result(&Op::GatherElements { axis: 1 }, &[&x, &at]), tensor(&[2, 2], &[1i64, 3, 6, 5]));
    let rows = result(&Op::GatherElements { axis: 0 }, &[&x, &tensor(&[1, 3], &[1i64, 0, 1])]);
    assert_eq!(rows, tensor(&[1, 3], &[4i64, 2, 6]));
    refusal(&Op::GatherElements { axis: 1 }, &[&x, &tensor(&[1, 1], &[3i64])]);
    refusal(&Op::GatherElements { axis: 1 }, &[&x, &i64s(&[0])]);
}

#[test]
fn gather_nd_addresses_leading_dimensions() {
    let x = tensor(&[2, 2, 2], &[0i64, 1, 2, 3, 4, 5, 6, 7]);
    let full = result(&Op::GatherNd { batch_dims: 0 }, &[&x, &tensor(&[2, 3], &[0i64, 0, 1, 1, -1, 0])]);
    assert_eq!(full, i64s(&[1, 6]));
    let rows = result(&Op::GatherNd { batch_dims: 0 }, &[&x, &tensor(&[2, 2], &[0i64, 1, 1, 0])]);
    assert_eq!(rows, tensor(&[2, 2], &[2i64, 3, 4, 5]));
    let batched = result(&Op::GatherNd { batch_dims: 1 }, &[&x, &tensor(&[2, 1], &[1i64, 0])]);
    assert_eq!(batched, tensor(&[2, 2], &[2i64, 3, 4, 5]));
    refusal(&Op::GatherNd { batch_dims: 0 }, &[&x, &tensor(&[1, 1], &[2i64])]);
    refusal(&Op::GatherNd { batch_dims: 1 }, &[&x, &tensor(&[3, 1], &[0i64; 3])]);
    refusal(&Op::GatherNd { batch_dims: 0 }, &[&x, &tensor(&[1, 4], &[0i64; 4])]);
    refusal(&Op::GatherNd { batch_dims: 9 }, &[&x, &tensor(&[2, 1], &[0i64; 2])]);
}

fn pad(mode: PadMode, x: &[i64], begin: i64, end: i64) -> Vec<f64> {
    result(&Op::Pad { mode }, &[&i64s(x), &i64s(&[begin, end])]).to_f64()
}

#[test]
fn padding_in_every_mode() {
    let x = [1, 2, 3];
    assert_eq!(pad(PadMode::Constant, &x, 1, 2), [0.0, 1.0, 2.0, 3.0, 0.0, 0.0]);
    assert_eq!(pad(PadMode::Edge, &x, 2, 1), [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]);
    assert_eq!(pad(PadMode::Reflect, &x, 2, 2), [3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0]);
    assert_eq!(pad(PadMode::Reflect, &x, 5, 0)[..5], [2.0, 1.0, 2.0, 3.0, 2.0], "reflections repeat");
    assert_eq!(pad(PadMode::Reflect, &[4], 2, 1), [4.0; 4]);
    assert_eq!(pad(PadMode::Wrap, &x, 4, 1), [3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0]);
    assert_eq!(pad(PadMode::Constant, &x, -1, 1), [2.0, 3.0, 0.0]);
    assert_eq!(pad(PadMode::Edge, &x, -1, 2), [2.0, 3.0, 3.0, 3.0]);
    assert_eq!(pad(PadMode::Wrap, &x, -1, 2), [2.0, 3.0, 2.0, 3.0], "what is cropped does not come back");
    assert_eq!(pad(PadMode::Constant, &x, -3, 0), [0.0; 0]);
    assert_eq!(pad(PadMode::Constant, &x, 2, -4), [0.0]);
}

#[test]
fn padding_of_chosen_axes_with_a_value() {
    let x = f32s(&[1, 2], &[1.0, 2.0]);
    let value = f32s(&[], &[9.0]);
    let op = Op::Pad { mode: PadMode::Constant };
    let padded = result(&op, &[&x, &i64s(&[1, 0]), &value, &i64s(&[-1])]);
    assert_eq!(padded, f32s(&[1, 3], &[9.0, 1.0, 2.0]));
    refusal(&op, &[&x, &i64s(&[1, 0])]);
    refusal(&op, &[&x, &i64s(&[0, -3, 0, 0])]);
    refusal(&op, &[&x, &i64s(&[0, i64::MAX, 0, i64::MAX])]);
    refusal(&op, &[&x, &i64s(&[0, i64::MIN, 0, 0])]);
    refusal(&Op::Pad { mode: PadMode::Edge }, &[&tensor::<i64>(&[0], &[]), &i64s(&[1, 0])]);
    refusal(&Op::Pad { mode: PadMode::Reflect }, &[&i64s(&[1, 2]), &i64s(&[-2, 1])]);
}
