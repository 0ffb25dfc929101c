//! Pictures are well formed, show every node once or folded, and let nothing out of a file's names become markup.

use bertha_draw::{Panel, html, svg};
use bertha_graph::{DType, Graph, GraphBuilder, TensorData, shape};

/// `layers` layers of a product, a tanh and a residual, with names that are no markup.
fn network(layers: usize) -> Graph {
    let mut b = GraphBuilder::new("net<\"work\">&");
    let mut x = b.input("a<b>&\"'\u{1}", DType::F32, shape!["tokens", 4]).unwrap();
    for _ in 0..layers {
        let weight = TensorData::from_vec(vec![4, 4], vec![0.5f32; 16]).unwrap();
        let weight = b.constant(weight).unwrap();
        let product = b.matmul(x, weight).unwrap();
        let bent = b.tanh(product).unwrap();
        let bent = b.exp(bent).unwrap();
        let sum = b.add(x, bent).unwrap();
        x = b.sqrt(sum).unwrap();
    }
    b.output("y]]>", x).unwrap();
    b.finish().unwrap()
}

#[test]
fn a_picture_is_well_formed_and_folds_layers() {
    let graph = network(6);
    let picture = svg(&[Panel { title: "a < b", graph: &graph }, Panel { title: "again", graph: &graph }]);
    let document = roxmltree::Document::parse(&picture).expect("well-formed XML");
    let groups =
        document.descendants().filter(|n| n.has_tag_name("rect") && n.attribute("class") == Some("cell"));
    // Two panels of one input, one output and one layer of five nodes.
    assert_eq!(groups.count(), 2 * (2 + 5));
    let times: Vec<_> = document.descendants().filter(|n| n.attribute("class") == Some("times")).collect();
    assert_eq!(times.len(), 2);
    assert_eq!(times[0].text(), Some("× 6"));
}

#[test]
fn without_repetition_every_node_is_drawn() {
    let graph = network(1);
    let picture = svg(&[Panel { title: "one", graph: &graph }]);
    let document = roxmltree::Document::parse(&picture).unwrap();
    let boxes: Vec<_> = document
        .descendants()
        .filter(|n| n.has_tag_name("rect") && n.attribute("class") == Some("cell"))
        .map(|n| {
            let side = |name| n.attribute(name).and_then(|side| side.parse::<f64>().ok()).expect("a number");
            [side("x"), side("y"), side("x") + side("width"), side("y") + side("height")]
        })
        .collect();
    assert_eq!(boxes.len(), graph.nodes().len() + 2);
    for (n, a) in boxes.iter().enumerate() {
        for b in &boxes[n + 1..] {
            let apart = a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];
            assert!(apart, "boxes cover each other: {a:?} {b:?}");
        }
    }
}

#[test]
fn a_page_marks_what_belongs_together_and_escapes_names() {
    let graph = network(3);
    let page = html(
        "<script>alert(1)</script>",
        &[Panel { title: "before", graph: &graph }, Panel { title: "after", graph: &graph }],
    );
    assert!(!page.contains("<script>alert"));
    assert!(page.contains("data-mates=\"p1b"));
    assert_eq!(page.matches("<script>").count(), 1);
}
