//! Times of tactics, kept in a file from one build to the next.
//!
//! Times are hints: whatever a file says, only tactics that can be launched are ever chosen, and every one of them gives the
//! same answer within rounding.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::driver::{CudaError, Device, driver_version};
use crate::kernels::{Tactic, fingerprint};

/// Version of the file's form.
const FORMAT: u32 = 1;

/// What times depend on besides the layer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardKey {
    /// The card's name.
    pub device: String,
    /// Its compute capability, such as `9.0`.
    pub compute_capability: String,
    /// The CUDA version of its driver, such as `13.0`.
    pub driver: String,
    /// A hash of the kernels' sources, in hexadecimal.
    pub kernels: String,
}

impl CardKey {
    /// The key of a card with this version of the kernels.
    ///
    /// # Errors
    /// When the driver does not tell its version.
    pub fn of(device: &Device) -> Result<Self, CudaError> {
        let ((major, minor), (cuda, update)) = (device.capability, driver_version()?);
        Ok(CardKey {
            device: device.name.clone(),
            compute_capability: format!("{major}.{minor}"),
            driver: format!("{cuda}.{update}"),
            kernels: format!("{:016x}", fingerprint()),
        })
    }
}

/// Microseconds of one layer with a tactic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Timed {
    tactic: Tactic,
    us: f64,
}

/// Times of one layer in one bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    layer: String,
    tokens: usize,
    times: Vec<Timed>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Card {
    card: CardKey,
    layers: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    cards: Vec<Card>,
}

type Layers = BTreeMap<(String, usize), BTreeMap<Tactic, f64>>;

/// Times by card, layer, bucket and tactic; with a file, or in memory alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TimingCache {
    path: Option<PathBuf>,
    cards: BTreeMap<CardKey, Layers>,
}

impl TimingCache {
    /// What the file holds, which need not be there yet; nothing, with a word about why, when it cannot be read.
    pub fn open(path: impl Into<PathBuf>) -> (Self, Option<String>) {
        let path = path.into();
        let empty = TimingCache { path: Some(path.clone()), cards: BTreeMap::new() };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (empty, None),
            Err(error) => return (empty, Some(damaged(&path, &error.to_string()))),
        };
        match parse(&text) {
            Ok(cards) => (TimingCache { path: Some(path), cards }, None),
            Err(why) => (empty, Some(damaged(&path, &why))),
        }
    }

    /// The time of a layer with a tactic, in microseconds.
    pub(super) fn get(&self, card: &CardKey, layer: &str, tokens: usize, tactic: Tactic) -> Option<f64> {
        self.cards.get(card)?.get(&(layer.to_owned(), tokens))?.get(&tactic).copied()
    }

    /// Keeps the time of a layer with a tactic, in microseconds.
    pub(super) fn put(&mut self, card: &CardKey, layer: &str, tokens: usize, (tactic, us): (Tactic, f64)) {
        let layers = self.cards.entry(card.clone()).or_default();
        layers.entry((layer.to_owned(), tokens)).or_default().insert(tactic, us);
    }

    /// Writes the file, when there is one. A reader sees the old file or the new one.
    ///
    /// # Errors
    /// When the folder or file cannot be written.
    pub fn save(&self) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let entry = |((layer, tokens), times): (&(String, usize), &BTreeMap<Tactic, f64>)| {
            let mut times: Vec<Timed> =
                times.iter().map(|(tactic, us)| Timed { tactic: *tactic, us: *us }).collect();
            times.sort_by(|a, b| a.us.total_cmp(&b.us));
            Entry { layer: layer.clone(), tokens: *tokens, times }
        };
        let cards = self
            .cards
            .iter()
            .map(|(card, layers)| Card { card: card.clone(), layers: layers.iter().map(entry).collect() });
        let file = File { format: FORMAT, cards: cards.collect() };
        let text = serde_json::to_vec_pretty(&file)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder)?;
        }
        let unfinished = path.with_extension(format!("{}.part", std::process::id()));
        std::fs::write(&unfinished, text)?;
        std::fs::rename(&unfinished, path).inspect_err(|_| {
            // Nothing is lost with it, and the rename's failure is the news.
            let _ = std::fs::remove_file(&unfinished);
        })
    }
}

fn damaged(path: &Path, why: &str) -> String {
    format!("the timing cache {} is of no use and is written anew: {why}", path.display())
}

fn parse(text: &[u8]) -> Result<BTreeMap<CardKey, Layers>, String> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if format != FORMAT {
        return Err(format!("it has format {format}, not {FORMAT}"));
    }
    let file: File = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let mut cards: BTreeMap<CardKey, Layers> = BTreeMap::new();
    for Card { card, layers } in file.cards {
        let known = cards.entry(card).or_default();
        for Entry { layer, tokens, times } in layers {
            if let Some(wrong) = times.iter().find(|timed| !(timed.us.is_finite() && timed.us > 0.0)) {
                return Err(format!("{layer} takes {} us", wrong.us));
            }
            let times = times.into_iter().map(|timed| (timed.tactic, timed.us));
            known.entry((layer, tokens)).or_default().extend(times);
        }
    }
    Ok(cards)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(device: &str) -> CardKey {
        let text = |text: &str| text.to_owned();
        CardKey {
            device: text(device),
            compute_capability: text("9.0"),
            driver: text("13.0"),
            kernels: text("0123456789abcdef"),
        }
    }

    #[test]
    fn times_come_back_for_the_same_card_layer_bucket_and_tactic_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/timings.json");
        let (mut cache, warning) = TimingCache::open(&path);
        assert_eq!(warning, None);
        let tactic = Tactic::GemmSmallSm90a { tokens: 128, split: 3 };
        let other = Tactic::GemmSm90a { columns: 192, defer: false };
        cache.put(&key("one"), "f16, 2304x768", 128, (tactic, 3.5));
        cache.put(&key("one"), "f16, 2304x768", 128, (other, 5.25));
        cache.put(&key("two"), "f16, 768x768", 32, (tactic, 2.0));
        cache.save().unwrap();
        let (read, warning) = TimingCache::open(&path);
        assert_eq!((&read, warning), (&cache, None));
        let get = |device, layer, tokens| read.get(&key(device), layer, tokens, tactic);
        assert_eq!(get("one", "f16, 2304x768", 128), Some(3.5));
        for (device, layer, tokens) in
            [("two", "f16, 2304x768", 128), ("one", "f16, 768x768", 128), ("one", "f16, 2304x768", 96)]
        {
            assert_eq!(get(device, layer, tokens), None);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"kernel\": \"gemm_small_sm90a\""), "{text}");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_told_and_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("timings.json");
        let card = r#"{"device":"x","compute_capability":"9.0","driver":"13.0","kernels":"0"}"#;
        let with = |times: &str| {
            format!(
                r#"{{"format":1,"cards":[{{"card":{card},"layers":[{{"layer":"l","tokens":32,"times":[{times}]}}]}}]}}"#
            )
        };
        let tactic = r#"{"kernel":"gemm_f32","rows":32,"columns":32}"#;
        for (text, why) in [
            ("{".to_owned(), "EOF"),
            (r#"{"format":9,"cards":[]}"#.to_owned(), "format 9"),
            (with(&format!(r#"{{"tactic":{tactic},"us":-1.0}}"#)), "-1 us"),
            (with(r#"{"tactic":{"kernel":"fastest"},"us":1.0}"#), "fastest"),
        ] {
            std::fs::write(&path, text).unwrap();
            let (cache, warning) = TimingCache::open(&path);
            assert!(
                warning.is_some_and(|warning| warning.contains(why) && warning.contains("timings.json")),
                "{why}"
            );
            assert!(cache.cards.is_empty());
            cache.save().unwrap();
            assert_eq!(TimingCache::open(&path).1, None);
        }
        std::fs::write(&path, with(&format!(r#"{{"tactic":{tactic},"us":1.5}}"#))).unwrap();
        assert_eq!(TimingCache::open(&path).1, None);
    }
}
