//! Runs a plan: all threads encode one batch while the writer thread writes the one before.
//!
//! ```text
//! caller        assemble batch ──> [ pieces, encoded by the pool ] ──full──> writer thread ──> file
//!                    ▲                                                            │
//!                    └────────────────────────── empty ───────────────────────────┘
//! ```
//!
//! Three batches go round, which bounds the memory and lets encoding and writing overlap.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use quern_tensor_io::{Progress, gguf};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::piece::{self, Piece};
use super::{Error, Plan};

/// Batches that go round between encoding and writing.
const BATCHES: usize = 3;
/// A batch is full when it has so much output …
const BATCH_BYTES: usize = 16 << 20;
/// … or so much input, whose pages stay in memory until the batch is done. With many threads both grow,
/// so that every thread finds several pieces in a batch.
const BATCH_SOURCE_BYTES: usize = 32 << 20;
const THREAD_SOURCE_BYTES: usize = 1 << 20;

/// What a job did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of tensors read.
    pub source_bytes: u64,
    /// Bytes of tensors written.
    pub tensor_bytes: u64,
    /// Bytes of the output file.
    pub file_size: u64,
}

/// Runs `plan` and writes `output`, which appears when it is complete and not at all on an error.
///
/// Progress is counted in bytes of source tensors ([`Plan::source_bytes`] in all); steps are tensor names.
pub fn run(plan: &Plan<'_>, output: &Path, progress: &dyn Progress) -> Result<Report, Error> {
    plan.check()?;
    refuse_input(plan, output)?;
    let pool = pool(plan.options.threads)?;
    let writer = gguf::Writer::create(output, &plan.metadata, &plan.tensors, plan.options.force)?;
    progress.total(plan.source_bytes());

    let writer = std::thread::scope(|scope| {
        let (full_in, full) = channel();
        let (empty_in, empty) = channel();
        for _ in 0..BATCHES {
            let _ = empty_in.send(Batch::default());
        }
        let writing = scope.spawn(move || write_all(writer, &full, &empty_in));
        let encoded = encode_all(plan, &pool, progress, &empty, full_in);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // where both fail, the writer's failure is why encoding stopped, and the other way round there is
        // only the one: an unfinished writer that is dropped leaves nothing behind
        let writer = written?;
        encoded.map(|()| writer)
    })?;
    let file_size = writer.finish()?;
    Ok(Report {
        tensors: plan.rows().len(),
        source_bytes: plan.source_bytes(),
        tensor_bytes: plan.tensor_bytes(),
        file_size,
    })
}

fn pool(threads: usize) -> Result<ThreadPool, Error> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("quantize-{i}"))
        .build()
        .map_err(|e| Error::Threads { threads, source: Box::new(e) })
}

/// Encoded bytes on their way to the file.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
}

/// Encodes everything, batch by batch. Ends early, without an error of its own, if the writer is gone.
fn encode_all(
    plan: &Plan<'_>,
    pool: &ThreadPool,
    progress: &dyn Progress,
    empty: &Receiver<Batch>,
    full: Sender<Batch>,
) -> Result<(), Error> {
    let threads = pool.current_num_threads();
    let source_limit = BATCH_SOURCE_BYTES.max(threads * THREAD_SOURCE_BYTES);
    let limit = BATCH_BYTES.max(threads * THREAD_SOURCE_BYTES / 2);
    let scratch: Vec<Mutex<Vec<f32>>> = (0..threads).map(|_| Mutex::default()).collect();
    let mut pieces = piece::pieces(plan).peekable();
    let mut tensor = None;
    while pieces.peek().is_some() {
        let Ok(mut batch) = empty.recv() else { return Ok(()) };
        batch.pieces.clear();
        let (mut bytes, mut source_bytes) = (0, 0);
        while bytes < limit && source_bytes < source_limit {
            let Some(piece) = pieces.next() else { break };
            if tensor != Some(piece.tensor) {
                tensor = Some(piece.tensor);
                progress.step(&plan.rows()[piece.tensor].name);
            }
            bytes += piece.bytes;
            source_bytes += piece.source_bytes;
            batch.pieces.push(piece);
        }
        batch.bytes.resize(bytes, 0);
        encode_batch(plan, pool, progress, &scratch, &mut batch)?;
        release(plan, &batch.pieces);
        if full.send(batch).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn encode_batch(
    plan: &Plan<'_>,
    pool: &ThreadPool,
    progress: &dyn Progress,
    scratch: &[Mutex<Vec<f32>>],
    batch: &mut Batch,
) -> Result<(), Error> {
    let mut rest = batch.bytes.as_mut_slice();
    let mut work = Vec::with_capacity(batch.pieces.len());
    for piece in &batch.pieces {
        let (out, left) = rest.split_at_mut(piece.bytes);
        work.push((piece, out));
        rest = left;
    }
    let results: Vec<Result<(), Error>> = pool.install(|| {
        let encode = |(piece, out): (&Piece, &mut [u8])| {
            let thread = rayon::current_thread_index().unwrap_or_default();
            let mut values = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            piece::encode(plan, piece, &mut values, out)?;
            progress.advance(piece.source_bytes as u64);
            Ok(())
        };
        work.into_par_iter().with_max_len(1).map(encode).collect()
    });
    // the first in file order, so that the same input gives the same error with any number of threads
    results.into_iter().collect()
}

/// Lets the source pages of these pieces go.
fn release(plan: &Plan<'_>, pieces: &[Piece]) {
    for of_tensor in pieces.chunk_by(|a, b| a.tensor == b.tensor) {
        let index = plan.rows()[of_tensor[0].tensor].index;
        if let [first, .., last] = of_tensor {
            plan.view.release(index, first.rows.start..last.rows.end);
        }
    }
}

fn write_all(
    mut writer: gguf::Writer,
    full: &Receiver<Batch>,
    empty: &Sender<Batch>,
) -> quern_tensor_io::Result<gguf::Writer> {
    for batch in full {
        let mut rest = batch.bytes.as_slice();
        for of_tensor in batch.pieces.chunk_by(|a, b| a.tensor == b.tensor) {
            let (data, left) = rest.split_at(of_tensor.iter().map(|p| p.bytes).sum());
            writer.write(data)?;
            rest = left;
        }
        // after the last batch nobody listens
        let _ = empty.send(batch);
    }
    Ok(writer)
}

/// Refuses to write over a file that is being read, under whatever name.
fn refuse_input(plan: &Plan<'_>, output: &Path) -> Result<(), Error> {
    for input in plan.view.checkpoint().files() {
        if same_file(input, output) {
            let what = "this is the file being read; choose another name for the output";
            return Err(quern_tensor_io::Error::refused(output, what).into());
        }
    }
    Ok(())
}

/// Whether both names lead to one existing file, through links too.
fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
        id(a).is_some_and(|a| Some(a) == id(b))
    }
    #[cfg(not(unix))]
    {
        fs::canonicalize(a).is_ok_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
    }
}
