//! Memory that kernels use while they run.

use bytemuck::Pod;

/// Working memory, kept between calls. It grows to the largest need and then allocates no more; one for each thread.
#[derive(Debug, Default)]
pub struct Scratch {
    words: Vec<u64>,
}

impl Scratch {
    /// No memory yet.
    pub fn new() -> Self {
        Scratch::default()
    }

    /// `len` elements of unspecified contents.
    pub(super) fn one<A: Pod>(&mut self, len: usize) -> &mut [A] {
        self.three::<A, u8, u8>(len, 0, 0).0
    }

    /// Two pieces of unspecified contents.
    pub(super) fn two<A: Pod, B: Pod>(&mut self, a: usize, b: usize) -> (&mut [A], &mut [B]) {
        let (a, b, _) = self.three::<A, B, u8>(a, b, 0);
        (a, b)
    }

    /// Three pieces of unspecified contents.
    pub(super) fn three<A: Pod, B: Pod, C: Pod>(
        &mut self,
        a: usize,
        b: usize,
        c: usize,
    ) -> (&mut [A], &mut [B], &mut [C]) {
        let (words_a, words_b, words_c) = (words::<A>(a), words::<B>(b), words::<C>(c));
        let needed = words_a + words_b + words_c;
        if self.words.len() < needed {
            self.words.resize(needed, 0);
        }
        let (first, rest) = self.words.split_at_mut(words_a);
        let (second, rest) = rest.split_at_mut(words_b);
        let third = &mut rest[..words_c];
        (
            &mut bytemuck::cast_slice_mut(first)[..a],
            &mut bytemuck::cast_slice_mut(second)[..b],
            &mut bytemuck::cast_slice_mut(third)[..c],
        )
    }
}

/// Words that `len` elements take. No element is larger than a word or more strictly aligned.
fn words<T: Pod>(len: usize) -> usize {
    (len * size_of::<T>()).div_ceil(8)
}
