/// Reads a graph from `input` as text. An error is fine; a graph must come back the same from its own text.
pub fn fuzz(input: &[u8]) {
    use bertha::TensorData;
    use bertha::graph::text::{parse, print};

    /// Contents of constants that the text only names: zeros, unless they are large.
    const LARGEST: usize = 1 << 16;

    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut zeros = |_: &str, ty: &bertha::graph::TensorType| {
        let shape = ty.shape.as_const()?;
        let length = bertha::graph::byte_count(ty.dtype, &shape).ok().filter(|length| *length <= LARGEST)?;
        TensorData::from_bytes(ty.dtype, shape.to_vec(), vec![0u8; length].into()).ok()
    };
    let Ok(graph) = parse(text, &mut zeros) else { return };
    let printed = print(&graph);
    let mut stored = |name: &str, _: &bertha::graph::TensorType| {
        printed.constants.iter().find(|(other, _)| other == name).map(|(_, data)| data.clone())
    };
    match parse(&printed.text, &mut stored) {
        Ok(again) => assert_eq!(again.to_text(), printed.text),
        Err(error) => panic!("{error}\n{}", printed.text),
    }
}
