//! Which sizes of batches kernels are launched for.
//!
//! A captured graph has fixed grids, so a run takes the graph of the smallest bucket that holds its batch; blocks that
//! find no work return at once.

/// Token counts up to [`LARGEST`]. 2,112 and its multiples are whole waves of 128-row tiles on 132 multiprocessors.
const TOKENS: [usize; 14] = [32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2112, 4224, 8448];

/// The largest bucket of the list; beyond it, its multiples.
const LARGEST: usize = 8448;

/// Sequence counts up to 32; beyond, multiples of 2 of the last.
const SEQUENCES: [usize; 3] = [8, 16, 32];

/// Classes of the longest sequence's length; beyond the last, whatever length.
const LENGTHS: [usize; 6] = [32, 64, 128, 256, 384, 512];

/// The smallest bucket that holds `tokens`.
pub fn token_bucket(tokens: usize) -> usize {
    let found = TOKENS.into_iter().find(|bucket| tokens <= *bucket);
    found.unwrap_or_else(|| tokens.div_ceil(LARGEST).saturating_mul(LARGEST))
}

/// The smallest bucket that holds `sequences`.
pub fn sequence_bucket(sequences: usize) -> usize {
    let found = SEQUENCES.into_iter().find(|bucket| sequences <= *bucket);
    found.unwrap_or_else(|| sequences.checked_next_power_of_two().unwrap_or(sequences))
}

/// The class of a longest sequence: the smallest bound that holds it, or `usize::MAX`.
pub fn length_class(longest: usize) -> usize {
    LENGTHS.into_iter().find(|bound| longest <= *bound).unwrap_or(usize::MAX)
}

/// All token buckets for which kernels may differ: those of the list, and one beyond it.
pub(crate) fn token_buckets() -> impl Iterator<Item = usize> {
    TOKENS.into_iter().chain([2 * LARGEST])
}

/// All sequence buckets for which kernels may differ, up to `most`.
pub(crate) fn sequence_buckets(most: usize) -> impl Iterator<Item = usize> {
    let doubled = std::iter::successors(Some(64usize), |bucket| bucket.checked_mul(2));
    SEQUENCES.into_iter().chain(doubled).take_while(move |bucket| *bucket <= most.max(SEQUENCES[0]))
}

/// All classes of lengths.
pub(crate) fn length_classes() -> impl Iterator<Item = usize> {
    LENGTHS.into_iter().chain([usize::MAX])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_the_smallest_that_holds_the_batch() {
        for tokens in (0..20_000).chain([100_000, 1_000_000]) {
            let bucket = token_bucket(tokens);
            assert!(bucket >= tokens);
            let smaller = TOKENS.into_iter().filter(|other| *other < bucket).max().unwrap_or(0);
            assert!(tokens == 0 || tokens > smaller.max(bucket.saturating_sub(LARGEST)));
        }
        for sequences in 0..5_000 {
            assert!(sequence_bucket(sequences) >= sequences);
        }
        assert_eq!((sequence_bucket(1), sequence_bucket(33), sequence_bucket(64)), (8, 64, 64));
        assert_eq!(
            (length_class(33), length_class(64), length_class(65), length_class(513)),
            (64, 64, 128, usize::MAX)
        );
    }

    #[test]
    fn every_bucket_is_listed_or_beyond_the_list() {
        let listed: Vec<usize> = token_buckets().collect();
        for tokens in 1..8_500 {
            assert!(listed.contains(&token_bucket(tokens)) || token_bucket(tokens) > LARGEST);
        }
        let sequences: Vec<usize> = sequence_buckets(512).collect();
        assert_eq!(sequences, [8, 16, 32, 64, 128, 256, 512]);
    }
}
