//! From a graph to boxes and arrows: what stands in each box, and which layers are folded.

use std::collections::{BTreeSet, HashMap};

use bertha_graph::{Activation, Graph, Node, Op, Origin, TensorId};

use crate::repeats::{Stretch, stretches};

/// What a box is, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Port,
    Product,
    Attention,
    Norm,
    Activation,
    Lookup,
    Layout,
    Plugin,
    Other,
}

/// One box.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) kind: Kind,
    /// The operation.
    pub(crate) title: String,
    /// What it gives: type and shape.
    pub(crate) detail: String,
    /// Everything known, for whoever points at it.
    pub(crate) tip: String,
    /// Name of the node, and those of its source nodes, of all folded copies.
    pub(crate) names: BTreeSet<String>,
}

/// Boxes that are laid out together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Section {
    pub(crate) cells: Vec<usize>,
    /// How often it repeats.
    pub(crate) times: usize,
    /// Whether a copy reads what the copy before it made.
    pub(crate) carries: bool,
}

/// A graph as boxes and arrows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Boxes {
    pub(crate) cells: Vec<Cell>,
    pub(crate) arrows: BTreeSet<(usize, usize)>,
    pub(crate) sections: Vec<Section>,
}

impl Boxes {
    pub(crate) fn of(graph: &Graph) -> Self {
        let mut boxes = Boxes::default();
        let inputs: Vec<usize> =
            graph.inputs().iter().map(|id| boxes.push(port(graph, *id, &graph.tensor(*id).name))).collect();
        boxes.sections.push(Section { cells: inputs.clone(), times: 1, carries: false });
        let folds = fold(graph);
        let mut cell_of = vec![0; graph.nodes().len()];
        for stretch in &folds {
            let mut section = Section { times: stretch.times, ..Section::default() };
            for place in stretch.whole() {
                let node = &graph.nodes()[place];
                let offset = (place - stretch.first.start) % stretch.first.len();
                if offset == place - stretch.first.start {
                    cell_of[place] = boxes.push(cell(graph, node));
                    section.cells.push(cell_of[place]);
                } else {
                    cell_of[place] = section.cells[offset];
                    boxes.cells[cell_of[place]].names.extend(names(node));
                }
            }
            boxes.sections.push(section);
        }
        boxes.connect(graph, &inputs, &cell_of, &folds);
        boxes.sections.retain(|section| !section.cells.is_empty());
        boxes
    }

    fn push(&mut self, cell: Cell) -> usize {
        self.cells.push(cell);
        self.cells.len() - 1
    }

    fn connect(&mut self, graph: &Graph, inputs: &[usize], cell_of: &[usize], folds: &[Stretch]) {
        let ports: HashMap<TensorId, usize> =
            graph.inputs().iter().copied().zip(inputs.iter().copied()).collect();
        let maker = |id: TensorId| match graph.tensor(id).origin {
            Origin::Input => ports.get(&id).map(|cell| (*cell, None)),
            Origin::Constant(_) => None,
            Origin::Node { node, .. } => Some((cell_of[node.index()], Some(node.index()))),
        };
        for (place, node) in graph.nodes().iter().enumerate() {
            for (from, made) in node.inputs.iter().flatten().filter_map(|id| maker(*id)) {
                match made.and_then(|made| handed_on(folds, made, place)) {
                    // The arrow would lead back to the top of the frame.
                    Some(fold) => self.sections[fold + 1].carries = true,
                    None => {
                        self.arrows.insert((from, cell_of[place]));
                    }
                }
            }
        }
        let mut last = Section { times: 1, ..Section::default() };
        for (name, id) in graph.outputs() {
            let cell = self.push(port(graph, *id, name));
            last.cells.push(cell);
            if let Some((from, _)) = maker(*id) {
                self.arrows.insert((from, cell));
            }
        }
        self.sections.push(last);
    }
}

/// The fold in which one copy reads (at `reader`) what an earlier copy made (at `maker`).
fn handed_on(folds: &[Stretch], maker: usize, reader: usize) -> Option<usize> {
    let fold = folds.iter().position(|fold| fold.whole().contains(&reader))?;
    let stretch = &folds[fold];
    let copy = |place: usize| (place - stretch.first.start) / stretch.first.len();
    (stretch.whole().contains(&maker) && copy(maker) != copy(reader)).then_some(fold)
}

/// The stretches of a graph's nodes.
fn fold(graph: &Graph) -> Vec<Stretch> {
    let keys: Vec<String> =
        graph.nodes().iter().map(|node| format!("{} {}", title(&node.op), detail(graph, node))).collect();
    // For each place, how many tensors made before it are read from it on.
    let mut open = vec![0i64; keys.len() + 1];
    let mut last_read: HashMap<usize, usize> = HashMap::new();
    for (reader, node) in graph.nodes().iter().enumerate() {
        for id in node.inputs.iter().flatten() {
            if let Origin::Node { node: maker, .. } = graph.tensor(*id).origin {
                last_read.insert(maker.index(), reader);
            }
        }
    }
    for (maker, reader) in last_read {
        open[maker + 1] += 1;
        open[reader + 1] -= 1;
    }
    let open: Vec<usize> = open
        .iter()
        .scan(0i64, |sum, change| {
            *sum += change;
            Some(usize::try_from(*sum).unwrap_or(0))
        })
        .collect();
    stretches(&keys, &|at| open[at])
}

fn port(graph: &Graph, id: TensorId, name: &str) -> Cell {
    let ty = &graph.tensor(id).ty;
    let detail = format!("{}{}", ty.dtype.name(), ty.shape);
    Cell {
        kind: Kind::Port,
        title: name.to_owned(),
        tip: format!("{name}: {detail}"),
        detail,
        names: BTreeSet::new(),
    }
}

fn names(node: &Node) -> impl Iterator<Item = String> {
    std::iter::once(&node.name).chain(&node.sources).cloned()
}

/// Names that a tip lists.
const LISTED: usize = 30;

fn cell(graph: &Graph, node: &Node) -> Cell {
    let detail = detail(graph, node);
    let mut tip = format!("{}: {} -> {detail}", node.name, title(&node.op));
    let sources: Vec<&str> =
        node.sources.iter().map(String::as_str).filter(|name| *name != node.name).collect();
    if !sources.is_empty() {
        tip.push_str("\nstands for:");
        sources.iter().take(LISTED).for_each(|name| {
            tip.push('\n');
            tip.push_str(name);
        });
        if sources.len() > LISTED {
            tip.push_str(&format!("\nand {} more", sources.len() - LISTED));
        }
    }
    Cell { kind: kind(&node.op), title: title(&node.op), detail, tip, names: names(node).collect() }
}

/// What the first result of a node is.
fn detail(graph: &Graph, node: &Node) -> String {
    node.outputs.iter().flatten().next().map_or_else(String::new, |id| {
        let ty = &graph.tensor(*id).ty;
        format!("{}{}", ty.dtype.name(), ty.shape)
    })
}

/// The operation and what matters most about it.
fn title(op: &Op) -> String {
    match op {
        Op::Linear { activation, .. } => match activation {
            Activation::None => "linear".to_owned(),
            Activation::Relu => "linear + relu".to_owned(),
            Activation::Tanh => "linear + tanh".to_owned(),
            Activation::GeluErf => "linear + gelu (erf)".to_owned(),
            Activation::GeluTanh => "linear + gelu (tanh)".to_owned(),
            Activation::Silu => "linear + silu".to_owned(),
        },
        Op::RaggedAttention { heads, .. } => format!("attention, {heads} heads"),
        Op::Attention(attrs) if attrs.q_heads > 0 => format!("attention, {} heads", attrs.q_heads),
        Op::Pool(kind) => format!("pool: {}", format!("{kind:?}").to_lowercase()),
        Op::Plugin(plugin) => format!("{} (plugin)", plugin.def().name()),
        op => op.mnemonic().to_owned(),
    }
}

/// Only what stands out gets a colour of its own; a new op is `Other` until somebody wants to see it.
fn kind(op: &Op) -> Kind {
    match op {
        Op::Linear { .. } | Op::MatMul | Op::Gemm { .. } | Op::MatMulInteger | Op::QLinearMatMul => {
            Kind::Product
        }
        Op::RaggedAttention { .. } | Op::Attention(_) | Op::Softmax { .. } | Op::RotaryEmbedding { .. } => {
            Kind::Attention
        }
        Op::LayerNorm { .. } | Op::L2Normalize { .. } => Kind::Norm,
        Op::Gelu(_) => Kind::Activation,
        Op::EmbeddingSum
        | Op::EmbeddingLayerNorm { .. }
        | Op::Gather { .. }
        | Op::GatherElements { .. }
        | Op::GatherNd { .. }
        | Op::Pool(_) => Kind::Lookup,
        Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Squeeze
        | Op::Unsqueeze
        | Op::Concat { .. }
        | Op::Split { .. }
        | Op::Slice
        | Op::Expand
        | Op::Shape { .. }
        | Op::ConstantOfShape { .. }
        | Op::Range => Kind::Layout,
        Op::Plugin(_) => Kind::Plugin,
        _ => Kind::Other,
    }
}
