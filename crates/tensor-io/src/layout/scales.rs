//! Integer scales of six bits, packed in 12 bytes: taken apart and put together here and nowhere else.
//!
//! Both forms are three words of four bytes, and taking them apart is masks and shifts on whole words. So [`minima6`]
//! and [`scales6`] are written over a [`Word`]: a `u32` of one block, or one word each of several blocks in the
//! lanes of a vector.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Eight scales and eight minima of six bits (q4_K, q5_K):
///
/// ```text
/// j < 4    scale = byte j, minimum = byte j + 4, their low 6 bits
/// j >= 4   scale = low nibble of byte j + 4, with the top 2 bits of byte j - 4 above it
///          minimum = high nibble of byte j + 4, with the top 2 bits of byte j above it
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct ScalesMinima6(pub [u8; 12]);

/// Sixteen scales of six bits, stored with 32 added (q3_K):
///
/// ```text
/// low 4 bits   nibble j / 8 of byte j % 8
/// top 2 bits   from bit 2 (j / 4) of byte 8 + j % 4 on
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct Scales6(pub [u8; 12]);

/// Four bytes, or four bytes in each lane of a vector. Implement it with `#[inline(always)]`.
pub trait Word: Copy {
    /// The bits of the mask.
    fn and(self, mask: u32) -> Self;
    /// The bits of both.
    fn or(self, other: Self) -> Self;
    /// All bits to the left, by less than 32.
    fn shl(self, by: usize) -> Self;
    /// All bits to the right, by less than 32; zeros come in.
    fn shr(self, by: usize) -> Self;
}

impl Word for u32 {
    #[inline(always)]
    fn and(self, mask: u32) -> Self {
        self & mask
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        self | other
    }

    #[inline(always)]
    fn shl(self, by: usize) -> Self {
        self << by
    }

    #[inline(always)]
    fn shr(self, by: usize) -> Self {
        self >> by
    }
}

const NIBBLE: u32 = 0x0f0f_0f0f;
const LOW_SIX: u32 = 0x3f3f_3f3f;
const TOP_TWO: u32 = 0x3030_3030;

/// The eight scales and the eight minima, a byte each, of the words of a [`ScalesMinima6`].
#[inline(always)]
pub fn minima6<W: Word>([scales, minima, rest]: [W; 3]) -> ([W; 2], [W; 2]) {
    (
        [scales.and(LOW_SIX), rest.and(NIBBLE).or(scales.shr(2).and(TOP_TWO))],
        [minima.and(LOW_SIX), rest.shr(4).and(NIBBLE).or(minima.shr(2).and(TOP_TWO))],
    )
}

/// The sixteen scales as stored, a byte each, of the words of a [`Scales6`].
#[inline(always)]
pub fn scales6<W: Word>([first, second, top]: [W; 3]) -> [W; 4] {
    [
        first.and(NIBBLE).or(top.shl(4).and(TOP_TWO)),
        second.and(NIBBLE).or(top.shl(2).and(TOP_TWO)),
        first.shr(4).and(NIBBLE).or(top.and(TOP_TWO)),
        second.shr(4).and(NIBBLE).or(top.shr(2).and(TOP_TWO)),
    ]
}

#[inline(always)]
fn words(bytes: &[u8; 12]) -> [u32; 3] {
    std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|k| bytes[4 * i + k])))
}

#[inline(always)]
fn bytes<const WORDS: usize, const BYTES: usize>(words: [u32; WORDS]) -> [u8; BYTES] {
    std::array::from_fn(|i| (words[i / 4] >> (i % 4 * 8)) as u8)
}

impl ScalesMinima6 {
    /// The scales and the minima.
    #[inline(always)]
    pub fn unpack(&self) -> ([u8; 8], [u8; 8]) {
        let (scales, minima) = minima6(words(&self.0));
        (bytes(scales), bytes(minima))
    }

    /// From scales and minima below 64.
    #[inline]
    pub fn pack(scales: &[u8; 8], minima: &[u8; 8]) -> Self {
        let mut out = [0; 12];
        for j in 0..4 {
            out[j] = scales[j] | (scales[j + 4] >> 4) << 6;
            out[j + 4] = minima[j] | (minima[j + 4] >> 4) << 6;
            out[j + 8] = scales[j + 4] & 15 | minima[j + 4] << 4;
        }
        Self(out)
    }
}

impl Scales6 {
    /// The scales, less the 32 they are stored with.
    #[inline(always)]
    pub fn unpack(&self) -> [i8; 16] {
        bytes::<4, 16>(scales6(words(&self.0))).map(|scale| scale as i8 - 32)
    }

    /// From scales below 64, 32 added.
    #[inline]
    pub fn pack(scales: &[u8; 16]) -> Self {
        Self(std::array::from_fn(|i| match i {
            0..8 => scales[i] & 15 | scales[i + 8] << 4,
            _ => (0..4).fold(0, |bits, k| bits | (scales[4 * k + i - 8] >> 4 & 3) << (2 * k)),
        }))
    }
}
