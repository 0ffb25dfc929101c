//! The sources in `kernels/`, inside of the binary.

macro_rules! sources {
    ($($name:literal)*) => {
        &[ $( ($name, include_str!(concat!("../../kernels/", $name))) ),* ]
    };
}

/// Headers by the names that kernels include them by.
pub(super) const HEADERS: &[(&str, &str)] = sources! {
    "activation.cuh" "batch.cuh" "feature_rows.cuh" "gemm_sm90a.cuh" "hopper.cuh" "ptx.cuh" "row.cuh" "row_stats.cuh" "types.cuh"
};

/// Kernels by file name.
const KERNELS: &[(&str, &str)] = sources! {
    "attention.cu" "attention_f32.cu" "attention_sm90a.cu" "embedding.cu" "gather_rows.cu" "gemm_f32.cu" "gemm_mma.cu" "gemm_sm90a.cu" "gemm_small_sm90a.cu" "layer_norm.cu" "pool.cu"
};

/// The text of `kernels/ENTRY.cu`.
pub(super) fn kernel(entry: &str) -> Option<&'static str> {
    let file = |name: &str| name.strip_suffix(".cu") == Some(entry);
    KERNELS.iter().find(|(name, _)| file(name)).map(|(_, text)| *text)
}

/// A hash over all sources: machine code made from others is not for this version of the runtime.
pub(crate) fn fingerprint() -> u64 {
    let all = HEADERS.iter().chain(KERNELS);
    all.fold(0, |seed, (name, text)| {
        let seed = twox_hash::XxHash3_64::oneshot_with_seed(seed, name.as_bytes());
        twox_hash::XxHash3_64::oneshot_with_seed(seed, text.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let embedded = HEADERS.iter().chain(KERNELS).any(|(other, _)| *other == name);
            assert!(embedded, "kernels/{name} is not listed in source.rs");
        }
    }

    #[test]
    fn every_kernel_has_the_entry_of_its_file() {
        for (name, text) in KERNELS {
            let entry = name.strip_suffix(".cu").unwrap();
            assert!(text.contains("extern \"C\""), "{name}");
            assert!(text.contains(&format!("{entry}(")), "{name} has no entry `{entry}`");
        }
    }
}
