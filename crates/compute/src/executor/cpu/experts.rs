//! The steps of a mixture of experts.

use super::Executor;
use crate::Result;
use crate::executor::{Choice, Routing, Values, ValuesMut};
use crate::ops;
use crate::simd::Level;

/// For every expert the tokens that chose it, in order, from the router's outputs `[tokens][experts]`, which
/// are overwritten.
fn choose(level: Level, routing: Routing, logits: &mut [f32]) -> Vec<Vec<Choice>> {
    let mut chosen: Vec<Vec<Choice>> = vec![Vec::new(); routing.count];
    let mut order: Vec<usize> = Vec::with_capacity(routing.count);
    for (token, row) in (0..).zip(logits.chunks_exact_mut(routing.count.max(1))) {
        ops::softmax(level, row);
        order.clear();
        order.extend(0..routing.count);
        // Of equal ones the first; a router that gives NaN chooses anything, the logits will show it.
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        order.truncate(routing.used);
        let sum: f32 = order.iter().map(|&expert| row[expert]).sum();
        for &expert in &order {
            let share = if routing.normalized { row[expert] / sum } else { row[expert] };
            chosen[expert].push(Choice { token, share });
        }
    }
    chosen
}

impl Executor {
    pub fn route(&mut self, logits: ValuesMut<'_>, routing: Routing) -> Result<Vec<Vec<Choice>>> {
        let logits = logits.host()?;
        routing.check(logits.len(), usize::MAX)?;
        Ok(choose(self.pool.level(), routing, logits))
    }

    pub fn gather(
        &mut self,
        x: Values<'_>,
        width: usize,
        choices: &[Choice],
        out: ValuesMut<'_>,
    ) -> Result<()> {
        let (x, out) = (x.host()?, out.host()?);
        Choice::check(choices, width, out.len(), x.len(), false)?;
        for (row, choice) in out.chunks_exact_mut(width).zip(choices) {
            row.copy_from_slice(&x[choice.token as usize * width..][..width]);
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

    #[test]
    fn the_largest_are_chosen_and_weighted() {
        let mut logits = [0.0, 2f32.ln(), 4f32.ln(), 0.0, 1.0, 1.0, 1.0, 1.0];
        let routing = Routing { count: 4, used: 2, normalized: true };
        let chosen = choose(Level::best(), routing, &mut logits.clone());
        let near = |choice: &Choice, token: u32, share: f32| {
            choice.token == token && (choice.share - share).abs() < 1e-6
        };
        assert!(near(&chosen[2][0], 0, 4.0 / 6.0) && near(&chosen[1][0], 0, 2.0 / 6.0));
        // Equal ones: the first two.
        assert!(near(&chosen[0][0], 1, 0.5) && near(&chosen[1][1], 1, 0.5));
        assert_eq!(chosen.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1, 0]);
        let chosen = choose(Level::best(), Routing { normalized: false, ..routing }, &mut logits);
        assert!(near(&chosen[2][0], 0, 4.0 / 8.0) && near(&chosen[1][0], 0, 2.0 / 8.0));
    }

    #[test]
    fn rows_are_gathered_and_scattered() {
        let mut executor = Executor::new(&Arc::new(Pool::new(1)));
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let choices = [Choice { token: 2, share: 0.5 }, Choice { token: 0, share: 2.0 }];
        let mut rows = [0.0; 4];
        executor.gather(Values::Host(&x), 2, &choices, ValuesMut::Host(&mut rows)).unwrap();
        assert_eq!(rows, [5.0, 6.0, 1.0, 2.0]);
        let mut out = [1.0; 6];
        executor.scatter(Values::Host(&rows), 2, &choices, ValuesMut::Host(&mut out)).unwrap();
        assert_eq!(out, [3.0, 5.0, 1.0, 1.0, 3.5, 4.0]);
        assert!(executor.gather(Values::Host(&x), 2, &choices, ValuesMut::Host(&mut out)).is_err());
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
            let routing = Routing { count, used, normalized: false };
            executor.route(ValuesMut::Host(&mut [0.0; 6]), routing).is_err()
        };
        assert_eq!(
            [(3, 2), (4, 2), (0, 0), (3, 4)].map(|(count, used)| route(count, used)),
            [false, true, true, true]
        );
    }
}
