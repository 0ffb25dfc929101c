//! The file with times of kernels on this machine's GPU.

use std::path::{Path, PathBuf};

use bertha::cuda::TimingCache;

/// Opens the cache at `path`, or else the user's; without a cache folder it lives as long as the process. Tells of a damaged one.
pub(crate) fn open(path: Option<&Path>) -> TimingCache {
    let default = || crate::demo::cache_folder().map(|folder| folder.join("timings.json"));
    let Some(path) = path.map(PathBuf::from).or_else(default) else { return TimingCache::default() };
    let (cache, warning) = TimingCache::open(path);
    if let Some(warning) = warning {
        eprintln!("warning: {warning}");
    }
    cache
}

/// Writes the cache; a run does not fail for it.
pub(crate) fn save(cache: &TimingCache) {
    if let Err(error) = cache.save() {
        eprintln!("warning: times of kernels are not kept: {error}");
    }
}
