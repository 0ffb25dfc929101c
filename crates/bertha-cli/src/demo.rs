//! The small English model that comes with Bertha.

use std::path::PathBuf;

use bertha::Engine;

use crate::commands::{Failure, open};

/// Names the folder of the demo model, over all other places.
const PATH_VARIABLE: &str = "BERTHA_DEMO_MODEL";
/// Where the model lies from a folder that holds it.
const FOLDER: &str = "models/demo";

/// The demo model, compiled: from `BERTHA_DEMO_MODEL`, or `models/demo` beside the binary, in a folder above it (a
/// build inside the repository), or in `share/bertha` (an installed one).
pub(crate) fn engine() -> Result<Engine, Failure> {
    let candidates = candidates();
    let found = candidates.iter().find(|path| path.join("config.json").is_file());
    match found {
        Some(path) => open(path),
        None => {
            let places: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
            Err(Failure::Usage(format!(
                "no --model given, and the small model that comes with Bertha is in none of {}; set {PATH_VARIABLE} \
                 to its folder",
                places.join(", ")
            )))
        }
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os(PATH_VARIABLE) {
        return vec![PathBuf::from(path)];
    }
    let binary = std::env::current_exe().and_then(|path| path.canonicalize()).unwrap_or_default();
    let mut places: Vec<PathBuf> = binary.ancestors().skip(1).map(|folder| folder.join(FOLDER)).collect();
    if let Some(prefix) = binary.ancestors().nth(2) {
        places.push(prefix.join("share/bertha").join(FOLDER));
    }
    places
}
