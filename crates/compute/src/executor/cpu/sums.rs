//! Sums of products of columns, and differences.

use super::Executor;
use crate::error::same;
use crate::executor::{Values, ValuesMut};
use crate::gram::gram_in;
use crate::parallel::{part_of, share};
use crate::{Result, cross};

impl Executor {
    pub fn gram(&mut self, x: Values<'_>, columns: usize, sum: ValuesMut<'_>) -> Result<()> {
        gram_in(&mut self.gram, &self.pool, x.host()?, columns, sum.host()?)
    }

    pub fn cross(
        &mut self,
        (a, a_columns): (Values<'_>, usize),
        (b, b_columns): (Values<'_>, usize),
        sum: ValuesMut<'_>,
    ) -> Result<()> {
        cross(&self.pool, (a.host()?, a_columns), (b.host()?, b_columns), sum.host()?)
    }

    pub fn subtract(&mut self, a: Values<'_>, b: Values<'_>, out: ValuesMut<'_>) -> Result<()> {
        let (a, b, out) = (a.host()?, b.host()?, out.host()?);
        same("subtract: second", a.len(), b.len())?;
        same("subtract: output", a.len(), out.len())?;
        let part = part_of(&self.pool, a.len(), 1).max(1);
        let parts = a.chunks(part).zip(b.chunks(part)).zip(out.chunks_mut(part));
        share(&self.pool, parts, |((a, b), out)| {
            out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (a, b))| *out = a - b);
        });
        Ok(())
    }
}
