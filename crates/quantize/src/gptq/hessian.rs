//! The sum of the outer products of a layer's calibration inputs.

use quern_compute::{Device, Error, Executor, Pool, Result, Values, ValuesMut, gram};

use super::card::Sums;

/// `H = Σ x xᵀ` over all inputs seen: lower triangle of `[columns][columns]` f32, in RAM or in a GPU's memory. (Papers
/// multiply it by two over the number of tokens, which changes no decision.) Clones in a GPU's memory share it until one
/// of them is changed.
#[derive(Clone, Debug)]
pub struct Hessian {
    pub(super) columns: usize,
    pub(super) sum: Sum,
    pub(super) tokens: u64,
}

/// Where the sum is.
#[derive(Clone, Debug)]
pub(super) enum Sum {
    Host(Vec<f32>),
    Card(Sums),
}

impl Hessian {
    /// All zeros, in RAM; takes `4 * columns²` bytes.
    pub fn new(columns: usize) -> Self {
        Self { columns, sum: Sum::Host(vec![0.0; columns * columns]), tokens: 0 }
    }

    /// All zeros, in the memory of the device that `executor` computes on.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has no memory for it, or is lost.
    pub fn on(executor: &Executor, columns: usize) -> Result<Self> {
        match executor.device() {
            Device::Cpu(_) => Ok(Self::new(columns)),
            Device::Cuda(card) => Ok(Self { columns, sum: Sum::Card(Sums::new(&card, columns)?), tokens: 0 }),
        }
    }

    /// Adds inputs, `[tokens][columns]`, to sums in RAM. The result does not depend on the number of threads.
    ///
    /// # Panics
    /// If `x` is not whole rows, or the sums are on a GPU: [`Hessian::add_values`].
    pub fn add(&mut self, pool: &Pool, x: &[f32]) {
        assert!(self.columns > 0 && x.len().is_multiple_of(self.columns), "whole inputs");
        match &mut self.sum {
            Sum::Host(sum) => gram(pool, x, self.columns, sum).expect("lengths are checked"),
            Sum::Card(_) => panic!("inputs in RAM for sums on a GPU"),
        }
        self.tokens += (x.len() / self.columns) as u64;
    }

    /// Adds inputs, `[tokens][columns]`, where they are: on the device of `executor`, as the sums. On a GPU the work is
    /// queued; what comes after it here waits for it. On the CPU the bits are those of [`Hessian::add`].
    ///
    /// # Errors
    /// Inputs that are not whole rows, or are on another device than the sums; [`Error::Cuda`] if the GPU has no memory
    /// left, or is lost.
    pub fn add_values(&mut self, executor: &mut Executor, x: Values<'_>) -> Result<()> {
        let columns = self.columns;
        match &mut self.sum {
            Sum::Host(sum) => executor.gram(x, columns, ValuesMut::Host(sum))?,
            Sum::Card(sums) => sums.add_values(executor, x, columns)?,
        }
        self.tokens += (x.len() / columns.max(1)) as u64;
        Ok(())
    }

    /// Adds the sums of `other`, which may be on another device, to these. The bits depend on the order in which several
    /// are merged, and on nothing else.
    ///
    /// # Errors
    /// Sums of other inputs than these; [`Error::Cuda`] if a GPU has no memory left, or is lost.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        if self.columns != other.columns {
            let (expected, found) = (self.columns, other.columns);
            return Err(Error::Lengths { what: "columns of two sums of inputs", expected, found });
        }
        self.tokens += other.tokens;
        match (&mut self.sum, other.sum) {
            (Sum::Host(own), Sum::Host(other)) => add(own, &other),
            (Sum::Host(own), Sum::Card(other)) => add(own, &other.download()?),
            (Sum::Card(own), Sum::Host(other)) => {
                own.merge(&Sums::from_host(own.card(), &other, self.columns)?)?
            }
            (Sum::Card(own), Sum::Card(other)) => own.merge(&other)?,
        }
        Ok(())
    }

    /// The same in RAM.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU is lost.
    pub fn to_host(self) -> Result<Self> {
        let sum = match self.sum {
            Sum::Host(sum) => sum,
            Sum::Card(sums) => sums.download()?,
        };
        Ok(Self { sum: Sum::Host(sum), ..self })
    }

    /// Inputs seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Length of an input.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Sum of squares of each column of the inputs.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU is lost; never in RAM.
    pub fn diagonal(&self) -> Result<Vec<f32>> {
        match &self.sum {
            Sum::Host(sum) => Ok((0..self.columns).map(|i| sum[i * self.columns + i]).collect()),
            Sum::Card(sums) => sums.diagonal(),
        }
    }
}

/// `to += from`, of equal lengths.
fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn sums_of_parts_are_merged() {
        let pool = Arc::new(Pool::new(2));
        let mut executor = Executor::new(&Device::Cpu(pool.clone())).unwrap();
        // Small whole numbers: every sum is exact.
        let x: Vec<f32> = (0..12 * 7).map(|i| (i * 31 % 11) as f32 - 5.0).collect();
        let mut all = Hessian::new(7);
        all.add(&pool, &x);
        let mut parts = Hessian::on(&executor, 7).unwrap();
        parts.add_values(&mut executor, Values::Host(&x[..35])).unwrap();
        let mut rest = Hessian::new(7);
        rest.add(&pool, &x[35..]);
        parts.merge(rest).unwrap();
        assert_eq!((parts.tokens(), parts.diagonal().unwrap()), (12, all.diagonal().unwrap()));
        let (Sum::Host(parts), Sum::Host(all)) = (parts.sum, all.to_host().unwrap().sum) else {
            panic!("in RAM")
        };
        assert_eq!(parts, all);
        assert!(Hessian::new(3).merge(Hessian::new(4)).is_err());
        assert!(Hessian::new(3).add_values(&mut executor, Values::Host(&[0.0; 4])).is_err());
    }
}
