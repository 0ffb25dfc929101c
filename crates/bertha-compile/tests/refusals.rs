//! Padded graphs that are not the same function without their pads stay padded, and the log says why.

use bertha_compile::optimize_model;
use bertha_graph::{Interface, Model, ModelInfo, PositionIds, Task, text};

/// An encoder of one attention, with a hole for what differs. `%x` are hidden states, `%keys` the mask `[b, 1, 1, s]`.
fn encoder(rest: &str) -> Model {
    let source = format!(
        "graph encoder {{
          input %input_ids: i64[b, s]
          input %attention_mask: i64[b, s]
          const %words: f32[4, 4] = [1, 0, 2, 1, 3, 1, 0, 2, 0, 2, 1, 1, 2, 2, 0, 1]
          const %axes: i64[2] = [1, 2]
          const %one: i64[1] = [1]
          const %zero: i64[1] = [0]
          const %first: i64[] = 0
          const %last: i64[] = -1
          const %one_f: f32[] = 1
          const %lowest: f32[] = -3.4028235e38
          %x = gather(%words, %input_ids) {{axis: 0}}
          %unsqueezed = unsqueeze(%attention_mask, %axes)
          %keys = cast(%unsqueezed) {{to: f32}}
          %pads = sub(%one_f, %keys)
          %bias = mul(%pads, %lowest)
          {rest}
        }}"
    );
    let graph = text::parse(&source, &mut |name, _| panic!("{name} is not in the text")).unwrap();
    let info = ModelInfo {
        family: "onnx".into(),
        interface: Interface::Dense,
        task: Task::Encoder,
        position_ids: PositionIds::None,
        max_tokens: None,
        token_types: false,
        hidden: None,
        labels: Vec::new(),
        multi_label: false,
        pooling: None,
        source: String::new(),
    };
    Model { graph, info, tokenizer: None }
}

fn attention(attributes: &str) -> String {
    format!(
        "{{q_heads: 2, kv_heads: 2, scale: none, is_causal: {attributes}, softcap: 0, scores_mode: 0, \
         softmax_precision: none}}"
    )
}

#[track_caller]
fn stays_padded(rest: &str, why: &str) {
    let model = encoder(rest);
    let (after, log) = optimize_model(&model).unwrap();
    assert_eq!(after.info.interface, Interface::Dense, "{log}");
    let reasons: Vec<&str> =
        log.near_misses.iter().filter(|miss| miss.pass == "ragged").map(|miss| miss.why.as_str()).collect();
    assert!(reasons.iter().any(|reason| reason.contains(why)), "{reasons:?} do not say {why:?}");
}

#[test]
fn the_encoder_itself_becomes_ragged() {
    let plain = attention("false");
    for mask in ["%bias", "%bias, _"] {
        let rest = format!("%y = attention(%x, %x, %x, {mask}) {plain} output y = %y");
        let (after, log) = optimize_model(&encoder(&rest)).unwrap();
        assert_eq!(after.info.interface, Interface::Ragged, "{log}");
        assert_eq!(after.info.position_ids, PositionIds::None);
        assert!(after.graph.find("position_ids").is_none());
    }
}

#[test]
fn masks_must_hide_pads_and_nothing_else() {
    let plain = attention("false");
    let with = |mask: &str| format!("{mask} %y = attention(%x, %x, %x, %m) {plain} output y = %y");
    stays_padded(&format!("%y = attention(%x, %x, %x) {plain} output y = %y"), "sees padding");
    stays_padded(&format!("%y = attention(%x, %x, %x, %bias) {} output y = %y", attention("true")), "causal");
    // Hides the real tokens.
    stays_padded(&with("%m = mul(%keys, %lowest)"), "at hidden keys");
    // Hides nothing.
    stays_padded(&with("%m = sub(%keys, %one_f)"), "at hidden keys");
    // Moves the scores of visible keys.
    stays_padded(&with("%m = add(%bias, %one_f)"), "at hidden keys");
    // Hides queries instead of keys.
    stays_padded(&with("%m = transpose(%bias) {perm: [0, 1, 3, 2]}"), "batch and keys");
    // A bias that differs between the keys.
    let window = "%n = shape(%input_ids) {start: 1, end: 2}
        %count = squeeze(%n, %zero) const %step: i64[] = 1 %at = range(%first, %count, %step)
        %near = cast(%at) {to: f32} %m = add(%bias, %near)";
    stays_padded(&with(window), "masks");
}

#[test]
fn rows_must_not_mix_but_in_attention() {
    let seq = "{keep_dims: false, noop_with_empty_axes: false}";
    stays_padded(&format!("%y = reduce_mean(%x, %one) {seq} output y = %y"), "the sequence");
    stays_padded("%y = softmax(%x) {axis: 1} output y = %y", "along the batch or the sequence");
    stays_padded("%y = gather(%x, %last) {axis: 1} output y = %y", "another token than the first");
    stays_padded("%y = gather(%x, %last) {axis: 0} output y = %y", "along the batch or the sequence");
    stays_padded("%y = transpose(%x) {perm: [1, 0, 2]} output y = %y", "moves batch or sequence");
    stays_padded("%y = concat(%x, %x) {axis: 1} output y = %y", "along the batch or the sequence");
    stays_padded(
        "%y = matmul(%x, %words) %z = cumsum(%y, %first) {exclusive: false, reverse: false} output z = %z",
        "along",
    );
    // A sum over all rows, pads included, divided by the number of tokens.
    let sums = format!("%s = reduce_sum(%x, %one) {seq} output y = %s");
    stays_padded(&sums, "the sequence");
    stays_padded("output y = %bias", "no row for each token");
    let shifted = "const %places: i64[1, 4] = [1, 2, 3, 4] %n = shape(%input_ids) {start: 1, end: 2}
        %p = slice(%places, %zero, %n, %one, %one) %e = gather(%words, %p) {axis: 0} %y = add(%x, %e) output y = %y";
    stays_padded(shifted, "first seq columns");
}
