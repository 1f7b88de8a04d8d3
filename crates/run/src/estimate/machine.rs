//! How fast this machine's processor multiplies with weights of each type, measured.
//!
//! A rate is that of the kernels which generation uses, all threads together, over as many bytes as the model has, up to
//! some times the last-level cache: small models are read from caches, and on many processors decoding a type takes
//! longer than memory does.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use quern_compute::{Matrix, Pool, Scratch, matmul, sample_weights};
use quern_tensor_io::ElementType;

use crate::{available_memory, last_level_cache};

/// Columns of the matrices: multiples of every block's length.
const FEWEST_COLUMNS: usize = 256;
const MOST_COLUMNS: usize = 4096;
/// Sizes of pieces that are told apart, each four times the one before.
const LEAST_PIECE: u64 = 128 << 10;
const LARGEST_PIECE: u64 = 32 << 20;
/// The shape that coarse rates are measured with: that of models of one to ten billion parameters.
const COARSE_PIECE: u64 = 8 << 20;
const COARSE_COLUMNS: usize = 2048;
/// The least bytes to read for a rate.
const LEAST: u64 = 4 << 20;
/// The most, where caches are small.
const MOST: u64 = 256 << 20;
/// The most, however large caches are.
const LIMIT: u64 = 1 << 30;
/// Times the last-level cache that the most bytes are.
const CACHES: u64 = 8;
/// The sample that is repeated.
const SAMPLE: usize = 1 << 20;
/// Time and passes for each rate.
const TIME: Duration = Duration::from_millis(30);
const PASSES: usize = 2;

/// Rates for one size of model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Costs {
    /// Bytes a second at which the CPU multiplies a vector with matrices of each type.
    pub cpu: Vec<(ElementType, f64)>,
    /// Seconds that a region computed by all threads takes beside its work.
    pub region: f64,
    /// Bytes a second that the memory of each GPU delivers, in the order of [`crate::placement::Capacity::gpus`];
    /// `None` where nobody measured.
    pub gpus: Vec<Option<f64>>,
    /// Bytes a second that the disk of the model delivers, if it was measured.
    pub disk: Option<f64>,
}

impl Costs {
    /// The CPU's rate for a type.
    pub fn cpu_rate(&self, element_type: ElementType) -> Option<f64> {
        self.cpu.iter().find(|(known, _)| *known == element_type).map(|(_, rate)| *rate)
    }
}

/// The matrices of a model, as far as their speed depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices {
    /// Bytes that a token reads of all of them.
    pub bytes_per_token: u64,
    /// Bytes of those that are multiplied with together, on average.
    pub piece: u64,
    /// Columns of most of them.
    pub columns: usize,
}

/// What a rate was measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Measured {
    element_type: ElementType,
    bytes: u64,
    piece: u64,
    columns: usize,
}

/// Measures rates of the CPU, each once.
#[derive(Debug)]
pub struct MachineSpeed {
    pool: Pool,
    most: u64,
    coarse: bool,
    rates: HashMap<Measured, f64>,
    region: Option<f64>,
    buffer: Vec<u8>,
}

impl MachineSpeed {
    /// For so many threads. Measures nothing yet.
    pub fn new(threads: usize) -> Self {
        let most = (CACHES * last_level_cache().unwrap_or(0)).clamp(MOST, LIMIT);
        // Memory for measuring must not push anything else out.
        let room = available_memory().map_or(most, |available| available / 4);
        Self {
            pool: Pool::new(threads),
            most: most.min(room).max(LEAST),
            coarse: false,
            rates: HashMap::new(),
            region: None,
            buffer: Vec::new(),
        }
    }

    /// With one rate for all models of about the same size: for lists of many models and types, each of which would
    /// otherwise be measured for some hundredths of a second.
    pub fn coarse(self) -> Self {
        Self { coarse: true, ..self }
    }

    /// The threads measured with.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Rates of the CPU for the matrices of a model; the rates of other devices are left open.
    pub fn costs(&mut self, types: &[ElementType], matrices: Matrices) -> Costs {
        let cpu = types.iter().filter_map(|&t| Some((t, self.rate(t, matrices)?))).collect();
        Costs { cpu, region: self.region(), gpus: Vec::new(), disk: None }
    }

    /// Bytes a second for matrices of this type; `None` if no kernel reads it.
    fn rate(&mut self, element_type: ElementType, matrices: Matrices) -> Option<f64> {
        if !quern_compute::supports(element_type) {
            return None;
        }
        let key = self.shape(element_type, matrices);
        if let Some(rate) = self.rates.get(&key) {
            return Some(*rate);
        }
        let rate = self.measure(key)?;
        self.rates.insert(key, rate);
        Some(rate)
    }

    /// What is measured for matrices of a model.
    fn shape(&self, element_type: ElementType, matrices: Matrices) -> Measured {
        let Matrices { bytes_per_token, piece, columns } = matrices;
        let bytes = bytes_per_token.clamp(LEAST, self.most);
        if self.coarse {
            let magnitude = (bytes / LEAST).ilog2().next_multiple_of(2);
            let bytes = (LEAST << magnitude).min(self.most);
            return Measured { element_type, bytes, piece: COARSE_PIECE.min(bytes), columns: COARSE_COLUMNS };
        }
        // Larger models than measured with have the same rate, and nearly equal sizes too.
        let step = 1 << (bytes.ilog2() - 2);
        let bytes = if bytes == self.most { bytes } else { bytes / step * step };
        let steps = (piece.clamp(LEAST_PIECE, LARGEST_PIECE) as f64 / LEAST_PIECE as f64).log(4.0).round();
        let piece = (LEAST_PIECE << (2 * steps as u32)).min(bytes);
        let columns = 1 << columns.clamp(FEWEST_COLUMNS, MOST_COLUMNS).ilog2();
        Measured { element_type, bytes, piece, columns }
    }

    fn measure(&mut self, what: Measured) -> Option<f64> {
        let Measured { element_type, bytes, piece, columns } = what;
        let row = element_type.row_bytes(columns)?;
        let rows = (usize::try_from(piece).ok()? / row).max(1);
        let matrix_bytes = rows * row;
        let length = (usize::try_from(bytes).ok()? / matrix_bytes).max(1) * matrix_bytes;
        let sample = sample_weights(element_type, SAMPLE.next_multiple_of(row).min(length));
        if self.buffer.len() < length {
            self.buffer = vec![0; length];
        }
        let parts = self.buffer[..length].chunks_mut(sample.len());
        quern_compute::parallel::share(&self.pool, parts, |part| part.copy_from_slice(&sample[..part.len()]));
        let mut scratch = Scratch::new();
        let x: Vec<f32> = (0..columns).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 300.0).collect();
        let mut y = vec![0f32; rows];
        let mut best = Duration::MAX;
        let (started, mut passes) = (Instant::now(), 0);
        while passes < PASSES || started.elapsed() < TIME {
            let pass = Instant::now();
            for data in self.buffer[..length].chunks_exact(matrix_bytes) {
                let matrix = Matrix::new(element_type, rows, columns, data).ok()?;
                matmul(&self.pool, &mut scratch, &[matrix], &x, 1, &mut [&mut y]).ok()?;
            }
            best = best.min(pass.elapsed());
            passes += 1;
        }
        Some(length as f64 / best.as_secs_f64().max(1e-9))
    }

    /// Seconds of a region that has hardly any work: the median of many, one right after the other.
    fn region(&mut self) -> f64 {
        if let Some(region) = self.region {
            return region;
        }
        let mut times: Vec<f64> = (0..2000)
            .map(|_| {
                let start = Instant::now();
                self.pool.run(self.pool.threads(), |_| {});
                start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        *self.region.insert(times[times.len() / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_measured_once_for_each_type_and_size() {
        let mut machine = MachineSpeed { most: LEAST, ..MachineSpeed::new(2) };
        let types = [ElementType::Q4K, ElementType::F16, ElementType::NF4];
        let matrices = Matrices { bytes_per_token: 1 << 40, piece: 1 << 20, columns: 2048 };
        let costs = machine.costs(&types, matrices);
        assert_eq!(costs.cpu.len(), 3);
        assert!(costs.cpu.iter().all(|(_, rate)| rate.is_finite() && *rate > 1e6), "{costs:?}");
        assert!(costs.region > 0.0);
        assert_eq!(machine.costs(&types, Matrices { bytes_per_token: LEAST, ..matrices }), costs);
        assert_eq!(machine.rate(ElementType::I32, matrices), None);
        assert_eq!(machine.rates.len(), 3);
    }

    #[test]
    fn coarse_rates_are_shared_by_models_of_about_the_same_size() {
        let mut machine = MachineSpeed { most: 4 * LEAST, ..MachineSpeed::new(2) }.coarse();
        let sizes = [1, 3 * LEAST, 4 * LEAST, 1 << 40];
        for (bytes_per_token, columns) in sizes.into_iter().zip([512, 1024, 2048, 5120]) {
            let matrices = Matrices { bytes_per_token, piece: bytes_per_token / 7, columns };
            assert!(machine.rate(ElementType::Q4K, matrices).unwrap() > 1e6);
        }
        assert_eq!(machine.rates.len(), 2);
    }
}
