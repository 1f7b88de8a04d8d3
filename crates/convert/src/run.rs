//! Runs a plan: all threads make one batch while the writer thread writes the one before.
//!
//! ```text
//! caller    assemble batch ──> [ pieces, made by the pool ] ──full──> writer thread ──> output
//!                ▲                                                         │
//!                └──────────────────────── empty ──────────────────────────┘
//! ```
//!
//! Pieces that lie in the map as they are to be written are not copied: the writer takes them from there. Three
//! batches go round, which bounds the memory; every piece is made alone, so neither threads nor batches change a
//! byte.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use quern_tensor_io::scheme::{GptqTensors, Packing};
use quern_tensor_io::{Checkpoint, Progress, Result};
use rayon::ThreadPool;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::piece::{self, Piece};
use crate::plan::{Content, Plan, inexact};
use crate::pool::pool;
use crate::sink::Sink;

/// Batches that go round between making and writing.
const BATCHES: usize = 3;
/// A batch is full when so many bytes of it are made …
const MADE_BYTES: usize = 8 << 20;
/// … or are in it altogether. With many threads both grow, so that every thread finds several pieces in a batch.
const BATCH_BYTES: usize = 32 << 20;
const THREAD_BYTES: usize = 2 << 20;

/// What a job did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of them.
    pub tensor_bytes: u64,
    /// Bytes of the tensor files.
    pub file_size: u64,
}

/// Runs `plan` and writes `output`, which appears when it is complete and not at all on an error.
///
/// Progress is counted in bytes of the output's tensors ([`Plan::tensor_bytes`] in all); steps are tensor names.
///
/// # Errors
/// The output exists (without [`crate::Options::force`]), is the source, or cannot be written; a value does not
/// fit the type asked for.
pub fn run(plan: &Plan<'_>, output: &Path, progress: &dyn Progress) -> Result<Report> {
    let pool = pool(plan.options.threads, output)?;
    let sink = Sink::create(plan, output)?;
    progress.total(plan.tensor_bytes());
    let sink = std::thread::scope(|scope| {
        let (full_in, full) = channel();
        let (empty_in, empty) = channel();
        for _ in 0..BATCHES {
            let _ = empty_in.send(Batch::default());
        }
        let writing = scope.spawn(move || write_all(plan.source(), sink, &full, &empty_in, progress));
        let made = make_all(plan, &pool, progress, &empty, full_in);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Where both fail, the writer's failure is why making stopped.
        let sink = written?;
        made.map(|()| sink)
    })?;
    let file_size = sink.finish()?;
    Ok(Report { tensors: plan.rows().len(), tensor_bytes: plan.tensor_bytes(), file_size })
}

/// Bytes on their way to the output.
#[derive(Default)]
struct Batch<'p> {
    /// Of the pieces that are made, one after the other.
    bytes: Vec<u8>,
    pieces: Vec<Piece<'p>>,
}

/// Makes everything, batch by batch. Ends early, without an error of its own, if the writer is gone.
fn make_all<'p>(
    plan: &'p Plan<'_>,
    pool: &ThreadPool,
    progress: &dyn Progress,
    empty: &Receiver<Batch<'p>>,
    full: Sender<Batch<'p>>,
) -> Result<()> {
    let threads = pool.current_num_threads();
    let (made_limit, limit) =
        (MADE_BYTES.max(threads * THREAD_BYTES), BATCH_BYTES.max(threads * THREAD_BYTES));
    let scratch: Vec<Mutex<Vec<f32>>> = (0..threads).map(|_| Mutex::default()).collect();
    let mut pieces = piece::pieces(plan).peekable();
    let mut packed = Packed::new(plan);
    let mut row = None;
    while let Some(first) = pieces.peek() {
        let Ok(mut batch) = empty.recv() else { return Ok(()) };
        batch.pieces.clear();
        let layer = layer_of(plan, first);
        let (mut made, mut all) = (0, 0);
        while made < made_limit && all < limit {
            // A batch has pieces of one packed layer at most: its scales and zero points are kept meanwhile.
            let Some(piece) = pieces.next_if(|p| layer_of(plan, p).is_none_or(|l| Some(l) == layer)) else {
                break;
            };
            if row != Some(piece.row) {
                row = Some(piece.row);
                progress.step(&plan.rows()[piece.row].name);
            }
            made += if piece.mapped.is_some() { 0 } else { piece.bytes };
            all += piece.bytes;
            batch.pieces.push(piece);
        }
        batch.bytes.resize(made, 0);
        let packed = packed.layer(plan, layer)?;
        make_batch(plan, pool, packed, &scratch, &mut batch)?;
        release(plan, &batch.pieces);
        if full.send(batch).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The packed layer a piece is of, if it becomes GPTQ's tensors.
fn layer_of(plan: &Plan<'_>, piece: &Piece<'_>) -> Option<usize> {
    match plan.rows()[piece.row].content {
        Content::Gptq { layer, .. } => Some(layer),
        Content::View(_) => None,
    }
}

/// The tensors of the layer at work.
struct Packed<'p> {
    packing: Option<&'p Packing>,
    current: Option<(usize, GptqTensors<'p>)>,
}

impl<'p> Packed<'p> {
    fn new(plan: &'p Plan<'_>) -> Self {
        Self { packing: plan.packing.as_ref(), current: None }
    }

    fn layer(&mut self, plan: &'p Plan<'_>, number: Option<usize>) -> Result<Option<&GptqTensors<'p>>> {
        let (Some(number), Some(packing), crate::Target::Gptq(format)) =
            (number, self.packing, plan.options.target)
        else {
            return Ok(None);
        };
        if self.current.as_ref().is_none_or(|(current, _)| *current != number) {
            let layer = &packing.layers()[number];
            let tensors = layer.to_gptq(plan.source(), format).map_err(|e| inexact(plan.source(), &e))?;
            self.current = Some((number, tensors));
        }
        Ok(self.current.as_ref().map(|(_, tensors)| tensors))
    }
}

fn make_batch(
    plan: &Plan<'_>,
    pool: &ThreadPool,
    packed: Option<&GptqTensors<'_>>,
    scratch: &[Mutex<Vec<f32>>],
    batch: &mut Batch<'_>,
) -> Result<()> {
    let mut rest = batch.bytes.as_mut_slice();
    let mut work = Vec::with_capacity(batch.pieces.len());
    for piece in batch.pieces.iter().filter(|p| p.mapped.is_none()) {
        let (out, left) = rest.split_at_mut(piece.bytes);
        work.push((piece, out));
        rest = left;
    }
    if work.is_empty() {
        return Ok(());
    }
    let results: Vec<Result<()>> = pool.install(|| {
        let make = |(piece, out): (&Piece<'_>, &mut [u8])| {
            let thread = rayon::current_thread_index().unwrap_or_default();
            let mut scratch = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            piece::make(plan, piece, packed, &mut scratch, out)
        };
        work.into_par_iter().with_max_len(1).map(make).collect()
    });
    // The first in file order, so that the same input gives the same error with any number of threads.
    results.into_iter().collect()
}

/// Lets the source pages of the pieces go that were made. Those that are written from the map come later.
fn release(plan: &Plan<'_>, pieces: &[Piece<'_>]) {
    for of_row in pieces.chunk_by(|a, b| a.row == b.row) {
        if let [first, ..] = of_row
            && let [.., last] = of_row
            && first.mapped.is_none()
        {
            match plan.rows()[first.row].content {
                Content::View(index) => plan.view.release(index, first.rows.start..last.rows.end),
                // The last of the four parts: the layer is done.
                Content::Gptq { layer, part: 3 } => {
                    let parts = plan.packing.iter().flat_map(|p| &p.layers()[layer].parts);
                    for &part in parts {
                        let source = plan.source();
                        source.release(source.data(&source.tensors()[part]).as_ptr_range());
                    }
                }
                Content::Gptq { .. } => {}
            }
        }
    }
}

fn write_all<'p>(
    source: &Checkpoint,
    mut sink: Sink,
    full: &Receiver<Batch<'p>>,
    empty: &Sender<Batch<'p>>,
    progress: &dyn Progress,
) -> Result<Sink> {
    for batch in full {
        let mut rest = batch.bytes.as_slice();
        for piece in &batch.pieces {
            match piece.mapped {
                Some(data) => {
                    sink.write(data)?;
                    source.release(data.as_ptr_range());
                }
                None => {
                    let data;
                    (data, rest) = rest.split_at(piece.bytes);
                    sink.write(data)?;
                }
            }
            progress.advance(piece.bytes as u64);
        }
        // After the last batch nobody listens.
        let _ = empty.send(batch);
    }
    Ok(sink)
}
