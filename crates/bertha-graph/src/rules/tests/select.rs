use super::*;

fn slice(x: &str, starts: &str, ends: &str, axes: &str, steps: &str) -> String {
    types(Op::Slice, &[t(x), v(starts), v(ends), v(axes), v(steps)])
}

#[test]
fn slices_of_known_size_are_those_of_numpy() {
    for size in 0..6i64 {
        for (start, end, step) in itertools(size) {
            let expected = python_slice(size, start, end, step);
            let inputs = [
                Some(Fact::of(TensorType::new(DType::F32, Shape(vec![Dim::from(size)])))),
                s(&start.to_string()).map(vector),
                s(&end.to_string()).map(vector),
                v("0"),
                s(&step.to_string()).map(vector),
            ];
            let found = types(Op::Slice, &inputs);
            assert_eq!(found, format!("f32[{}]", expected.len()), "[{start}:{end}:{step}] of {size}");
            // Contents are picked where the slice points.
            let contents: Vec<i64> = (0..size).collect();
            let mut inputs = inputs;
            inputs[0] = c(TensorData::vector(contents));
            let expected: Vec<String> = expected.iter().map(i64::to_string).collect();
            assert_eq!(value(Op::Slice, &inputs), expected.join(", "), "[{start}:{end}:{step}] of {size}");
        }
    }
}

fn vector(fact: Fact) -> Fact {
    Fact::with_value(fact.dtype(), crate::shape![1], fact.value)
}

fn itertools(size: i64) -> Vec<(i64, i64, i64)> {
    let bounds: Vec<i64> = (-size - 2..size + 3).chain([i64::MAX, i64::MIN + 1]).collect();
    let mut all = Vec::new();
    for start in &bounds {
        for end in &bounds {
            all.extend([-3, -1, 1, 2].map(|step| (*start, *end, step)));
        }
    }
    all
}

/// What Python gives for `list(range(size))[start:end:step]`, by walking.
fn python_slice(size: i64, start: i64, end: i64, step: i64) -> Vec<i64> {
    let resolve = |bound: i64, low: i64, high: i64| {
        let bound = if bound < 0 { bound.saturating_add(size) } else { bound };
        bound.clamp(low, high)
    };
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let (mut at, end) = (resolve(start, low, high), resolve(end, low, high));
    let mut picked = Vec::new();
    while (step > 0 && at < end) || (step < 0 && at > end) {
        picked.push(at);
        at += step;
    }
    picked
}

#[test]
fn slices_of_symbolic_size() {
    assert_eq!(slice("f32[b, s]", "0", "9223372036854775807", "1", "1"), "f32[b, s]");
    assert_eq!(slice("f32[s + 2]", "0", "2147483647", "0", "1"), "f32[s + 2]");
    assert_eq!(slice("f32[s + 2]", "1", "-1", "0", "1"), "f32[s]");
    assert_eq!(slice("f32[s + 2]", "0", "1", "0", "1"), "f32[1]");
    assert_eq!(slice("f32[s]", "-1", "-2147483648", "0", "-1"), "f32[s]");
    assert_eq!(slice("f32[2*s]", "0", "2147483647", "0", "2"), "f32[s]");
    // Whether one element is there depends on the size.
    assert_eq!(slice("f32[s]", "0", "1", "0", "1"), "f32[?0]");
    // A table of 512 positions, cut to the length.
    assert_eq!(slice("f32[1, 512]", "0", "s", "1", "1"), "f32[1, ?0]");
    assert_eq!(types(Op::Slice, &[t("f32[b, s]"), t("i64[1]"), t("i64[1]"), v("1")]), "f32[b, ?0]");
    assert_eq!(types(Op::Slice, &[t("f32[b, s]"), t("i64[n]"), t("i64[n]")]), "f32[?0, ?1]");
    assert_eq!(value(Op::Slice, &[v("batch, seq, 768"), v("0"), v("-1")]), "batch, seq");
}

#[test]
fn slice_refuses() {
    let x = || t("f32[2, 3]");
    refused(Op::Slice, &[x(), v("0"), v("1"), v("2")], &["axis 2 is out of range"]);
    refused(Op::Slice, &[x(), v("0"), v("1, 1")], &["1 elements", "input 2 `ends`"]);
    refused(Op::Slice, &[x(), v("0, 0, 0"), v("1, 1, 1")], &["at most 2"]);
    refused(Op::Slice, &[x(), v("0"), v("1"), v("0"), v("0")], &["step cannot be 0"]);
    refused(Op::Slice, &[x(), v("0"), t("f32[1]")], &["i64 or i32"]);
}

#[test]
fn gather_replaces_a_dimension() {
    let op = |axis| Op::Gather { axis };
    assert_eq!(types(op(0), &[t("f32[30522, 384]"), t("i64[b, s]")]), "f32[b, s, 384]");
    assert_eq!(types(op(1), &[t("f32[b, s, 384]"), s("0")]), "f32[b, 384]");
    assert_eq!(value(op(0), &[v("batch, seq, 768"), s("1")]), "seq");
    assert_eq!(value(op(0), &[v("batch, seq, 768"), v("-1, 0")]), "768, batch");
    assert_eq!(value(op(0), &[v("batch"), s("1")]), "-");
    refused(op(0), &[t("f32[]"), s("0")], &["scalar has no axes"]);
    refused(op(2), &[t("f32[2, 3]"), s("0")], &["axis 2 is out of range"]);
    refused(op(0), &[t("f32[2]"), t("f32[2]")], &["i64 or i32", "input 1 `indices`"]);
}

#[test]
fn gather_elements_and_nd() {
    assert_eq!(types(Op::GatherElements { axis: 1 }, &[t("f32[b, 3]"), t("i64[b, s]")]), "f32[b, s]");
    refused(Op::GatherElements { axis: 1 }, &[t("f32[b, 3]"), t("i64[b]")], &["2 dimensions"]);
    let nd = |batch_dims| Op::GatherNd { batch_dims };
    assert_eq!(types(nd(0), &[t("f32[b, s, 7]"), t("i64[n, 2]")]), "f32[n, 7]");
    assert_eq!(types(nd(1), &[t("f32[b, s, 7]"), t("i64[b, n, 1]")]), "f32[b, n, 7]");
    refused(nd(0), &[t("f32[b]"), t("i64[n, 2]")], &["last dimension of 1 to 1"]);
    refused(nd(0), &[t("f32[b]"), t("i64[n, 0]")], &["last dimension"]);
    refused(nd(0), &[t("f32[b]"), t("i64[n, m]")], &["known last dimension"]);
    refused(nd(usize::MAX), &[t("f32[b]"), t("i64[n, 1]")], &["batch dimensions"]);
    refused(nd(1), &[t("f32[2, 3]"), t("i64[3, 1]")], &["batch dimensions [2]"]);
}
