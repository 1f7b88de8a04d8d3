//! The card that tests use.

use std::io::Write as _;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use quern_compute::cuda::{Card, CudaError};

/// A card while a test uses it. Tests of one program take turns: one of them fills all memory.
pub struct Turn {
    card: Card,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Turn {
    type Target = Card;

    fn deref(&self) -> &Card {
        &self.card
    }
}

/// The first NVIDIA card, when it is the calling test's turn. Without a card the test has nothing to do, and it is said
/// on standard error that it was skipped, whether the test harness captures output or not.
///
/// # Panics
///
/// There is no card although `QUERN_TEST_CUDA=1` says that there is one.
pub fn card() -> Option<Turn> {
    static CARD: OnceLock<Result<Card, CudaError>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    match CARD.get_or_init(|| Card::open(0)) {
        Ok(card) => {
            let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            Some(Turn { card: card.clone(), _turn: turn })
        }
        Err(error) => {
            assert!(std::env::var_os("QUERN_TEST_CUDA").is_none(), "QUERN_TEST_CUDA is set, but {error}");
            let thread = std::thread::current();
            let line = format!("{}: skipped: no NVIDIA card ({error})\n", thread.name().unwrap_or("a test"));
            let _ = std::io::stderr().write_all(line.as_bytes());
            None
        }
    }
}
