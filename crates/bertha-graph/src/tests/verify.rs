use super::graph;

#[test]
fn sound_graphs_are_verified() {
    graph("input %x: f32[?3, seq]\n input %s: i64[2]\n %y = reshape(%x, %s) {allow_zero: false}\n %z = tanh(%y)\n output z = %z")
        .verify()
        .unwrap();
}
