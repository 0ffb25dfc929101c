//! Finds what repeats in a sequence of nodes: the layers of an encoder.
//!
//! Names differ between exporters, and some give none that tell the layer. What every exporter does is write the layers
//! one after another, so a run of equal operations at a fixed distance is what a person calls a layer.

use std::ops::Range;

/// A stretch of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Its first copy.
    pub(crate) first: Range<usize>,
    /// How often it stands there; 1 for what does not repeat.
    pub(crate) times: usize,
}

impl Stretch {
    /// All copies together.
    pub(crate) fn whole(&self) -> Range<usize> {
        self.first.start..self.first.start + self.first.len() * self.times
    }
}

/// A repetition that covers less is not worth a frame.
const LEAST_COVERED: usize = 12;

/// Splits a sequence into stretches, the longest repetition first, then those in what is left of it. `crossings(at)` is
/// how many tensors are handed over between the elements before `at` and those from `at` on: a period may be cut at
/// any of its places, and the cut with the fewest is where one layer hands over to the next.
pub(crate) fn stretches<K: PartialEq>(keys: &[K], crossings: &dyn Fn(usize) -> usize) -> Vec<Stretch> {
    let mut found = Vec::new();
    split(keys, 0..keys.len(), crossings, &mut found);
    found
}

fn split<K: PartialEq>(
    keys: &[K],
    range: Range<usize>,
    crossings: &dyn Fn(usize) -> usize,
    found: &mut Vec<Stretch>,
) {
    if range.is_empty() {
        return;
    }
    match longest(keys, range.clone(), crossings) {
        Some(stretch) => {
            split(keys, range.start..stretch.first.start, crossings, found);
            let end = stretch.whole().end;
            found.push(stretch);
            split(keys, end..range.end, crossings, found);
        }
        None => found.push(Stretch { first: range, times: 1 }),
    }
}

/// The repetition that covers most, the one of the shortest period among equals.
fn longest<K: PartialEq>(
    keys: &[K],
    range: Range<usize>,
    crossings: &dyn Fn(usize) -> usize,
) -> Option<Stretch> {
    let mut best: Option<(usize, usize, Range<usize>)> = None;
    for period in 2..=range.len() / 2 {
        let mut start = range.start;
        // Runs of places whose element equals the one a period later.
        while start + period < range.end {
            let mut end = start;
            while end + period < range.end && keys[end] == keys[end + period] {
                end += 1;
            }
            let covered = (end - start + period) / period * period;
            if end - start >= period && best.as_ref().is_none_or(|(most, ..)| covered > *most) {
                best = Some((covered, period, start..end + period));
            }
            start = end + 1;
        }
    }
    let (covered, period, run) = best?;
    if covered < LEAST_COVERED {
        return None;
    }
    // A run is often longer than its whole periods, so the cut may move. Of equal cuts the last: what stands before the
    // layers often ends like a layer.
    let cuts = run.start..=run.start + (run.len() - covered).min(period - 1);
    let start = cuts.rev().min_by_key(|cut| crossings(*cut))?;
    Some(Stretch { first: start..start + period, times: (run.end - start) / period })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<(String, usize)> {
        let keys: Vec<char> = text.chars().collect();
        stretches(&keys, &|_| 1).into_iter().map(|s| (text[s.first].to_owned(), s.times)).collect()
    }

    #[test]
    fn layers_between_a_head_and_a_tail_are_found() {
        let expected = [("xy".to_owned(), 1), ("abcab".to_owned(), 4), ("qz".to_owned(), 1)];
        assert_eq!(of("xyabcababcababcababcabqz"), expected);
        // The last `c` before the layers is no layer's end.
        let expected = [("xc".to_owned(), 1), ("abc".to_owned(), 5), ("q".to_owned(), 1)];
        assert_eq!(of("xcabcabcabcabcabcq"), expected);
        assert_eq!(of("abcdefghijklmnopq").len(), 1);
        assert_eq!(of(""), []);
    }

    #[test]
    fn the_shortest_period_that_covers_everything_wins() {
        assert_eq!(of("abcabcabcabcabcabc"), [("abc".to_owned(), 6)]);
    }

    #[test]
    fn stretches_cover_the_sequence_in_order() {
        for text in
            ["aaaaaaaaaaaaaaaaaaa", "abababababababcdcdcdcdcdcdcdcdx", "qabcdeabcdeabcdexyxyxyxyxyxyxyxy"]
        {
            let keys: Vec<char> = text.chars().collect();
            let mut at = 0;
            for stretch in stretches(&keys, &|_| 1) {
                assert_eq!(stretch.whole().start, at);
                at = stretch.whole().end;
                for place in stretch.whole() {
                    assert_eq!(
                        keys[place],
                        keys[stretch.first.start + (place - stretch.first.start) % stretch.first.len()]
                    );
                }
            }
            assert_eq!(at, keys.len());
        }
    }

    #[test]
    fn a_layer_is_cut_where_the_least_is_handed_over() {
        let keys: Vec<char> = "cabcabcabcabcabcabca".chars().collect();
        // Before every `a` one tensor is handed over, elsewhere two.
        let cut = stretches(&keys, &|at| if keys[at] == 'a' { 1 } else { 2 });
        assert_eq!(cut[1].first.start % 3, 1, "{cut:?}");
    }
}
