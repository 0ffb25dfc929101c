use super::*;

#[test]
fn products_follow_numpy() {
    let a = tensor(&[2, 3], &[1i64, 2, 3, 4, 5, 6]);
    let b = tensor(&[3, 2], &[1i64, 0, 0, 1, 1, 1]);
    assert_eq!(result(&Op::MatMul, &[&a, &b]), tensor(&[2, 2], &[4i64, 5, 10, 11]));
    assert_eq!(result(&Op::MatMul, &[&a, &i64s(&[1, 1, 1])]), i64s(&[6, 15]));
    assert_eq!(result(&Op::MatMul, &[&i64s(&[1, 1]), &a]), i64s(&[5, 7, 9]));
    assert_eq!(result(&Op::MatMul, &[&i64s(&[1, 2]), &i64s(&[3, 4])]), tensor(&[], &[11i64]));
    let stacked = counting(&[4, 1, 2, 3]);
    assert_eq!(result(&Op::MatMul, &[&stacked, &counting(&[5, 3, 1])]).shape(), [4, 5, 2, 1]);
    let none = result(&Op::MatMul, &[&tensor::<f32>(&[2, 0], &[]), &tensor::<f32>(&[0, 2], &[])]);
    assert_eq!(none, f32s(&[2, 2], &[0.0; 4]));
    refusal(&Op::MatMul, &[&a, &a]);
    refusal(&Op::MatMul, &[&tensor(&[], &[1i64]), &a]);
}

#[test]
fn wide_products_wrap() {
    let x = tensor(&[1, 2], &[u64::MAX, 3]);
    let y = tensor(&[2, 1], &[2u64, 1]);
    assert_eq!(result(&Op::MatMul, &[&x, &y]), tensor(&[1, 1], &[1u64]));
}

#[test]
fn large_products_agree_with_the_definition() {
    let (m, k, n) = (37, 29, 23);
    let a: Vec<f64> = (0..m * k).map(|i| ((i * 37) % 11) as f64 - 5.0).collect();
    let b: Vec<f64> = (0..k * n).map(|i| ((i * 17) % 13) as f64 - 6.0).collect();
    let y = result(&Op::MatMul, &[&tensor(&[m, k], &a), &tensor(&[k, n], &b)]).to_f64();
    for (row, column) in [(0, 0), (16, 22), (36, 5), (15, 1)] {
        let expected: f64 = (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum();
        assert_eq!(y[row * n + column], expected);
    }
}

#[test]
fn gemm_scales_transposes_and_adds() {
    let gemm = |alpha, beta, trans_a, trans_b| Op::Gemm { alpha, beta, trans_a, trans_b };
    let a = f32s(&[2, 1], &[1.0, 2.0]);
    let b = f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let c = f32s(&[2], &[10.0, 20.0]);
    assert_eq!(result(&gemm(0.5, 2.0, true, false), &[&a, &b, &c]), f32s(&[1, 2], &[23.5, 45.0]));
    assert_eq!(result(&gemm(1.0, 1.0, true, true), &[&a, &b]), f32s(&[1, 2], &[5.0, 11.0]));
    let ints = tensor(&[1, 1], &[3i32]);
    assert_eq!(result(&gemm(0.5, 1.0, false, false), &[&ints, &ints]), tensor(&[1, 1], &[4i32]));
    assert_eq!(result(&gemm(1.0, 1.0, false, false), &[&ints, &ints, &ints]), tensor(&[1, 1], &[12i32]));
    refusal(&gemm(1.0, 1.0, false, false), &[&a, &b]);
    refusal(&gemm(1.0, 1.0, true, false), &[&a, &b, &f32s(&[2, 2], &[0.0; 4])]);
}

#[test]
fn integer_products_subtract_zero_points() {
    let a = tensor(&[2, 2], &[11u8, 7, 3, 10]);
    let b = tensor(&[2, 2], &[1i8, -4, 2, 5]);
    let scalar = result(&Op::MatMulInteger, &[&a, &b, &tensor(&[], &[7u8])]);
    assert_eq!(scalar, tensor(&[2, 2], &[4i32, -16, 2, 31]));
    let rows = result(&Op::MatMulInteger, &[&a, &b, &tensor(&[2], &[7u8, 3]), &tensor(&[2], &[1i8, 0])]);
    // (a - [7, 3]) = [4, 0; 0, 7] and (b - [1, 0]) = [0, -4; 1, 5]
    assert_eq!(rows, tensor(&[2, 2], &[0i32, -16, 7, 35]));
    refusal(&Op::MatMulInteger, &[&a, &b, &tensor(&[3], &[0u8; 3])]);
    refusal(&Op::MatMulInteger, &[&i64s(&[1]), &i64s(&[1])]);
}

#[test]
fn quantised_products_round_and_saturate() {
    let a = tensor(&[1, 2], &[4u8, 6]);
    let b = tensor(&[2, 3], &[3i8, 5, 120, 1, 5, 120]);
    let (one, zero_u, zero_i) = (f32s(&[], &[1.0]), tensor(&[], &[2u8]), tensor(&[], &[0i8]));
    let half = f32s(&[3], &[0.25, 0.25, 1.0]);
    let y = result(&Op::QLinearMatMul, &[&a, &one, &zero_u, &b, &half, &zero_i, &one, &tensor(&[], &[3u8])]);
    // (a - 2) = [2, 4]; sums [10, 30, 720]; scaled [2.5, 7.5, 720]; ties to even.
    assert_eq!(y, tensor(&[1, 3], &[5u8, 11, 255]));
}
