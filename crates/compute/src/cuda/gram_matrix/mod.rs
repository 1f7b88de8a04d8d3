//! A symmetric matrix of sums on a card, and what is made of it: in order, damped, factored.

mod factor;

use super::args::Address;
use super::sums_args::{
    AddArgs, ArrangeArgs, CheckArgs, DiagonalArgs, MirrorArgs, PACKED_SQUARE, PieceArgs, PiecesArgs,
};
use super::{Card, Event, Launch, Memory, Stream, Values};
use crate::executor::ValuesMut;
use crate::{Error, Result};

/// Rows that are factored together, as on the CPU.
const BLOCK: usize = 128;
/// Bytes that another card's sums are copied in at a time.
const COPY: usize = 64 << 20;

/// A symmetric matrix `[n][n]` of f32 in a card's memory, and a stream of work on it. Methods queue their work there; those
/// that return numbers wait for it.
#[derive(Debug)]
pub struct GramMatrix {
    stream: Stream,
    memory: Memory,
    n: usize,
}

/// A square on the diagonal of a [`GramMatrix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiagonalSquare {
    /// Its first row.
    pub start: usize,
    /// Its rows.
    pub size: usize,
    /// Where it goes, in numbers.
    pub at: usize,
}

impl GramMatrix {
    /// Zeros, in place when this returns.
    ///
    /// # Errors
    /// The card has no memory for it, or is lost.
    pub fn new(card: &Card, n: usize) -> Result<Self> {
        let matrix = Self::uninitialized(card, n)?;
        matrix.stream.fill(&matrix.memory, 0, matrix.memory.bytes(), 0)?;
        matrix.stream.synchronize()?;
        Ok(matrix)
    }

    fn uninitialized(card: &Card, n: usize) -> Result<Self> {
        // Rows and tiles are counted in u32.
        if u32::try_from(n).is_err() {
            return Err(Error::Lengths { what: "matrix: rows", expected: u32::MAX as usize, found: n });
        }
        Ok(Self { stream: Stream::new(card)?, memory: Memory::new(card, 4 * n * n)?, n })
    }

    /// A copy of a matrix in RAM.
    ///
    /// # Errors
    /// As [`GramMatrix::new`]; a length that is not `n * n`.
    pub fn from_host(card: &Card, values: &[f32], n: usize) -> Result<Self> {
        let mut matrix = Self::uninitialized(card, n)?;
        matrix.upload(values)?;
        Ok(matrix)
    }

    /// A copy on the same card, in place when this returns.
    ///
    /// # Errors
    /// As [`GramMatrix::new`].
    pub fn copied(&self) -> Result<Self> {
        let copy = Self::uninitialized(self.card(), self.n)?;
        self.stream.copy((&copy.memory, 0), (&self.memory, 0), self.memory.bytes())?;
        self.stream.synchronize()?;
        Ok(copy)
    }

    /// The card.
    pub fn card(&self) -> &Card {
        self.stream.card()
    }

    /// Rows and columns.
    pub fn rows(&self) -> usize {
        self.n
    }

    /// All numbers, for an [`Executor`](crate::Executor) of this card to add to.
    pub fn values_mut(&mut self) -> ValuesMut<'_> {
        ValuesMut::Cuda(Values::of(&self.memory, self.n * self.n))
    }

    /// Lets what is queued from now on wait for an event, such as that behind an executor's additions.
    ///
    /// # Errors
    /// The card is lost.
    pub fn wait(&self, event: &Event) -> Result<()> {
        Ok(self.stream.wait(event)?)
    }

    /// Puts an event behind all that was queued so far.
    ///
    /// # Errors
    /// The card is lost.
    pub fn record(&self, event: &Event) -> Result<()> {
        Ok(self.stream.record(event)?)
    }

    /// The numbers, computed.
    ///
    /// # Errors
    /// The card is lost.
    pub fn into_memory(self) -> Result<Memory> {
        self.stream.synchronize()?;
        Ok(self.memory)
    }

    /// Copies the numbers to RAM.
    ///
    /// # Errors
    /// The card is lost.
    pub fn download(&self) -> Result<Vec<f32>> {
        download(&self.stream, &self.memory, self.n * self.n)
    }

    /// Copies the numbers from RAM.
    ///
    /// # Errors
    /// A length that is not `n * n`; the card is lost.
    pub fn upload(&mut self, values: &[f32]) -> Result<()> {
        crate::error::same("matrix: numbers", self.n * self.n, values.len())?;
        Ok(self.stream.upload(&self.memory, 0, bytes_of(values))?)
    }

    /// The diagonal.
    ///
    /// # Errors
    /// The card is lost, or has no memory left.
    pub fn diagonal(&self) -> Result<Vec<f32>> {
        let out = Memory::new(self.card(), 4 * self.n)?;
        let arguments = DiagonalArgs { a: self.address(), out: out.pointer().address(), n: self.n as u32 };
        // SAFETY: the matrix has n rows, and there is room for its diagonal, which lives until it was copied.
        unsafe { self.launch("factor_diagonal", [self.n.div_ceil(256), 1], 256, &arguments)? };
        download(&self.stream, &out, self.n)
    }

    /// Row and column of the first number of the lower triangle, row by row, that is infinite or none, and that number.
    ///
    /// # Errors
    /// As [`GramMatrix::diagonal`].
    pub fn first_not_finite(&self) -> Result<Option<(usize, usize, f32)>> {
        let first = Memory::new(self.card(), 8)?;
        self.stream.fill(&first, 0, 8, 0xff)?;
        let arguments = CheckArgs { a: self.address(), first: first.pointer().address(), n: self.n as u32 };
        // SAFETY: the matrix has n rows, and the place lives until it was copied.
        unsafe { self.launch("factor_check", [self.n, 1], 256, &arguments)? };
        let mut place = [0; 8];
        self.stream.download(&mut place, &first, 0)?;
        let place = u64::from_le_bytes(place);
        if place == u64::MAX {
            return Ok(None);
        }
        let mut value = [0; 4];
        self.stream.download(&mut value, &self.memory, 4 * place as usize)?;
        let place = place as usize;
        Ok(Some((place / self.n, place % self.n, f32::from_le_bytes(value))))
    }

    /// Adds a matrix of the same size, also one on another card, and waits for it.
    ///
    /// # Errors
    /// Different sizes; a card has no memory left, or is lost.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        crate::error::same("matrix: rows of the one added", self.n, other.n)?;
        other.stream.synchronize()?;
        let bytes = self.memory.bytes();
        let staged = match self.card() == other.card() {
            true => None,
            false => {
                self.card().enable_peer(other.card())?;
                Some(Memory::new(self.card(), COPY.min(bytes))?)
            }
        };
        let step = if staged.is_some() { COPY } else { bytes.max(1) };
        for at in (0..bytes).step_by(step) {
            let part = step.min(bytes - at);
            let from = match &staged {
                Some(staged) => {
                    self.stream.copy((staged, 0), (&other.memory, at), part)?;
                    staged.pointer().address()
                }
                None => other.address(),
            };
            let to = self.memory.pointer().at(at).address();
            let arguments = AddArgs { to, from, length: part as u64 / 4 };
            let blocks = (part / 4).div_ceil(1024).min(1 << 16);
            // SAFETY: both are this long; what is copied to lives until all is done.
            unsafe { self.launch("sums_add", [blocks, 1], 256, &arguments)? };
        }
        Ok(self.stream.synchronize()?)
    }

    /// The matrix in another order, `out[i][j] = self[order[i]][order[j]]`, with another diagonal. Of this one the lower
    /// triangle is read, of the new one both are written.
    ///
    /// # Errors
    /// Lengths that do not fit, a row that does not exist; the card has no memory for it, or is lost.
    pub fn arranged(&self, order: &[u32], diagonal: &[f32]) -> Result<Self> {
        let mut out = Self::uninitialized(self.card(), self.n)?;
        self.arrange_into(order, diagonal, &mut out)?;
        Ok(out)
    }

    /// As [`GramMatrix::arranged`], in the place of a matrix of that size.
    ///
    /// # Errors
    /// As [`GramMatrix::arranged`].
    pub fn arrange_into(&self, order: &[u32], diagonal: &[f32], out: &mut Self) -> Result<()> {
        let n = self.n;
        crate::error::same("matrix: order", n, order.len())?;
        crate::error::same("matrix: diagonal", n, diagonal.len())?;
        crate::error::same("matrix: rows of the result", n, out.n)?;
        self.card().same(out.card(), "a matrix")?;
        if let Some(row) = order.iter().find(|row| **row as usize >= n) {
            return Err(Error::Lengths {
                what: "matrix: rows ordered",
                expected: n,
                found: *row as usize + 1,
            });
        }
        let (order, diagonal) = (self.on_card(order)?, self.on_card(diagonal)?);
        let arguments = ArrangeArgs {
            sum: self.address(),
            order: order.pointer().address(),
            diagonal: diagonal.pointer().address(),
            out: out.address(),
            n: n as u32,
        };
        out.stream.synchronize()?;
        // SAFETY: both matrices have n rows, as order and diagonal, which live until the work is done.
        unsafe { self.launch("factor_arrange", [n, n.div_ceil(256)], 256, &arguments)? };
        Ok(self.stream.synchronize()?)
    }

    /// Copies the lower triangle to the upper one.
    ///
    /// # Errors
    /// The card is lost.
    pub fn mirror(&mut self) -> Result<()> {
        let (tiles, arguments) = (self.n.div_ceil(32), MirrorArgs { a: self.address(), n: self.n as u32 });
        // SAFETY: the matrix has n rows.
        unsafe { self.launch("factor_mirror", [tiles, tiles], 256, &arguments) }
    }

    /// Squares on the diagonal, from the upper triangle, with another diagonal, one after the other as they say: memory of
    /// `length` numbers, computed.
    ///
    /// # Errors
    /// Squares that are not within the matrix and the memory; the card has no memory left, or is lost.
    pub fn squares(&self, squares: &[DiagonalSquare], length: usize, diagonal: &[f32]) -> Result<Memory> {
        crate::error::same("matrix: diagonal", self.n, diagonal.len())?;
        let fits = |s: &&DiagonalSquare| s.start + s.size <= self.n && s.at + s.size * s.size <= length;
        if let Some(square) = squares.iter().find(|square| !fits(square)) {
            let found = square.at + square.size * square.size;
            return Err(Error::Lengths { what: "matrix: squares", expected: length, found });
        }
        let values = Memory::new(self.card(), 4 * length)?;
        let pieces: Vec<PieceArgs> = squares
            .iter()
            .map(|s| PieceArgs { at: s.at as u64, start: s.start as u32, size: s.size as u32 })
            .collect();
        let (pieces, diagonal) = (self.on_card(&pieces)?, self.on_card(diagonal)?);
        if !squares.is_empty() {
            let arguments = PiecesArgs {
                a: self.address(),
                diagonal: diagonal.pointer().address(),
                pieces: pieces.pointer().address(),
                values: values.pointer().address(),
                n: self.n as u32,
            };
            // SAFETY: squares are within the matrix and the memory, which live until the work is done, as do the others.
            unsafe { self.launch("factor_pieces", [squares.len(), 8], 256, &arguments)? };
        }
        self.stream.synchronize()?;
        Ok(values)
    }

    fn address(&self) -> Address {
        self.memory.pointer().address()
    }

    /// A copy of numbers without padding, as kernels read them.
    fn on_card<T: Copy>(&self, values: &[T]) -> Result<Memory> {
        let memory = Memory::new(self.card(), size_of_val(values))?;
        self.stream.upload(&memory, 0, bytes_of(values))?;
        Ok(memory)
    }

    /// Queues a kernel of the module `factor`; nothing for an empty grid.
    ///
    /// # Safety
    /// As [`Launch::run`].
    unsafe fn launch<A: Copy>(
        &self,
        kernel: &str,
        grid: [usize; 2],
        block: u32,
        arguments: &A,
    ) -> Result<()> {
        let [x, y] = grid;
        if x * y == 0 {
            return Ok(());
        }
        let function = self.card().function("factor", kernel)?;
        let shared = match kernel {
            "factor_solve" => 4 * (PACKED_SQUARE + 32 * BLOCK),
            _ => 0,
        };
        if shared > 0 {
            function.allow_shared(shared)?;
        }
        let launch = Launch::new(&function).grid(x as u32, y as u32, 1).block(block).shared(shared as u32);
        // SAFETY: as the caller promises; the kernels wait for those before them.
        unsafe { launch.overlapping(true).run(&self.stream, arguments)? };
        Ok(())
    }
}

/// Copies the first numbers of some memory to RAM, when they are computed.
///
/// # Errors
/// Fewer numbers; the card is lost.
fn download(stream: &Stream, memory: &Memory, length: usize) -> Result<Vec<f32>> {
    let mut values = vec![0f32; length];
    // SAFETY: an f32 may be read and written as bytes.
    let (_, bytes, _) = unsafe { values.align_to_mut::<u8>() };
    stream.download(bytes, memory, 0)?;
    Ok(values)
}

/// The bytes of numbers, or of structs of numbers without padding.
fn bytes_of<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: there is no padding, and bytes need no alignment.
    unsafe { values.align_to::<u8>().1 }
}
