//! Measures how fast the memories that hold a model are read, which limits the speed of generation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quern_compute::simd::{Op, dispatch};
use quern_compute::{Device, Pool};

use crate::memory::{last_level_cache, reset_peak};
use crate::{Error, KvType, Model, Result};
use quern_compute::parallel::share;

/// Bytes read: several times what last-level caches hold, those of the largest servers included.
const SIZE: u64 = 512 << 20;
const LARGEST: u64 = 1 << 30;
const CACHES: u64 = 3;
/// Bytes of a task.
const PART: usize = 1 << 20;
/// The time to measure for, with at least three passes.
const TIME: Duration = Duration::from_millis(300);

/// Bytes a second that `threads` threads read together from memory, one after the other in large pieces: the
/// best of some passes over at most `most` bytes. The memory is released, and the process's peak is reset.
pub fn read_bandwidth(threads: usize, most: u64) -> f64 {
    let size = (CACHES * last_level_cache().unwrap_or(0)).clamp(SIZE, LARGEST);
    let words = usize::try_from(most.min(size)).unwrap_or(usize::MAX).max(PART) / PART * PART / 8;
    let pool = Pool::new(threads);
    let words = allowed(words);
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

/// So many numbers, or as many as a limit of the address space (`ulimit -v`) leaves.
fn allowed(words: usize) -> usize {
    let fits = |&words: &usize| Vec::<u64>::new().try_reserve_exact(words).is_ok();
    let halves = std::iter::successors(Some(words), |words| Some(words / 2 / (PART / 8) * (PART / 8)));
    halves.take_while(|&words| words > 0).find(fits).unwrap_or(PART / 8)
}

/// Bytes a second that the memory of GPU `index` delivers; `None` if its driver takes no times.
///
/// # Errors
/// The GPU cannot be used, or has no memory left to measure with.
pub fn gpu_bandwidth(index: usize) -> Result<Option<f64>> {
    Bandwidths::default().gpu(index, &Device::gpu(index)?)
}

/// A memory that has weights of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct MemorySpeed {
    /// The name of the GPU whose memory it is; `None` for RAM.
    pub gpu: Option<String>,
    /// Bytes of weights that a token reads from it.
    pub bytes_per_token: u64,
    /// Bytes a second that it delivers.
    pub bytes_per_second: f64,
}

/// The limit that memory sets to a model's generation.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadLimit {
    /// The memories that have its weights.
    pub memories: Vec<MemorySpeed>,
}

impl ReadLimit {
    /// Bytes a second that all memories deliver, one after the other as a token needs them.
    pub fn bytes_per_second(&self) -> f64 {
        if let [one] = &*self.memories {
            return one.bytes_per_second;
        }
        let bytes: u64 = self.memories.iter().map(|memory| memory.bytes_per_token).sum();
        let seconds = self.memories.iter().map(|m| m.bytes_per_token as f64 / m.bytes_per_second.max(1.0));
        bytes as f64 / seconds.sum::<f64>().max(1e-12)
    }
}

/// Speeds of this machine's memories, each measured once.
#[derive(Clone, Debug, Default)]
pub struct Bandwidths {
    ram: Option<f64>,
    /// By the driver's number of the GPU.
    gpus: Vec<(usize, f64)>,
}

impl Bandwidths {
    /// As [`read_bandwidth`].
    pub fn ram(&mut self, threads: usize, most: u64) -> f64 {
        *self.ram.get_or_insert_with(|| read_bandwidth(threads, most))
    }

    /// Bytes a second that the memory of GPU `index` delivers; `None` if its driver takes no times.
    fn gpu(&mut self, index: usize, device: &Device) -> Result<Option<f64>> {
        if let Some((_, known)) = self.gpus.iter().find(|(known, _)| *known == index) {
            return Ok(Some(*known));
        }
        let measured = device.bandwidth().map_err(Error::from);
        let measured =
            measured.map_err(|error| error.on_gpu(|| "memory to measure its bandwidth with".to_owned()))?;
        self.gpus.extend(measured.map(|speed| (index, speed)));
        Ok(measured)
    }

    /// The limit of a model: the memory of a GPU is measured if it has layers, and RAM, over at most `most` bytes, if it
    /// has some. `None` if a GPU's cannot be measured.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`] if a GPU has no memory left to measure with, or is lost.
    pub fn limit(&mut self, model: &Model, most: u64) -> Result<Option<ReadLimit>> {
        let sizes = model.sizes(KvType::default());
        let placement = &model.placement;
        let mut bytes = vec![0; placement.devices().count()];
        for segment in placement.segments() {
            let blocks = &sizes.units[segment.layers.clone()];
            let head = sizes.units.last().filter(|_| segment.head);
            bytes[segment.workspace] += blocks.iter().chain(head).map(|unit| unit.touched).sum::<u64>();
        }
        let mut memories = Vec::new();
        for ((device, _), bytes_per_token) in placement.devices().zip(bytes) {
            let bytes_per_second = match device.gpu_index() {
                None => self.ram(model.threads(), most),
                Some(index) => match self.gpu(index, device)? {
                    Some(speed) => speed,
                    None => return Ok(None),
                },
            };
            let gpu = device.gpu_name().map(str::to_owned);
            memories.push(MemorySpeed { gpu, bytes_per_token, bytes_per_second });
        }
        Ok(Some(ReadLimit { memories }))
    }
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
    fn memories_are_read_one_after_the_other() {
        let memory =
            |bytes_per_token, bytes_per_second| MemorySpeed { gpu: None, bytes_per_token, bytes_per_second };
        let limit = |memories: &[MemorySpeed]| ReadLimit { memories: memories.to_vec() }.bytes_per_second();
        let (gpu, ram) = (memory(3_000_000_000, 3e12), memory(1_000_000_000, 2e10));
        assert_eq!(limit(std::slice::from_ref(&gpu)), 3e12);
        // 4 GB in 1 ms and 50 ms.
        assert!((limit(&[gpu.clone(), ram]) / (4e9 / 0.051) - 1.0).abs() < 1e-9);
        assert!((limit(&[gpu.clone(), gpu]) / 3e12 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn every_byte_is_read_in_finite_time() {
        for (threads, most) in [(1, 0), (2, 5 << 20)] {
            let bandwidth = read_bandwidth(threads, most);
            // The check of the sum is in the function itself.
            assert!(bandwidth.is_finite() && bandwidth > 1e6, "{bandwidth}");
        }
    }
}
