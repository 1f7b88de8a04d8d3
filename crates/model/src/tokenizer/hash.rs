//! A hash function for the tables of tokenizers, with a key of its own for each table.
//!
//! Vocabularies come from files that are not trusted: without a random key, a file could hold a million pieces that all
//! belong in one slot.

use std::hash::{BuildHasher as _, RandomState};

/// An odd number with as many ones as zeros.
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

/// A key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key(u64);

impl Key {
    /// A random one.
    pub fn random() -> Self {
        Self(RandomState::new().hash_one(MIX))
    }

    /// The hash of a number.
    pub fn number(self, number: u64) -> u64 {
        folded(number ^ self.0, MIX ^ self.0.rotate_left(32) | 1)
    }

    /// The hash of bytes.
    pub fn bytes(self, bytes: &[u8]) -> u64 {
        let mut hash = self.0 ^ (bytes.len() as u64).wrapping_mul(MIX);
        let (whole, rest) = bytes.as_chunks::<8>();
        for chunk in whole {
            hash = folded(hash ^ u64::from_le_bytes(*chunk), MIX);
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.number(hash ^ u64::from_le_bytes(last))
    }
}

/// The halves of a product, one upon the other.
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
