//! How fast a card's memory is, which limits the speed of generation.

use std::time::{Duration, Instant};

use super::{Card, CudaResult, Event, Memory, Stream};

/// Bytes copied: several times what level-2 caches hold.
const SIZE: usize = 256 << 20;
/// Where the card has little memory left, half as many again and again, down to this.
const SMALLEST: usize = 4 << 20;
/// Copies between two events: what an event takes is small beside them.
const COPIES: usize = 8;
/// The time to measure for, with at least three rounds. The first ones also raise the clock of an idle card.
const TIME: Duration = Duration::from_millis(100);

impl Card {
    /// Bytes a second that this card's memory delivers: bytes read plus bytes written by the best of some copies within
    /// it. `None` if the driver takes no times. The memory is freed, and not counted in the peak.
    ///
    /// # Errors
    ///
    /// Not even a little memory is free, or the card is lost.
    pub fn bandwidth(&self) -> CudaResult<Option<f64>> {
        let peak = self.memory_use().peak;
        let measured = self.measure();
        self.set_peak(peak);
        measured
    }

    fn measure(&self) -> CudaResult<Option<f64>> {
        let stream = Stream::new(self)?;
        let (from, to) = self.two(SIZE)?;
        stream.fill(&from, 0, from.bytes(), 0x5a)?;
        let (begin, end) = (Event::timed(self)?, Event::timed(self)?);
        let mut best = f64::INFINITY;
        let (started, mut rounds) = (Instant::now(), 0);
        while rounds < 3 || started.elapsed() < TIME {
            stream.record(&begin)?;
            for _ in 0..COPIES {
                stream.copy((&to, 0), (&from, 0), from.bytes())?;
            }
            stream.record(&end)?;
            let Some(seconds) = begin.seconds_until(&end)? else { return Ok(None) };
            best = best.min(seconds);
            rounds += 1;
        }
        // Each byte is read once and written once.
        Ok(Some((2 * COPIES * from.bytes()) as f64 / best.max(1e-9)))
    }

    /// Two pieces of memory of this size, or smaller ones if there is no room for them.
    fn two(&self, bytes: usize) -> CudaResult<(Memory, Memory)> {
        let made = Memory::new(self, bytes).and_then(|from| Ok((from, Memory::new(self, bytes)?)));
        match made {
            Err(_) if bytes > SMALLEST && self.lost().is_none() => self.two(bytes / 2),
            made => made,
        }
    }
}
