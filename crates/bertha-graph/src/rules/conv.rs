//! Convolutions.

use crate::dim::Dim;
use crate::error::RuleError;
use crate::op::ConvAttrs;
use crate::shape::Shape;

use super::args::{Args, Types};
use super::{Fact, FreshSymbols, Outcome, dims};

pub(super) fn conv(attrs: &ConvAttrs, inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
    let args = Args::new(inputs, &["x", "weight", "bias?"])?;
    let x = args.typed(0, &Types::FLOAT)?;
    let weight = args.like(1, 0)?;
    args.opt_like(2, 0)?;
    let ([batch, channels, sizes @ ..], [out, part, kernel @ ..]) = (x.dims(), weight.dims()) else {
        return Err(args.error(0, "batch and channels (and as many dimensions as the weight)"));
    };
    if sizes.len() != kernel.len() {
        return Err(args.error(1, format_args!("{} dimensions, as {} has", x.rank(), args.name(0))));
    }
    attrs.check(sizes.len()).map_err(RuleError)?;
    let groups = Dim::from(attrs.groups);
    if dims::unify(channels, &(part * &groups)).is_none() {
        let expected =
            format_args!("{} groups of {part} channels, which the weight has", attrs.groups).to_string();
        return Err(args.error(0, expected));
    }
    if out.as_const().is_some_and(|out| out % attrs.groups as i64 != 0) {
        return Err(args.error(1, format_args!("a first dimension that {} groups divide", attrs.groups)));
    }
    if let Some(bias) = args.opt(2)
        && !matches!(bias.dims(), [size] if dims::unify(size, out).is_some())
    {
        return Err(args.error(2, format_args!("[{out}]")));
    }
    let mut shape = vec![batch.clone(), out.clone()];
    for (axis, (size, kernel)) in sizes.iter().zip(kernel).enumerate() {
        let kernel = kernel.as_const().and_then(|kernel| usize::try_from(kernel).ok());
        let dim = match kernel {
            Some(kernel) => attrs.out_dim(axis, size, kernel).map_err(RuleError)?,
            None => None,
        };
        shape.push(dim.unwrap_or_else(|| symbols.fresh()));
    }
    Ok(vec![Fact::with_value(x.dtype(), Shape(shape), None)])
}
