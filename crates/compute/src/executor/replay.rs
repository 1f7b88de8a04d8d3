//! Passes that are recorded once and replayed.

/// What a pass computes: two with the same key queue the same operations over the same memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassKey {
    /// Which part of the model.
    pub segment: usize,
    /// Tokens.
    pub tokens: usize,
    /// Position of the first.
    pub first: usize,
    /// Index of the first token whose results are wanted.
    pub keep: usize,
    /// Whether it may be recorded: every operation of it stays on this device.
    pub recordable: bool,
}

/// What the caller does between [`Executor::begin`](super::Executor::begin) and
/// [`Executor::end`](super::Executor::end).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All of it.
    Run,
    /// Only [`Executor::upload`](super::Executor::upload), in the same order as when it was recorded: the operations are
    /// repeated by themselves.
    Replay,
}
