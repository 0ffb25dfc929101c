//! Attention over `[batch, heads, seq, head_dim]` whose operands were split into heads and whose result is merged again
//! becomes attention over `[batch, seq, heads * head_dim]`: no element moves.

use bertha_graph::{AttentionAttrs, Graph, NodeId, Op, TensorId};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::{Findings, Patch, Value};
use crate::pattern::{input, one_node, output};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct AttentionHeads;

const NAME: &str = "attention-heads";

impl Pass for AttentionHeads {
    fn name(&self) -> &'static str {
        NAME
    }

    fn summary(&self) -> &'static str {
        "attention reads its heads where they lie instead of having them moved first"
    }

    fn find(&self, graph: &Graph, uses: &Uses) -> Findings {
        let mut findings = Findings::default();
        for (id, node) in graph.node_ids().zip(graph.nodes()) {
            let Op::Attention(attrs) = &node.op else { continue };
            if attrs.q_heads != 0 {
                continue;
            }
            match merged(graph, uses, id, attrs) {
                Ok(patch) => findings.patches.push(patch),
                Err(why) => findings.near_misses.push(NearMiss { pass: NAME, node: node.name.clone(), why }),
            }
        }
        findings
    }
}

/// `[batch, seq, heads * head_dim]` before it was split and transposed.
fn packed(graph: &Graph, tensor: TensorId) -> Option<(TensorId, [NodeId; 2])> {
    let (transpose, node) = producer(graph, tensor)?;
    if node.op != (Op::Transpose { perm: vec![0, 2, 1, 3] }) {
        return None;
    }
    let split = input(graph, transpose, 0)?;
    let (reshape, node) = producer(graph, split)?;
    if !matches!(node.op, Op::Reshape { .. }) {
        return None;
    }
    let x = input(graph, reshape, 0)?;
    splits_heads(graph, x, split).then_some((x, [reshape, transpose]))
}

/// Whether `split` is `[batch, seq, heads, head_dim]` of `x`, `[batch, seq, heads * head_dim]`.
fn splits_heads(graph: &Graph, x: TensorId, split: TensorId) -> bool {
    match (graph.tensor(x).ty.shape.dims(), graph.tensor(split).ty.shape.dims()) {
        ([batch, seq, hidden], [b, s, heads, width]) => {
            batch == b && seq == s && *hidden == heads * width && hidden.is_const()
        }
        _ => false,
    }
}

fn merged(graph: &Graph, uses: &Uses, id: NodeId, attrs: &AttentionAttrs) -> Result<Patch, String> {
    let node = graph.node(id);
    if node.inputs.len() > 4 || node.outputs.iter().skip(1).any(Option::is_some) {
        return Err("it has a cache or gives its scores".into());
    }
    let mut removes = Vec::new();
    let mut inputs = Vec::new();
    for (index, what) in ["queries", "keys", "values"].into_iter().enumerate() {
        let tensor = input(graph, id, index).ok_or("an operand is missing")?;
        let (x, nodes) = packed(graph, tensor)
            .ok_or_else(|| format!("the {what} are not [batch, seq, hidden] split into heads"))?;
        removes.extend(nodes);
        inputs.push(Some(Value::Old(x)));
    }
    let heads = |index| {
        let dims = input(graph, id, index).map(|tensor| graph.tensor(tensor).ty.shape.dims())?;
        usize::try_from(dims.get(1)?.as_const()?).ok()
    };
    let (q_heads, kv_heads) = heads(0).zip(heads(1)).ok_or("the number of heads is not known")?;
    let (result, nodes) = merge(graph, uses, id).ok_or("its result is not merged to [batch, seq, hidden]")?;
    removes.push(id);
    removes.extend(nodes);
    if let Some(mask) = input(graph, id, 3) {
        inputs.push(Some(Value::Old(mask)));
    }
    // Queries, keys and values may be the same tensor.
    let mut seen = std::collections::HashSet::new();
    removes.retain(|id| seen.insert(*id));
    let op = Op::Attention(AttentionAttrs { q_heads, kv_heads, ..attrs.clone() });
    let what = format!("{} reads {q_heads} heads in place", node.name);
    Ok(one_node(removes, (node.name.clone(), op), inputs, result, what))
}

/// The transpose and the reshape that merge the heads of the result.
fn merge(graph: &Graph, uses: &Uses, attention: NodeId) -> Option<(TensorId, [NodeId; 2])> {
    let transpose = uses.only_reader(output(graph, attention)?)?;
    if graph.node(transpose).op != (Op::Transpose { perm: vec![0, 2, 1, 3] }) {
        return None;
    }
    let split = output(graph, transpose)?;
    let reshape = uses.only_reader(split)?;
    if !matches!(graph.node(reshape).op, Op::Reshape { .. }) {
        return None;
    }
    let result = output(graph, reshape)?;
    splits_heads(graph, result, split).then_some((result, [transpose, reshape]))
}
