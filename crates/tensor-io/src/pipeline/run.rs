//! The engine: batches between the threads that make pieces and the one that writes them.

use std::iter::Peekable;
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

impl<W> Default for Batch<'_, W> {
    fn default() -> Self {
        Self { bytes: Vec::new(), pieces: Vec::new() }
    }
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
    mut output: J::Output,
    (pool, limits): (&ThreadPool, Limits),
    progress: &dyn Progress,
) -> Result<J::Output, J::Error>
where
    J::Work: 'm,
{
    let scratch = (0..pool.current_num_threads()).map(|_| Mutex::default()).collect();
    let shared = J::Shared::default();
    let mut maker = Maker { job, pool, limits, progress, scratch, shared, step: None };
    let mut pieces = pieces.peekable();
    let done = std::thread::scope(|scope| {
        let (full_in, full) = channel();
        let (empty_in, empty) = channel();
        for _ in 0..BATCHES {
            let _ = empty_in.send(Batch::default());
        }
        let output = &mut output;
        let write = move || {
            for batch in full {
                write_batch(job, source, output, &batch, progress)?;
                // After the last batch nobody waits for it.
                let _ = empty_in.send(batch);
            }
            Ok::<(), crate::Error>(())
        };
        let writing =
            std::thread::Builder::new().name("quern-write".into()).spawn_scoped(scope, write).ok()?;
        let made = make_all(&mut maker, &mut pieces, &empty, full_in);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Where both fail, the writer's failure is why making stopped.
        Some(written.map_err(J::Error::from).and(made))
    });
    match done {
        Some(result) => result?,
        // The system refuses the thread that writes: batch by batch, one after the other.
        None => {
            let mut batch = Batch::default();
            while maker.make(&mut pieces, &mut batch)? {
                write_batch(job, source, &mut output, &batch, progress)?;
            }
        }
    }
    Ok(output)
}

/// Makes everything, batch by batch. Ends early, without an error of its own, if the writer is gone.
fn make_all<'m, J: Job>(
    maker: &mut Maker<'_, J>,
    pieces: &mut Peekable<impl Iterator<Item = Piece<'m, J::Work>>>,
    empty: &Receiver<Batch<'m, J::Work>>,
    full: Sender<Batch<'m, J::Work>>,
) -> Result<(), J::Error> {
    while let Ok(mut batch) = empty.recv() {
        if !maker.make(pieces, &mut batch)? || full.send(batch).is_err() {
            break;
        }
    }
    Ok(())
}

/// What makes batches.
struct Maker<'a, J: Job> {
    job: &'a J,
    pool: &'a ThreadPool,
    limits: Limits,
    progress: &'a dyn Progress,
    scratch: Vec<Mutex<J::Scratch>>,
    shared: J::Shared,
    /// The tensor that was named last.
    step: Option<&'a str>,
}

impl<J: Job> Maker<'_, J> {
    /// Makes the next pieces into `batch`. Returns whether there were any.
    fn make<'m>(
        &mut self,
        pieces: &mut Peekable<impl Iterator<Item = Piece<'m, J::Work>>>,
        batch: &mut Batch<'m, J::Work>,
    ) -> Result<bool, J::Error> {
        let job = self.job;
        batch.pieces.clear();
        let (mut made, mut counted) = (0, 0);
        while made < self.limits.made && counted < self.limits.counted {
            let joins = |next: &Piece<'m, J::Work>| batch.pieces.first().is_none_or(|f| job.joins(f, next));
            let Some(piece) = pieces.next_if(joins) else { break };
            let name = job.name(piece.tensor);
            if self.step != Some(name) {
                self.step = Some(name);
                self.progress.step(name);
            }
            made += if piece.work().is_some() { piece.bytes } else { 0 };
            counted += piece.counted;
            batch.pieces.push(piece);
        }
        batch.bytes.resize(made, 0);
        let Some(first) = batch.pieces.first() else { return Ok(false) };
        job.share(first, &mut self.shared)?;
        make_batch(job, self.pool, &self.shared, &self.scratch, batch, self.progress)?;
        release(job, &batch.pieces);
        Ok(true)
    }
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

/// Writes a batch.
fn write_batch<J: Job>(
    job: &J,
    source: &Checkpoint,
    output: &mut J::Output,
    batch: &Batch<'_, J::Work>,
    progress: &dyn Progress,
) -> Result<()> {
    // Pieces of one tensor that were made are written with one call.
    let together = |a: &Piece<'_, J::Work>, b: &Piece<'_, J::Work>| {
        a.tensor == b.tensor && a.work().is_some() && b.work().is_some()
    };
    let mut rest = batch.bytes.as_slice();
    for of_tensor in batch.pieces.chunk_by(together) {
        let Some(last) = of_tensor.last() else { continue };
        match last.content {
            Content::Mapped(data) => {
                job.write(output, last, data)?;
                source.release(data.as_ptr_range());
                progress.advance(last.counted as u64);
            }
            Content::Made(_) => {
                let data;
                (data, rest) = rest.split_at(of_tensor.iter().map(|p| p.bytes).sum());
                job.write(output, last, data)?;
            }
        }
    }
    Ok(())
}
