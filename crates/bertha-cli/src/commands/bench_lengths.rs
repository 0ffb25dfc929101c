//! Which sequences `bertha bench` runs, and how they are put into batches.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use bertha::graph::SplitMix64;

use super::Failure;
use crate::args::BenchArgs;

/// Where the lengths of sequences come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lengths {
    /// Drawn from a distribution like that of questions with paragraphs (SQuAD) in word pieces.
    Squad,
    /// Drawn evenly from a range, both ends included.
    Between(usize, usize),
    /// One a line.
    File(PathBuf),
}

/// `squad`, `MIN..MAX`, or else a file.
pub(crate) fn parse(text: &str) -> Result<Lengths, String> {
    if text == "squad" {
        return Ok(Lengths::Squad);
    }
    let Some((least, most)) = text.split_once("..") else { return Ok(Lengths::File(text.into())) };
    // A path may hold two dots as well.
    let (Ok(least), Ok(most)) = (least.parse::<usize>(), most.parse::<usize>()) else {
        return Ok(Lengths::File(text.into()));
    };
    match 1 <= least && least <= most {
        true => Ok(Lengths::Between(least, most)),
        false => Err("expected MIN..MAX with 1 <= MIN <= MAX".into()),
    }
}

/// Lengths at shares of all sequences, from the shortest to the longest: an outline of SQuAD's questions with their
/// paragraphs in BERT's word pieces, cut at 384; the mean of what is drawn from it is 177.
const SQUAD: [(f64, f64); 8] = [
    (0.0, 40.0),
    (0.1, 108.0),
    (0.25, 133.0),
    (0.5, 168.0),
    (0.75, 210.0),
    (0.9, 265.0),
    (0.97, 325.0),
    (1.0, 384.0),
];

/// Of the drawn lengths, so that every run measures the same.
const SEED: u64 = 384;

/// Sequences among which batches are formed by length: about as many as a busy server has waiting.
const WINDOW: usize = 1024;

/// The lengths of the sequences of each batch.
pub(super) fn batches(args: &BenchArgs) -> Result<Vec<Vec<usize>>, Failure> {
    let lengths = match &args.lengths {
        None => return Ok(vec![vec![args.seq; args.batch]]),
        Some(Lengths::File(path)) => read(path)?,
        Some(Lengths::Squad) => draw(args.sequences, squad),
        Some(Lengths::Between(least, most)) => draw(args.sequences, |share| {
            least + ((share * (most - least + 1) as f64) as usize).min(most - least)
        }),
    };
    match args.token_budget {
        None => Ok(lengths.chunks(args.batch).map(<[usize]>::to_vec).collect()),
        Some(budget) => pack(&lengths, budget),
    }
}

/// `count` lengths at shares spread evenly from 0 to 1, one in each part of `1 / count`, in random order: their mean is the
/// distribution's, however few they are.
fn draw(count: usize, length: impl Fn(f64) -> usize) -> Vec<usize> {
    let mut random = SplitMix64::new(SEED);
    let mut lengths: Vec<usize> =
        (0..count).map(|part| length((part as f64 + random.unit()) / count as f64)).collect();
    for end in (1..count).rev() {
        lengths.swap(end, random.below(end + 1));
    }
    lengths
}

/// A length at a share of [`SQUAD`], straight lines between its points.
fn squad(share: f64) -> usize {
    let between = |pair: &[(f64, f64)]| {
        let [(from, short), (to, long)] = *pair else { return None };
        (share <= to).then(|| short + (long - short) * (share - from) / (to - from))
    };
    SQUAD.windows(2).find_map(between).unwrap_or(SQUAD[0].1).round() as usize
}

fn read(path: &Path) -> Result<Vec<usize>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
    let parse = |(line, text): (usize, &str)| match text.trim().parse::<usize>() {
        Ok(length) if length > 0 => Ok(length),
        _ => Err(Failure::Usage(format!("{}:{}: `{text}` is not a length", path.display(), line + 1))),
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let lengths: Vec<usize> = lines.map(parse).collect::<Result<_, _>>()?;
    if lengths.is_empty() {
        return Err(Failure::Usage(format!("{} holds no length", path.display())));
    }
    Ok(lengths)
}

/// Batches of at most `budget` tokens. Of each window's sequences the longest come first, so that those of a batch are of
/// like length; what the next one leaves free is filled by the longest that still fit.
fn pack(lengths: &[usize], budget: usize) -> Result<Vec<Vec<usize>>, Failure> {
    if let Some(length) = lengths.iter().find(|length| **length > budget) {
        let why = format!("a sequence of {length} tokens does not fit --token-budget {budget}");
        return Err(Failure::Usage(why));
    }
    let mut batches = Vec::new();
    for window in lengths.chunks(WINDOW) {
        let mut waiting = window.to_vec();
        waiting.sort_unstable_by_key(|length| Reverse(*length));
        while !waiting.is_empty() {
            let (mut batch, mut left) = (Vec::new(), budget);
            waiting.retain(|length| {
                let fits = *length <= left;
                if fits {
                    left -= length;
                    batch.push(*length);
                }
                !fits
            });
            batches.push(batch);
        }
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_of_lengths_is_a_distribution_a_range_or_a_file() {
        assert_eq!(parse("squad"), Ok(Lengths::Squad));
        assert_eq!(parse("8..128"), Ok(Lengths::Between(8, 128)));
        assert_eq!(parse("../8"), Ok(Lengths::File("../8".into())));
        assert_eq!(parse("./squad"), Ok(Lengths::File("./squad".into())));
        assert!(parse("9..8").is_err() && parse("0..8").is_err());
    }

    #[test]
    fn drawn_lengths_are_like_those_of_squad() {
        let lengths = draw(2_000, squad);
        let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
        assert!((mean - 177.0).abs() < 0.5, "{mean}");
        assert!(!lengths.is_sorted());
        assert!(lengths.iter().all(|length| (40..=384).contains(length)));
        assert_eq!(lengths, draw(2_000, squad));
        let longest = lengths.iter().filter(|length| **length > 325).count() as f64;
        assert!((longest / lengths.len() as f64 - 0.03).abs() < 0.005);
    }

    #[test]
    fn batches_hold_every_sequence_once_within_the_budget() {
        let lengths = draw(3000, squad);
        let batches = pack(&lengths, 4224).unwrap();
        let mut packed: Vec<usize> = batches.iter().flatten().copied().collect();
        let mut expected = lengths.clone();
        packed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(packed, expected);
        assert!(
            batches
                .iter()
                .all(|batch| batch.iter().sum::<usize>() <= 4224 && batch.is_sorted_by(|a, b| a >= b))
        );
        // But for the last batches of each window, there is hardly any room left.
        let filled = lengths.iter().sum::<usize>() as f64 / (4224 * batches.len()) as f64;
        assert!(filled > 0.97, "{filled}");
        assert!(pack(&[5, 9], 8).is_err());
    }
}
