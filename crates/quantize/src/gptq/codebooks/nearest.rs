//! The point of a codebook, with signs, that is nearest to eight values under a triangle: sixteen rows at a time.
//!
//! For targets `t`, levels `q` and `U` upper triangular, `|(t - q) U|²` is to be small. With `x = t - q`:
//!
//! ```text
//! u_j = t_j + Σ_{i<j} x_i U_ij / U_jj        what value j should be, given those before it
//! error  Σ_j U_jj² (u_j - q_j)²              so q_j has the sign of u_j
//! ```
//!
//! Each point of the codebook is tried with the signs that come up so. Where their number must be even and is odd, the
//! cheapest change counts, estimated while points are compared; for the point that wins, every change of one sign is
//! tried.

use quern_compute::simd::lanes::{LANES, Lanes};

use super::kinds::{Book, Eights, GROUP, Kind};

/// A triangle of a group.
#[derive(Clone, Debug)]
pub(super) struct Triangle {
    /// `U_ij`, `i <= j`, by `j`.
    pub entries: [[f32; GROUP]; GROUP],
    /// `U_ij / U_jj`, `i < j`, by `j`.
    pub ratios: [[f32; GROUP]; GROUP],
    /// `U_jj²`; 0 for dead columns, which nothing depends on.
    pub weights: [f32; GROUP],
    /// `1 / U_jj`; 0 for dead columns.
    pub inverses: [f32; GROUP],
}

impl Triangle {
    /// From `U_ij` as a function of `i` and `j`, `i <= j`. `alive`: columns that count.
    pub fn new(entry: impl Fn(usize, usize) -> f32, alive: impl Fn(usize) -> bool) -> Self {
        let zero = [[0.0; GROUP]; GROUP];
        let mut made = Self { entries: zero, ratios: zero, weights: [0.0; GROUP], inverses: [0.0; GROUP] };
        for j in (0..GROUP).filter(|&j| alive(j)) {
            let root = entry(j, j);
            (made.weights[j], made.inverses[j], made.entries[j][j]) = (root * root, 1.0 / root, root);
            for i in (0..j).filter(|&i| alive(i)) {
                made.entries[j][i] = entry(i, j);
                made.ratios[j][i] = entry(i, j) / root;
            }
        }
        made
    }

    /// Of a square of `H`, as a function of its row and column.
    pub fn of_square(square: impl Fn(usize, usize) -> f32, alive: impl Fn(usize) -> bool) -> Self {
        let mut u = [[0f64; GROUP]; GROUP];
        for j in (0..GROUP).rev() {
            for i in (0..=j).rev() {
                let known: f64 = (j + 1..GROUP).map(|k| u[i][k] * u[j][k]).sum();
                let rest = f64::from(square(i, j)) - known;
                u[i][j] = match i == j {
                    true => rest.max(1e-6 * f64::from(square(j, j))).sqrt(),
                    false => rest / u[j][j],
                };
            }
        }
        Self::new(|i, j| u[i][j] as f32, alive)
    }
}

/// Values of a group that are chosen together: from `first` on, `W` of them.
struct Part<'a, F, const W: usize> {
    triangle: &'a Triangle,
    first: usize,
    targets: [F; W],
    /// The targets with what comes from values before `first`.
    bases: [F; W],
}

/// What is known after some values.
#[derive(Clone, Copy)]
struct Sums<F> {
    error: F,
    /// 1 or -1: whether the number of minus signs is even.
    parity: F,
    /// A quarter of what changing one sign costs at least.
    change: F,
}

impl<F: Copy, const W: usize> Part<'_, F, W> {
    /// What value `j` of the part should be, given the `x` of those before it.
    #[inline(always)]
    fn wanted<S: Lanes<F = F>>(&self, s: S, j: usize, x: &[F; W]) -> F
    where
        F: Arithmetic,
    {
        let ratios = &self.triangle.ratios[self.first + j];
        let mut wanted = self.bases[j];
        for i in 0..j {
            wanted = wanted + s.splat(ratios[self.first + i]) * x[i];
        }
        wanted
    }

    /// Values `range` of the part with these magnitudes: `x` and sums follow.
    #[inline(always)]
    fn follow<S: Lanes<F = F>>(
        &self,
        s: S,
        range: std::ops::Range<usize>,
        magnitudes: &[F; W],
        even: bool,
        x: &mut [F; W],
        sums: &mut Sums<F>,
    ) where
        F: Arithmetic,
    {
        for j in range {
            let wanted = self.wanted(s, j, x);
            let (size, magnitude) = (s.abs(wanted), magnitudes[j]);
            let weight = s.splat(self.triangle.weights[self.first + j]);
            let miss = size - magnitude;
            sums.error = sums.error + weight * miss * miss;
            if even {
                sums.parity = s.with_sign(s.splat(1.0), wanted) * sums.parity;
                sums.change = s.min(sums.change, weight * size * magnitude);
            }
            x[j] = self.targets[j] - s.with_sign(magnitude, wanted);
        }
    }

    /// The error of these levels.
    #[inline(always)]
    fn error<S: Lanes<F = F>>(&self, s: S, levels: &[F; W]) -> F
    where
        F: Arithmetic,
    {
        let mut x = [s.splat(0.0); W];
        let mut error = s.splat(0.0);
        for j in 0..W {
            let miss = self.wanted(s, j, &x) - levels[j];
            error = error + s.splat(self.triangle.weights[self.first + j]) * miss * miss;
            x[j] = self.targets[j] - levels[j];
        }
        error
    }

    /// Signs for magnitudes, with the given parity (1 or -1) if there is one; their error.
    #[inline(always)]
    fn signs<S: Lanes<F = F>>(&self, s: S, magnitudes: &[F; W], parity: Option<F>) -> ([F; W], F)
    where
        F: Arithmetic,
    {
        let (zero, far) = (s.splat(0.0), s.splat(f32::INFINITY));
        let mut x = [zero; W];
        let mut sums = Sums { error: zero, parity: s.splat(1.0), change: far };
        self.follow(s, 0..W, magnitudes, parity.is_some(), &mut x, &mut sums);
        let levels: [F; W] = std::array::from_fn(|j| self.targets[j] - x[j]);
        // Exactly the magnitudes, whatever the difference rounds to.
        let levels: [F; W] = std::array::from_fn(|j| s.with_sign(magnitudes[j], levels[j]));
        // What is added to the error of these signs, and of those with one change.
        let (kept, changed) = match parity {
            Some(parity) => {
                let fits = s.equal(parity, sums.parity);
                (s.select(fits, zero, far), s.select(fits, far, zero))
            }
            None => (zero, zero),
        };
        let (mut best, mut least) = (levels, self.error(s, &levels) + kept);
        for k in 0..W {
            let mut tried = levels;
            tried[k] = zero - tried[k];
            let error = self.error(s, &tried) + changed;
            let better = s.less(error, least);
            least = s.select(better, error, least);
            best = std::array::from_fn(|j| s.select(better, tried[j], best[j]));
        }
        (best, least)
    }
}

/// Arithmetic on lanes.
pub(super) trait Arithmetic:
    Copy
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
{
}

impl<F> Arithmetic for F where
    F: Copy
        + std::ops::Add<Output = F>
        + std::ops::Sub<Output = F>
        + std::ops::Mul<Output = F>
        + std::ops::Div<Output = F>
{
}

/// The levels for these targets (both in units of the scale).
#[inline(always)]
pub(super) fn nearest<S: Lanes>(
    s: S,
    kind: &Kind,
    triangle: &Triangle,
    targets: [S::F; GROUP],
) -> [S::F; GROUP] {
    match kind.book {
        Book::Eight(book) => eight(s, book, kind.even, triangle, targets),
        Book::Four(points) => two_fours(s, points, kind.even, triangle, &targets),
    }
}

/// The error of these levels.
#[inline(always)]
pub(super) fn error<S: Lanes>(
    s: S,
    triangle: &Triangle,
    targets: [S::F; GROUP],
    levels: &[S::F; GROUP],
) -> S::F {
    Part { triangle, first: 0, targets, bases: targets }.error(s, levels)
}

#[inline(always)]
fn eight<S: Lanes>(s: S, book: &Eights, even: bool, triangle: &Triangle, targets: [S::F; 8]) -> [S::F; 8] {
    let (zero, far) = (s.splat(0.0), s.splat(f32::INFINITY));
    let part = Part { triangle, first: 0, targets, bases: targets };
    let (mut least, mut chosen) = (far, zero);
    for (half, range) in &book.halves {
        let mut x = [zero; 8];
        let mut sums = Sums { error: zero, parity: s.splat(1.0), change: far };
        let magnitudes = std::array::from_fn(|j| s.splat(half[j % 4]));
        part.follow(s, 0..4, &magnitudes, even, &mut x, &mut sums);
        if !s.any(s.less(sums.error, least)) {
            continue;
        }
        let tail = second(s, triangle, &targets, &[x[0], x[1], x[2], x[3]]);
        for (index, point) in range.clone().zip(&book.points[range.clone()]) {
            let (mut x, mut sums) = ([zero; 4], sums);
            let magnitudes = std::array::from_fn(|j| s.splat(point[4 + j]));
            tail.follow(s, 0..4, &magnitudes, even, &mut x, &mut sums);
            let mut error = sums.error;
            if even {
                let odd = s.less(sums.parity, zero);
                error = s.select(odd, error + s.splat(4.0) * sums.change, error);
            }
            let better = s.less(error, least);
            least = s.select(better, error, least);
            chosen = s.select(better, s.splat(index as f32), chosen);
        }
    }
    let magnitudes = gather(s, &book.points, chosen);
    part.signs(s, &magnitudes, even.then(|| s.splat(1.0))).0
}

/// The second half of a group, with the `x` of the first.
#[inline(always)]
fn second<'a, S: Lanes>(
    s: S,
    triangle: &'a Triangle,
    targets: &[S::F; 8],
    x: &[S::F; 4],
) -> Part<'a, S::F, 4> {
    let bases = std::array::from_fn(|j| {
        let ratios = &triangle.ratios[4 + j];
        (0..4).fold(targets[4 + j], |base, i| base + s.splat(ratios[i]) * x[i])
    });
    Part { triangle, first: 4, targets: std::array::from_fn(|j| targets[4 + j]), bases }
}

/// The best points of a part with an even and an odd number of minus signs; both the same if that does not matter.
#[inline(always)]
fn four<S: Lanes>(s: S, points: &[[f32; 4]], even: bool, part: &Part<'_, S::F, 4>) -> [[S::F; 4]; 2] {
    let (zero, far) = (s.splat(0.0), s.splat(f32::INFINITY));
    let (mut least, mut chosen) = ([far; 2], [zero; 2]);
    for (index, point) in points.iter().enumerate() {
        let mut x = [zero; 4];
        let mut sums = Sums { error: zero, parity: s.splat(1.0), change: far };
        part.follow(s, 0..4, &point.map(|m| s.splat(m)), even, &mut x, &mut sums);
        let index = s.splat(index as f32);
        if !even {
            let better = s.less(sums.error, least[0]);
            least[0] = s.select(better, sums.error, least[0]);
            chosen[0] = s.select(better, index, chosen[0]);
            continue;
        }
        let changed = sums.error + s.splat(4.0) * sums.change;
        let odd = s.less(sums.parity, zero);
        let errors = [s.select(odd, changed, sums.error), s.select(odd, sums.error, changed)];
        for ((error, least), chosen) in errors.into_iter().zip(&mut least).zip(&mut chosen) {
            let better = s.less(error, *least);
            *least = s.select(better, error, *least);
            *chosen = s.select(better, index, *chosen);
        }
    }
    let first = gather(s, points, chosen[0]);
    [first, if even { gather(s, points, chosen[1]) } else { first }]
}

/// A point for the first half, then one for the second, whose signs make up for those of the first.
#[inline(always)]
fn two_fours<S: Lanes>(
    s: S,
    points: &[[f32; 4]],
    even: bool,
    triangle: &Triangle,
    targets: &[S::F; 8],
) -> [S::F; 8] {
    let own = [targets[0], targets[1], targets[2], targets[3]];
    let part = Part { triangle, first: 0, targets: own, bases: own };
    let firsts = four(s, points, even, &part);
    let mut least = s.splat(f32::INFINITY);
    let mut best = [s.splat(0.0); 8];
    for (k, parity) in [1.0, -1.0].into_iter().enumerate().take(if even { 2 } else { 1 }) {
        let parity = even.then(|| s.splat(parity));
        let (first, error) = part.signs(s, &firsts[k], parity);
        let x = std::array::from_fn(|j| own[j] - first[j]);
        let tail = second(s, triangle, targets, &x);
        let magnitudes = four(s, points, even, &tail)[k];
        let (last, rest) = tail.signs(s, &magnitudes, parity);
        let error = error + rest;
        let better = if k == 0 { s.equal(least, least) } else { s.less(error, least) };
        least = s.select(better, error, least);
        best = std::array::from_fn(|j| {
            let level = if j < 4 { first[j] } else { last[j - 4] };
            s.select(better, level, best[j])
        });
    }
    best
}

/// The points at these indices.
#[inline(always)]
fn gather<S: Lanes, const W: usize>(s: S, points: &[[f32; W]], index: S::F) -> [S::F; W] {
    let mut indices = [0f32; LANES];
    s.store(index, &mut indices);
    let mut lines = [[0f32; LANES]; W];
    for (lane, index) in indices.into_iter().enumerate() {
        for (line, value) in lines.iter_mut().zip(&points[index as usize]) {
            line[lane] = *value;
        }
    }
    lines.map(|line| s.load(&line))
}
