//! The steps of a mixture of experts.

use super::Executor;
use crate::Result;
use crate::error::same;
use crate::executor::{Choice, Routing, Values, ValuesMut, Vector};

use super::routing::choose;

impl Executor {
    pub fn route(
        &mut self,
        logits: ValuesMut<'_>,
        routing: Routing,
        bias: Option<&Vector>,
    ) -> Result<Vec<Vec<Choice>>> {
        let logits = logits.host()?;
        routing.check(logits.len(), usize::MAX)?;
        let bias = bias.map(Vector::host).transpose()?;
        if let Some(bias) = bias {
            same("experts: biases of the choice", routing.count, bias.len())?;
        }
        Ok(choose(self.pool.level(), routing, bias, logits))
    }

    pub fn gather(
        &mut self,
        x: Values<'_>,
        width: usize,
        (choices, scaled): (&[Choice], bool),
        out: ValuesMut<'_>,
    ) -> Result<()> {
        let (x, out) = (x.host()?, out.host()?);
        Choice::check(choices, width, out.len(), x.len(), false)?;
        for (row, choice) in out.chunks_exact_mut(width).zip(choices) {
            row.copy_from_slice(&x[choice.token as usize * width..][..width]);
            if scaled {
                row.iter_mut().for_each(|x| *x *= choice.share);
            }
        }
        Ok(())
    }

    pub fn gate_rows(&mut self, x: ValuesMut<'_>, width: usize, gates: Values<'_>) -> Result<()> {
        let (x, gates) = (x.host()?, gates.host()?);
        same("gates: one for each row", gates.len() * width, x.len())?;
        for (row, gate) in x.chunks_exact_mut(width.max(1)).zip(gates) {
            let share = 1.0 / (1.0 + (-gate).exp());
            row.iter_mut().for_each(|x| *x *= share);
        }
        Ok(())
    }

    pub fn scatter(
        &mut self,
        rows: Values<'_>,
        width: usize,
        choices: &[Choice],
        out: ValuesMut<'_>,
    ) -> Result<()> {
        let (rows, out) = (rows.host()?, out.host()?);
        Choice::check(choices, width, rows.len(), out.len(), true)?;
        for (row, choice) in rows.chunks_exact(width).zip(choices) {
            let out = &mut out[choice.token as usize * width..][..width];
            out.iter_mut().zip(row).for_each(|(out, x)| *out += choice.share * x);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Pool;
    use crate::executor::{GroupRank, Groups};

    #[test]
    fn rows_are_gathered_and_scattered() {
        let mut executor = Executor::new(&Arc::new(Pool::new(1)));
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let choices = [Choice { token: 2, share: 0.5 }, Choice { token: 0, share: 2.0 }];
        let mut rows = [0.0; 4];
        executor.gather(Values::Host(&x), 2, (&choices, true), ValuesMut::Host(&mut rows)).unwrap();
        assert_eq!(rows, [2.5, 3.0, 2.0, 4.0]);
        executor.gather(Values::Host(&x), 2, (&choices, false), ValuesMut::Host(&mut rows)).unwrap();
        assert_eq!(rows, [5.0, 6.0, 1.0, 2.0]);
        let mut gated = [5.0, 6.0, 1.0, 2.0];
        executor.gate_rows(ValuesMut::Host(&mut gated), 2, Values::Host(&[0.0, -100.0])).unwrap();
        assert_eq!(gated[..2], [2.5, 3.0]);
        assert!(gated[2].abs() < 1e-30);
        assert!(executor.gate_rows(ValuesMut::Host(&mut gated), 2, Values::Host(&[0.0])).is_err());
        let mut out = [1.0; 6];
        executor.scatter(Values::Host(&rows), 2, &choices, ValuesMut::Host(&mut out)).unwrap();
        assert_eq!(out, [3.0, 5.0, 1.0, 1.0, 3.5, 4.0]);
        let too_long = ValuesMut::Host(&mut out);
        assert!(executor.gather(Values::Host(&x), 2, (&choices, false), too_long).is_err());
        let refused = |tokens: [u32; 2]| {
            let choices = tokens.map(|token| Choice { token, share: 1.0 });
            executor.scatter(Values::Host(&rows), 2, &choices, ValuesMut::Host(&mut out)).is_err()
        };
        assert_eq!([[0, 3], [1, 1], [2, 1]].map(refused), [true, true, false]);
    }

    #[test]
    fn impossible_routings_are_refused() {
        let mut executor = Executor::new(&Arc::new(Pool::new(1)));
        let mut route = |count, used| {
            let routing = Routing::softmax(count, used, false);
            executor.route(ValuesMut::Host(&mut [0.0; 6]), routing, None).is_err()
        };
        assert_eq!(
            [(3, 2), (4, 2), (0, 0), (3, 4)].map(|(count, used)| route(count, used)),
            [false, true, true, true]
        );
        let bias: Vector = vec![0.0; 2].into();
        let logits = &mut [0.0; 6];
        assert!(executor.route(ValuesMut::Host(logits), Routing::softmax(3, 2, false), Some(&bias)).is_err());
        let groups = |count, used| {
            let groups = Some(Groups { count, used, rank: GroupRank::Largest });
            Routing { groups, ..Routing::softmax(6, 4, false) }
        };
        let mut refused = |routing| executor.route(ValuesMut::Host(&mut [0.0; 6]), routing, None).is_err();
        assert_eq!(
            [(3, 2), (3, 1), (4, 3), (3, 4)].map(|(c, u)| refused(groups(c, u))),
            [false, true, true, true]
        );
    }
}
