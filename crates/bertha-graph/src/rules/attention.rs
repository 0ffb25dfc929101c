//! Dense attention as ONNX defines it.

use crate::dim::Dim;
use crate::error::RuleError;
use crate::op::AttentionAttrs;
use crate::shape::Shape;

use super::args::{Args, Types};
use super::{Fact, Outcome, dims};

pub(super) fn rotary_embedding(heads: usize, rotary_dim: usize, inputs: &[Option<Fact>]) -> Outcome {
    let args = Args::new(inputs, &["x", "cos_cache", "sin_cache", "position_ids?"])?;
    let x = args.typed(0, &Types::FLOAT)?;
    let layout = match (x.rank(), heads) {
        (3, 0) => return Err(RuleError("a number of heads is needed for x of 3 dimensions".into())),
        (3, heads) => Heads::packed(&args, 0, heads)?,
        (4, _) => Heads::separate(&args, 0)?,
        _ => return Err(args.error(0, "[batch, seq, hidden] or [batch, heads, seq, head_dim]")),
    };
    let rotated = match rotary_dim {
        0 => layout.head_dim.as_const(),
        given => Some(i64::try_from(given).unwrap_or(i64::MAX)),
    };
    if let Some(rotated) = rotated
        && (rotated % 2 != 0 || layout.head_dim.as_const().is_some_and(|all| rotated > all))
    {
        let all = &layout.head_dim;
        return Err(RuleError(format!(
            "cannot rotate {rotated} of {all} elements of a head: expected an even part"
        )));
    }
    let rank = if args.opt(3).is_some() { 2 } else { 3 };
    for index in [1, 2] {
        args.like(index, 0)?;
        let cache = args.rank(index, rank)?;
        let half = rotated.map(|rotated| Dim::from(rotated / 2));
        if let (Some(half), Some(last)) = (half, cache.dims().last())
            && dims::unify(&half, last).is_none()
        {
            return Err(
                args.error(index, format_args!("a last dimension of {half}, half of what is rotated"))
            );
        }
        let places = cache.dims().get(..2).unwrap_or_default();
        if rank == 3 && !dims::broadcasts_into(places, &[layout.batch.clone(), layout.seq.clone()]) {
            return Err(args.error(index, format_args!("[{}, {}, ..] as in x", layout.batch, layout.seq)));
        }
    }
    if let Some(positions) = args.opt_typed(3, &Types::INDEX)?
        && dims::unify_all(positions.dims(), &[layout.batch.clone(), layout.seq.clone()]).is_none()
    {
        return Err(args.error(3, format_args!("[{}, {}] as in x", layout.batch, layout.seq)));
    }
    Ok(vec![Fact::of(x.ty.clone())])
}

/// The four dimensions of queries, keys or values, however they lie.
struct Heads {
    batch: Dim,
    heads: Dim,
    seq: Dim,
    head_dim: Dim,
}

impl Heads {
    /// `[batch, seq, heads * head_dim]`.
    fn packed(args: &Args<'_>, index: usize, heads: usize) -> Result<Heads, RuleError> {
        let [batch, seq, hidden] = args.get(index)?.dims() else {
            return Err(args.error(index, "[batch, seq, hidden]"));
        };
        if heads == 0 {
            return Err(RuleError(format!(
                "a number of heads is needed for {} of 3 dimensions",
                args.name(index)
            )));
        }
        let heads = Dim::from(heads);
        let head_dim = hidden.exact_div(&heads).ok_or_else(|| {
            args.error(index, format_args!("a last dimension that divides into {heads} heads"))
        })?;
        Ok(Heads { batch: batch.clone(), heads, seq: seq.clone(), head_dim })
    }

    /// `[batch, heads, seq, head_dim]`.
    fn separate(args: &Args<'_>, index: usize) -> Result<Heads, RuleError> {
        match args.get(index)?.dims() {
            [batch, heads, seq, head_dim] => Ok(Heads {
                batch: batch.clone(),
                heads: heads.clone(),
                seq: seq.clone(),
                head_dim: head_dim.clone(),
            }),
            _ => Err(args.error(index, "[batch, heads, seq, head_dim]")),
        }
    }
}

pub(super) fn attention(attrs: &AttentionAttrs, inputs: &[Option<Fact>]) -> Outcome {
    let names = &["q", "k", "v", "mask?", "past_key?", "past_value?", "nonpad_kv_seqlen?"];
    let args = Args::new(inputs, names)?;
    let dtype = args.typed(0, &Types::FLOAT)?.dtype();
    args.like(1, 0)?;
    let v_dtype = args.typed(2, &Types::FLOAT)?.dtype();
    let packed = args.get(0)?.rank() == 3;
    let lay = |index, heads| {
        if packed { Heads::packed(&args, index, heads) } else { Heads::separate(&args, index) }
    };
    let (q, k, v) = (lay(0, attrs.q_heads)?, lay(1, attrs.kv_heads)?, lay(2, attrs.kv_heads)?);
    let batch = agree(&args, 1, "batch", &q.batch, &k.batch)?;
    let batch = agree(&args, 2, "batch", &batch, &v.batch)?;
    agree(&args, 1, "head_dim", &q.head_dim, &k.head_dim)?;
    let kv_heads = agree(&args, 2, "number of heads", &k.heads, &v.heads)?;
    let kv_seq = agree(&args, 2, "sequence", &k.seq, &v.seq)?;
    if let (Some(q_heads), Some(kv_heads)) = (q.heads.as_const(), kv_heads.as_const())
        && q_heads.checked_rem(kv_heads) != Some(0)
    {
        return Err(RuleError(format!("{q_heads} query heads cannot share {kv_heads} key heads")));
    }
    let total = total_seq(&args, &batch, &kv_heads, (&k.head_dim, &v.head_dim), &kv_seq)?;
    let scores = vec![batch.clone(), q.heads.clone(), q.seq.clone(), total.clone()];
    check_mask(&args, &scores)?;
    check_lengths(&args, &batch)?;
    let y = match packed {
        true => vec![batch.clone(), q.seq.clone(), &q.heads * &v.head_dim],
        false => vec![batch.clone(), q.heads.clone(), q.seq.clone(), v.head_dim.clone()],
    };
    let present = |head_dim: &Dim| vec![batch.clone(), kv_heads.clone(), total.clone(), head_dim.clone()];
    Ok(vec![
        Fact::with_value(dtype, Shape(y), None),
        Fact::with_value(dtype, Shape(present(&k.head_dim)), None),
        Fact::with_value(v_dtype, Shape(present(&v.head_dim)), None),
        Fact::with_value(dtype, Shape(scores), None),
    ])
}

fn agree(args: &Args<'_>, index: usize, what: &str, a: &Dim, b: &Dim) -> Result<Dim, RuleError> {
    dims::unify(a, b).ok_or_else(|| args.error(index, format_args!("a {what} of {a}, not {b}")))
}

/// Keys in all: those remembered and the new ones.
fn total_seq(
    args: &Args<'_>,
    batch: &Dim,
    kv_heads: &Dim,
    head_dims: (&Dim, &Dim),
    kv_seq: &Dim,
) -> Result<Dim, RuleError> {
    let mut past: Option<Dim> = None;
    for (index, like, head_dim) in [(4, 1, head_dims.0), (5, 2, head_dims.1)] {
        let Some(fact) = args.opt_like(index, like)? else { continue };
        let dims = args.rank(index, 4)?.dims();
        let seq = dims.get(2).cloned().unwrap_or_else(|| Dim::from(0));
        let expected =
            [batch.clone(), kv_heads.clone(), past.clone().unwrap_or(seq.clone()), head_dim.clone()];
        if dims::unify_all(fact.dims(), &expected).is_none() {
            return Err(args.error(index, Shape(expected.to_vec())));
        }
        past = Some(seq);
    }
    if args.opt(4).is_some() != args.opt(5).is_some() {
        return Err(RuleError("past_key and past_value are only given together".into()));
    }
    Ok(past.map_or_else(|| kv_seq.clone(), |past| &past + kv_seq))
}

/// The mask must broadcast to the scores; its last dimension may be shorter, and what is left is masked.
fn check_mask(args: &Args<'_>, scores: &[Dim]) -> Result<(), RuleError> {
    let Some(mask) = args.opt_typed(3, &Types::BOOL_OR_FLOAT)? else { return Ok(()) };
    if mask.rank() == 0 {
        return Err(args.error(3, "a mask with a dimension for the keys"));
    }
    let shorter = || {
        let (last, total) = (mask.dims().last()?.as_const()?, scores.last()?.as_const()?);
        Some(last < total)
    };
    let (mask_dims, scores_dims) = match shorter() {
        Some(true) => (mask.dims().split_last().map(|(_, d)| d), scores.split_last().map(|(_, d)| d)),
        _ => (Some(mask.dims()), Some(scores)),
    };
    let fits = mask_dims.zip(scores_dims).is_some_and(|(mask, scores)| dims::broadcasts_into(mask, scores));
    match fits {
        true => Ok(()),
        false => Err(args.error(3, format_args!("a mask that broadcasts to {}", Shape(scores.to_vec())))),
    }
}

fn check_lengths(args: &Args<'_>, batch: &Dim) -> Result<(), RuleError> {
    let Some(lengths) = args.opt_typed(6, &Types::INDEX)? else { return Ok(()) };
    match dims::unify_all(lengths.dims(), std::slice::from_ref(batch)) {
        Some(_) => Ok(()),
        None => Err(args.error(6, format_args!("[{batch}], one length for each sequence"))),
    }
}
