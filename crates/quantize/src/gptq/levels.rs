//! The values that codes stand for, before scale and offset: whole numbers, or the entries of a table.

use quern_compute::simd::lanes::{LANES, Lanes};

use crate::encode::{E2M1_DOUBLED, IQ4};

use super::parameters::whole;

/// The levels of a grid.
#[derive(Clone, Copy, Debug)]
pub(super) enum Levels {
    /// Whole numbers.
    Whole(Whole),
    /// Values of a table.
    Table(&'static Table),
}

/// Finds the level nearest to a number.
pub(super) trait LevelSet: Copy {
    /// The level nearest to `x`. `low`: the lowest level, where it differs between rows.
    fn nearest<S: Lanes>(self, s: S, x: S::F, low: S::F) -> S::F;
}

/// The whole numbers from a lowest one (given with each row) to that plus `span`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    pub span: f32,
}

impl LevelSet for Whole {
    #[inline(always)]
    fn nearest<S: Lanes>(self, s: S, x: S::F, low: S::F) -> S::F {
        whole(s, x, low, low + s.splat(self.span))
    }
}

/// Ascending values, the last repeated if there are fewer than 16; `edges[k]` is half way from value `k` to the next.
#[derive(Debug)]
pub(super) struct Table {
    pub values: [f32; LANES],
    pub edges: [f32; LANES],
    /// The code of each value.
    pub codes: [u8; LANES],
}

impl LevelSet for &'static Table {
    #[inline(always)]
    fn nearest<S: Lanes>(self, s: S, x: S::F, _: S::F) -> S::F {
        s.take(&self.values, s.steps_reached(&self.edges, x))
    }
}

impl Table {
    const fn new(values: [f32; LANES], codes: [u8; LANES], used: usize) -> Self {
        let mut edges = [f32::INFINITY; LANES];
        let mut k = 0;
        while k + 1 < used {
            edges[k] = (values[k] + values[k + 1]) * 0.5;
            k += 1;
        }
        Self { values, edges, codes }
    }

    /// The code of a value of the table.
    pub fn code(&self, value: f32) -> u8 {
        let at = self.values.iter().position(|v| *v >= value).unwrap_or(LANES - 1);
        self.codes[at]
    }
}

/// Values of `iq4_nl` and `iq4_xs`.
pub(super) static IQ4_LEVELS: Table = {
    let (mut values, mut codes) = ([0.0; LANES], [0; LANES]);
    let mut k = 0;
    while k < LANES {
        values[k] = IQ4[k] as f32;
        codes[k] = k as u8;
        k += 1;
    }
    Table::new(values, codes, LANES)
};

/// Twice the values of E2M1 (`mxfp4`, `nvfp4`), from -12 to 12; 0 has the code of +0.
pub(super) static E2M1_LEVELS: Table = {
    let (mut values, mut codes) = ([E2M1_DOUBLED[7]; LANES], [7; LANES]);
    let mut k = 0;
    while k < 8 {
        values[7 - k] = -E2M1_DOUBLED[k];
        codes[7 - k] = if k == 0 { 0 } else { 8 + k as u8 };
        values[7 + k] = E2M1_DOUBLED[k];
        codes[7 + k] = k as u8;
        k += 1;
    }
    values[7] = 0.0;
    Table::new(values, codes, LANES - 1)
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_ascend_and_codes_stand_for_their_values() {
        for (table, used) in [(&IQ4_LEVELS, 16), (&E2M1_LEVELS, 15)] {
            assert!(table.values[..used].is_sorted_by(|a, b| a < b), "{:?}", table.values);
            assert!(table.edges[..used - 1].is_sorted_by(|a, b| a < b));
            for k in 0..used {
                assert_eq!(table.code(table.values[k]), table.codes[k]);
            }
        }
        let value = |code: u8| {
            let v = E2M1_DOUBLED[usize::from(code & 7)];
            if code < 8 { v } else { -v }
        };
        assert!(E2M1_LEVELS.values.iter().zip(&E2M1_LEVELS.codes).all(|(v, c)| value(*c) == *v));
    }
}
