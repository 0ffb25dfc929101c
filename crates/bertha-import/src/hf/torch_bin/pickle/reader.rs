//! A cursor over the bytes of a pickle.

use super::PickleError;

/// Reads forward and knows where it is.
#[derive(Debug)]
pub(in crate::hf::torch_bin) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(in crate::hf::torch_bin) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Bytes read so far.
    pub(in crate::hf::torch_bin) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], PickleError> {
        let end = self.position.checked_add(count);
        let slice = end.and_then(|end| self.bytes.get(self.position..end));
        let slice = slice.ok_or(PickleError::Truncated { offset: self.bytes.len() })?;
        self.position += count;
        Ok(slice)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, PickleError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, PickleError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, PickleError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A length written in 4 bytes, signed in the opcodes of protocols 1 and 2.
    pub(super) fn signed_length(&mut self) -> Result<usize, PickleError> {
        let offset = self.position;
        let length = i32::from_le_bytes(self.array()?);
        usize::try_from(length)
            .map_err(|_| PickleError::invalid(offset, format!("a negative length ({length})")))
    }

    /// A length written in 8 bytes.
    pub(super) fn long_length(&mut self) -> Result<usize, PickleError> {
        let offset = self.position;
        let length = u64::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| PickleError::invalid(offset, format!("a length of {length}")))
    }

    /// Text up to a newline, which is consumed and not returned.
    pub(super) fn line(&mut self) -> Result<&'a str, PickleError> {
        let offset = self.position;
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n');
        let length = length.ok_or(PickleError::Truncated { offset: self.bytes.len() })?;
        let line = self.take(length)?;
        self.take(1)?;
        utf8(line, offset)
    }

    pub(super) fn text(&mut self, length: usize) -> Result<&'a str, PickleError> {
        let offset = self.position;
        utf8(self.take(length)?, offset)
    }
}

fn utf8(bytes: &[u8], offset: usize) -> Result<&str, PickleError> {
    std::str::from_utf8(bytes).map_err(|_| PickleError::invalid(offset, "text that is not UTF-8"))
}
