//! Where NVRTC is: a variable, the system's search path, the toolkit's folders, Python wheels.

use std::path::{Path, PathBuf};

/// Names a library file, or the folder that holds it.
pub const VARIABLE: &str = "BERTHA_NVRTC";

/// Names of the library itself, the newest first. Its helper, `libnvrtc-builtins`, lies beside it.
const FILE_NAMES: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
} else {
    &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
};

/// A place to look, and how to call it in an error.
pub(super) struct Candidates {
    /// Files to try to load, in order.
    pub(super) files: Vec<PathBuf>,
    /// The places, in words.
    pub(super) places: Vec<String>,
}

/// All places on this machine. With the variable set, only what it names.
pub(super) fn candidates() -> Candidates {
    if let Some(given) = std::env::var_os(VARIABLE) {
        let path = PathBuf::from(given);
        let places = vec![format!("{VARIABLE}={}", path.display())];
        let files = if path.is_dir() { in_folder(&path) } else { vec![path] };
        return Candidates { files, places };
    }
    let mut found = Candidates { files: Vec::new(), places: Vec::new() };
    for folder in toolkit_folders().into_iter().chain(wheel_folders()) {
        found.files.extend(in_folder(&folder));
    }
    // By name alone, the loader looks in its own places.
    found.files.extend(FILE_NAMES.iter().map(PathBuf::from));
    found.places = ["the loader's search path", "the CUDA toolkit's folders", "Python's site-packages"]
        .map(String::from)
        .to_vec();
    found
}

fn in_folder(folder: &Path) -> Vec<PathBuf> {
    FILE_NAMES.iter().map(|name| folder.join(name)).filter(|file| file.is_file()).collect()
}

fn toolkit_folders() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"]
        .iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from)
        .collect();
    roots.push("/usr/local/cuda".into());
    roots.push("/opt/cuda".into());
    let inner = ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "bin", "bin/x64"];
    roots.iter().flat_map(|root| inner.iter().map(|folder| root.join(folder))).collect()
}

/// Folders of the wheels `nvidia-cuda-nvrtc` (CUDA 13) and `nvidia-cuda-nvrtc-cu12`, in the active environment and in
/// the user's and system's `site-packages`.
fn wheel_folders() -> Vec<PathBuf> {
    let mut libraries = Vec::new();
    if let Some(environment) = std::env::var_os("VIRTUAL_ENV").or_else(|| std::env::var_os("CONDA_PREFIX")) {
        libraries.push(PathBuf::from(environment).join("lib"));
    }
    if let Some(home) = std::env::var_os("HOME") {
        libraries.push(PathBuf::from(home).join(".local/lib"));
    }
    libraries.extend(["/usr/local/lib", "/usr/lib"].map(PathBuf::from));
    let mut folders = Vec::new();
    for library in libraries {
        for python in folders_that_start_with(&library, "python3") {
            for packages in ["site-packages", "dist-packages"] {
                folders.extend(wheel_folders_in(&python.join(packages)));
            }
        }
    }
    folders
}

/// The folders within a `site-packages` where the wheels put their libraries.
fn wheel_folders_in(packages: &Path) -> [PathBuf; 3] {
    ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib", "nvidia/cuda_nvrtc/bin"].map(|inner| packages.join(inner))
}

fn folders_that_start_with(parent: &Path, start: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let named = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(start))
    };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(named).collect();
    // The newest Python first: python3.13 before python3.9.
    found.sort_by_key(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let minor = name.rsplit('.').next().and_then(|minor| minor.parse::<u32>().ok());
        std::cmp::Reverse(minor.unwrap_or(0))
    });
    found
}

/// The helper library beside `nvrtc`, when it is there: NVRTC loads it by name alone and finds it only if it is loaded
/// already or on the search path.
pub(super) fn builtins_beside(nvrtc: &Path) -> Option<PathBuf> {
    let folder = nvrtc.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    let entries = std::fs::read_dir(folder).ok()?;
    let is_builtins = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let right = if cfg!(windows) { "nvrtc-builtins64_" } else { "libnvrtc-builtins.so" };
        name.starts_with(right) && !name.contains(".alt.")
    };
    entries.flatten().map(|entry| entry.path()).find(is_builtins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_of_both_generations_are_looked_for() {
        let folders = wheel_folders_in(Path::new("site"));
        assert!(folders.contains(&PathBuf::from("site/nvidia/cu13/lib")));
        assert!(folders.contains(&PathBuf::from("site/nvidia/cuda_nvrtc/lib")));
    }

    #[test]
    fn builtins_are_found_beside_the_library_only() {
        let folder = std::env::temp_dir().join(format!("bertha-nvrtc-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let builtins = folder.join("libnvrtc-builtins.so.13.0");
        std::fs::write(folder.join("libnvrtc-builtins.alt.so.13.0"), b"").unwrap();
        std::fs::write(&builtins, b"").unwrap();
        let found = builtins_beside(&folder.join("libnvrtc.so.13"));
        std::fs::remove_dir_all(&folder).unwrap();
        if !cfg!(windows) {
            assert_eq!(found, Some(builtins));
        }
        assert_eq!(builtins_beside(Path::new("libnvrtc.so.13")), None);
    }
}
