//! The engine: batches between the threads that make pieces and the one that writes them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use rayon::ThreadPool;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::{Content, Job, Limits, Piece};
use crate::{Checkpoint, Progress, Result};

/// Batches that go round between making and writing.
const BATCHES: usize = 3;

/// Pieces on their way to the output.
struct Batch<'m, W> {
    /// Of the pieces that are made, one after the other.
    bytes: Vec<u8>,
    pieces: Vec<Piece<'m, W>>,
}

/// Makes `pieces`, which come in the order of the output, and writes them to `output`, which is returned. The
/// progress counts [`Piece::counted`]; its steps are names of tensors.
///
/// # Errors
/// The first in the order of the output of what [`Job::make`] and [`Job::share`] return, or that of [`Job::write`].
pub fn run<'m, J: Job>(
    job: &J,
    source: &Checkpoint,
    pieces: impl Iterator<Item = Piece<'m, J::Work>>,
    output: J::Output,
    (pool, limits): (&ThreadPool, Limits),
    progress: &dyn Progress,
) -> Result<J::Output, J::Error>
where
    J::Work: 'm,
{
    std::thread::scope(|scope| {
        let (full_in, full) = channel();
        let (empty_in, empty) = channel();
        for _ in 0..BATCHES {
            let _ = empty_in.send(Batch { bytes: Vec::new(), pieces: Vec::new() });
        }
        let writing = scope.spawn(move || write_all(job, source, output, &full, &empty_in, progress));
        let made = make_all(job, pieces, (pool, limits), &empty, full_in, progress);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Where both fail, the writer's failure is why making stopped.
        let output = written?;
        made.map(|()| output)
    })
}

/// Makes everything, batch by batch. Ends early, without an error of its own, if the writer is gone.
fn make_all<'m, J: Job>(
    job: &J,
    pieces: impl Iterator<Item = Piece<'m, J::Work>>,
    (pool, limits): (&ThreadPool, Limits),
    empty: &Receiver<Batch<'m, J::Work>>,
    full: Sender<Batch<'m, J::Work>>,
    progress: &dyn Progress,
) -> Result<(), J::Error> {
    let scratch: Vec<_> = (0..pool.current_num_threads()).map(|_| Mutex::default()).collect();
    let mut shared = J::Shared::default();
    let mut pieces = pieces.peekable();
    let mut step = None;
    while pieces.peek().is_some() {
        let Ok(mut batch) = empty.recv() else { return Ok(()) };
        batch.pieces.clear();
        let (mut made, mut counted) = (0, 0);
        while made < limits.made && counted < limits.counted {
            let joins = |next: &Piece<'m, J::Work>| batch.pieces.first().is_none_or(|f| job.joins(f, next));
            let Some(piece) = pieces.next_if(joins) else { break };
            let name = job.name(piece.tensor);
            if step != Some(name) {
                step = Some(name);
                progress.step(name);
            }
            made += if piece.work().is_some() { piece.bytes } else { 0 };
            counted += piece.counted;
            batch.pieces.push(piece);
        }
        batch.bytes.resize(made, 0);
        if let Some(first) = batch.pieces.first() {
            job.share(first, &mut shared)?;
        }
        make_batch(job, pool, &shared, &scratch, &mut batch, progress)?;
        release(job, &batch.pieces);
        if full.send(batch).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn make_batch<J: Job>(
    job: &J,
    pool: &ThreadPool,
    shared: &J::Shared,
    scratch: &[Mutex<J::Scratch>],
    batch: &mut Batch<'_, J::Work>,
    progress: &dyn Progress,
) -> Result<(), J::Error> {
    let mut rest = batch.bytes.as_mut_slice();
    let mut todo = Vec::with_capacity(batch.pieces.len());
    for piece in &batch.pieces {
        if let Content::Made(work) = &piece.content {
            let (out, left) = rest.split_at_mut(piece.bytes);
            todo.push((piece.tensor, work, piece.counted, out));
            rest = left;
        }
    }
    if todo.is_empty() {
        return Ok(());
    }
    let results: Vec<Result<(), J::Error>> = pool.install(|| {
        let make = |(tensor, work, counted, out): (usize, &J::Work, usize, &mut [u8])| {
            let thread = rayon::current_thread_index().unwrap_or_default();
            let mut scratch = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            job.make(tensor, work, shared, &mut scratch, out)?;
            progress.advance(counted as u64);
            Ok(())
        };
        todo.into_par_iter().with_max_len(1).map(make).collect()
    });
    // The first in the order of the output, so that the same input gives the same error with any number of threads.
    results.into_iter().collect()
}

/// Lets the source pages of the pieces go that were made. Those that are written from the map come later.
fn release<J: Job>(job: &J, pieces: &[Piece<'_, J::Work>]) {
    for of_tensor in pieces.chunk_by(|a, b| a.tensor == b.tensor) {
        let mut made = of_tensor.iter().filter_map(Piece::work);
        if let Some(first) = made.next() {
            job.release(of_tensor[0].tensor, first, made.next_back().unwrap_or(first));
        }
    }
}

fn write_all<'m, J: Job>(
    job: &J,
    source: &Checkpoint,
    mut output: J::Output,
    full: &Receiver<Batch<'m, J::Work>>,
    empty: &Sender<Batch<'m, J::Work>>,
    progress: &dyn Progress,
) -> Result<J::Output> {
    // Pieces of one tensor that were made are written with one call.
    let together = |a: &Piece<'_, J::Work>, b: &Piece<'_, J::Work>| {
        a.tensor == b.tensor && a.work().is_some() && b.work().is_some()
    };
    for batch in full {
        let mut rest = batch.bytes.as_slice();
        for of_tensor in batch.pieces.chunk_by(together) {
            let Some(last) = of_tensor.last() else { continue };
            match last.content {
                Content::Mapped(data) => {
                    job.write(&mut output, last, data)?;
                    source.release(data.as_ptr_range());
                    progress.advance(last.counted as u64);
                }
                Content::Made(_) => {
                    let data;
                    (data, rest) = rest.split_at(of_tensor.iter().map(|p| p.bytes).sum());
                    job.write(&mut output, last, data)?;
                }
            }
        }
        // After the last batch nobody waits for it.
        let _ = empty.send(batch);
    }
    Ok(output)
}
