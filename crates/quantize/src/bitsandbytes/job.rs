//! The job: a Hugging Face checkpoint goes in, a bitsandbytes one comes out, tensor by tensor.
//!
//! ```text
//! caller    pieces of a tensor: decoded, checked, encoded by all threads ──batches──> writer thread ──> files
//! ```
//!
//! Memory holds a few batches of codes and one tensor's scales. Every block is encoded alone, so neither
//! threads nor pieces change a byte.

use std::borrow::Cow;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use quern_compute::simd::Level;
use quern_model::{View, ViewTensor};
use quern_tensor_io::{Checkpoint, Error, ErrorKind, Progress, Result, decode};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::code::{Code, dynamic_map};
use super::nested::Quantizer;
use super::plan::{self, state, state_name};
use super::{Kind, Options, config, four_bit, int8, source};
use quern_model::hugging_face::{Directory, DirectoryOptions, edited_config};

/// Values a thread takes at once, unless a row of int8 is longer; a multiple of every block size.
const PIECE: usize = 64 * 1024;
/// Pieces in a batch, for each thread.
const PIECES: usize = 16;
/// Batches on their way to the writer.
const BATCHES: usize = 4;
/// Bytes of a tensor that is copied, at once.
const COPY_BYTES: usize = 8 << 20;

/// What a job did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Tensors of the source.
    pub tensors: usize,
    /// How many of them were quantized.
    pub quantized: usize,
    /// Bytes of tensors read.
    pub source_bytes: u64,
    /// Bytes of the tensor files written.
    pub file_size: u64,
}

/// Quantizes `source` into the directory `out`, which appears when it is complete and not at all on an error.
///
/// Progress is counted in bytes of source tensors ([`Plan::source_bytes`] in all); steps are tensor names.
///
/// # Errors
/// As [`plan`]; an existing `out`; a weight that is not finite, or for int8 too large for f16.
pub fn quantize(
    source: &Checkpoint,
    out: &Path,
    options: Options,
    progress: &dyn Progress,
) -> Result<Report> {
    let options = &options;
    let view = source::view(source)?;
    let plan = plan::of_view(&view, options)?;
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("quantize-{i}")).build();
    let pool = pool.map_err(|e| Error::refused(out, format!("cannot start {threads} threads: {e}")))?;
    let quantization_config = config::quantization_config(options, plan.dtype, plan.skip.as_deref());
    let directory = Directory::create(
        out,
        source,
        DirectoryOptions {
            tensors: plan.tensors.clone(),
            config: edited_config(source.directory(), Some(&quantization_config), None)?,
            force: options.force,
            shard_bytes: options.shard_bytes,
            ..DirectoryOptions::default()
        },
    )?;
    progress.total(plan.source_bytes());
    let directory = std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(BATCHES);
        let writing = scope.spawn(move || write_all(source, directory, receiver));
        let encoder = Encoder::new(&view, options, &pool, progress, sender);
        let encoded = plan.rows.iter().zip(&plan.order).try_for_each(|(row, &number)| {
            progress.step(&row.name);
            match row.to {
                None => encoder.copy(number),
                Some(kind) => encoder.encode(number, kind),
            }
        });
        drop(encoder); // which lets the writer end
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (written, encoded) {
            // the writer's failure is why encoding stopped
            (Err(e), _) | (Ok(_), Err(Stop::Failed(e))) => Err(e),
            (Ok(directory), _) => Ok(directory),
        }
    })?;
    Ok(Report {
        tensors: plan.rows.len(),
        quantized: plan.rows.iter().filter(|r| r.to.is_some()).count(),
        source_bytes: plan.source_bytes(),
        file_size: directory.finish()?,
    })
}

/// What goes to the writer.
enum Message<'a> {
    /// The next bytes of the tensor being written.
    Bytes(Cow<'a, [u8]>),
    /// This tensor is complete, though shorter than planned.
    End(String),
}

fn write_all(
    source: &Checkpoint,
    mut directory: Directory,
    messages: Receiver<Message<'_>>,
) -> Result<Directory> {
    for message in messages {
        match message {
            Message::Bytes(data) => {
                directory.write(&data)?;
                if let Cow::Borrowed(data) = data {
                    source.release(data.as_ptr_range());
                }
            }
            Message::End(name) => directory.end_tensor(&name)?,
        }
    }
    Ok(directory)
}

/// Why encoding stopped.
enum Stop {
    Failed(Error),
    /// The writer is gone, and knows why.
    NoWriter,
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

/// What is the same for all tensors.
struct Encoder<'a> {
    view: &'a View<'a>,
    options: &'a Options,
    pool: &'a ThreadPool,
    progress: &'a dyn Progress,
    sender: SyncSender<Message<'a>>,
    level: Level,
    code: Option<Code>,
    nested_map: [f32; 256],
    nested: Quantizer,
}

impl<'a> Encoder<'a> {
    fn new(
        view: &'a View<'a>,
        options: &'a Options,
        pool: &'a ThreadPool,
        progress: &'a dyn Progress,
        sender: SyncSender<Message<'a>>,
    ) -> Self {
        let nested_map = dynamic_map();
        Self {
            view,
            options,
            pool,
            progress,
            sender,
            level: options.level,
            code: Code::new(options.scheme),
            nested_map,
            nested: Quantizer::new(&nested_map),
        }
    }

    fn send(&self, message: Message<'a>) -> Result<(), Stop> {
        self.sender.send(message).map_err(|_| Stop::NoWriter)
    }

    fn send_bytes(&self, bytes: Vec<u8>) -> Result<(), Stop> {
        self.send(Message::Bytes(Cow::Owned(bytes)))
    }

    fn send_floats(&self, values: &[f32]) -> Result<(), Stop> {
        self.send_bytes(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// The bytes of a tensor: the source holds plain numbers only.
    fn data(&self, number: usize) -> Result<&'a [u8], Stop> {
        self.view.contiguous(number).ok_or_else(|| {
            let what = "its values are not one after the other in the file";
            Stop::Failed(self.error(&self.view.tensors()[number], ErrorKind::Malformed(what.into())))
        })
    }

    fn copy(&self, number: usize) -> Result<(), Stop> {
        for piece in self.data(number)?.chunks(COPY_BYTES) {
            self.send(Message::Bytes(Cow::Borrowed(piece)))?;
            self.progress.advance(piece.len() as u64);
        }
        Ok(())
    }

    fn encode(&self, number: usize, kind: Kind) -> Result<(), Stop> {
        let info = &self.view.tensors()[number];
        let scales = self.codes_of(info, self.data(number)?)?;
        let Some(code) = &self.code else {
            self.send_floats(&scales)?;
            return self.send_bytes(vec![0]);
        };
        let mut offset = None;
        if self.options.double_quant {
            let nested = self.nested.quantize(&scales);
            offset = Some(nested.offset);
            self.send_bytes(nested.codes)?;
            self.send_floats(&nested.absmax)?;
            self.send_floats(&self.nested_map)?;
        } else {
            self.send_floats(&scales)?;
        }
        self.send_floats(&code.values)?;
        self.send_bytes(state(info, kind, self.options).text(offset).into_bytes())?;
        self.send(Message::End(format!("{}.{}", info.name, state_name(kind))))
    }

    /// Encodes and sends the codes of a tensor. Returns its scales.
    fn codes_of(&self, info: &ViewTensor, data: &[u8]) -> Result<Vec<f32>, Stop> {
        let value_bytes = info.element_type.block_bytes();
        // values that share a scale, values a thread takes, values to a byte
        let (unit, piece, per_byte) = match self.code {
            Some(_) => (self.options.block_size, PIECE, 2),
            None => (info.columns(), (PIECE / info.columns()).max(1) * info.columns(), 1),
        };
        let mut scales = vec![0.0; (info.rows() * info.columns()).div_ceil(unit)];
        let batch = piece * PIECES * self.pool.current_num_threads();
        let batches = data.chunks(batch * value_bytes).zip(scales.chunks_mut(batch / unit));
        for (number, (data, scales)) in batches.enumerate() {
            let mut codes = vec![0; (data.len() / value_bytes).div_ceil(per_byte)];
            let pieces = codes.par_chunks_mut(piece / per_byte).zip(scales.par_chunks_mut(piece / unit));
            let one = |scratch: &mut Scratch, (i, (codes, scales)): (usize, (&mut [u8], &mut [f32]))| {
                let start = i * piece * value_bytes;
                let data = &data[start..(start + piece * value_bytes).min(data.len())];
                self.piece(info, number * batch + i * piece, data, scratch, codes, scales)?;
                self.progress.advance(data.len() as u64);
                Ok(())
            };
            let results: Vec<Result<()>> = self
                .pool
                .install(|| pieces.enumerate().with_max_len(1).map_init(Scratch::default, one).collect());
            // the first in file order: the same error with any number of threads
            results.into_iter().collect::<Result<()>>()?;
            self.view.checkpoint().release(data.as_ptr_range());
            self.send_bytes(codes)?;
        }
        Ok(scales)
    }

    /// Encodes the values stored as `data`, the first of which is value number `first` of the tensor.
    fn piece(
        &self,
        info: &ViewTensor,
        first: usize,
        data: &[u8],
        scratch: &mut Scratch,
        codes: &mut [u8],
        scales: &mut [f32],
    ) -> Result<()> {
        let Scratch { values, codes: scratch } = scratch;
        values.resize(data.len() / info.element_type.block_bytes(), 0.0);
        if !decode::to_f32(info.element_type, data, values) {
            let what = format!("{} cannot be decoded", info.element_type);
            return Err(self.error(info, ErrorKind::Unsupported(what)));
        }
        if let Some(at) = first_not_finite(values) {
            let what = "a model with values that are not finite cannot be quantized";
            return Err(self.bad_value(info, first + at, format!("the value is {}; {what}", values[at])));
        }
        let Some(code) = &self.code else {
            let before = values.clone();
            int8::through_f16(values);
            if let Some(at) = first_not_finite(values) {
                let what = "int8 goes through f16, which ends at 65504; choose nf4 or fp4";
                return Err(self.bad_value(info, first + at, format!("the value is {}: {what}", before[at])));
            }
            let columns = info.columns();
            let rows = values.chunks_exact(columns).zip(codes.chunks_exact_mut(columns));
            for ((row, codes), scale) in rows.zip(scales) {
                *scale = int8::encode_row(self.level, row, codes);
            }
            return Ok(());
        };
        four_bit::encode(self.level, code, self.options.block_size, values, scratch, codes, scales);
        Ok(())
    }

    fn bad_value(&self, info: &ViewTensor, index: usize, what: String) -> Error {
        let (row, column) = (index / info.columns(), index % info.columns());
        let what = format!("row {row}, column {column}: {what}");
        self.error(info, ErrorKind::Malformed(what))
    }

    /// An error about a tensor, with its file and the name it has there.
    fn error(&self, info: &ViewTensor, kind: ErrorKind) -> Error {
        source::error(self.view, info, kind)
    }
}

/// What a thread keeps from piece to piece.
#[derive(Default)]
struct Scratch {
    values: Vec<f32>,
    codes: Vec<u8>,
}

/// Branch-free over all values first, so that the compiler makes it a few vector instructions.
fn first_not_finite(values: &[f32]) -> Option<usize> {
    const EXPONENT: u32 = 0x7f80_0000;
    match values.iter().fold(true, |all, v| all & (v.to_bits() & EXPONENT != EXPONENT)) {
        true => None,
        false => values.iter().position(|v| !v.is_finite()),
    }
}
