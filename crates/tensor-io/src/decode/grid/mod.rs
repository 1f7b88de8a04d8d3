//! Codebook grids of the `iq1`, `iq2` and `iq3` types.
//!
//! ```text
//! grid       points   values of a point, by level                     types
//! IQ2_XXS      256    8 of { 8, 25, 43 }                               iq2_xxs
//! IQ2_XS       512    the same                                        iq2_xs
//! IQ2_S       1024    the same                                        iq2_s
//! IQ3_XXS      256    4 of { 4, 12, 20, 28, 36, 44, 52, 62 }           iq3_xxs
//! IQ3_S        512    4 of { 1, 3, 5, 7, 9, 11, 13, 15 }               iq3_s
//! IQ1         2048    8 of { -1, 0, 1 }                                iq1_s, iq1_m
//! ```
//!
//! The grids of iq2 and iq3 hold magnitudes; signs are stored apart from them. `*_CODES` are the same points as packed
//! levels (2 bits a value in the grids of eight, 3 in those of four, the first value lowest), ascending:
//! what an encoder looks points up by. Everything is worked out by the compiler.

mod points;

/// The points of iq2_xxs as packed levels.
pub static IQ2_XXS_CODES: [u16; 256] = codes(points::IQ2_XXS);
/// The points of iq2_xs as packed levels.
pub static IQ2_XS_CODES: [u16; 512] = codes(points::IQ2_XS);
/// The points of iq2_s as packed levels.
pub static IQ2_S_CODES: [u16; 1024] = codes(points::IQ2_S);
/// The points of iq3_xxs as packed levels.
pub static IQ3_XXS_CODES: [u16; 256] = codes(points::IQ3_XXS);
/// The points of iq3_s as packed levels.
pub static IQ3_S_CODES: [u16; 512] = codes(points::IQ3_S);
/// The points of iq1_s and iq1_m as packed levels.
pub static IQ1_CODES: [u16; 2048] = codes(points::IQ1);

/// The grid of iq2_xxs: magnitudes.
pub static IQ2_XXS: [[u8; 8]; 256] = eights(points::IQ2_XXS, [8, 25, 43]);
/// The grid of iq2_xs: magnitudes.
pub static IQ2_XS: [[u8; 8]; 512] = eights(points::IQ2_XS, [8, 25, 43]);
/// The grid of iq2_s: magnitudes.
pub static IQ2_S: [[u8; 8]; 1024] = eights(points::IQ2_S, [8, 25, 43]);
/// The grid of iq3_xxs: magnitudes.
pub static IQ3_XXS: [[u8; 4]; 256] = fours(points::IQ3_XXS, [4, 12, 20, 28, 36, 44, 52, 62]);
/// The grid of iq3_s: magnitudes.
pub static IQ3_S: [[u8; 4]; 512] = fours(points::IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);
/// The grid of iq1_s and iq1_m: -1, 0, 1.
pub static IQ1: [[i8; 8]; 2048] = ternary(points::IQ1);

/// Signs of eight values stored in seven bits (iq2_xxs, iq2_xs, iq3_xxs): a set bit j makes value j negative,
/// and bit 7 is whatever makes their number even.
pub static SIGNS: [u8; 128] = {
    let mut signs = [0; 128];
    let mut i = 0;
    while i < 128 {
        signs[i] = i as u8 | ((i.count_ones() % 2) as u8) << 7;
        i += 1;
    }
    signs
};

/// Running sums of the distances.
const fn codes<const N: usize>(distances: [u16; N]) -> [u16; N] {
    let mut codes = distances;
    let mut i = 1;
    while i < N {
        codes[i] += codes[i - 1];
        i += 1;
    }
    codes
}

const fn eights<const N: usize>(distances: [u16; N], levels: [u8; 3]) -> [[u8; 8]; N] {
    let codes = codes(distances);
    let mut grid = [[0; 8]; N];
    let mut i = 0;
    while i < N * 8 {
        grid[i / 8][i % 8] = levels[(codes[i / 8] >> (2 * (i % 8)) & 3) as usize];
        i += 1;
    }
    grid
}

const fn fours<const N: usize>(distances: [u16; N], levels: [u8; 8]) -> [[u8; 4]; N] {
    let codes = codes(distances);
    let mut grid = [[0; 4]; N];
    let mut i = 0;
    while i < N * 4 {
        grid[i / 4][i % 4] = levels[(codes[i / 4] >> (3 * (i % 4)) & 7) as usize];
        i += 1;
    }
    grid
}

const fn ternary<const N: usize>(distances: [u16; N]) -> [[i8; 8]; N] {
    let codes = codes(distances);
    let mut grid = [[0; 8]; N];
    let mut i = 0;
    while i < N * 8 {
        grid[i / 8][i % 8] = (codes[i / 8] >> (2 * (i % 8)) & 3) as i8 - 1;
        i += 1;
    }
    grid
}
