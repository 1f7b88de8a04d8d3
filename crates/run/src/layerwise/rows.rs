//! Vectors of tokens on the device that computes with them: of all tokens, or of one sequence at a time.

use std::ops::Range;

use quern_compute::{Buffer, Device, Executor, Values, ValuesMut, Waiting};

use crate::Result;

/// Where vectors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Those of all tokens, on the device.
    All,
    /// Those of one sequence; they are computed again when they are needed again.
    One,
    /// Those of all tokens in RAM, those of the sequence that is computed on the device.
    InRam,
}

/// Vectors of tokens.
#[derive(Debug)]
pub(super) struct Rows {
    keep: Keep,
    /// On the device.
    buffer: Buffer,
    /// All of them, where they wait in RAM.
    ram: Option<Waiting>,
}

impl Rows {
    /// Room for vectors of `width` values of so many tokens in all, and in the longest sequence.
    pub(super) fn new(
        device: &Device,
        keep: Keep,
        width: usize,
        (all, longest): (usize, usize),
    ) -> Result<Self> {
        let mut buffer = Buffer::new(device);
        buffer.reserve(width * if keep == Keep::All { all } else { longest })?;
        let waits = keep == Keep::InRam;
        let ram = waits.then(|| Waiting::new(device, all * width)).transpose()?;
        Ok(Self { keep, buffer, ram })
    }

    /// Whether what was computed for one sequence is still there after the next.
    pub(super) fn stay(&self) -> bool {
        self.keep != Keep::One
    }

    /// The vectors of some tokens, of `width` values each.
    pub(super) fn of(&self, width: usize, tokens: &Range<usize>) -> Values<'_> {
        let range = self.range(width, tokens);
        self.buffer.front(range.end).slice(range)
    }

    /// The same, to be written.
    pub(super) fn of_mut(&mut self, width: usize, tokens: &Range<usize>) -> ValuesMut<'_> {
        let range = self.range(width, tokens);
        self.buffer.front_mut(range.end).slice(range)
    }

    fn range(&self, width: usize, tokens: &Range<usize>) -> Range<usize> {
        let start = if self.keep == Keep::All { tokens.start } else { 0 };
        start * width..(start + tokens.len()) * width
    }

    /// Brings the vectors of some tokens to the device.
    pub(super) fn load(
        &mut self,
        executor: &mut Executor,
        width: usize,
        tokens: &Range<usize>,
    ) -> Result<()> {
        if let Some(ram) = &self.ram {
            let to = self.buffer.front_mut(tokens.len() * width);
            executor.bring(ram, tokens.start * width..tokens.end * width, to)?;
        }
        Ok(())
    }

    /// Takes them back to RAM.
    pub(super) fn store(
        &mut self,
        executor: &mut Executor,
        width: usize,
        tokens: &Range<usize>,
    ) -> Result<()> {
        if let Some(ram) = &mut self.ram {
            let from = self.buffer.front(tokens.len() * width);
            executor.take_back(from, ram, tokens.start * width..tokens.end * width)?;
        }
        Ok(())
    }

    /// The vectors of all tokens that are kept in RAM; what was queued for them is waited for.
    pub(super) fn in_ram(&self, values: usize) -> Result<Option<&[f32]>> {
        match (&self.buffer, &self.ram) {
            (_, Some(ram)) => Ok(Some(&ram.values()?[..values])),
            (Buffer::Host(all), None) if self.keep == Keep::All => Ok(Some(&all[..values])),
            (_, None) => Ok(None),
        }
    }

    /// The vectors of some tokens, wherever all of them are.
    pub(super) fn read(
        &self,
        executor: &mut Executor,
        width: usize,
        tokens: &Range<usize>,
        to: &mut [f32],
    ) -> Result<()> {
        match self.in_ram(tokens.end * width)? {
            Some(all) => to.copy_from_slice(&all[tokens.start * width..]),
            None => executor.download(self.of(width, tokens), to)?,
        }
        Ok(())
    }

    /// Replaces the vectors of some tokens, wherever all of them are.
    pub(super) fn write(
        &mut self,
        executor: &mut Executor,
        width: usize,
        tokens: &Range<usize>,
        from: &[f32],
    ) -> Result<()> {
        match &mut self.ram {
            Some(ram) => ram.values_mut()?[tokens.start * width..tokens.end * width].copy_from_slice(from),
            None => executor.upload(from, self.of_mut(width, tokens))?,
        }
        Ok(())
    }
}
