use super::*;

fn quantize(axis: i64, block_size: usize, to: DType) -> Op {
    Op::QuantizeLinear { axis, block_size, to }
}

#[test]
fn quantising_rounds_half_to_even_and_saturates() {
    let x = f32s(&[6], &[0.0, 1.0, 3.0, 5.0, 1000.0, -1000.0]);
    let y = result(&quantize(0, 0, DType::U8), &[&x, &f32s(&[], &[2.0]), &tensor(&[], &[128u8])]);
    assert_eq!(y, tensor(&[6], &[128u8, 128, 130, 130, 255, 0]));
    let wide = result(&quantize(0, 0, DType::I16), &[&x, &f32s(&[], &[0.01])]);
    assert_eq!(wide, tensor(&[6], &[0i16, 100, 300, 500, 32767, -32768]));
    refusal(&quantize(0, 0, DType::I64), &[&x, &f32s(&[], &[2.0])]);
    refusal(&quantize(0, 0, DType::I8), &[&x, &f32s(&[], &[2.0]), &tensor(&[], &[1u8])]);
}

#[test]
fn scales_by_axis_and_by_block() {
    let x = f32s(&[2, 3], &[2.0, 4.0, 6.0, 2.0, 4.0, 6.0]);
    let by_row = result(&quantize(0, 0, DType::I8), &[&x, &f32s(&[2], &[1.0, 2.0])]);
    assert_eq!(by_row, tensor(&[2, 3], &[2i8, 4, 6, 1, 2, 3]));
    let blocks = f32s(&[2, 2], &[1.0, 2.0, 2.0, 1.0]);
    let zeros = tensor(&[2, 2], &[0i8, 1, 0, 0]);
    let by_block = result(&quantize(-1, 2, DType::I8), &[&x, &blocks, &zeros]);
    assert_eq!(by_block, tensor(&[2, 3], &[2i8, 4, 4, 1, 2, 6]));
    let back = Op::DequantizeLinear { axis: 1, block_size: 2, to: DType::F32 };
    assert_eq!(result(&back, &[&by_block, &blocks, &zeros]), x);
    refusal(&quantize(0, 0, DType::I8), &[&x, &f32s(&[3], &[1.0; 3])]);
    refusal(&quantize(5, 0, DType::I8), &[&x, &f32s(&[2], &[1.0; 2])]);
}

#[test]
fn dequantising_subtracts_exactly() {
    let op = Op::DequantizeLinear { axis: 0, block_size: 0, to: DType::F32 };
    let y = result(&op, &[&tensor(&[2], &[0u8, 255]), &f32s(&[], &[0.5]), &tensor(&[], &[128u8])]);
    assert_eq!(y, f32s(&[2], &[-64.0, 63.5]));
    let wide = result(&op, &[&tensor(&[1], &[-30i32]), &f32s(&[], &[2.0])]);
    assert_eq!(wide, f32s(&[1], &[-60.0]));
}

#[test]
fn dynamic_quantisation_covers_the_range_and_zero() {
    let x = f32s(&[6], &[0.0, 2.0, -3.0, -2.5, 1.34, 0.5]);
    let all = results(&Op::DynamicQuantizeLinear, &[&x]);
    assert_eq!(all[0], tensor(&[6], &[153u8, 255, 0, 26, 221, 179]));
    assert_close(&all[1], &[5.0 / 255.0], 1e-8);
    assert_eq!(all[2], tensor(&[], &[153u8]));
    let positive = results(&Op::DynamicQuantizeLinear, &[&f32s(&[2], &[1.0, 2.0])]);
    assert_eq!(positive[2], tensor(&[], &[0u8]), "the range holds zero");
    let none = results(&Op::DynamicQuantizeLinear, &[&f32s(&[1], &[0.0])]);
    assert_eq!(none[0], tensor(&[1], &[0u8]));
    let nan = results(&Op::DynamicQuantizeLinear, &[&f32s(&[2], &[f32::NAN, 1.0])]);
    assert_eq!(nan[0].shape(), [2], "no panic");
}
