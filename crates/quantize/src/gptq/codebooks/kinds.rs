//! The block types with codebooks (iq2, iq3): what error feedback must know of each.
//!
//! A weight is `d (2 c + 1) level`: `d` of 256 columns, `c` of a sub-block, levels of four or eight columns a point of
//! the codebook with signs.

use std::ops::Range;
use std::sync::OnceLock;

use quern_tensor_io::ElementType;

use crate::encode::codebook::{self, Codebook};

/// Columns of a block.
pub(in crate::gptq) const BLOCK: usize = 256;
/// Columns whose signs are stored together: a group. Its levels are chosen together.
pub(super) const GROUP: usize = 8;
/// The largest number of a scale's codes: stored in 4 bits.
pub(super) const TOP: f32 = 15.0;

/// A block type.
#[derive(Clone, Copy, Debug)]
pub(in crate::gptq) struct Kind {
    pub element_type: ElementType,
    /// Columns that share a scale.
    pub sub: usize,
    /// Whether the number of minus signs of a group must be even.
    pub even: bool,
    pub book: Book,
}

/// A codebook, by the number of values of its points.
#[derive(Clone, Copy, Debug)]
pub(in crate::gptq) enum Book {
    Four(&'static [[f32; 4]]),
    Eight(&'static Eights),
}

/// Points of eight values, by their first four.
#[derive(Debug)]
pub(in crate::gptq) struct Eights {
    pub points: Vec<[f32; 8]>,
    /// The first four values, and the points that begin so.
    pub halves: Vec<([f32; 4], Range<usize>)>,
}

/// Magnitudes by level.
const EIGHTS: [f32; 3] = [1.0, 3.125, 5.375];
const IQ3_XXS: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.5];
const IQ3_S: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];

fn magnitudes<const W: usize>(book: &Codebook<W>, by_level: &[f32]) -> Vec<[f32; W]> {
    book.points.iter().map(|point| point.map(|odd| by_level[odd as usize / 2])).collect()
}

fn eights(book: &Codebook<8>) -> Eights {
    let mut points = magnitudes(book, &EIGHTS);
    points.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let mut halves: Vec<([f32; 4], Range<usize>)> = Vec::new();
    for (i, point) in points.iter().enumerate() {
        let first: [f32; 4] = std::array::from_fn(|j| point[j]);
        match halves.last_mut() {
            Some((half, range)) if *half == first => range.end = i + 1,
            _ => halves.push((first, i..i + 1)),
        }
    }
    Eights { points, halves }
}

macro_rules! book {
    (Four, $book:ident, $by_level:expr) => {{
        static BOOK: OnceLock<Vec<[f32; 4]>> = OnceLock::new();
        Book::Four(BOOK.get_or_init(|| magnitudes(codebook::$book(), &$by_level)))
    }};
    (Eight, $book:ident) => {{
        static BOOK: OnceLock<Eights> = OnceLock::new();
        Book::Eight(BOOK.get_or_init(|| eights(codebook::$book())))
    }};
}

impl Kind {
    /// What must be known; `None` for types without such a codebook.
    pub fn of(element_type: ElementType) -> Option<Self> {
        use ElementType as T;
        let (sub, even, book) = match element_type {
            T::IQ2XXS => (32, true, book!(Eight, iq2_xxs)),
            T::IQ2XS => (16, true, book!(Eight, iq2_xs)),
            T::IQ2S => (16, false, book!(Eight, iq2_s)),
            T::IQ3XXS => (32, true, book!(Four, iq3_xxs, IQ3_XXS)),
            T::IQ3S => (32, false, book!(Four, iq3_s, IQ3_S)),
            _ => return None,
        };
        Some(Self { element_type, sub, even, book })
    }

    /// The number of the level of a magnitude.
    pub fn level(&self, magnitude: f32) -> u8 {
        match self.book {
            Book::Four(_) => ((magnitude - 1.0) / 2.0) as u8,
            Book::Eight(_) => ((magnitude - 0.5) / 2.0) as u8,
        }
    }
}
