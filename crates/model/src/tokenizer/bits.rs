//! Bits by number, and the next set one on either side.

/// A list of bits.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// Makes it `len` bits, none of them set.
    pub fn clear(&mut self, len: usize) {
        self.0.clear();
        self.0.resize(len.div_ceil(64), 0);
    }

    /// Makes it `len` bits, all of them set.
    pub fn fill(&mut self, len: usize) {
        self.0.clear();
        self.0.resize(len.div_ceil(64), u64::MAX);
        if !len.is_multiple_of(64) {
            self.0[len / 64] = (1 << (len % 64)) - 1;
        }
    }

    pub fn set(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    pub fn unset(&mut self, at: usize) {
        self.0[at / 64] &= !(1 << (at % 64));
    }

    pub fn is_set(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    /// How many are set.
    pub fn count(&self) -> usize {
        self.0.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// The next set bit behind `at`.
    pub fn after(&self, at: usize) -> Option<usize> {
        let mut word = at / 64;
        let bits = self.0[word] >> (at % 64) >> 1;
        if bits != 0 {
            return Some(at + 1 + bits.trailing_zeros() as usize);
        }
        loop {
            word += 1;
            match *self.0.get(word)? {
                0 => {}
                bits => return Some(word * 64 + bits.trailing_zeros() as usize),
            }
        }
    }

    /// The next set bit in front of `at`.
    pub fn before(&self, at: usize) -> Option<usize> {
        let mut word = at / 64;
        let bits = self.0[word] & ((1 << (at % 64)) - 1);
        if bits != 0 {
            return Some(word * 64 + 63 - bits.leading_zeros() as usize);
        }
        while word > 0 {
            word -= 1;
            if self.0[word] != 0 {
                return Some(word * 64 + 63 - self.0[word].leading_zeros() as usize);
            }
        }
        None
    }
}
