//! What a layer should make up for: the difference between the inputs it will see and those of the unquantized model,
//! and what the residual stream has lost before it (GPTAQ, Li et al. 2025; QEP, Arai and Ichikawa 2025).
//!
//! With `X` the inputs in the unquantized model, `X~` those of the model quantized so far, and `R` the drift (the
//! residual stream of the unquantized model less the current one where the layer's output is added to it), the layer
//! should give `W X + R` for `X~`:
//!
//! ```text
//! |(W - Q) X~ + W (X - X~) + R|²        M = W (X - X~) X~ᵀ + R X~ᵀ,  H = X~ X~ᵀ = U Uᵀ
//!   = |(W - Q) U + Y|² + const          Y Uᵀ = M
//! ```
//!
//! so `Y` is where the residuals of the column loop begin.

use std::sync::Arc;

use quern_compute::cuda::column_loop::ShiftSums;
use quern_compute::{Device, Error, Executor, Pool, Product, Result, Values, cross, multiply_add};

/// Sums over the calibration tokens, in RAM or in a GPU's memory.
#[derive(Clone, Debug)]
pub struct Shift {
    columns: usize,
    sums: Sums,
}

/// Where they are.
#[derive(Clone, Debug)]
enum Sums {
    Host(Host),
    /// Shared by clones until one of them is changed.
    Card(Arc<ShiftSums>),
}

#[derive(Clone, Debug)]
struct Host {
    /// `(X - X~) X~ᵀ`, `[columns][columns]`.
    inputs: Vec<f32>,
    /// `R X~ᵀ`, `[rows][columns]`; empty without drift.
    drift: Vec<f32>,
    difference: Vec<f32>,
}

/// What some rows of a layer should make up for.
#[derive(Clone, Copy, Debug)]
pub struct ShiftOfRows<'a> {
    /// The sums.
    pub shift: &'a Shift,
    /// The first of the rows.
    pub first: usize,
    /// How much of the difference of the inputs counts.
    pub inputs: f32,
    /// How much of the drift counts.
    pub drift: f32,
}

impl Shift {
    /// Sums of 0 for inputs of this length (a multiple of 16), in RAM: takes `4 * columns²` bytes.
    pub fn new(columns: usize) -> Self {
        let inputs = vec![0.0; columns * columns];
        Self { columns, sums: Sums::Host(Host { inputs, drift: Vec::new(), difference: Vec::new() }) }
    }

    /// The same in the memory of the device that `executor` computes on.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has no memory for it, or is lost.
    pub fn on(executor: &Executor, columns: usize) -> Result<Self> {
        match executor.device() {
            Device::Cpu(_) => Ok(Self::new(columns)),
            Device::Cuda(card) => {
                Ok(Self { columns, sums: Sums::Card(Arc::new(ShiftSums::new(&card, columns)?)) })
            }
        }
    }

    /// Adds the inputs of some tokens, `[tokens][columns]` in both models, and the drift, `[tokens][rows]`: all in RAM, as the
    /// sums.
    ///
    /// # Panics
    /// If lengths do not fit together, or the sums are on a GPU: [`Shift::add_values`].
    pub fn add(&mut self, pool: &Pool, x: &[f32], reference: &[f32], drift: Option<&[f32]>) {
        let columns = self.columns;
        assert_eq!(x.len(), reference.len(), "the same tokens");
        let Sums::Host(Host { inputs, drift: drifts, difference }) = &mut self.sums else {
            panic!("inputs in RAM for sums on a GPU")
        };
        difference.clear();
        difference.extend(reference.iter().zip(x).map(|(r, x)| r - x));
        cross(pool, (difference, columns), (x, columns), inputs).expect("lengths are checked");
        if let Some(drift) = drift {
            let rows = drift.len() / (x.len() / columns).max(1);
            drifts.resize(rows * columns, 0.0);
            cross(pool, (drift, rows), (x, columns), drifts).expect("lengths are checked");
        }
    }

    /// The same where they are: on the device of `executor`, as the sums. On a GPU the work is queued.
    ///
    /// # Errors
    /// Lengths that do not fit together, inputs on another device than the sums; [`Error::Cuda`] if the GPU has no memory
    /// left, or is lost.
    pub fn add_values(
        &mut self,
        executor: &mut Executor,
        x: Values<'_>,
        reference: Values<'_>,
        drift: Option<Values<'_>>,
    ) -> Result<()> {
        let columns = self.columns;
        if x.len() != reference.len() || !x.len().is_multiple_of(columns.max(1)) {
            let what = "shift: inputs of the unquantized model";
            return Err(Error::Lengths { what, expected: x.len(), found: reference.len() });
        }
        match &mut self.sums {
            Sums::Host(_) => {
                let (x, reference) = (x.host()?, reference.host()?);
                let drift = drift.map(Values::host).transpose()?;
                let Device::Cpu(pool) = executor.device() else { return Err(Error::Device) };
                self.add(&pool, x, reference, drift);
                Ok(())
            }
            Sums::Card(sums) => own(sums, columns)?.add(executor, x, reference, drift),
        }
    }

    /// Adds the sums of `other`, which may be on another device, to these.
    ///
    /// # Errors
    /// Sums of other inputs than these; [`Error::Cuda`] if a GPU has no memory left, or is lost.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.columns != other.columns {
            let (expected, found) = (self.columns, other.columns);
            return Err(Error::Lengths { what: "shift: columns of two sums", expected, found });
        }
        let columns = self.columns;
        match (&mut self.sums, &other.sums) {
            (Sums::Card(own_sums), Sums::Card(other)) => own(own_sums, columns)?.merge(other),
            (Sums::Host(_), _) | (Sums::Card(_), Sums::Host(_)) => {
                let (mut all, other) = (self.host()?, other.host()?);
                let add = |to: &mut [f32], from: &[f32]| to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
                add(&mut all.inputs, &other.inputs);
                if all.drift.is_empty() {
                    all.drift = other.drift;
                } else {
                    add(&mut all.drift, &other.drift);
                }
                self.sums = Sums::Host(all);
                Ok(())
            }
        }
    }

    /// The same in RAM.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU is lost.
    pub fn to_host(&self) -> Result<Self> {
        Ok(Self { columns: self.columns, sums: Sums::Host(self.host()?) })
    }

    fn host(&self) -> Result<Host> {
        match &self.sums {
            Sums::Host(host) => Ok(host.clone()),
            Sums::Card(sums) => {
                let (inputs, drift) = sums.download()?;
                Ok(Host { inputs, drift, difference: Vec::new() })
            }
        }
    }

    /// The sums on a card, if that is where they are.
    pub(super) fn on_card(&self) -> Option<&ShiftSums> {
        match &self.sums {
            Sums::Host(_) => None,
            Sums::Card(sums) => Some(sums),
        }
    }

    /// `M` for these weights, `[rows][columns]`, the first of which is the layer's row `first`: `inputs` and `drift` say
    /// how much of each counts.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the sums are on a GPU that is lost.
    pub fn target(
        &self,
        pool: &Pool,
        weights: &[f32],
        first: usize,
        inputs: f32,
        drift: f32,
    ) -> Result<Vec<f32>> {
        match &self.sums {
            Sums::Host(host) => Ok(host.target(pool, self.columns, weights, first, inputs, drift)),
            Sums::Card(_) => Ok(self.host()?.target(pool, self.columns, weights, first, inputs, drift)),
        }
    }
}

/// Sums to be changed: no clone has them.
fn own(sums: &mut Arc<ShiftSums>, columns: usize) -> Result<&mut ShiftSums> {
    if Arc::get_mut(sums).is_none() {
        let mut copy = ShiftSums::new(sums.card(), columns)?;
        copy.merge(sums)?;
        *sums = Arc::new(copy);
    }
    Ok(Arc::get_mut(sums).expect("they are not shared"))
}

impl Host {
    fn target(
        &self,
        pool: &Pool,
        columns: usize,
        weights: &[f32],
        first: usize,
        inputs: f32,
        drift: f32,
    ) -> Vec<f32> {
        const ROWS: usize = 32;
        let mut target = vec![0f32; weights.len()];
        let parts: Vec<_> = target.chunks_mut(ROWS * columns).map(std::sync::Mutex::new).collect();
        let scaled: Vec<f32> = weights.iter().map(|w| w * inputs).collect();
        pool.run(parts.len(), |p| {
            let mut part = parts[p].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let rows = part.len() / columns;
            multiply_add(
                pool.level(),
                Product {
                    rows,
                    depth: columns,
                    width: columns,
                    a: &scaled[p * ROWS * columns..],
                    a_stride: columns,
                    b: &self.inputs,
                    c: &mut part,
                    c_stride: columns,
                },
            );
            if let Some(own) = self.drift.get((first + p * ROWS) * columns..).filter(|own| !own.is_empty()) {
                for (to, from) in part.iter_mut().zip(own) {
                    *to += drift * from;
                }
            }
        });
        drop(parts);
        target
    }
}
