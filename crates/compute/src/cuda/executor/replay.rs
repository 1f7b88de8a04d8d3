//! Copies to and from RAM, and passes that are recorded and replayed.
//!
//! A pass is run the first time it comes, which also loads kernels and makes memory grow; recorded the second time; and
//! replayed from then on, as long as no memory of the card was freed.

use super::super::{Graph, Pinned, Values};
use super::Executor;
use super::few::Product;
use crate::error::same;
use crate::executor::{Mode, PassKey, Values as AnyValues, ValuesMut};
use crate::{Error, Result};

/// Page-locked memory of one copy. Grows only.
#[derive(Debug, Default)]
pub(super) struct Upload(Option<Pinned>);

impl Upload {
    fn of(&mut self, card: &super::Card, bytes: usize) -> Result<&mut [u8]> {
        if self.0.as_ref().is_none_or(|pinned| pinned.len() < bytes) {
            self.0 = None;
            self.0 = Some(Pinned::new(card, bytes.next_power_of_two().max(4096))?);
        }
        Ok(self.0.as_mut().map_or(&mut [][..], |pinned| &mut pinned[..bytes]))
    }
}

/// What may be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    segment: usize,
    keep: usize,
    /// Attention's launches are for texts up to this length.
    depth: usize,
}

#[derive(Debug, Default)]
enum State {
    /// Outside a pass, or in one that is not recorded.
    #[default]
    Run,
    /// In a pass that is being recorded.
    Record(Key),
    /// In a pass that was recorded: which of them.
    Replay(usize),
}

/// Recorded passes.
#[derive(Debug, Default)]
pub(super) struct Recording {
    state: State,
    graphs: Vec<(Key, Graph)>,
    /// Keys that came once, with the products of that pass.
    seen: Vec<(Key, Vec<Product>)>,
    /// Which of `seen` the current pass is, and the number of its next product.
    product: Option<(usize, usize)>,
    /// `Card::frees` when the graphs were recorded.
    frees: u64,
}

impl Recording {
    /// Notes a product of a pass that runs for the first time; in a pass that is being recorded, the product that follows
    /// it (the first follows the last, in the pass for the next token).
    pub(super) fn next_product(&mut self, product: Product) -> Option<&Product> {
        let (pass, number) = self.product.as_mut()?;
        let products = &mut self.seen.get_mut(*pass)?.1;
        *number += 1;
        match self.state {
            State::Run => {
                products.push(product);
                None
            }
            State::Record(_) => products.get(*number % products.len().max(1)),
            State::Replay(_) => None,
        }
    }
}

/// Most graphs kept.
const GRAPHS: usize = 64;

impl Executor {
    /// As [`crate::Executor::begin`].
    ///
    /// # Errors
    /// The card is lost.
    pub fn begin(&mut self, key: PassKey) -> Result<Mode> {
        if let State::Record(_) = std::mem::take(&mut self.recording.state) {
            // The last pass failed: the stream must do its work again.
            let _ = self.stream.end_capture();
        }
        let PassKey { segment, tokens, first, keep, recordable } = key;
        self.upload = (usize::from(tokens != 1), 0);
        self.set_depth(first + tokens);
        let key = Key { segment, keep, depth: self.depth };
        if self.recording.frees != self.card.frees() || self.recording.graphs.len() > GRAPHS {
            self.recording.graphs.clear();
            self.recording.seen.clear();
            self.recording.frees = self.card.frees();
        }
        let known = self.recording.graphs.iter().position(|(known, _)| *known == key);
        self.recording.state = match known {
            Some(index) if recordable => State::Replay(index),
            None if recordable && self.recording.seen.iter().any(|(seen, _)| *seen == key) => {
                // What the capture needs beforehand was made when the same pass ran.
                self.stream.begin_capture()?;
                State::Record(key)
            }
            _ => {
                if recordable {
                    self.recording.seen.push((key, Vec::new()));
                }
                State::Run
            }
        };
        let seen = self.recording.seen.iter().position(|(seen, _)| *seen == key);
        self.recording.product = seen.filter(|_| recordable).map(|index| (index, 0));
        self.segment = segment;
        self.stage(8, None, |bytes| {
            bytes[..4].copy_from_slice(&(first as i32).to_le_bytes());
            bytes[4..].copy_from_slice(&((first + keep) as i32).to_le_bytes());
        })?;
        Ok(match self.recording.state {
            State::Run | State::Record(_) => Mode::Run,
            State::Replay(_) => Mode::Replay,
        })
    }

    /// As [`crate::Executor::end`].
    ///
    /// # Errors
    /// The card is lost.
    pub fn end(&mut self, result: Option<(AnyValues<'_>, &mut [f32])>) -> Result<()> {
        let state = std::mem::take(&mut self.recording.state);
        let queued = match (&result, &state) {
            (Some((from, to)), State::Run | State::Record(_)) => self.queue_result(*from, to.len()),
            _ => Ok(()),
        };
        match state {
            State::Run => queued?,
            State::Record(key) => {
                // Also where something failed: the stream must work again.
                let graph = self.stream.end_capture();
                queued?;
                self.recording.graphs.push((key, graph?));
                self.replay(self.recording.graphs.len() - 1)?;
            }
            State::Replay(index) => self.replay(index)?,
        }
        self.stream.synchronize()?;
        if let Some((_, to)) = result {
            let pinned = self.result(to.len())?;
            to.copy_from_slice(pinned);
        }
        Ok(())
    }

    /// Page-locked memory for the results of this segment.
    fn result(&mut self, values: usize) -> Result<&mut [f32]> {
        let (segment, kind) = (self.segment, self.upload.0);
        if self.results.len() <= segment {
            self.results.resize_with(segment + 1, Default::default);
        }
        let bytes = self.results[segment][kind].of(&self.card, 4 * values)?;
        Ok(floats(bytes))
    }

    fn queue_result(&mut self, from: AnyValues<'_>, values: usize) -> Result<()> {
        let from = from.cuda()?;
        same("end: results", values, from.len())?;
        let Some((memory, offset)) = from.place() else { return Ok(()) };
        self.result(values)?;
        let (segment, kind) = (self.segment, self.upload.0);
        let pinned = self.results[segment][kind].of(&self.card, 4 * values)?;
        // SAFETY: the memory is read only after the stream was waited for, here and after each replay.
        unsafe { self.stream.download_later(pinned, memory, offset)? };
        Ok(())
    }

    fn replay(&mut self, index: usize) -> Result<()> {
        let (_, graph) = &mut self.recording.graphs[index];
        // SAFETY: no memory of the card was freed since the recording, the page-locked memory of uploads and results
        // grows only outside recorded passes, and the last replay was waited for.
        unsafe { graph.launch(&self.stream)? };
        Ok(())
    }

    /// The next copy to the card, to these values or, if there are none, to the positions: `write` fills its page-locked
    /// memory.
    fn stage(&mut self, bytes: usize, to: Option<Values<'_>>, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let (kind, index) = self.upload;
        self.upload.1 += 1;
        if index == self.uploads[kind].len() {
            self.uploads[kind].push(Upload::default());
        }
        let pinned = self.uploads[kind][index].of(&self.card, bytes)?;
        write(pinned);
        if matches!(self.recording.state, State::Replay(_)) {
            return Ok(());
        }
        let place = to.map_or(Some((&self.position, 0)), |values| values.place());
        let Some((memory, offset)) = place else { return Ok(()) };
        // SAFETY: the next pass writes to this memory after the stream was waited for.
        unsafe { self.stream.upload_later(memory, offset, pinned)? };
        Ok(())
    }

    /// As [`crate::Executor::fill`].
    ///
    /// # Errors
    /// The card is lost, or those of `write`.
    pub fn fill<E: From<Error>>(
        &mut self,
        to: ValuesMut<'_>,
        write: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let values = to.cuda()?;
        let mut written = Ok(());
        self.stage(4 * values.len(), Some(values), |bytes| written = write(floats(bytes)))?;
        written
    }

    /// As [`crate::Executor::upload`].
    ///
    /// # Errors
    /// The card is lost.
    pub fn upload(&mut self, from: &[f32], to: ValuesMut<'_>) -> Result<()> {
        self.fill(to, |values| {
            values.copy_from_slice(from);
            Ok(())
        })
    }

    /// As [`crate::Executor::download`].
    ///
    /// # Errors
    /// The card is lost.
    pub fn download(&mut self, from: AnyValues<'_>, to: &mut [f32]) -> Result<()> {
        if let Some((memory, offset)) = from.cuda()?.place() {
            // SAFETY: an f32 may be read and written as bytes.
            let (_, bytes, _) = unsafe { to.align_to_mut::<u8>() };
            self.stream.download(bytes, memory, offset)?;
        }
        Ok(())
    }
}

/// Page-locked memory as numbers.
fn floats(bytes: &mut [u8]) -> &mut [f32] {
    // SAFETY: the memory begins at a page, and any bits are an f32.
    unsafe { bytes.align_to_mut::<f32>().1 }
}
