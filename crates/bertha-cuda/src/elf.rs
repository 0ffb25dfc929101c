//! Whether bytes are a cubin that lies within its slice.
//!
//! The driver takes an image by its address alone and follows the headers. What comes from a file is therefore checked
//! first: all headers and sections must lie within the bytes, and the machine must be CUDA's.

const MACHINE_CUDA: u16 = 190;
const HEADER: usize = 64;
const SECTION_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// Sections without bytes in the file.
const SHT_NOBITS: u32 = 8;

/// Checks that `image` is a 64-bit little-endian ELF file for CUDA whose parts lie within it.
pub(crate) fn check(image: &[u8]) -> Result<(), String> {
    if image.get(..6) != Some(b"\x7fELF\x02\x01") || image.len() < HEADER {
        return Err("it is no 64-bit ELF file".into());
    }
    if u16_at(image, 18) != Some(MACHINE_CUDA) {
        return Err("it is machine code for something else than CUDA".into());
    }
    let outside = || "its headers lie outside of it".to_owned();
    let program = u64_at(image, 32).ok_or_else(outside)?;
    let sections = u64_at(image, 40).ok_or_else(outside)?;
    let half = |at| u16_at(image, at).map(u64::from).ok_or_else(outside);
    let (program_size, program_count) = (half(54)?, half(56)?);
    let (section_size, section_count) = (half(58)?, half(60)?);
    let sizes_fit = (program_count == 0 || program_size == PROGRAM_HEADER as u64)
        && (section_count == 0 || section_size == SECTION_HEADER as u64);
    if !sizes_fit
        || !within(image, program, program_count * program_size)
        || !within(image, sections, section_count * section_size)
    {
        return Err(outside());
    }
    for index in 0..section_count {
        let at = (sections + index * section_size) as usize;
        let (kind, offset, size) = (u32_at(image, at + 4), u64_at(image, at + 24), u64_at(image, at + 32));
        let (Some(kind), Some(offset), Some(size)) = (kind, offset, size) else { return Err(outside()) };
        if kind != SHT_NOBITS && !within(image, offset, size) {
            return Err(format!("its section {index} lies outside of it"));
        }
    }
    for index in 0..program_count {
        let at = (program + index * program_size) as usize;
        let (Some(offset), Some(size)) = (u64_at(image, at + 8), u64_at(image, at + 32)) else {
            return Err(outside());
        };
        if !within(image, offset, size) {
            return Err(format!("its segment {index} lies outside of it"));
        }
    }
    Ok(())
}

fn within(image: &[u8], offset: u64, size: u64) -> bool {
    offset.checked_add(size).is_some_and(|end| end <= image.len() as u64)
}

fn bytes_at<const N: usize>(image: &[u8], at: usize) -> Option<[u8; N]> {
    image.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(image: &[u8], at: usize) -> Option<u16> {
    bytes_at(image, at).map(u16::from_le_bytes)
}

fn u32_at(image: &[u8], at: usize) -> Option<u32> {
    bytes_at(image, at).map(u32::from_le_bytes)
}

fn u64_at(image: &[u8], at: usize) -> Option<u64> {
    bytes_at(image, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with one section of 8 bytes behind it.
    fn image() -> Vec<u8> {
        let mut image = vec![0u8; HEADER + SECTION_HEADER + 8];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[18..20].copy_from_slice(&MACHINE_CUDA.to_le_bytes());
        image[40..48].copy_from_slice(&(HEADER as u64).to_le_bytes());
        image[58..60].copy_from_slice(&(SECTION_HEADER as u16).to_le_bytes());
        image[60..62].copy_from_slice(&1u16.to_le_bytes());
        image[HEADER + 4..HEADER + 8].copy_from_slice(&1u32.to_le_bytes());
        image[HEADER + 24..HEADER + 32].copy_from_slice(&128u64.to_le_bytes());
        image[HEADER + 32..HEADER + 40].copy_from_slice(&8u64.to_le_bytes());
        image
    }

    #[test]
    fn a_whole_image_passes_and_every_shorter_one_fails() {
        let image = image();
        assert_eq!(check(&image), Ok(()));
        for length in 0..image.len() {
            assert!(check(&image[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn sections_outside_and_other_machines_are_refused() {
        let mut outside = image();
        outside[HEADER + 24..HEADER + 32].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(check(&outside).is_err());
        let mut other = image();
        other[18] = 62;
        assert!(check(&other).unwrap_err().contains("something else"));
    }
}
