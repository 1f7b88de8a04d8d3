//! From the sum of products to what the column loop needs: order, damping, factor.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use quern_compute::{Pool, factor, factor_f64, lower_to_upper, upper_to_lower};

use super::card::{self, Factored};
use super::hessian::Sum;
use super::order::{Plan, Unit};
use super::refine::{Piece, Squares};
use super::{Hessian, Settings, SolveError, check_shape};

/// A Hessian in the order in which columns are rounded, damped and factored: for all layers with this input.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub(super) settings: Settings,
    pub(super) plan: Plan,
    /// `[columns][columns]` in that order. Lower triangle: `Uᵀ` with `H = U Uᵀ`, damped. Above the
    /// diagonal: `H`.
    pub(super) factor: Vec<f32>,
    pub(super) squares: Squares,
    /// Diagonal of H in that order, not damped; 0 for dead columns.
    pub(super) diagonal: Vec<f32>,
    /// Factor and squares on a card; then there are none here.
    pub(super) card: Option<Factored>,
    dead: usize,
    damp: f64,
    tokens: u64,
}

impl Prepared {
    /// Orders, damps and factors, in RAM in the Hessian's own memory, on a card beside it. A column that never saw an input but 0 is dead: its
    /// weights will be 0. If the damping asked for is not enough: once more in f64 (8 more bytes per element, for
    /// the moment), then with more damping in steps of 0.01 up to 1, then with a floor under the diagonal.
    ///
    /// # Errors
    /// [`SolveError::NoData`], [`SolveError::Input`] or [`SolveError::NotPositiveDefinite`]: round to nearest
    /// instead. [`SolveError::Settings`]; [`SolveError::Compute`] if the Hessian is on a card that has no memory left,
    /// or is lost.
    pub fn new(pool: &Pool, hessian: Hessian, settings: &Settings) -> Result<Self, SolveError> {
        check_shape(32, 32, settings)?;
        let plan = Plan::new(&hessian.diagonal()?, settings);
        Self::with_plan(pool, hessian, plan, settings)
    }

    /// The same for `plan`; of the settings, the damping counts.
    pub(super) fn with_plan(
        pool: &Pool,
        hessian: Hessian,
        plan: Plan,
        settings: &Settings,
    ) -> Result<Self, SolveError> {
        let (columns, tokens) = (hessian.columns, hessian.tokens());
        let diagonal = hessian.diagonal()?;
        let not_finite = match &hessian.sum {
            Sum::Host(sum) => first_not_finite(pool, sum, columns),
            Sum::Card(sums) => sums.first_not_finite()?,
        };
        if let Some((row, column, value)) = not_finite {
            let column = if diagonal[column].is_finite() { row } else { column };
            return Err(SolveError::Input { column, value });
        }
        let living = diagonal.iter().filter(|d| **d > 0.0).count();
        if living == 0 {
            return Err(SolveError::NoData { tokens });
        }
        let diagonal: Vec<f32> = plan.order.iter().map(|&c| diagonal[c as usize]).collect();
        let mean = diagonal.iter().map(|d| f64::from(*d)).sum::<f64>() / living as f64;
        let damping = Damping { diagonal: &diagonal, mean };
        let mut squares = Squares::of(&plan);
        let made = match hessian.sum {
            Sum::Host(mut sum) => {
                lower_to_upper(pool, &mut sum, columns);
                permute(pool, &mut sum, &plan.order);
                let mut damped = Damped { matrix: sum, damping: &damping };
                damped.factor(pool, settings.damp).map(|damp| {
                    squares.values = damped.squares(&squares, damp);
                    lower_to_upper(pool, &mut damped.matrix, columns);
                    (damp, damped.matrix, None)
                })
            }
            Sum::Card(sums) => {
                let made = card::prepare(pool, sums, &plan, &damping, settings.damp, &squares)?;
                made.map(|(damp, factored)| (damp, Vec::new(), Some(factored)))
            }
        };
        let (damp, factor, card) = made.ok_or(SolveError::NotPositiveDefinite { columns, tokens })?;
        Ok(Self {
            settings: settings.clone(),
            plan,
            factor,
            squares,
            dead: columns - living,
            diagonal,
            card,
            damp,
            tokens,
        })
    }

    /// The damping that was enough, as a share of the mean diagonal.
    pub fn damp(&self) -> f64 {
        self.damp
    }

    /// Columns that saw no input but 0.
    pub fn dead(&self) -> usize {
        self.dead
    }

    /// Inputs seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Length of an input.
    pub fn columns(&self) -> usize {
        self.diagonal.len()
    }
}

/// How the diagonal is damped.
pub(super) struct Damping<'a> {
    /// Not damped.
    pub diagonal: &'a [f32],
    /// Of the living columns.
    pub mean: f64,
}

/// A factorization to be tried.
pub(super) enum Attempt {
    F32 {
        damp: f64,
        floor: f32,
    },
    /// Only after one in f32.
    F64 {
        damp: f64,
    },
}

impl Damping<'_> {
    /// Tries at least `damp`; what was enough.
    pub fn search<E>(
        &self,
        damp: f64,
        mut works: impl FnMut(Attempt) -> Result<bool, E>,
    ) -> Result<Option<f64>, E> {
        if works(Attempt::F32 { damp, floor: 0.0 })? || works(Attempt::F64 { damp })? {
            return Ok(Some(damp));
        }
        let mut raised = damp;
        while raised < 1.0 {
            raised = (raised + 0.01).min(1.0);
            if works(Attempt::F32 { damp: raised, floor: 0.0 })? {
                return Ok(Some(raised));
            }
        }
        let largest = self.diagonal.iter().copied().fold(0.0, f32::max);
        for k in 0..6 {
            if works(Attempt::F32 { damp: 1.0, floor: 1e-6 * largest * 10f32.powi(k) })? {
                return Ok(Some(1.0));
            }
        }
        Ok(None)
    }

    /// The diagonal with damping and floor. Dead columns stand alone: any positive number will do.
    fn damped(&self, i: usize, damp: f64, floor: f32) -> f64 {
        match self.diagonal[i] {
            d if d > 0.0 => f64::from(d.max(floor)) + damp * self.mean,
            _ => self.mean,
        }
    }

    /// All of it.
    pub fn line(&self, damp: f64, floor: f32) -> Vec<f32> {
        (0..self.diagonal.len()).map(|i| self.damped(i, damp, floor) as f32).collect()
    }

    /// No eigenvalue is below the damping, so a square of a pivot below it is noise. Half of it: rounding.
    pub fn least(&self, damp: f64) -> f64 {
        0.5 * damp * self.mean
    }
}

/// A matrix being factored in RAM: what is above the diagonal keeps the original.
pub(super) struct Damped<'a> {
    pub matrix: Vec<f32>,
    pub damping: &'a Damping<'a>,
}

impl Damped<'_> {
    /// Factors with at least `damp`; what was enough.
    fn factor(&mut self, pool: &Pool, damp: f64) -> Option<f64> {
        let damping = self.damping;
        let enough = damping.search(damp, |attempt| -> Result<bool, Infallible> {
            Ok(match attempt {
                Attempt::F32 { damp, floor } => self.in_f32(pool, damp, floor),
                Attempt::F64 { damp } => self.in_f64(pool, damp),
            })
        });
        enough.unwrap_or_else(|never| match never {})
    }

    /// The damped squares on the diagonal; what is above it is still `H`.
    fn squares(&self, squares: &Squares, damp: f64) -> Vec<f32> {
        let n = self.damping.diagonal.len();
        let mut values = Vec::new();
        for piece in &squares.pieces {
            for i in piece.positions.clone() {
                values.extend(piece.positions.clone().map(|j| match i == j {
                    true => self.damping.damped(i, damp, 0.0) as f32,
                    false => self.matrix[i.min(j) * n + i.max(j)],
                }));
            }
        }
        values
    }

    fn in_f32(&mut self, pool: &Pool, damp: f64, floor: f32) -> bool {
        let n = self.damping.diagonal.len();
        upper_to_lower(pool, &mut self.matrix, n);
        for i in 0..n {
            self.matrix[i * n + i] = self.damping.damped(i, damp, floor) as f32;
        }
        let least = self.damping.least(damp) as f32;
        matches!(factor(pool, &mut self.matrix, n, least), Ok(Ok(())))
    }

    /// In f64; the matrix is as it was if that fails.
    pub fn in_f64(&mut self, pool: &Pool, damp: f64) -> bool {
        let n = self.damping.diagonal.len();
        let mut wide = vec![0f64; n * n];
        for (j, row) in wide.chunks_exact_mut(n).enumerate() {
            for (i, x) in row[..j].iter_mut().enumerate() {
                *x = f64::from(self.matrix[i * n + j]);
            }
            row[j] = self.damping.damped(j, damp, 0.0);
        }
        if !matches!(factor_f64(pool, &mut wide, n, self.damping.least(damp)), Ok(Ok(()))) {
            return false;
        }
        for j in 0..n {
            for (x, wide) in self.matrix[j * n..=j * n + j].iter_mut().zip(&wide[j * n..]) {
                *x = *wide as f32;
            }
        }
        true
    }
}

impl Squares {
    /// The pieces of a plan, and where their squares begin; no values.
    fn of(plan: &Plan) -> Self {
        let (mut pieces, mut square) = (Vec::new(), 0);
        for (unit, Unit { positions, .. }) in plan.units.iter().enumerate() {
            let whole = positions.len() <= plan.piece;
            for start in positions.clone().step_by(plan.piece) {
                let positions = start..positions.end.min(start + plan.piece);
                let size = positions.len();
                pieces.push(Piece { positions, unit, whole, square });
                square += size * size;
            }
        }
        Self { pieces, values: Vec::new() }
    }
}

/// Row and column of the first number of the lower triangle that is infinite or none, and that number.
fn first_not_finite(pool: &Pool, sum: &[f32], columns: usize) -> Option<(usize, usize, f32)> {
    let first = AtomicUsize::new(usize::MAX);
    let row = |i: usize| &sum[i * columns..][..=i];
    pool.run(columns, |i| {
        if row(i).iter().any(|x| !x.is_finite()) {
            first.fetch_min(i, Ordering::Relaxed);
        }
    });
    let i = Some(first.into_inner()).filter(|i| *i < columns)?;
    let j = row(i).iter().position(|x| !x.is_finite())?;
    Some((i, j, row(i)[j]))
}

/// Brings rows and columns into `order`, in place.
fn permute(pool: &Pool, a: &mut [f32], order: &[u32]) {
    let n = order.len();
    if order.iter().enumerate().all(|(i, &c)| i == c as usize) {
        return;
    }
    let rows: Vec<_> = a.chunks_mut(n).map(std::sync::Mutex::new).collect();
    pool.run(n, |i| {
        let mut row = rows[i].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let old = row.to_vec();
        for (new, &column) in row.iter_mut().zip(order) {
            *new = old[column as usize];
        }
    });
    drop(rows);
    // Rows go round in cycles: row i takes the place of row order[i].
    let mut placed = vec![false; n];
    let mut held = vec![0.0; n];
    for first in 0..n {
        if placed[first] {
            continue;
        }
        held.copy_from_slice(&a[first * n..][..n]);
        let mut to = first;
        loop {
            placed[to] = true;
            let from = order[to] as usize;
            if from == first {
                a[to * n..][..n].copy_from_slice(&held);
                break;
            }
            a.copy_within(from * n..(from + 1) * n, to * n);
            to = from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_take_their_places() {
        let n = 70;
        let mut a: Vec<f32> = (0..n * n).map(|i| i as f32).collect();
        let order: Vec<u32> = (0..n as u32).map(|i| (i * 27 + 5) % n as u32).collect();
        permute(&Pool::new(2), &mut a, &order);
        for i in 0..n {
            for j in 0..n {
                assert_eq!(a[i * n + j] as usize, order[i] as usize * n + order[j] as usize);
            }
        }
        lower_to_upper(&Pool::new(2), &mut a, n);
        assert!((0..n * n).all(|k| a[k] == a[k % n * n + k / n]));
    }
}
