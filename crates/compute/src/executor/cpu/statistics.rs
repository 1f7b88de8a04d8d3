//! Statistics of logits, row by row, and of inputs, column by column.

use super::Executor;
use crate::error::same;
use crate::executor::{RowLikelihood, Values};
use crate::parallel::share;
use crate::{Result, ops};

/// Rows whose squares are added in f32 before they enter an f64 sum.
const RUN: usize = 16;
/// Columns that one thread sums at a time: a few cache lines of each row.
const TILE: usize = 512;

impl Executor {
    pub fn likelihood(
        &mut self,
        logits: Values<'_>,
        vocabulary: usize,
        targets: &[u32],
    ) -> Result<Vec<RowLikelihood>> {
        let logits = logits.host()?;
        RowLikelihood::check(logits.len(), vocabulary, targets)?;
        let mut rows = vec![RowLikelihood::default(); targets.len()];
        let positions = logits.chunks_exact(vocabulary.max(1)).zip(targets).zip(&mut rows);
        share(&self.pool, positions, |((logits, &target), row)| {
            *row = RowLikelihood {
                log_sum_exp: ops::log_sum_exp(logits),
                target_logit: logits[target as usize],
                largest: ops::top1(logits) as u32,
            };
        });
        Ok(rows)
    }

    pub fn divergence(
        &mut self,
        reference: Values<'_>,
        logits: Values<'_>,
        vocabulary: usize,
    ) -> Result<Vec<f64>> {
        let (reference, logits) = (reference.host()?, logits.host()?);
        let vocabulary = vocabulary.max(1);
        same("divergence: whole rows", logits.len() / vocabulary * vocabulary, logits.len())?;
        same("divergence: logits of the reference", logits.len(), reference.len())?;
        let mut rows = vec![0.0; logits.len() / vocabulary];
        let pairs = reference.chunks_exact(vocabulary).zip(logits.chunks_exact(vocabulary));
        share(&self.pool, pairs.zip(&mut rows), |((p, q), row)| *row = ops::kl_divergence(p, q));
        Ok(rows)
    }

    pub fn column_squares(&mut self, x: Values<'_>, columns: usize, sums: &mut Vec<f64>) -> Result<()> {
        let x = x.host()?;
        same("column_squares: whole rows", x.len() / columns.max(1) * columns, x.len())?;
        sums.clear();
        sums.resize(columns, 0.0);
        // Threads share columns, not rows: sums do not depend on their number.
        share(&self.pool, sums.chunks_mut(TILE).enumerate(), |(tile, sums)| {
            let own = tile * TILE..tile * TILE + sums.len();
            let mut partial = [0f32; TILE];
            let partial = &mut partial[..sums.len()];
            for rows in x.chunks(RUN * columns) {
                partial.fill(0.0);
                for row in rows.chunks_exact(columns) {
                    partial.iter_mut().zip(&row[own.clone()]).for_each(|(sum, x)| *sum += x * x);
                }
                sums.iter_mut().zip(&*partial).for_each(|(sum, part)| *sum += f64::from(*part));
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Error, Pool};

    fn executor() -> Executor {
        Executor::new(&Arc::new(Pool::new(2)))
    }

    /// Logarithms of probabilities.
    fn logits(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    #[test]
    fn likelihoods_are_those_of_known_probabilities() {
        let rows = logits(&[0.7, 0.2, 0.1, 0.1, 0.3, 0.6]);
        let found = executor().likelihood(Values::Host(&rows), 3, &[1, 2]).unwrap();
        for (row, (probability, largest)) in found.iter().zip([(0.2f64, 0), (0.6, 2)]) {
            assert!((row.negative_log() + probability.ln()).abs() < 1e-6, "{row:?}");
            assert_eq!(row.largest, largest);
        }
        let found = executor().likelihood(Values::Host(&[1.0, f32::NAN]), 2, &[0]).unwrap();
        assert!(found[0].negative_log().is_nan());
        assert!(executor().likelihood(Values::Host(&[]), 3, &[]).unwrap().is_empty());
    }

    #[test]
    fn divergences_are_of_each_row() {
        let (p, q) = (logits(&[0.5, 0.5, 0.25, 0.75]), logits(&[0.25, 0.75, 0.25, 0.75]));
        let found = executor().divergence(Values::Host(&p), Values::Host(&q), 2).unwrap();
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((found[0] - expected).abs() < 1e-6 && found[1].abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn squares_are_summed_by_column_on_any_number_of_threads() {
        for (rows, columns) in [(0, 4), (1, 3), (40, 700), (33, 2 * TILE)] {
            let values: Vec<f32> = (0..rows * columns).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
            let exact = |j: usize| (0..rows).map(|i| f64::from(values[i * columns + j]).powi(2)).sum::<f64>();
            let mut sums = vec![7.0];
            for threads in [1, 3] {
                let mut executor = Executor::new(&Arc::new(Pool::new(threads)));
                executor.column_squares(Values::Host(&values), columns, &mut sums).unwrap();
                assert_eq!(sums, (0..columns).map(exact).collect::<Vec<_>>());
            }
        }
        assert!(executor().column_squares(Values::Host(&[0.0; 7]), 3, &mut Vec::new()).is_err());
        assert!(executor().column_squares(Values::Host(&[0.0; 7]), 0, &mut Vec::new()).is_err());
    }

    #[test]
    fn rows_and_targets_that_do_not_fit_are_refused() {
        let rows = [0.0; 6];
        let refused = |targets: &[u32]| executor().likelihood(Values::Host(&rows), 3, targets).is_err();
        assert!(refused(&[0]) && refused(&[0, 1, 2]) && refused(&[0, 3]) && !refused(&[0, 2]));
        for (reference, logits) in [(6, 5), (5, 5), (3, 6)] {
            let (p, q) = (Values::Host(&rows[..reference]), Values::Host(&rows[..logits]));
            assert!(matches!(executor().divergence(p, q, 3), Err(Error::Lengths { .. })));
        }
    }
}
