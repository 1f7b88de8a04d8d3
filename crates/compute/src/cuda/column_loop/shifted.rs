//! What a layer should make up for, summed and used on a card: quern-quantize's `gptq/shift.rs`.

use std::sync::Arc;

use super::super::sums_args::AddArgs;
use super::super::{Buffer, Card, Event, Launch, Memory, Stream, Values};
use super::ColumnLoop;
use super::args::{PlaceLinesArgs, Product, TakeRowsArgs};
use crate::error::same;
use crate::executor::ValuesMut;
use crate::{Error, Executor, Result};

/// Bytes that another card's sums are copied in at a time.
const COPY: usize = 64 << 20;

/// Sums over the calibration tokens, on a card: `(X - X~) X~ᵀ` and `R X~ᵀ`.
#[derive(Debug)]
pub struct ShiftSums {
    stream: Stream,
    columns: usize,
    /// `[columns][columns]`
    inputs: Memory,
    /// `[rows][columns]`
    drift: Option<(Memory, usize)>,
    difference: Buffer,
    /// Behind what an executor has queued last.
    added: Option<Arc<Event>>,
}

impl ShiftSums {
    /// Sums of 0 for inputs of this length.
    ///
    /// # Errors
    /// The card has too little memory, or is lost.
    pub fn new(card: &Card, columns: usize) -> Result<Self> {
        let stream = Stream::new(card)?;
        let inputs = zeros(&stream, columns * columns)?;
        Ok(Self { stream, columns, inputs, drift: None, difference: Buffer::empty(card), added: None })
    }

    /// Adds the inputs of some tokens, on this card: `[tokens][columns]` in both models, and the drift, `[tokens][rows]`. The
    /// work is queued.
    ///
    /// # Errors
    /// Lengths and devices that do not fit, too little memory, or a lost card.
    pub fn add(
        &mut self,
        executor: &mut Executor,
        x: crate::Values<'_>,
        reference: crate::Values<'_>,
        drift: Option<crate::Values<'_>>,
    ) -> Result<()> {
        let (columns, length) = (self.columns, x.len());
        let tokens = length / columns.max(1);
        self.difference.reserve(length)?;
        let difference = self.difference.values().slice(0..length);
        executor.subtract(reference, x, ValuesMut::Cuda(difference))?;
        let inputs = Values::of(&self.inputs, columns * columns);
        executor.cross((crate::Values::Cuda(difference), columns), (x, columns), ValuesMut::Cuda(inputs))?;
        if let Some(drift) = drift {
            let rows = drift.len() / tokens.max(1);
            if self.drift.is_none() {
                self.drift = Some((zeros(&self.stream, rows * columns)?, rows));
            }
            if let Some((sum, own)) = &self.drift {
                same("shift: values of the drift", *own * tokens, drift.len())?;
                let sum = Values::of(sum, rows * columns);
                executor.cross((drift, rows), (x, columns), ValuesMut::Cuda(sum))?;
            }
        }
        self.added = executor.event()?.map(Arc::new);
        Ok(())
    }

    /// The card.
    pub fn card(&self) -> &Card {
        self.stream.card()
    }

    /// Adds other sums, which may be on another card.
    ///
    /// # Errors
    /// Sums of other inputs, too little memory, or a lost card.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        same("shift: columns", self.columns, other.columns)?;
        self.wait()?;
        other.wait()?;
        other.stream.synchronize()?;
        self.add_memory(&self.inputs, &other.inputs)?;
        if let Some((sum, rows)) = &other.drift {
            match &self.drift {
                Some((own, own_rows)) => {
                    same("shift: rows of the drift", *own_rows, *rows)?;
                    self.add_memory(own, sum)?;
                }
                None => {
                    let own = zeros(&self.stream, rows * self.columns)?;
                    self.add_memory(&own, sum)?;
                    self.drift = Some((own, *rows));
                }
            }
        }
        Ok(())
    }

    fn add_memory(&self, to: &Memory, from: &Memory) -> Result<()> {
        let bytes = to.bytes().min(from.bytes());
        let card = self.card();
        let staged = match card == from.card() {
            true => None,
            false => {
                card.enable_peer(from.card())?;
                Some(Memory::new(card, COPY.min(bytes))?)
            }
        };
        let function = card.function("factor", "sums_add")?;
        for at in (0..bytes).step_by(COPY) {
            let part = COPY.min(bytes - at);
            let from = match &staged {
                Some(staged) => {
                    self.stream.copy((staged, 0), (from, at), part)?;
                    staged.pointer()
                }
                None => from.pointer().at(at),
            };
            let length = part as u64 / 4;
            let arguments = AddArgs { to: to.pointer().at(at).address(), from: from.address(), length };
            let blocks = length.div_ceil(1024).min(1 << 16) as u32;
            // SAFETY: both are this long, and live until the stream was waited for.
            unsafe { Launch::new(&function).grid(blocks, 1, 1).block(256).run(&self.stream, &arguments)? };
        }
        Ok(self.stream.synchronize()?)
    }

    /// Both sums in RAM; no drift is empty.
    ///
    /// # Errors
    /// The card is lost.
    pub fn download(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        self.wait()?;
        let read = |memory: &Memory| -> Result<Vec<f32>> {
            let mut values = vec![0f32; memory.bytes() / 4];
            self.stream.download(zerocopy::IntoBytes::as_mut_bytes(&mut values[..]), memory, 0)?;
            Ok(values)
        };
        let drift = self.drift.as_ref().map(|(memory, _)| read(memory)).transpose()?;
        Ok((read(&self.inputs)?, drift.unwrap_or_default()))
    }

    fn wait(&self) -> Result<()> {
        match &self.added {
            Some(added) => Ok(self.stream.wait(added)?),
            None => Ok(()),
        }
    }
}

/// Memory for so many f32, all 0 when this returns.
fn zeros(stream: &Stream, length: usize) -> Result<Memory> {
    let memory = Memory::new(stream.card(), 4 * length)?;
    stream.fill(&memory, 0, memory.bytes(), 0)?;
    stream.synchronize()?;
    Ok(memory)
}

impl ColumnLoop<'_> {
    /// Residuals begin with what the rows should make up for, the first of which is row `first` of the layer: `inputs` and
    /// `drift` say how much of each counts. Comes right after [`ColumnLoop::new`].
    ///
    /// # Errors
    /// Sums of other inputs or on another card, too little memory for one more time the weights, or a lost card.
    pub fn start_from_sums(&mut self, sums: &ShiftSums, first: usize, inputs: f32, drift: f32) -> Result<()> {
        let columns = self.plan.order.len();
        same("column loop: columns of the shift", columns, sums.columns)?;
        if sums.card() != self.memory.card() {
            return Err(Error::Device);
        }
        if let Some(added) = &sums.added {
            self.stream.wait(added)?;
        }
        let scaled = Memory::new(self.memory.card(), 4 * columns * self.width)?;
        // The rows of weights are still where the levels will be.
        let take = TakeRowsArgs {
            from: self.pointer(self.at.levels).address(),
            to: scaled.pointer().address(),
            rows: self.rows as u32,
            columns: columns as u32,
            width: self.width as u32,
            scale: inputs,
            ..TakeRowsArgs::default()
        };
        // SAFETY: rows and lines have these lengths.
        unsafe { self.kernels.take_rows.run(&self.stream, self.by_squares(), &take)? };
        let (made, from) = (self.pointer(self.at.levels).address(), scaled.pointer().address());
        let product = Product {
            add: 0,
            ..self.product(sums.inputs.pointer().address(), columns, (columns, columns), from, made)
        };
        // SAFETY: the sums are square, and lines of this width go where the rows were.
        unsafe { self.kernels.multiply(&self.stream, &[product])? };
        let added = match &sums.drift {
            Some((memory, rows)) => {
                if first + self.rows > *rows {
                    let what = "column loop: rows of the drift";
                    return Err(Error::Lengths { what, expected: first + self.rows, found: *rows });
                }
                memory.pointer().at(4 * first * columns).address()
            }
            None => 0,
        };
        let place = PlaceLinesArgs {
            from: made,
            to: self.pointer(self.at.residual).address(),
            added,
            places: self.pointer(self.at.places).address(),
            alive: self.pointer(self.at.diagonal).address(),
            rows: self.rows as u32,
            columns: columns as u32,
            width: self.width as u32,
            share: drift,
        };
        // SAFETY: as above; the drift has these rows.
        unsafe { self.kernels.place_lines.run(&self.stream, self.by_squares(), &place)? };
        self.start()?;
        // `scaled` is freed when its reader is done.
        Ok(self.stream.synchronize()?)
    }
}
