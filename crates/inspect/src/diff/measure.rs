//! Sums over two sets of values, and the figures that follow from them.
//!
//! ```text
//! error            e = a - b
//! RMSE             sqrt(Σ e² / n)
//! relative RMSE    sqrt(Σ e² / Σ a²)          the RMSE over the root mean square of A
//! cosine           Σ a b / sqrt(Σ a² Σ b²)
//! ```
//!
//! All sums are in f64, over the values that are finite on both sides. Values are added in a fixed number of lanes and
//! pieces are merged in order, so the figures do not depend on the number of threads.

use super::report::{Errors, NotFinite};

const LANES: usize = 8;
/// Values between which the largest error is looked up.
const BLOCK: usize = 512;

/// What is summed over pairs of values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sums {
    /// Pairs.
    pub values: u64,
    /// Pairs that are finite on both sides.
    pub finite: u64,
    /// Pairs that are not equal; NaN is equal to NaN.
    pub different: u64,
    pub errors: f64,
    pub a: f64,
    pub b: f64,
    pub products: f64,
    /// The largest error of a finite pair: its size, place and values.
    pub largest: Option<(f64, u64, f32, f32)>,
    pub not_finite_a: u64,
    pub not_finite_b: u64,
    /// Pairs with such a value that are not equal.
    pub not_finite_different: u64,
    /// The place of the first value that is not finite on either side.
    pub first_not_finite: Option<u64>,
}

/// Sums of a block whose values are all finite.
#[derive(Default)]
struct Block {
    errors: [f64; LANES],
    a: [f64; LANES],
    b: [f64; LANES],
    products: [f64; LANES],
    largest: [f64; LANES],
    different: [u64; LANES],
}

impl Block {
    fn add(&mut self, lane: usize, a: f32, b: f32) {
        let (a, b) = (f64::from(a), f64::from(b));
        let error = a - b;
        self.errors[lane] += error * error;
        self.a[lane] += a * a;
        self.b[lane] += b * b;
        self.products[lane] += a * b;
        self.different[lane] += u64::from(error != 0.0);
        let error = error.abs();
        self.largest[lane] = if error > self.largest[lane] { error } else { self.largest[lane] };
    }
}

/// Lane by lane in a fixed order.
fn total(lanes: [f64; LANES]) -> f64 {
    lanes.into_iter().sum()
}

impl Sums {
    /// Adds pairs of values; the first of them is number `offset` of the tensor.
    pub fn add(&mut self, offset: u64, a: &[f32], b: &[f32]) {
        let mut at = offset;
        for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
            let finite = |values: &[f32]| values.iter().fold(true, |all, v| all & v.is_finite());
            match finite(a) && finite(b) {
                true => self.add_finite(at, a, b),
                false => {
                    a.iter().zip(b).zip(at..).for_each(|((&a, &b), at)| self.add_any(at, a, b));
                }
            }
            at += a.len() as u64;
        }
    }

    fn add_finite(&mut self, offset: u64, a: &[f32], b: &[f32]) {
        let mut block = Block::default();
        let (a_lanes, a_end) = a.as_chunks::<LANES>();
        let (b_lanes, b_end) = b.as_chunks::<LANES>();
        for (a, b) in a_lanes.iter().zip(b_lanes) {
            (0..LANES).for_each(|lane| block.add(lane, a[lane], b[lane]));
        }
        a_end.iter().zip(b_end).enumerate().for_each(|(lane, (&a, &b))| block.add(lane, a, b));
        self.values += a.len() as u64;
        self.finite += a.len() as u64;
        self.different += block.different.into_iter().sum::<u64>();
        self.errors += total(block.errors);
        self.a += total(block.a);
        self.b += total(block.b);
        self.products += total(block.products);
        let largest = block.largest.into_iter().fold(0.0, f64::max);
        if largest > self.largest.map_or(0.0, |(error, ..)| error) {
            let error = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).abs();
            let place = a.iter().zip(b).position(|pair| error(pair) == largest);
            self.largest = place.map(|i| (largest, offset + i as u64, a[i], b[i]));
        }
    }

    fn add_any(&mut self, at: u64, a: f32, b: f32) {
        if a.is_finite() && b.is_finite() {
            return self.add_finite(at, &[a], &[b]);
        }
        let different = u64::from(!(a == b || a.is_nan() && b.is_nan()));
        self.values += 1;
        self.different += different;
        self.not_finite_different += different;
        self.not_finite_a += u64::from(!a.is_finite());
        self.not_finite_b += u64::from(!b.is_finite());
        self.first_not_finite = self.first_not_finite.or(Some(at));
    }

    /// Adds the sums of values that come later, of this tensor or of another.
    pub fn merge(&mut self, later: &Self) {
        self.values += later.values;
        self.finite += later.finite;
        self.different += later.different;
        self.errors += later.errors;
        self.a += later.a;
        self.b += later.b;
        self.products += later.products;
        let larger = |(error, ..): &(f64, u64, f32, f32)| *error > self.largest.map_or(0.0, |(e, ..)| e);
        self.largest = later.largest.filter(larger).or(self.largest);
        self.not_finite_a += later.not_finite_a;
        self.not_finite_b += later.not_finite_b;
        self.not_finite_different += later.not_finite_different;
        self.first_not_finite = self.first_not_finite.or(later.first_not_finite);
    }

    /// Root mean square error; 0 without finite values.
    pub fn rmse(&self) -> f64 {
        (self.errors / self.finite.max(1) as f64).sqrt()
    }

    /// The RMSE over the root mean square of A; `None` where A is all zero and B is not.
    pub fn relative_rmse(&self) -> Option<f64> {
        if self.errors == 0.0 {
            return Some(0.0);
        }
        (self.a > 0.0).then(|| (self.errors / self.a).sqrt())
    }

    /// The cosine of the angle between both sides; `None` where one of them is all zero and the other is not.
    pub fn cosine(&self) -> Option<f64> {
        if self.errors == 0.0 {
            return Some(1.0);
        }
        // The root of each: the product of two small sums could vanish.
        let norms = self.a.sqrt() * self.b.sqrt();
        (norms > 0.0).then(|| (self.products / norms).clamp(-1.0, 1.0))
    }

    /// The figures of a tensor of this shape.
    pub fn errors(&self, shape: &[usize]) -> Errors {
        let (error, at, a, b) = self.largest.map_or((0.0, None, None, None), |(error, at, a, b)| {
            (error, Some(place(at, shape)), Some(a), Some(b))
        });
        Errors {
            different: self.different,
            rmse: self.rmse(),
            relative_rmse: self.relative_rmse(),
            cosine: self.cosine(),
            max_error: error,
            max_error_at: at,
            max_error_a: a,
            max_error_b: b,
            not_finite: self.first_not_finite.map(|first| NotFinite {
                a: self.not_finite_a,
                b: self.not_finite_b,
                different: self.not_finite_different,
                first: place(first, shape),
            }),
        }
    }
}

/// The index of value number `at` of a tensor, one number a dimension, outermost first.
fn place(mut at: u64, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (index, &size) in index.iter_mut().zip(shape).rev() {
        let size = size.max(1) as u64;
        *index = (at % size) as usize;
        at /= size;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(a: &[f32], b: &[f32]) -> Sums {
        let mut sums = Sums::default();
        sums.add(0, a, b);
        sums
    }

    #[test]
    fn figures_are_those_of_the_definitions() {
        let found = sums(&[3.0, 4.0, 0.0, 1.0], &[3.0, 2.0, 0.0, 2.0]);
        assert_eq!((found.values, found.different), (4, 2));
        assert!((found.rmse() - (5.0f64 / 4.0).sqrt()).abs() < 1e-15);
        assert!((found.relative_rmse().unwrap() - (5.0f64 / 26.0).sqrt()).abs() < 1e-15);
        assert!((found.cosine().unwrap() - 19.0 / (26.0f64 * 17.0).sqrt()).abs() < 1e-15);
        let errors = found.errors(&[2, 2]);
        assert_eq!((errors.max_error, errors.max_error_at), (2.0, Some(vec![0, 1])));
        assert_eq!((errors.max_error_a, errors.max_error_b), (Some(4.0), Some(2.0)));
    }

    #[test]
    fn equal_values_have_no_error_and_a_cosine_of_one() {
        let values: Vec<f32> = (0..5000).map(|i| (i as f32).sin()).collect();
        let found = sums(&values, &values);
        assert_eq!((found.different, found.rmse(), found.cosine()), (0, 0.0, Some(1.0)));
        assert_eq!(found.errors(&[5000]).max_error_at, None);
        // Zero has two signs.
        assert_eq!(sums(&[0.0, -0.0], &[-0.0, 0.0]).different, 0);
    }

    #[test]
    fn zero_tensors_have_no_relative_error() {
        let zeros = [0.0; 3];
        let found = sums(&zeros, &[1.0, 0.0, 0.0]);
        assert_eq!((found.relative_rmse(), found.cosine()), (None, None));
        assert_eq!(sums(&[1.0, 0.0, 0.0], &zeros).relative_rmse(), Some(1.0));
        let found = sums(&zeros, &zeros);
        assert_eq!((found.relative_rmse(), found.cosine()), (Some(0.0), Some(1.0)));
        assert_eq!(sums(&[], &[]), Sums::default());
        assert_eq!((Sums::default().rmse(), Sums::default().cosine()), (0.0, Some(1.0)));
    }

    #[test]
    fn values_that_are_not_finite_are_counted_and_left_out_of_the_sums() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let a = [1.0, nan, inf, inf, 2.0, nan, 5.0];
        let b = [1.0, nan, inf, -inf, nan, 3.0, 6.0];
        let found = sums(&a, &b);
        assert_eq!((found.values, found.finite, found.different), (7, 2, 4));
        assert_eq!((found.not_finite_a, found.not_finite_b, found.not_finite_different), (4, 4, 3));
        assert_eq!(found.rmse(), (1.0f64 / 2.0).sqrt());
        let errors = found.errors(&[7]);
        assert_eq!(errors.not_finite.unwrap().first, [1]);
        assert_eq!(errors.max_error_at, Some(vec![6]));
        // Equal on both sides: no difference.
        assert_eq!(sums(&[nan, -inf], &[nan, -inf]).different, 0);
    }

    #[test]
    fn pieces_merge_to_the_whole_and_the_first_of_equal_errors_counts() {
        let a: Vec<f32> = (0..2048).map(|i| (i as f32 * 0.37).cos()).collect();
        let mut b = a.clone();
        b[700] += 4.0;
        b[1500] += 4.0;
        let whole = sums(&a, &b);
        let mut merged = Sums::default();
        for start in [0usize, 1024] {
            let mut piece = Sums::default();
            piece.add(start as u64, &a[start..start + 1024], &b[start..start + 1024]);
            merged.merge(&piece);
        }
        assert_eq!((merged.largest, merged.different), (whole.largest, 2));
        assert_eq!(whole.errors(&[2, 1024]).max_error_at, Some(vec![0, 700]));
        assert!((merged.rmse() - whole.rmse()).abs() < 1e-12);
    }

    #[test]
    fn large_values_do_not_overflow() {
        let found = sums(&[f32::MAX, 1.0], &[-f32::MAX, 1.0]);
        assert!(found.rmse().is_finite() && found.cosine().unwrap() < 0.0);
        let tiny = f32::from_bits(1);
        assert_eq!(sums(&[tiny], &[-tiny]).cosine(), Some(-1.0));
    }
}
