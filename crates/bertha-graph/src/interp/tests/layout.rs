use super::*;

#[test]
fn reshape_infers_copies_and_refuses() {
    let op = Op::Reshape { allow_zero: false };
    let x = counting(&[2, 3, 4]);
    let to = |shape: &[i64]| result(&op, &[&x, &i64s(shape)]).shape().to_vec();
    assert_eq!(to(&[0, -1]), [2, 12]);
    assert_eq!(to(&[-1]), [24]);
    assert_eq!(to(&[4, 0, 2]), [4, 3, 2]);
    let empty = tensor::<f32>(&[0, 3, 4], &[]);
    assert_eq!(
        result(&op, &[&empty, &i64s(&[0, -1])]).shape(),
        [0, 12],
        "the copied 0 does not hide the rest"
    );
    let zero = Op::Reshape { allow_zero: true };
    assert_eq!(result(&zero, &[&empty, &i64s(&[4, 0])]).shape(), [4, 0]);
    for bad in [&[5, -1][..], &[-1, -1], &[7], &[-2, 12], &[2, 3, 4, 0]] {
        refusal(&op, &[&x, &i64s(bad)]);
    }
    refusal(&zero, &[&empty, &i64s(&[0, -1])]);
}

#[test]
fn transpose_moves_every_element() {
    let x = counting(&[2, 3, 4]);
    let y = result(&Op::Transpose { perm: vec![2, 0, 1] }, &[&x]);
    assert_eq!(y.shape(), [4, 2, 3]);
    for (a, b, c) in [(0, 0, 0), (1, 2, 3), (0, 1, 2)] {
        let (from, to) = ((a * 3 + b) * 4 + c, (c * 2 + a) * 3 + b);
        assert_eq!(y.to_f64()[to], x.to_f64()[from]);
    }
    let back = result(&Op::Transpose { perm: vec![1, 2, 0] }, &[&y]);
    assert_eq!(back, x);
    refusal(&Op::Transpose { perm: vec![0, 0, 1] }, &[&x]);
}

#[test]
fn squeeze_and_unsqueeze_undo_each_other() {
    let x = counting(&[2, 3]);
    let y = result(&Op::Unsqueeze, &[&x, &i64s(&[-1, 0])]);
    assert_eq!(y.shape(), [1, 2, 3, 1]);
    assert_eq!(result(&Op::Squeeze, &[&y]), x);
    assert_eq!(result(&Op::Squeeze, &[&y, &i64s(&[-4])]).shape(), [2, 3, 1]);
    refusal(&Op::Squeeze, &[&y, &i64s(&[1])]);
    refusal(&Op::Unsqueeze, &[&x, &i64s(&[0, 0])]);
    refusal(&Op::Unsqueeze, &[&x, &i64s(&[5])]);
}

#[test]
fn concat_undoes_split() {
    let x = counting(&[2, 7, 3]);
    let parts = results(&Op::Split { axis: -2, parts: 3 }, &[&x]);
    let sizes: Vec<usize> = parts.iter().map(|part| part.shape()[1]).collect();
    assert_eq!(sizes, [3, 3, 1], "the last piece is smaller");
    let operands: Vec<&Value> = parts.iter().collect();
    assert_eq!(result(&Op::Concat { axis: 1 }, &operands), x);
    let given = results(&Op::Split { axis: 1, parts: 3 }, &[&x, &i64s(&[0, 5, 2])]);
    assert_eq!(given[0].shape(), [2, 0, 3]);
    assert_eq!(given[2].to_f64()[..3], [15.0, 16.0, 17.0]);
    refusal(&Op::Split { axis: 1, parts: 2 }, &[&x, &i64s(&[3, 3])]);
    refusal(&Op::Split { axis: 1, parts: 2 }, &[&x, &i64s(&[-1, 8])]);
    refusal(&Op::Concat { axis: 0 }, &[&counting(&[2, 2]), &counting(&[2, 3])]);
}

#[test]
fn expand_and_tile_repeat() {
    let x = i64s(&[1, 2]).with_shape(vec![2, 1]);
    assert_eq!(result(&Op::Expand, &[&x, &i64s(&[2])]), tensor(&[2, 2], &[1i64, 1, 2, 2]));
    assert_eq!(result(&Op::Expand, &[&x, &i64s(&[3, 1, 1])]).shape(), [3, 2, 1]);
    assert_eq!(result(&Op::Tile, &[&x, &i64s(&[2, 2])]), tensor(&[4, 2], &[1i64, 1, 2, 2, 1, 1, 2, 2]));
    assert_eq!(result(&Op::Tile, &[&x, &i64s(&[0, 1])]).shape(), [0, 1]);
    refusal(&Op::Expand, &[&x, &i64s(&[3, 1])]);
    refusal(&Op::Expand, &[&x, &i64s(&[-1])]);
    assert!(refusal(&Op::Expand, &[&x, &i64s(&[1 << 40, 1, 1])]).contains("elements"));
}

#[test]
fn shape_takes_a_range_of_dimensions() {
    let x = counting(&[2, 3, 4]);
    let of = |start, end| result(&Op::Shape { start, end }, &[&x]);
    assert_eq!(of(0, None), i64s(&[2, 3, 4]));
    assert_eq!(of(-1, None), i64s(&[4]));
    assert_eq!(of(1, Some(-1)), i64s(&[3]));
    assert_eq!(of(2, Some(1)), i64s(&[]));
    assert_eq!(of(-9, Some(9)), i64s(&[2, 3, 4]));
}

#[test]
fn constants_are_filled() {
    let op = |value| Op::ConstantOfShape { value };
    assert_eq!(result(&op(TensorData::vector(vec![7i32])), &[&i64s(&[2, 1])]), tensor(&[2, 1], &[7i32, 7]));
    assert_eq!(result(&op(TensorData::scalar(1.5f32)), &[&i64s(&[])]), f32s(&[], &[1.5]));
    assert!(refusal(&op(TensorData::scalar(0u8)), &[&i64s(&[i64::MAX, 2])]).contains("elements"));
    refusal(&op(TensorData::scalar(0u8)), &[&i64s(&[-1])]);
}

#[test]
fn ranges_count_both_ways() {
    let range = |a: i64, b: i64, c: i64| {
        result(&Op::Range, &[&tensor(&[], &[a]), &tensor(&[], &[b]), &tensor(&[], &[c])])
    };
    assert_eq!(range(3, 9, 3), i64s(&[3, 6]));
    assert_eq!(range(3, 10, 3), i64s(&[3, 6, 9]));
    assert_eq!(range(10, 4, -2), i64s(&[10, 8, 6]));
    assert_eq!(range(10, 5, -2), i64s(&[10, 8, 6]));
    assert_eq!(range(1, 5, -1), i64s(&[]));
    let scalar = |x: f32| f32s(&[], &[x]);
    let floats = result(&Op::Range, &[&scalar(1.0), &scalar(2.0), &scalar(0.25)]);
    assert_eq!(floats, f32s(&[4], &[1.0, 1.25, 1.5, 1.75]));
    let zero = tensor(&[], &[0i64]);
    refusal(&Op::Range, &[&zero, &zero, &zero]);
    refusal(&Op::Range, &[&scalar(0.0), &scalar(f32::NAN), &scalar(1.0)]);
    let far = refusal(&Op::Range, &[&zero, &tensor(&[], &[i64::MAX]), &tensor(&[], &[1i64])]);
    assert!(far.contains("elements"));
}
