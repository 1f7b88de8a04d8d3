//! Scratch memory that begins on a cache line: a vector load of 64 bytes then touches one line, not two.

use std::ops::{Deref, DerefMut};

/// One cache line, as wide as the widest vectors.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "read as plain f32")] [f32; 16]);

/// Numbers of f32, zero at first.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }

    /// The first `len`, whatever they are; there are as many from then on.
    pub fn at_least(&mut self, len: usize) -> &mut [f32] {
        if self.lines.len() < len.div_ceil(16) {
            self.lines.resize(len.div_ceil(16), Line([0.0; 16]));
        }
        self.len = self.len.max(len);
        &mut self[..len]
    }

    /// The first `len`, all zero; there are as many from then on.
    pub fn zeroed(&mut self, len: usize) -> &mut [f32] {
        let values = self.at_least(len);
        values.fill(0.0);
        values
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a line is 16 f32 without padding, and there are lines for `len`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_on_a_line_and_holds_what_was_asked_for() {
        for len in [0, 1, 16, 17, 1000] {
            let mut buffer = Aligned::zeros(len);
            assert!(buffer.len() == len && buffer.iter().all(|&x| x == 0.0));
            assert!(buffer.as_ptr().addr().is_multiple_of(64) || len == 0);
            buffer.fill(3.0);
            assert_eq!(buffer.iter().sum::<f32>(), 3.0 * len as f32);
            assert_eq!(buffer.at_least(len + 20).len(), len + 20);
            assert_eq!(buffer.at_least(7).len(), 7);
            assert_eq!(buffer.iter().filter(|&&x| x == 3.0).count(), len);
            assert!(buffer.zeroed(len).iter().all(|&x| x == 0.0));
        }
    }
}
