//! Memory that kernels need beside their inputs and results. Grows only.

use super::super::{Card, Memory, Pointer, Stream};
use crate::Result;

/// One piece of it.
#[derive(Debug)]
pub(super) struct Piece {
    card: Card,
    memory: Option<Memory>,
    /// Whether kernels expect zeros at first, and leave zeros.
    zeroed: bool,
}

impl Piece {
    fn new(card: &Card, zeroed: bool) -> Self {
        Self { card: card.clone(), memory: None, zeroed }
    }

    /// At least `bytes` bytes.
    ///
    /// # Errors
    /// The card has too little memory.
    pub fn of(&mut self, stream: &Stream, bytes: usize) -> Result<Pointer> {
        if self.memory.as_ref().is_none_or(|memory| memory.bytes() < bytes) {
            self.memory = None;
            let memory = Memory::new(&self.card, bytes.next_power_of_two().max(4096))?;
            if self.zeroed {
                stream.fill(&memory, 0, memory.bytes(), 0)?;
            }
            self.memory = Some(memory);
        }
        Ok(self.memory.as_ref().map_or(Pointer::NULL, Memory::pointer))
    }

    /// The memory, to copy from or to.
    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Workspace {
    /// Activations as matrix products read them.
    pub activations: Piece,
    /// The scale of each token's.
    pub scales: Piece,
    /// Sums of unfinished tiles, and their flags.
    pub sums: Piece,
    pub ready: Piece,
    /// Partial results of attention, and counts of arrived blocks.
    pub partial: Piece,
    pub arrived: Piece,
    /// Vectors between launches that belong to one operation.
    pub vectors: [Piece; 3],
    /// Indices and shares of rows of experts.
    pub choices: Piece,
    /// The same, of the router whose experts are taken one by one.
    pub routed: Piece,
    /// Statistics of rows of logits and of columns of inputs.
    pub statistics: Piece,
    /// Inputs of sums of products, packed.
    pub packed: Piece,
    /// Queries that took up the keys' matrices, and what latent attention gathered.
    pub absorbed: Piece,
    pub gathered: Piece,
    /// Inputs of a state, convolved.
    pub convolved: Piece,
    /// What projections of a delta net computed, in order.
    pub ordered: Piece,
    /// A mixture of experts: the router's outputs, tokens' rows, rows of all experts, and those inside them.
    pub logits: Piece,
    pub tokens: Piece,
    pub rows: Piece,
    pub wide: Piece,
}

impl Workspace {
    pub fn new(card: &Card) -> Self {
        let piece = |zeroed| Piece::new(card, zeroed);
        Self {
            activations: piece(false),
            scales: piece(false),
            sums: piece(false),
            ready: piece(true),
            partial: piece(false),
            arrived: piece(true),
            vectors: [piece(false), piece(false), piece(false)],
            choices: piece(false),
            routed: piece(false),
            statistics: piece(false),
            packed: piece(false),
            absorbed: piece(false),
            gathered: piece(false),
            convolved: piece(false),
            ordered: piece(false),
            logits: piece(false),
            tokens: piece(false),
            rows: piece(false),
            wide: piece(false),
        }
    }
}
