//! Attention from its parts: `softmax(q k^T * scale + mask) v`, eager and sdpa, with scale and mask wherever exporters
//! put them, becomes one dense attention over `[batch, heads, seq, head_dim]`.

use bertha_graph::{AttentionAttrs, BinaryOp, DType, Graph, NodeId, Op, TensorData, TensorId, UnaryOp};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::{Findings, NewNode, Patch, Value};
use crate::pattern::{axis_of, binary, input, is_close, output, scalar, without_scale};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct Attention;

const NAME: &str = "attention";

impl Pass for Attention {
    fn name(&self) -> &'static str {
        NAME
    }

    fn summary(&self) -> &'static str {
        "scores, mask, softmax and the product with the values become one attention"
    }

    fn find(&self, graph: &Graph, uses: &Uses) -> Findings {
        let mut findings = Findings::default();
        for id in graph.node_ids() {
            let Some(mut weights) = weights_of(graph, id) else { continue };
            let softmax = weights.softmax;
            let patch =
                Parts::of(graph, &mut weights).and_then(|parts| parts.patch(graph, uses, id, weights.nodes));
            match patch {
                Ok(patch) => findings.patches.push(patch),
                Err(why) => {
                    let node = graph.node(softmax).name.clone();
                    findings.near_misses.push(NearMiss { pass: NAME, node, why: why.into() });
                }
            }
        }
        findings
    }
}

/// What multiplies the values.
struct Weights {
    softmax: NodeId,
    /// The nodes from there to the product, which is one of them.
    nodes: Vec<NodeId>,
    /// The condition by which weights are 0, and whether that is where it holds.
    cleared: Option<(TensorId, bool)>,
}

/// The softmax that the left operand of this product is, looking through conversions and two guards against rows without
/// a key: `where(is_nan(weights), 0, weights)`, and `where(hidden, 0, weights)`, which speech encoders have.
fn weights_of(graph: &Graph, product: NodeId) -> Option<Weights> {
    if graph.node(product).op != Op::MatMul {
        return None;
    }
    let mut nodes = vec![product];
    let mut cleared = None;
    let mut tensor = input(graph, product, 0)?;
    loop {
        let (id, node) = producer(graph, tensor)?;
        nodes.push(id);
        tensor = match &node.op {
            Op::Softmax { axis } => {
                let rank = graph.tensor(tensor).ty.shape.rank();
                let weights = Weights { softmax: id, nodes, cleared };
                return (axis_of(*axis, rank) == rank.checked_sub(1)).then_some(weights);
            }
            Op::Cast { to } if to.is_float() => input(graph, id, 0)?,
            Op::Where => {
                let condition = input(graph, id, 0)?;
                let (a, b) = (input(graph, id, 1)?, input(graph, id, 2)?);
                let (weights, holds) = match (scalar(graph, a), scalar(graph, b)) {
                    (Some(0.0), _) => (b, true),
                    (_, Some(0.0)) => (a, false),
                    _ => return None,
                };
                let guard = producer(graph, condition)
                    .filter(|(guard, test)| {
                        test.op == Op::Unary(UnaryOp::IsNan) && input(graph, *guard, 0) == Some(weights)
                    })
                    .filter(|_| holds);
                match guard {
                    Some((guard, _)) => nodes.push(guard),
                    None if cleared.is_some() => return None,
                    None => cleared = Some((condition, holds)),
                }
                weights
            }
            _ => return None,
        };
    }
}

/// What hides keys.
enum Mask {
    /// Added to the scores, times a factor.
    Additive(TensorId, f64),
    /// Scores are replaced by `fill` where `condition` holds, or where it does not.
    Fill { condition: TensorId, fill: TensorId, holds: bool },
    /// As a fill, and the weights are 0 there: in a row without a key too, as attention has it for minus infinity.
    Hide { condition: TensorId, holds: bool },
}

/// The operands of an attention, in `[batch, heads, ..]`.
struct Parts {
    q: TensorId,
    /// `[batch, heads, head_dim, seq]`.
    k_transposed: TensorId,
    scale: f64,
    masks: Vec<Mask>,
}

impl Parts {
    /// Follows the scores from the softmax back to the product; the weights' nodes get what is passed.
    fn of(graph: &Graph, weights: &mut Weights) -> Result<Parts, &'static str> {
        let Weights { softmax, nodes, cleared } = weights;
        let mut tensor = input(graph, *softmax, 0).ok_or("the softmax has no operand")?;
        let mut masks = Vec::new();
        let mut scale = 1.0;
        loop {
            let scaled = without_scale(graph, tensor);
            nodes.extend(&scaled.nodes);
            scale *= scaled.factor;
            tensor = scaled.tensor;
            let (id, node) = producer(graph, tensor).ok_or("the scores come from no product")?;
            match &node.op {
                Op::MatMul => {
                    nodes.push(id);
                    let (Some(q), Some(k)) = (input(graph, id, 0), input(graph, id, 1)) else {
                        return Err("the product of queries and keys lacks an operand");
                    };
                    let (q, k) = (without_scale(graph, q), without_scale(graph, k));
                    nodes.extend(q.nodes.iter().chain(&k.nodes));
                    scale *= q.factor * k.factor;
                    if cleared.is_some() {
                        return Err("its weights are masked after the softmax where its scores are not");
                    }
                    return Ok(Parts { q: q.tensor, k_transposed: k.tensor, scale, masks });
                }
                Op::Cast { to } if to.is_float() => {
                    tensor = input(graph, id, 0).ok_or("a conversion lacks its operand")?;
                }
                Op::Where if scale != 1.0 => return Err("the mask is scaled together with the scores"),
                Op::Binary(BinaryOp::Add) => {
                    let (scores, mask) = added_mask(graph, tensor).ok_or("neither summand is a product")?;
                    if !differs_by_key(graph, mask) {
                        return Err("what is added to the scores is the same for every key");
                    }
                    masks.push(Mask::Additive(mask, scale));
                    tensor = scores;
                }
                Op::Where => {
                    let (scores, condition, fill, holds) = filled_mask(graph, id).ok_or(
                        "what replaces hidden scores is not the lowest number of the type or minus infinity",
                    )?;
                    if !differs_by_key(graph, condition) {
                        return Err("what hides scores is the same for every key");
                    }
                    masks.push(match *cleared == Some((condition, holds)) {
                        true => Mask::Hide { condition, holds },
                        false => Mask::Fill { condition, fill, holds },
                    });
                    cleared.take_if(|(by, at)| (*by, *at) == (condition, holds));
                    tensor = scores;
                }
                _ => return Err("something between the product and the softmax is neither scale nor mask"),
            }
            nodes.push(id);
        }
    }
}

/// The operand that leads to a product, and the other one.
fn added_mask(graph: &Graph, sum: TensorId) -> Option<(TensorId, TensorId)> {
    let (_, a, b) = binary(graph, sum, BinaryOp::Add)?;
    if leads_to_product(graph, a) {
        return Some((a, b));
    }
    leads_to_product(graph, b).then_some((b, a))
}

/// Whether a mask has a dimension for the keys. Attention takes one that is too short as hiding the other keys instead
/// of broadcasting it.
fn differs_by_key(graph: &Graph, mask: TensorId) -> bool {
    graph.tensor(mask).ty.shape.dims().last().is_some_and(|keys| keys.as_const() != Some(1))
}

/// Whether a tensor is a product but for scales, masks and conversions.
fn leads_to_product(graph: &Graph, tensor: TensorId) -> bool {
    const MOST_STEPS: usize = 8;
    let mut tensor = without_scale(graph, tensor).tensor;
    for _ in 0..MOST_STEPS {
        let Some((id, node)) = producer(graph, tensor) else { return false };
        let next = match &node.op {
            Op::MatMul => return true,
            Op::Cast { .. } => input(graph, id, 0),
            Op::Binary(BinaryOp::Add) => input(graph, id, 0),
            Op::Where => filled_mask(graph, id).map(|(scores, ..)| scores),
            _ => return false,
        };
        let Some(next) = next else { return false };
        tensor = without_scale(graph, next).tensor;
    }
    false
}

/// Scores, condition and fill of `where(condition, fill, scores)` or, with `false`, `where(condition, scores, fill)`.
fn filled_mask(graph: &Graph, node: NodeId) -> Option<(TensorId, TensorId, TensorId, bool)> {
    let (condition, a, b) = (input(graph, node, 0)?, input(graph, node, 1)?, input(graph, node, 2)?);
    let (scores, fill, holds) = if scalar(graph, a).is_some() { (b, a, true) } else { (a, b, false) };
    let value = scalar(graph, fill)?;
    // A finite fill must be so large that a score added to it vanishes in rounding: then adding is replacing.
    let lowest = match graph.dtype(fill) {
        DType::F16 => -65504.0,
        _ => -1e30,
    };
    (value <= lowest).then_some((scores, condition, fill, holds))
}

impl Parts {
    fn patch(
        &self,
        graph: &Graph,
        uses: &Uses,
        product: NodeId,
        mut nodes: Vec<NodeId>,
    ) -> Result<Patch, &'static str> {
        let v = input(graph, product, 1).ok_or("the product with the values lacks an operand")?;
        let result = output(graph, product).ok_or("nobody reads the result")?;
        let head_dim = self.head_dim(graph, v)?;
        let name = graph.node(product).name.clone();
        let mut new = Vec::new();
        let q_type = &graph.tensor(self.q).ty;
        // Keys as they are before they are transposed; the transposes cancel later.
        new.push(node(
            &name,
            "keys",
            Op::Transpose { perm: vec![0, 1, 3, 2] },
            [Value::Old(self.k_transposed)],
        ));
        let keys = Value::New { node: 0, output: 0 };
        let mask = self.mask(graph, &name, q_type.dtype, &mut new).ok_or("the mask is of no float type")?;
        let default_scale = 1.0 / head_dim.sqrt();
        let attrs = AttentionAttrs {
            q_heads: 0,
            kv_heads: 0,
            scale: (!is_close(self.scale, default_scale, q_type.dtype)).then_some(self.scale as f32),
            is_causal: false,
            softcap: 0.0,
            scores_mode: 0,
            softmax_precision: None,
        };
        let mut inputs = vec![Some(Value::Old(self.q)), Some(keys), Some(Value::Old(v))];
        inputs.extend(mask.map(Some));
        new.push(NewNode { name: name.clone(), op: Op::Attention(attrs), inputs, outputs: 1 });
        nodes.sort();
        nodes.dedup();
        // What others read stays; this attention does not stand for it alone.
        let within = nodes.clone();
        nodes.retain(|id| {
            let readers = output(graph, *id).map(|tensor| uses.readers(tensor)).unwrap_or_default();
            *id == product || readers.iter().all(|reader| within.contains(reader))
        });
        let what = format!("{} nodes become the attention {name}", nodes.len());
        let last = new.len() - 1;
        Ok(Patch {
            removes: nodes,
            nodes: new,
            replaces: vec![(result, Value::New { node: last, output: 0 })],
            what,
        })
    }

    /// Checks that all operands are `[batch, heads, ..]` and fit; the width of a head.
    fn head_dim(&self, graph: &Graph, v: TensorId) -> Result<f64, &'static str> {
        let dims = |tensor: TensorId| graph.tensor(tensor).ty.shape.dims();
        let ([batch, heads, _, width], [k_batch, k_heads, k_width, k_seq], [v_batch, v_heads, v_seq, _]) =
            (dims(self.q), dims(self.k_transposed), dims(v))
        else {
            return Err("queries, keys and values are not [batch, heads, ..]");
        };
        let fits = batch == k_batch
            && batch == v_batch
            && heads == k_heads
            && heads == v_heads
            && width == k_width
            && (k_seq == v_seq || same_length(graph, (self.k_transposed, 3), (v, 2)));
        let dtypes = [self.q, self.k_transposed, v].map(|tensor| graph.dtype(tensor));
        let same_dtype = dtypes.iter().all(|dtype| *dtype == dtypes[0]);
        if !same_dtype {
            return Err("queries, keys and values have different types");
        }
        let width = width.as_const().filter(|width| fits && *width > 0);
        width
            .map(|width| width as f64)
            .ok_or("batch, heads, lengths or widths of queries, keys and values are not known to be the same")
    }

    /// One additive mask that stands for all masks; `Some(None)` when there is none.
    fn mask(&self, graph: &Graph, name: &str, dtype: DType, new: &mut Vec<NewNode>) -> Option<Option<Value>> {
        let mut sum: Option<Value> = None;
        for mask in &self.masks {
            let additive = match mask {
                Mask::Additive(tensor, factor) => {
                    let mut value = Value::Old(*tensor);
                    if graph.dtype(*tensor) != dtype {
                        new.push(node(name, "mask", Op::Cast { to: dtype }, [value]));
                        value = Value::New { node: new.len() - 1, output: 0 };
                    }
                    if *factor != 1.0 {
                        let factor = Value::Constant(format!("{name}.scale"), number(dtype, *factor)?);
                        new.push(node(name, "mask", Op::Binary(BinaryOp::Mul), [value, factor]));
                        value = Value::New { node: new.len() - 1, output: 0 };
                    }
                    value
                }
                Mask::Fill { condition, fill, holds } => {
                    let zero = Value::Constant(format!("{name}.zero"), number(graph.dtype(*fill), 0.0)?);
                    filled((*condition, *holds), Value::Old(*fill), zero, name, new)
                }
                Mask::Hide { condition, holds } => {
                    let constant = |part: &str, x: f64| {
                        Some(Value::Constant(format!("{name}.{part}"), number(dtype, x)?))
                    };
                    let (hidden, zero) = (constant("hidden", f64::NEG_INFINITY)?, constant("zero", 0.0)?);
                    filled((*condition, *holds), hidden, zero, name, new)
                }
            };
            sum = Some(match sum {
                None => additive,
                Some(before) => {
                    new.push(node(name, "masks", Op::Binary(BinaryOp::Add), [before, additive]));
                    Value::New { node: new.len() - 1, output: 0 }
                }
            });
        }
        Some(sum)
    }
}

/// Whether two dimensions are equal because both come from reshapes to one shape of tensors of one type, whatever that shape is:
/// some exporters compute it.
fn same_length(graph: &Graph, a: (TensorId, usize), b: (TensorId, usize)) -> bool {
    let origin = |(mut tensor, mut axis): (TensorId, usize)| {
        loop {
            let (id, node) = producer(graph, tensor)?;
            match &node.op {
                Op::Transpose { perm } => axis = *perm.get(axis)?,
                Op::Reshape { .. } => {
                    let x = input(graph, id, 0)?;
                    return Some((&node.op, &graph.tensor(x).ty, input(graph, id, 1)?, axis));
                }
                _ => return None,
            }
            tensor = input(graph, id, 0)?;
        }
    };
    origin(a).is_some_and(|a| origin(b) == Some(a))
}

fn node<const N: usize>(name: &str, part: &str, op: Op, inputs: [Value; N]) -> NewNode {
    NewNode { name: format!("{name}.{part}"), op, inputs: inputs.map(Some).to_vec(), outputs: 1 }
}

/// `fill` where the condition holds, or where it does not, and `zero` elsewhere.
fn filled(
    (condition, holds): (TensorId, bool),
    fill: Value,
    zero: Value,
    name: &str,
    new: &mut Vec<NewNode>,
) -> Value {
    let [a, b] = if holds { [fill, zero] } else { [zero, fill] };
    new.push(node(name, "mask", Op::Where, [Value::Old(condition), a, b]));
    Value::New { node: new.len() - 1, output: 0 }
}

/// A scalar of a float type.
fn number(dtype: DType, x: f64) -> Option<TensorData> {
    let half = |bits: u16| TensorData::from_bytes(dtype, Vec::new(), bits.to_le_bytes().to_vec().into()).ok();
    match dtype {
        DType::F32 => Some(TensorData::scalar(x as f32)),
        DType::F64 => Some(TensorData::scalar(x)),
        DType::F16 => half(half::f16::from_f64(x).to_bits()),
        DType::BF16 => half(half::bf16::from_f64(x).to_bits()),
        _ => None,
    }
}
