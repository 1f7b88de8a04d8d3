//! Codebooks for encoders: find the points of the grid near any group of levels.
//!
//! A group of values is rounded to levels; if those are a point of the grid, that is the code. If not, the
//! candidates are the points nearest to the levels: all those at the smallest distance, at the next and so on,
//! as many distances as the type defines, ordered by distance, then index. A search then compares them.

use std::sync::OnceLock;

use quern_tensor_io::decode::grid;

/// A grid of points of `W` values: eight of three levels, or four of eight.
#[derive(Debug)]
pub(crate) struct Codebook<const W: usize> {
    /// The points: 2 level + 1.
    pub points: Vec<[f32; W]>,
    /// What is at each packed group of levels.
    places: Vec<Place>,
    /// The candidates of all groups off the grid, each list filled up to whole tiles with its first.
    near: Vec<u16>,
    /// The same sixteen at a time, for lanes: value `i` of all, as 2 level + 1.
    tiles: Vec<[[u8; TILE]; W]>,
}

/// Candidates in a tile.
pub(crate) const TILE: usize = 16;

/// A point, or a stretch of `near`.
#[derive(Clone, Copy, Debug)]
enum Place {
    On(u16),
    Off { start: u32, count: u16 },
}

/// What is at a packed group of levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// The point itself, by index.
    On(u16),
    /// The candidates, by index; never none.
    Off(&'a [u16]),
}

/// [`Found`] for lanes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FoundTiles<'a, const W: usize> {
    /// The point itself, by index.
    On(u16),
    /// The candidates, by index and in tiles; the first may come up again at the end.
    Off(&'a [[u16; TILE]], &'a [[[u8; TILE]; W]]),
}

impl<const W: usize> Codebook<W> {
    /// Bits of a level in a packed group.
    pub const BITS: usize = if W == 8 { 2 } else { 3 };
    /// Levels of a value.
    pub const LEVELS: i32 = if W == 8 { 3 } else { 8 };

    /// The levels in a packed group.
    pub fn unpack(code: u16) -> [u8; W] {
        std::array::from_fn(|i| (code >> (i * Self::BITS)) as u8 & ((1 << Self::BITS) - 1))
    }

    /// Packs levels.
    pub fn pack(levels: &[u8; W]) -> usize {
        levels.iter().rev().fold(0, |code, &level| code << Self::BITS | usize::from(level))
    }

    /// What is at a packed group of levels, each below [`Self::LEVELS`].
    #[inline]
    pub fn find(&self, code: usize) -> Found<'_> {
        match self.places[code] {
            Place::On(index) => Found::On(index),
            Place::Off { start, count } => Found::Off(&self.near[start as usize..][..usize::from(count)]),
        }
    }

    /// [`Self::find`] for lanes.
    #[inline(always)]
    pub fn find_tiles(&self, code: usize) -> FoundTiles<'_, W> {
        match self.places[code] {
            Place::On(index) => FoundTiles::On(index),
            Place::Off { start, count } => {
                let tiles = start as usize / TILE..(start as usize + usize::from(count)).div_ceil(TILE);
                FoundTiles::Off(&self.near.as_chunks().0[tiles.clone()], &self.tiles[tiles])
            }
        }
    }

    /// From the points (ascending) and the number of distances that count as near.
    fn new(codes: &[u16], distances: usize) -> Self {
        let points: Vec<[u8; W]> = codes.iter().map(|&code| Self::unpack(code)).collect();
        let columns: [Vec<u8>; W] = std::array::from_fn(|i| points.iter().map(|p| p[i]).collect());
        let mut places = vec![Place::Off { start: 0, count: 0 }; 1 << (W * Self::BITS)];
        let mut near = Vec::new();
        let mut distance = vec![0u8; codes.len()];
        let mut order = Vec::new();
        for (code, place) in places.iter_mut().enumerate() {
            let levels = Self::unpack(code as u16);
            if levels.iter().any(|&level| i32::from(level) >= Self::LEVELS) {
                continue;
            }
            if let Ok(index) = codes.binary_search(&(code as u16)) {
                *place = Place::On(index as u16);
                continue;
            }
            distance.fill(0);
            for (column, &level) in columns.iter().zip(&levels) {
                distance
                    .iter_mut()
                    .zip(column)
                    .for_each(|(d, &p)| *d += p.abs_diff(level) * p.abs_diff(level));
            }
            let mut present = [false; 256];
            distance.iter().for_each(|&d| present[usize::from(d)] = true);
            let farthest = (0..256).filter(|&d| present[d]).nth(distances - 1).unwrap_or(255);
            order.clear();
            order.extend(
                (0u16..).zip(&distance).filter(|&(_, &d)| usize::from(d) <= farthest).map(|(i, &d)| (d, i)),
            );
            order.sort_unstable();
            *place = Place::Off { start: near.len() as u32, count: order.len() as u16 };
            near.extend(order.iter().map(|&(_, index)| index));
            near.resize(near.len().next_multiple_of(TILE), order[0].1);
        }
        let odd = |index: u16, i: usize| 2 * points[usize::from(index)][i] + 1;
        let tile = |near: &[u16; TILE]| std::array::from_fn(|i| near.map(|index| odd(index, i)));
        let tiles = near.as_chunks().0.iter().map(tile).collect();
        let points = points.iter().map(|p| p.map(|level| f32::from(2 * level + 1))).collect();
        Self { points, places, near, tiles }
    }
}

macro_rules! codebook {
    ($(#[$doc:meta])* $name:ident, $width:literal, $codes:ident, $distances:literal) => {
        $(#[$doc])*
        pub(crate) fn $name() -> &'static Codebook<$width> {
            static BOOK: OnceLock<Codebook<$width>> = OnceLock::new();
            BOOK.get_or_init(|| Codebook::new(&grid::$codes, $distances))
        }
    };
}

codebook!(
    /// `iq2_xxs`.
    iq2_xxs, 8, IQ2_XXS_CODES, 2
);
codebook!(
    /// `iq2_xs`.
    iq2_xs, 8, IQ2_XS_CODES, 2
);
codebook!(
    /// `iq2_s`.
    iq2_s, 8, IQ2_S_CODES, 1
);
codebook!(
    /// `iq3_xxs`.
    iq3_xxs, 4, IQ3_XXS_CODES, 2
);
codebook!(
    /// `iq3_s`.
    iq3_s, 4, IQ3_S_CODES, 3
);
codebook!(
    /// `iq1_s` and `iq1_m`.
    iq1, 8, IQ1_CODES, 3
);

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const W: usize>(book: &Codebook<W>, codes: &[u16], distances: usize) {
        let mut off = 0;
        for code in 0..1usize << (W * Codebook::<W>::BITS) {
            let levels = Codebook::<W>::unpack(code as u16);
            if levels.iter().any(|&l| i32::from(l) >= Codebook::<W>::LEVELS) {
                continue;
            }
            assert_eq!(Codebook::pack(&levels), code);
            match book.find(code) {
                Found::On(index) => assert_eq!(usize::from(codes[usize::from(index)]), code),
                Found::Off(near) => {
                    off += 1;
                    assert!(!codes.contains(&(code as u16)));
                    let key = |&i: &u16| {
                        let odd = |l: u8| f32::from(2 * l + 1);
                        let point = &book.points[usize::from(i)];
                        let d: f32 = point.iter().zip(levels).map(|(p, l)| (p - odd(l)).powi(2)).sum();
                        (d as i32, i)
                    };
                    let keys: Vec<_> = near.iter().map(key).collect();
                    assert!(keys.is_sorted());
                    let mut seen: Vec<_> = keys.iter().map(|k| k.0).collect();
                    seen.dedup();
                    assert_eq!(seen.len(), distances);
                    // nothing as near was left out
                    let all = (0..book.points.len() as u16).filter(|i| key(i).0 <= seen[distances - 1]);
                    assert_eq!(all.count(), near.len());
                }
            }
        }
        assert!(off > 0);
    }

    #[test]
    fn every_group_of_levels_leads_to_the_nearest_points() {
        check(iq2_xxs(), &grid::IQ2_XXS_CODES, 2);
        check(iq2_s(), &grid::IQ2_S_CODES, 1);
        check(iq3_xxs(), &grid::IQ3_XXS_CODES, 2);
        check(iq3_s(), &grid::IQ3_S_CODES, 3);
        check(iq1(), &grid::IQ1_CODES, 3);
    }
}
