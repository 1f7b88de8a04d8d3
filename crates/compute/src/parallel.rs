//! Dividing rows among the threads.

use std::sync::{Mutex, PoisonError};

use crate::Pool;

/// Work on fewer values than this is done on the calling thread: starting a parallel region costs about as much.
const SMALL: usize = 1 << 14;

/// How many of `values` one part should hold, a whole number of rows of `width`: all of them if there are
/// few, else some parts per thread so that none waits long for another.
pub fn part_of(pool: &Pool, values: usize, width: usize) -> usize {
    if values < SMALL || pool.threads() == 1 {
        return values.max(1);
    }
    (values / width).div_ceil(4 * pool.threads()).max(1) * width
}

/// Runs `body` once on every part, on all threads. Any thread may take any part, so `body` must work on
/// each part alone.
pub fn share<T: Send>(pool: &Pool, parts: impl ExactSizeIterator<Item = T>, body: impl Fn(T) + Sync) {
    if parts.len() <= 1 {
        return parts.for_each(body);
    }
    // Each part is taken once; the lock is never contended.
    let parts: Vec<_> = parts.map(|part| Mutex::new(Some(part))).collect();
    pool.run(parts.len(), |index| {
        let part = parts[index].lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(part) = part {
            body(part);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_processed_once() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads);
            for (rows, width) in [(1, 5), (7, 100), (513, 64), (20, 4096)] {
                let mut values = vec![1u32; rows * width];
                let part = part_of(&pool, values.len(), width);
                assert!(part.is_multiple_of(width));
                share(&pool, values.chunks_mut(part), |part| part.iter_mut().for_each(|v| *v *= 2));
                assert!(values.iter().all(|&v| v == 2));
            }
        }
        share(&Pool::new(2), [0u8; 0].iter(), |_| panic!("nothing to do"));
    }
}
