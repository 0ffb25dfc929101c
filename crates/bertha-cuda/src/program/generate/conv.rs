//! Convolutions of any number of dimensions, by a thread for each element of the result.

use bertha_graph::{ConvAttrs, Dim, Node, TensorId};

use super::code::Code;
use super::map::finish;
use super::{Generated, Source};
use crate::program::lower::{Lowered, Lowering, operand};

pub(super) fn generate(
    lowering: &mut Lowering<'_>,
    node: &Node,
    y: TensorId,
    attrs: &ConvAttrs,
) -> Lowered<Generated> {
    let (x, weight) = (Source::of(lowering, node, 0)?, Source::of(lowering, node, 1)?);
    if !x.storage.is_float() || !weight.storage.is_float() {
        return Err("conv of whole numbers".into());
    }
    let constant = |dim: &Dim| dim.as_const().and_then(|dim| usize::try_from(dim).ok());
    let sizes = |source: &Source| source.dims.iter().map(constant).collect::<Option<Vec<usize>>>();
    let (Some(x_sizes), Some(w_sizes)) = (sizes(&x), sizes(&weight)) else {
        return Err("conv of unknown sizes".into());
    };
    let ([_, _, spatial @ ..], [out, channels, window @ ..]) = (x_sizes.as_slice(), w_sizes.as_slice())
    else {
        return Err("conv of a matrix".into());
    };
    let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    let mut code = Code::new(false);
    let number = |code: &mut Code, value: usize| code.number(i64::try_from(value).unwrap_or(i64::MAX));
    let mut lines = code.coordinates(&dims)?;
    let of_group = number(&mut code, (out / attrs.groups.max(1)).max(1));
    let channels = number(&mut code, *channels);
    lines.push(format!("const long long first = d1 / {of_group} * {channels};"));
    lines.push(format!("float sum = {};", if operand(node, 2).is_some() { "x2[d1]" } else { "0.0f" }));
    lines.push(format!("for (long long c = 0; c < {channels}; ++c)"));
    let (mut at, mut tap) = (vec!["d0".to_owned(), "(first + c)".into()], vec!["d1".to_owned(), "c".into()]);
    let mut inside = Vec::new();
    for (axis, (size, kernel)) in spatial.iter().zip(window).enumerate() {
        let geometry = attrs.axis(axis, *size, *kernel)?;
        let [kernel, stride, dilation, begin, size] =
            [geometry.kernel, geometry.stride, geometry.dilation, geometry.begin, geometry.size]
                .map(|value| number(&mut code, value));
        let place = format!("(d{} * {stride} + k{axis} * {dilation} - {begin})", axis + 2);
        lines.push(format!("for (long long k{axis} = 0; k{axis} < {kernel}; ++k{axis})"));
        inside.push(format!("{place} >= 0 && {place} < {size}"));
        at.push(place);
        tap.push(format!("k{axis}"));
    }
    let element = format!("x0[{}] * x1[{}]", code.address(&x.dims, &at)?, code.address(&weight.dims, &tap)?);
    let inside = if inside.is_empty() { "true".into() } else { inside.join(" && ") };
    lines.push(format!("    if ({inside}) sum += {element};"));
    let mut sources = vec![x, weight];
    if operand(node, 2).is_some() {
        sources.push(Source::of(lowering, node, 2)?);
    }
    finish(lowering, node, y, (code, sources), (&lines, "sum"))
}
