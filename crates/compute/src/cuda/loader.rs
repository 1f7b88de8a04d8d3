//! Brings parameters to a card.
//!
//! ```text
//! memory map --threads--> page-locked piece --copy--> raw piece on the card --repack kernel--> planes
//! ```
//!
//! Two pieces of each alternate, so that the threads, the bus and the kernels work at the same time. What a model's
//! layer takes is allocated in one piece ([`Loader::begin`]).

use std::sync::Arc;

use quern_tensor_io::{ElementType, decode};

use super::formats::{MatrixArgs, REPACK_BLOCK, RepackArgs};
use super::matrix::{Matrix, stored_matrix};
use super::vector::Region;
use super::{Card, Event, Launch, Memory, Pinned, Pointer, Stream};
use crate::parallel::share;
use crate::{Error, Matrix as HostMatrix, Pool, Result, float, get_row};

/// Bytes of a piece.
const PIECE: usize = 32 << 20;
/// Parts of an allocation begin at multiples of this.
const ALIGNMENT: usize = 256;
/// Values decoded at a time, for types that have no kernels.
const DECODED: usize = 1 << 16;

/// Where a piece is on its way.
#[derive(Debug)]
struct Slot {
    pinned: Pinned,
    raw: Memory,
    /// Behind the last work that used it.
    done: Event,
}

/// Brings parameters to one card.
#[derive(Debug)]
pub struct Loader {
    card: Card,
    stream: Stream,
    pool: Arc<Pool>,
    slots: [Slot; 2],
    next: usize,
    arena: Option<Region>,
    used: usize,
    arrived: Event,
}

impl Loader {
    /// A loader that reads with the threads of `pool`.
    ///
    /// # Errors
    /// The card or RAM has no memory for the pieces.
    pub fn new(card: &Card, pool: &Arc<Pool>) -> Result<Self> {
        let slot = || -> Result<Slot> {
            let (pinned, raw) = (Pinned::new(card, PIECE)?, Memory::new(card, PIECE)?);
            Ok(Slot { pinned, raw, done: Event::new(card)? })
        };
        let slots = [slot()?, slot()?];
        let stream = Stream::new(card)?;
        Ok(Self {
            card: card.clone(),
            stream,
            pool: pool.clone(),
            slots,
            next: 0,
            arena: None,
            used: 0,
            arrived: Event::new(card)?,
        })
    }

    /// The card.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Allocates `bytes` for the parameters that follow.
    ///
    /// # Errors
    /// The card has too little memory.
    pub fn begin(&mut self, bytes: usize) -> Result<()> {
        self.arena = Some(Region::whole(Arc::new(Memory::new(&self.card, bytes)?)));
        self.used = 0;
        Ok(())
    }

    /// Puts the parameters that follow into `memory`, once `free` has come.
    ///
    /// # Errors
    /// The card is lost.
    pub fn begin_in(&mut self, memory: &Arc<Memory>, free: &Event) -> Result<()> {
        self.stream.wait(free)?;
        self.arena = Some(Region::whole(memory.clone()));
        self.used = 0;
        Ok(())
    }

    /// An event behind everything so far.
    ///
    /// # Errors
    /// The card is lost.
    pub fn arrived(&mut self) -> Result<&Event> {
        self.stream.record(&self.arrived)?;
        Ok(&self.arrived)
    }

    /// Waits until everything has arrived.
    ///
    /// # Errors
    /// The card is lost.
    pub fn finish(&mut self) -> Result<()> {
        self.arena = None;
        Ok(self.stream.synchronize()?)
    }

    /// Bytes that `bytes` bytes take in an allocation; the largest number where there is none so large.
    pub const fn rounded(bytes: usize) -> usize {
        match bytes.checked_next_multiple_of(ALIGNMENT) {
            Some(rounded) => rounded,
            None => usize::MAX,
        }
    }

    fn room(&mut self, bytes: usize) -> Result<Region> {
        let Some(arena) = &self.arena else {
            return Ok(Region::whole(Arc::new(Memory::new(&self.card, bytes)?)));
        };
        let region = arena.part(self.used..self.used + bytes)?;
        self.used += Self::rounded(bytes);
        Ok(region)
    }

    /// The next piece, once its last use is over.
    fn slot(&mut self) -> Result<usize> {
        self.next = 1 - self.next;
        self.slots[self.next].done.synchronize()?;
        Ok(self.next)
    }

    /// Numbers.
    ///
    /// # Errors
    /// The card has too little memory.
    pub fn floats(&mut self, values: &[f32]) -> Result<Region> {
        self.words(values.len(), |at| values[at].to_le_bytes())
    }

    /// Vectors behind each other, in one piece.
    ///
    /// # Errors
    /// As [`Loader::floats`].
    pub fn stack_floats(&mut self, vectors: &[&[f32]]) -> Result<Vec<Region>> {
        if vectors.is_empty() {
            return Ok(Vec::new());
        }
        let all = self.floats(&vectors.concat())?;
        let mut first = 0;
        let part = |vector: &&[f32]| {
            let range = first..first + 4 * vector.len();
            first = range.end;
            Ok(all.part(range)?)
        };
        vectors.iter().map(part).collect()
    }

    /// Indices.
    ///
    /// # Errors
    /// As [`Loader::floats`].
    pub fn indices(&mut self, values: &[u32]) -> Result<Region> {
        self.words(values.len(), |at| values[at].to_le_bytes())
    }

    fn words(&mut self, count: usize, word: impl Fn(usize) -> [u8; 4]) -> Result<Region> {
        let region = self.room(4 * count)?;
        let mut first = 0;
        while first < count {
            let end = count.min(first + PIECE / 4);
            let slot = self.slot()?;
            let Slot { pinned, done, .. } = &mut self.slots[slot];
            for (at, out) in (first..end).zip(pinned.chunks_exact_mut(4)) {
                out.copy_from_slice(&word(at));
            }
            let (memory, offset) = region.place();
            // SAFETY: the piece is not touched again before `done`.
            unsafe { self.stream.upload_later(memory, offset + 4 * first, &pinned[..4 * (end - first)])? };
            self.stream.record(done)?;
            first = end;
        }
        Ok(region)
    }

    /// A matrix.
    ///
    /// # Errors
    /// The card has too little memory.
    pub fn matrix(&mut self, matrix: &HostMatrix<'_>) -> Result<Matrix> {
        let made = self.room_of(matrix, matrix.rows())?;
        self.place(matrix, &made)?;
        Ok(made)
    }

    /// Matrices of one type and shape, their rows after each other in the planes of one matrix.
    ///
    /// # Errors
    /// As [`Loader::floats`]; [`Error::Lengths`] if a type or shape differs from the first's.
    pub fn stack(&mut self, matrices: &[HostMatrix<'_>]) -> Result<Vec<Matrix>> {
        let Some(first) = matrices.first() else { return Ok(Vec::new()) };
        let shape = |m: &HostMatrix<'_>| (m.element_type(), m.scales().is_some(), m.rows(), m.columns());
        let alike = matrices.iter().filter(|m| shape(m) == shape(first)).count();
        if alike != matrices.len() {
            let what = "stack: matrices of the first one's type and shape";
            return Err(Error::Lengths { what, expected: matrices.len(), found: alike });
        }
        let all = first.rows().saturating_mul(matrices.len());
        let room = self.room_of(first, all)?;
        let mut made = Vec::with_capacity(matrices.len());
        for (index, matrix) in matrices.iter().enumerate() {
            let one = Matrix { place: (index * matrix.rows(), all), ..room.clone() };
            self.place(matrix, &one)?;
            made.push(one);
        }
        Ok(made)
    }

    /// Room for a matrix, the first of matrices that have `all` rows.
    fn room_of(&mut self, matrix: &HostMatrix<'_>, all: usize) -> Result<Matrix> {
        let element_type = matrix.element_type();
        let (rows, columns) = (matrix.rows(), matrix.columns());
        let shape = Error::Shape { element_type, rows, columns, bytes: matrix.data().len() };
        let (element_type, format) = stored_matrix(matrix)?;
        let region = self.room(format.bytes(all, columns).ok_or(shape)?)?;
        Ok(Matrix { element_type, format, rows, columns, region, place: (0, all) })
    }

    /// Brings a matrix to its place.
    fn place(&mut self, matrix: &HostMatrix<'_>, made: &Matrix) -> Result<()> {
        let element_type = matrix.element_type();
        let (rows, columns) = (matrix.rows(), matrix.columns());
        let shape = Error::Shape { element_type, rows, columns, bytes: matrix.data().len() };
        let (source, format) = (made.element_type, made.format);
        // As the repack kernels read them: rows of the type they are stored as.
        let row_bytes = source.row_bytes(columns).ok_or(shape.clone())?;
        let chunks = columns.div_ceil(32);
        // Rows longer than a piece would be a matrix of more than a million columns.
        if row_bytes > PIECE {
            return Err(shape);
        }
        let step = (PIECE / row_bytes.max(1)).max(1);
        let repack = self.card.function("repack", &format.repack_kernel())?;
        let mut first = 0;
        while first < rows {
            let count = step.min(rows - first);
            let slot = self.slot()?;
            let Slot { pinned, raw, done } = &mut self.slots[slot];
            let bytes = &mut pinned[..count * row_bytes];
            match source == element_type && matrix.scales().is_none() {
                true => {
                    let row_bytes = matrix.row_bytes();
                    copy(&self.pool, &matrix.data()[first * row_bytes..][..count * row_bytes], bytes);
                }
                false => convert(&self.pool, matrix, first, source, bytes)?,
            }
            // SAFETY: the piece is not touched again before `done`.
            unsafe { self.stream.upload_later(raw, 0, &pinned[..count * row_bytes])? };
            let arguments = RepackArgs {
                raw: raw.pointer().before(first * row_bytes).address(),
                first: (first * chunks) as u64,
                chunks: (count * chunks) as u64,
                matrix: MatrixArgs {
                    plane: made.planes(0).map(Pointer::address),
                    rows: rows as i32,
                    columns: columns as i32,
                },
            };
            let blocks = ((count * chunks) as u64).div_ceil(REPACK_BLOCK) as u32;
            // SAFETY: the arguments are those of the kernel; raw piece and planes have the sizes it expects, and live
            // until the work is done.
            unsafe {
                Launch::new(&repack)
                    .grid(blocks, 1, 1)
                    .block(REPACK_BLOCK as u32)
                    .run(&self.stream, &arguments)?
            };
            self.stream.record(done)?;
            first += count;
        }
        Ok(())
    }
}

/// Copies bytes, on all threads.
fn copy(pool: &Pool, from: &[u8], to: &mut [u8]) {
    const PART: usize = 512 << 10;
    share(pool, from.chunks(PART).zip(to.chunks_mut(PART)), |(from, to)| to.copy_from_slice(from));
}

/// Rows from `first` on, of a type without kernels or with scales beside them, as f16, bf16 or f32.
fn convert(
    pool: &Pool,
    matrix: &HostMatrix<'_>,
    first: usize,
    to: ElementType,
    out: &mut [u8],
) -> Result<()> {
    let from = matrix.element_type();
    if !decode::can_decode(from) || !matches!(to, ElementType::F16 | ElementType::BF16 | ElementType::F32) {
        return Err(Error::Unsupported { element_type: from });
    }
    let columns = matrix.columns();
    let (rows, row_bytes) = ((DECODED / columns).max(1), columns * to.block_bytes());
    let parts = (first..first + out.len() / row_bytes).step_by(rows).zip(out.chunks_mut(rows * row_bytes));
    share(pool, parts, |(first, out)| {
        let mut values = vec![0f32; columns];
        let mut halves = vec![half::f16::ZERO; columns];
        for (row, out) in (first..).zip(out.chunks_exact_mut(row_bytes)) {
            let decoded = get_row(matrix, row, &mut values);
            debug_assert!(decoded.is_ok(), "the type can be decoded and the row is there");
            match to {
                ElementType::F16 => {
                    float::narrow_f16(&values, &mut halves);
                    let pairs = out.as_chunks_mut().0.iter_mut();
                    pairs.zip(&halves).for_each(|(out, half)| *out = half.to_le_bytes());
                }
                ElementType::BF16 => {
                    let pairs = out.as_chunks_mut().0.iter_mut();
                    pairs.zip(&values).for_each(|(out, v)| *out = half::bf16::from_f32(*v).to_le_bytes());
                }
                _ => {
                    let words = out.as_chunks_mut().0.iter_mut();
                    words.zip(&values).for_each(|(out, value)| *out = value.to_le_bytes());
                }
            }
        }
    });
    Ok(())
}
