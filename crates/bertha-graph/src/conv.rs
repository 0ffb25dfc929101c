//! The geometry of convolutions.

use serde::{Deserialize, Serialize};

use crate::dim::Dim;

/// Attributes of [`Op::Conv`](crate::Op::Conv). Lists have one entry for each dimension after batch and channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvAttrs {
    /// Parts that the channels, in and out, are cut into; each part of the result sees one part of `x`.
    pub groups: usize,
    /// Steps of the window, from 1 on.
    pub strides: Vec<usize>,
    /// Distances between the elements of a window, from 1 on.
    pub dilations: Vec<usize>,
    /// The zeros around `x`.
    pub padding: ConvPadding,
}

/// The zeros around the operand of a convolution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvPadding {
    /// All begins, then all ends.
    Explicit(Vec<usize>),
    /// As many as make the result `ceil(size / stride)` large; an odd one comes at the end.
    SameUpper,
    /// The same with an odd one at the beginning.
    SameLower,
}

/// One dimension of a convolution: position `o` of the result sees `x[o * stride + k * dilation - begin]` for each `k`
/// below `kernel`, where that is within `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvAxis {
    /// Elements of `x`.
    pub size: usize,
    /// Elements of the window.
    pub kernel: usize,
    /// Step of the window.
    pub stride: usize,
    /// Distance between the elements of a window.
    pub dilation: usize,
    /// Zeros before `x`.
    pub begin: usize,
    /// Elements of the result.
    pub out: usize,
}

impl ConvAxis {
    /// The positions of the result for which element `tap` of the window lies within `x`.
    pub fn positions(&self, tap: usize) -> std::ops::Range<usize> {
        let shift = tap.saturating_mul(self.dilation);
        let first = self.begin.saturating_sub(shift).div_ceil(self.stride);
        let end = self.size.saturating_add(self.begin).saturating_sub(shift).div_ceil(self.stride);
        let end = end.min(self.out);
        first.min(end)..end
    }

    /// Where in `x` element `tap` of the window lies for a position of [`Self::positions`].
    pub fn source(&self, position: usize, tap: usize) -> usize {
        position * self.stride + tap * self.dilation - self.begin
    }
}

impl ConvAttrs {
    /// Strides and dilations of 1, no zeros, one group.
    pub fn plain(dimensions: usize) -> Self {
        ConvAttrs {
            groups: 1,
            strides: vec![1; dimensions],
            dilations: vec![1; dimensions],
            padding: ConvPadding::Explicit(vec![0; 2 * dimensions]),
        }
    }

    /// What is wrong for a convolution over so many dimensions, if anything is.
    pub fn check(&self, dimensions: usize) -> Result<(), String> {
        let pads = match &self.padding {
            ConvPadding::Explicit(pads) => pads.len(),
            ConvPadding::SameUpper | ConvPadding::SameLower => 2 * dimensions,
        };
        for (name, len, expected) in [
            ("strides", self.strides.len(), dimensions),
            ("dilations", self.dilations.len(), dimensions),
            ("pads", pads, 2 * dimensions),
        ] {
            if len != expected {
                return Err(format!("expected {expected} {name} for {dimensions} dimensions, found {len}"));
            }
        }
        if self.groups == 0 || self.strides.contains(&0) || self.dilations.contains(&0) {
            return Err("groups, strides and dilations start at 1".into());
        }
        Ok(())
    }

    /// Elements from the first to the last of a window, and the zeros at both ends, which may depend on nothing else.
    fn extent(&self, axis: usize, kernel: usize) -> Option<usize> {
        kernel.checked_sub(1)?.checked_mul(*self.dilations.get(axis)?)?.checked_add(1)
    }

    /// Size of the result along an axis, for one of `x` that may be symbolic; an error when a known size is too small for
    /// the window. `None` when it is too large to tell.
    pub fn out_dim(&self, axis: usize, size: &Dim, kernel: usize) -> Result<Option<Dim>, String> {
        if let Some(size) = size.as_const() {
            let size = usize::try_from(size).map_err(|_| "a size is negative".to_owned())?;
            return self.axis(axis, size, kernel).map(|axis| Some(Dim::from(axis.out)));
        }
        let (Some(stride), Some(extent)) =
            (self.strides.get(axis).and_then(|s| i64::try_from(*s).ok()), self.extent(axis, kernel))
        else {
            return Ok(None);
        };
        let numerator = match &self.padding {
            ConvPadding::SameUpper | ConvPadding::SameLower => size - &Dim::from(1),
            ConvPadding::Explicit(pads) => {
                let pads = pads.get(axis).zip(pads.get(axis + self.strides.len()));
                let Some(padded) = pads.and_then(|(begin, end)| begin.checked_add(*end)) else {
                    return Ok(None);
                };
                &(size + &Dim::from(padded)) - &Dim::from(extent)
            }
        };
        Ok(numerator.floor_div(stride).map(|steps| steps + 1).filter(|dim| !dim.is_unwieldy()))
    }

    /// The geometry along an axis for a size of `x`.
    ///
    /// # Errors
    /// When the window does not fit into `x` with its zeros, or sizes leave the range of `usize`.
    pub fn axis(&self, axis: usize, size: usize, kernel: usize) -> Result<ConvAxis, String> {
        let too_large = || format!("the sizes of dimension {} are too large", axis + 2);
        let (Some(stride), Some(dilation)) =
            (self.strides.get(axis).copied(), self.dilations.get(axis).copied())
        else {
            return Err(format!("there is no stride for dimension {}", axis + 2));
        };
        if kernel == 0 {
            return Err(format!("the window is empty along dimension {}", axis + 2));
        }
        let extent = self.extent(axis, kernel).ok_or_else(too_large)?;
        let (begin, end) = match &self.padding {
            ConvPadding::Explicit(pads) => {
                let at = |index: usize| pads.get(index).copied().unwrap_or(0);
                (at(axis), at(axis + self.strides.len()))
            }
            same => {
                let steps = size.div_ceil(stride).saturating_sub(1);
                let needed = steps.checked_mul(stride).and_then(|first| first.checked_add(extent));
                let total = needed.ok_or_else(too_large)?.saturating_sub(size);
                let total = if size == 0 { 0 } else { total };
                let (less, more) = (total / 2, total - total / 2);
                if *same == ConvPadding::SameUpper { (less, more) } else { (more, less) }
            }
        };
        let padded = size.checked_add(begin).and_then(|sum| sum.checked_add(end)).ok_or_else(too_large)?;
        let out = match padded.checked_sub(extent) {
            Some(rest) => rest / stride + 1,
            None if size == 0 && !matches!(self.padding, ConvPadding::Explicit(_)) => 0,
            None => {
                return Err(format!(
                    "a window of {extent} does not fit into dimension {}, which has {padded} elements with its zeros",
                    axis + 2
                ));
            }
        };
        Ok(ConvAxis { size, kernel, stride, dilation, begin, out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes and zeros by the definition, one position after the other.
    #[test]
    fn positions_are_those_that_lie_within() {
        for (size, kernel, stride, dilation, begin, end) in [
            (7, 3, 2, 1, 0, 0),
            (5, 3, 1, 2, 2, 2),
            (4, 5, 3, 1, 4, 3),
            (1, 1, 1, 1, 0, 0),
            (6, 2, 4, 3, 1, 0),
        ] {
            let attrs = ConvAttrs {
                groups: 1,
                strides: vec![stride],
                dilations: vec![dilation],
                padding: ConvPadding::Explicit(vec![begin, end]),
            };
            let axis = attrs.axis(0, size, kernel).unwrap();
            let symbolic = attrs.out_dim(0, &Dim::from("t"), kernel).unwrap().unwrap();
            let bindings = crate::Bindings::from([("t".into(), size as i64)]);
            assert_eq!(symbolic.eval(&bindings), Ok(axis.out as i64));
            for tap in 0..kernel {
                let within = |o: &usize| (begin..begin + size).contains(&(o * stride + tap * dilation));
                let expected: Vec<usize> = (0..axis.out).filter(within).collect();
                assert_eq!(axis.positions(tap).collect::<Vec<_>>(), expected, "{axis:?}, tap {tap}");
                for o in expected {
                    assert_eq!(axis.source(o, tap), o * stride + tap * dilation - begin);
                }
            }
        }
    }

    #[test]
    fn same_padding_gives_one_position_for_each_step() {
        for padding in [ConvPadding::SameUpper, ConvPadding::SameLower] {
            let attrs = ConvAttrs { padding: padding.clone(), strides: vec![3], ..ConvAttrs::plain(1) };
            for size in 1..20 {
                let axis = attrs.axis(0, size, 4).unwrap();
                assert_eq!(axis.out, size.div_ceil(3));
                let symbolic = attrs.out_dim(0, &Dim::from("t"), 4).unwrap().unwrap();
                let bindings = crate::Bindings::from([("t".into(), size as i64)]);
                assert_eq!(symbolic.eval(&bindings), Ok(axis.out as i64));
            }
        }
        // Five elements under a window of four: the one zero more than even goes to the end, or to the beginning.
        let begin = |padding| ConvAttrs { padding, ..ConvAttrs::plain(1) }.axis(0, 5, 4).unwrap().begin;
        assert_eq!((begin(ConvPadding::SameUpper), begin(ConvPadding::SameLower)), (1, 2));
    }

    #[test]
    fn windows_that_do_not_fit_are_refused() {
        let attrs = ConvAttrs::plain(1);
        assert!(attrs.axis(0, 2, 3).unwrap_err().contains("does not fit"));
        assert!(attrs.axis(0, usize::MAX, usize::MAX).is_ok());
        assert!(attrs.axis(0, 2, 0).is_err());
        assert!(attrs.check(2).is_err());
    }
}
