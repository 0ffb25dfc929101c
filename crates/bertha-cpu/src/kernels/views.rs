//! Matrices in memory whose rows may be apart: what kernels read and write.

/// Rows of values: row i is `cols` values from `i * stride`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T = f32> {
    /// The values.
    pub data: &'a [T],
    /// Rows.
    pub rows: usize,
    /// Values per row.
    pub cols: usize,
    /// Distance from row to row, at least `cols` (unless there is at most one row).
    pub stride: usize,
}

impl<'a, T> Rows<'a, T> {
    /// A contiguous `[rows, cols]` matrix.
    #[must_use]
    pub const fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, stride: cols }
    }

    pub(crate) fn check(&self) {
        assert!(self.data.len() >= span(self.rows, self.cols, self.stride), "rows reach beyond their values");
    }
}

/// Rows of values to write: as [`Rows`].
#[derive(Debug)]
pub struct RowsMut<'a, T = f32> {
    /// The values.
    pub data: &'a mut [T],
    /// Rows.
    pub rows: usize,
    /// Values per row.
    pub cols: usize,
    /// Distance from row to row, at least `cols`.
    pub stride: usize,
}

impl<'a, T> RowsMut<'a, T> {
    /// A contiguous `[rows, cols]` matrix.
    #[must_use]
    pub const fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, stride: cols }
    }

    pub(crate) fn check(&self) {
        assert!(self.stride >= self.cols || self.rows <= 1, "result rows overlap");
        assert!(self.data.len() >= span(self.rows, self.cols, self.stride), "rows reach beyond their values");
    }
}

/// Values from the first to the last of strided rows.
const fn span(rows: usize, cols: usize, stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * stride + cols }
}

impl<'a, T> Rows<'a, T> {
    /// Row `index`.
    #[inline(always)]
    pub(crate) fn row(&self, index: usize) -> &'a [T] {
        &self.data[index * self.stride..][..self.cols]
    }
}

impl<T> RowsMut<'_, T> {
    /// Row `index`.
    #[inline(always)]
    pub(crate) fn row(&mut self, index: usize) -> &mut [T] {
        &mut self.data[index * self.stride..][..self.cols]
    }
}

/// Where each sequence of a ragged batch starts, and where the last ends: `[0, len 0, len 0 + len 1, .., tokens]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CuSeqlens<'a>(&'a [u32]);

/// Why offsets describe no ragged batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CuSeqlensError {
    /// The first offset is missing or not 0.
    #[error("cumulative sequence lengths must start with 0")]
    Start,
    /// An offset is smaller than the one before it.
    #[error("cumulative sequence lengths fall from {before} to {after} at sequence {sequence}")]
    Falls {
        /// The sequence that would have a negative length.
        sequence: usize,
        /// Its start.
        before: u32,
        /// Its end.
        after: u32,
    },
}

impl<'a> CuSeqlens<'a> {
    /// Checks and wraps offsets.
    ///
    /// # Errors
    /// When they do not start with 0 or fall somewhere.
    pub fn new(offsets: &'a [u32]) -> Result<Self, CuSeqlensError> {
        if offsets.first() != Some(&0) {
            return Err(CuSeqlensError::Start);
        }
        match offsets.windows(2).position(|pair| pair[1] < pair[0]) {
            Some(sequence) => {
                let (before, after) = (offsets[sequence], offsets[sequence + 1]);
                Err(CuSeqlensError::Falls { sequence, before, after })
            }
            None => Ok(Self(offsets)),
        }
    }

    /// Sequences in the batch.
    #[must_use]
    pub const fn sequences(&self) -> usize {
        self.0.len() - 1
    }

    /// Tokens in the batch.
    #[must_use]
    pub const fn tokens(&self) -> usize {
        self.0[self.0.len() - 1] as usize
    }

    /// First token and number of tokens of a sequence.
    ///
    /// # Panics
    /// When there is no such sequence.
    #[must_use]
    pub const fn sequence(&self, index: usize) -> (usize, usize) {
        (self.0[index] as usize, (self.0[index + 1] - self.0[index]) as usize)
    }

    /// Tokens of the longest sequence.
    #[must_use]
    pub fn longest(&self) -> usize {
        (0..self.sequences()).map(|i| self.sequence(i).1).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_checked() {
        assert_eq!(CuSeqlens::new(&[]), Err(CuSeqlensError::Start));
        assert_eq!(CuSeqlens::new(&[1, 2]), Err(CuSeqlensError::Start));
        assert_eq!(
            CuSeqlens::new(&[0, 5, 4]),
            Err(CuSeqlensError::Falls { sequence: 1, before: 5, after: 4 })
        );
        let cu = CuSeqlens::new(&[0, 3, 3, 10]).expect("well formed");
        assert_eq!((cu.sequences(), cu.tokens(), cu.longest()), (3, 10, 7));
        assert_eq!([cu.sequence(0), cu.sequence(1), cu.sequence(2)], [(0, 3), (3, 0), (3, 7)]);
        assert_eq!(CuSeqlens::new(&[0]).map(|cu| cu.sequences()), Ok(0));
    }
}
