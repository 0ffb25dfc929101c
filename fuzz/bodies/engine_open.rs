/// Loads an engine from `input`: the container, the graph's text, the description, the plan and its packed weights. An
/// error is fine. Checksums are mended first, so that changes reach what lies behind them.
pub fn fuzz(input: &[u8]) {
    use bertha::engine_file::testing;

    let options = bertha::Options { isa: bertha::isa::Isa::from_name("portable").ok(), ..Default::default() };
    let open = |file: Vec<u8>| bertha::Engine::from_bytes(file.into(), &options);
    for file in testing::files_of(input) {
        let Ok(engine) = open(file) else { continue };
        // What was loaded can be described, and is an engine of which sessions can be made.
        let text = engine.graph().to_text();
        assert!(text.starts_with("graph "));
        assert!(engine.session(1).is_ok());
    }
}
