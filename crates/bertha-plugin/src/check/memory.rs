//! Memory with guards around it.

/// Bytes before and behind that a kernel must not touch.
const GUARD: usize = 4096;
const PATTERN: u8 = 0xD7;

/// 64 bytes, aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes at a chosen distance from an aligned address, between guards.
pub(super) struct Guarded {
    lines: Vec<Line>,
    start: usize,
    length: usize,
}

impl Guarded {
    /// `length` bytes of `fill`, `offset` bytes behind an address that is a multiple of 64.
    pub(super) fn filled(length: usize, fill: u8, offset: usize) -> Self {
        let start = GUARD + offset;
        let lines = vec![Line([PATTERN; 64]); (start + length + GUARD).div_ceil(64)];
        let mut memory = Guarded { lines, start, length };
        memory.bytes_mut().fill(fill);
        memory
    }

    /// A copy of `bytes`.
    pub(super) fn holding(bytes: &[u8], offset: usize) -> Self {
        let mut memory = Guarded::filled(bytes.len(), 0, offset);
        memory.bytes_mut().copy_from_slice(bytes);
        memory
    }

    fn all(&self) -> &[u8] {
        // SAFETY: lines are 64 bytes each, without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 64) }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.all()[self.start..self.start + self.length]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let (start, length) = (self.start, self.length);
        // SAFETY: as in `all`; the lines are borrowed for as long as the result.
        let all = unsafe {
            std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast::<u8>(), self.lines.len() * 64)
        };
        &mut all[start..start + length]
    }

    /// `Err` says on which side a guard was written to, and how far away.
    pub(super) fn check(&self) -> Result<(), String> {
        let (before, behind) = (&self.all()[..self.start], &self.all()[self.start + self.length..]);
        if let Some(at) = before.iter().rposition(|byte| *byte != PATTERN) {
            return Err(format!("{} bytes before the start of", self.start - at));
        }
        match behind.iter().position(|byte| *byte != PATTERN) {
            Some(at) => Err(format!("{at} bytes behind the end of")),
            None => Ok(()),
        }
    }
}
