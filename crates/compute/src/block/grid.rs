//! Types whose values are points of a grid: iq1, iq2 and iq3, in super-blocks of 256.
//!
//! Everywhere eight values `v` times an odd integer scale: the halves and quarters of the formats move into
//! `d`, the eighths by which iq1 shifts its points into the values.
//!
//! ```text
//! type                d is   v                      zero   scale for   where bits lie
//! iq2_xxs             d/8    +- grid (8, 25, 43)    43     32 values   tensor-io's decode/iq2.rs
//! iq2_xs, iq2_s       d/8    +- grid                43     16
//! iq3_xxs             d/4    +- grid (4 .. 62)      62     32          decode/iq3.rs
//! iq3_s               d      +- grid (1 .. 15)      15     32
//! iq1_s               d/8    8 grid +- 1 (-9 .. 9)  9      32          decode/iq1.rs
//! iq1_m               d/8    8 grid +- 1            9      16
//! ```

use quern_tensor_io::ElementType;
use quern_tensor_io::decode::grid;

use super::Block;
use crate::float::f16_to_f32;

/// The largest magnitude of a value: what a code of value 0 is.
pub(crate) const fn zero(element_type: ElementType) -> Option<i32> {
    use ElementType as T;
    match element_type {
        T::IQ2XXS | T::IQ2XS | T::IQ2S => Some(43),
        T::IQ3XXS => Some(62),
        T::IQ3S => Some(15),
        T::IQ1S | T::IQ1M => Some(9),
        _ => None,
    }
}

/// iq1's grid, 8 times one more than its values, so that they are unsigned.
pub(crate) static IQ1_EIGHTS: [[u8; 8]; 2048] = {
    let mut grid = [[0; 8]; 2048];
    let mut i = 0;
    while i < 2048 * 8 {
        grid[i / 8][i % 8] = (8 * (grid::IQ1[i / 8][i % 8] + 1)) as u8;
        i += 1;
    }
    grid
};

/// The scale of an iq1_m block: an f16 of the top 4 bits of four words.
pub(crate) fn iq1_m_d(scales: [u8; 8]) -> f32 {
    let bits = scales.as_chunks::<2>().0.iter().rev().fold(0, |d, s| d << 4 | u16::from_le_bytes(*s) >> 12);
    f16_to_f32(bits)
}

/// Eight magnitudes with their signs (bit j: value j is negative).
fn signed(point: [u8; 8], signs: u8) -> [i32; 8] {
    std::array::from_fn(|j| i32::from(point[j]) * if signs >> j & 1 != 0 { -1 } else { 1 })
}

/// Two points of four values.
fn eight(a: [u8; 4], b: [u8; 4]) -> [u8; 8] {
    std::array::from_fn(|j| if j < 4 { a[j] } else { b[j - 4] })
}

/// Reads a block of a type that has a [`zero`]; `b` is exactly one block's bytes.
pub(super) fn read(element_type: ElementType, b: &[u8], o: &mut Block) {
    use ElementType as T;
    let word = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
    let tail = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    // Group l of eight values lies in sub-block l / 4 of 32, or l / 2 of 16.
    let nibble = |at: usize, j: usize| b[at + j / 2] >> (j % 2 * 4) & 15;
    let point = |l: usize| -> [i32; 8] {
        match element_type {
            T::IQ2XXS => {
                let tail = tail(2 + l / 4 * 8 + 4);
                let index = b[2 + l / 4 * 8 + l % 4];
                signed(grid::IQ2_XXS[usize::from(index)], grid::SIGNS[(tail >> (l % 4 * 7) & 127) as usize])
            }
            T::IQ2XS => {
                let code = usize::from(word(2 + 2 * l));
                signed(grid::IQ2_XS[code & 511], grid::SIGNS[code >> 9])
            }
            T::IQ2S => {
                let high = b[66 + l / 4] >> (l % 4 * 2) & 3;
                signed(grid::IQ2_S[usize::from(b[2 + l]) | usize::from(high) << 8], b[34 + l])
            }
            T::IQ3XXS => {
                let [x, y] = [b[2 + 2 * l], b[3 + 2 * l]].map(|i| grid::IQ3_XXS[usize::from(i)]);
                let tail = tail(66 + l / 4 * 4);
                signed(eight(x, y), grid::SIGNS[(tail >> (l % 4 * 7) & 127) as usize])
            }
            T::IQ3S => {
                let [x, y] = [2 * l, 2 * l + 1].map(|k| {
                    let high = b[66 + k / 8] >> (k % 8) & 1;
                    grid::IQ3_S[usize::from(b[2 + k]) | usize::from(high) << 8]
                });
                signed(eight(x, y), b[74 + l])
            }
            _ => {
                let (low, high, down) = if element_type == T::IQ1S {
                    let high = word(34 + l / 4 * 2);
                    (b[2 + l], high >> (l % 4 * 3) & 7, high >> 15 != 0)
                } else {
                    let high = b[32 + l / 2] >> (l % 2 * 4) & 15;
                    (b[l], u16::from(high & 7), high & 8 != 0)
                };
                let shift = if down { -1 } else { 1 };
                grid::IQ1[usize::from(low) | usize::from(high) << 8].map(|g| 8 * i32::from(g) + shift)
            }
        }
    };
    let zero = zero(element_type).unwrap_or(0);
    for (l, codes) in o.codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *codes = point(l).map(|v| (v + zero) as u8);
    }
    o.zero = zero;
    o.sub = if matches!(element_type, T::IQ2XS | T::IQ2S | T::IQ1M) { 16 } else { 32 };
    for j in 0..256 / o.sub {
        let scale = match element_type {
            T::IQ2XXS => (tail(2 + 8 * j + 4) >> 28) as u8,
            T::IQ2XS => nibble(66, j),
            T::IQ2S => nibble(74, j),
            T::IQ3XXS => (tail(66 + 4 * j) >> 28) as u8,
            T::IQ3S => nibble(106, j),
            T::IQ1S => (word(34 + 2 * j) >> 12 & 7) as u8,
            _ => (word(48 + j / 4 * 2) >> (j % 4 * 3) & 7) as u8,
        };
        o.scale[j] = 2 * i32::from(scale) + 1;
    }
    let d = match element_type {
        T::IQ1M => iq1_m_d(std::array::from_fn(|i| b[48 + i])),
        _ => f16_to_f32(word(0)),
    };
    o.d = d * unit(element_type);
}

/// What `d` is multiplied with where scales are odd integers.
pub(crate) const fn unit(element_type: ElementType) -> f32 {
    match element_type {
        ElementType::IQ3S => 1.0,
        ElementType::IQ3XXS => 0.25,
        _ => 0.125,
    }
}
