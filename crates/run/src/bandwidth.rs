//! Measures how fast this machine reads memory, which limits the speed of generation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quern_compute::Pool;
use quern_compute::simd::{Op, dispatch};

use crate::memory::reset_peak;
use quern_compute::parallel::share;

/// Bytes read: several times what last-level caches hold.
const SIZE: usize = 512 << 20;
/// Bytes of a task.
const PART: usize = 1 << 20;
/// The time to measure for, with at least three passes.
const TIME: Duration = Duration::from_millis(300);

/// Bytes a second that `threads` threads read together from memory, one after the other in large pieces: the
/// best of some passes over at most `most` bytes. The memory is released, and the process's peak is reset.
pub fn read_bandwidth(threads: usize, most: u64) -> f64 {
    let words = usize::try_from(most).unwrap_or(usize::MAX).clamp(PART, SIZE) / PART * PART / 8;
    let pool = Pool::new(threads);
    let mut memory = vec![0u64; words];
    // Written by all threads, so that a machine of several NUMA nodes spreads it over all of them.
    share(&pool, memory.chunks_mut(PART / 8), |part| part.fill(3));
    let sum = AtomicU64::new(0);
    let mut best = Duration::MAX;
    let started = Instant::now();
    let mut passes = 0;
    while passes < 3 || started.elapsed() < TIME {
        let pass = Instant::now();
        share(&pool, memory.chunks(PART / 8), |part| {
            sum.fetch_add(dispatch(pool.level(), Sum(part)), Ordering::Relaxed);
        });
        best = best.min(pass.elapsed());
        passes += 1;
    }
    debug_assert_eq!(sum.into_inner(), 3 * words as u64 * passes);
    drop(memory);
    reset_peak();
    (8 * words) as f64 / best.as_secs_f64().max(1e-9)
}

struct Sum<'a>(&'a [u64]);

impl Op for Sum<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self) -> u64 {
        // Whole numbers may be added in any order: the compiler keeps many sums side by side.
        self.0.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read_in_finite_time() {
        for (threads, most) in [(1, 0), (2, 5 << 20)] {
            let bandwidth = read_bandwidth(threads, most);
            // The check of the sum is in the function itself.
            assert!(bandwidth.is_finite() && bandwidth > 1e6, "{bandwidth}");
        }
    }
}
