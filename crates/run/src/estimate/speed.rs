//! The time that generating a token takes: the bytes it reads, over the rates at which each device reads them, and what
//! every layer takes beside that.

use quern_tensor_io::ElementType;

use super::Costs;
use crate::placement::{Location, Plan, Sizes};

/// Parallel regions of a layer on the CPU that multiply with weights: queries, keys and values; the output of attention;
/// gate and up; down. [`Costs`] has what they take beside their bytes. Attention is one more.
const LINEAR_REGIONS: u64 = 4;
/// Seconds for each value of a layer's buffers that norms, rotations, activations and quantizing pass over.
const VALUE: f64 = 0.4e-9;
/// Seconds of a layer on the CPU beside that: waking threads for norms and rotations, measured with small models.
const LAYER_ON_CPU: f64 = 8e-6;
/// Seconds of a token outside the layers: choosing it, and on a GPU starting the recorded pass and waiting for it.
const TOKEN_ON_CPU: f64 = 5e-6;
const TOKEN_ON_GPU: f64 = 30e-6;
/// Seconds of a layer of a GPU beside its bytes: launches, attention, ends of kernels. By what decoding costs; measured
/// on an H100 with models of 6 to 32 layers.
const LAYER_OF_FLOATS: f64 = 13e-6;
const LAYER_OF_PLAIN_BLOCKS: f64 = 16.5e-6;
const LAYER_OF_SUPER_BLOCKS: f64 = 20e-6;

/// Where the time of a token goes, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenTime {
    /// Layers on GPUs.
    pub gpus: f64,
    /// Layers in RAM.
    pub cpu: f64,
    /// Reading layers that do not fit into RAM.
    pub disk: f64,
}

impl TokenTime {
    /// Tokens a second.
    pub fn tokens_per_second(&self) -> f64 {
        1.0 / (self.gpus + self.cpu + self.disk).max(1e-9)
    }
}

/// The time for a token near the beginning of a text; `None` if the speed of a device in use is not known.
pub fn token_time(sizes: &Sizes, plan: &Plan, costs: &Costs) -> Option<TokenTime> {
    let mut time = TokenTime::default();
    let values = sizes.scratch.ram_token_used as f64 / 4.0;
    for (number, (location, reads)) in plan.units.iter().zip(&sizes.reads).enumerate() {
        let is_block = number < sizes.blocks();
        match location {
            Location::Gpu(gpu) => {
                let rate = *costs.gpus.get(*gpu)?.as_ref()?;
                let bytes: u64 = reads.iter().map(|(_, bytes)| bytes).sum();
                time.gpus += bytes as f64 / rate + if is_block { layer_on_gpu(reads) } else { 0.0 };
            }
            Location::Ram | Location::Disk => {
                for (element_type, bytes) in reads {
                    time.cpu += *bytes as f64 / costs.cpu_rate(*element_type)?;
                }
                time.cpu += if is_block { costs.region + values * VALUE + LAYER_ON_CPU } else { 0.0 };
            }
        }
    }
    if let Some(disk) = plan.on(Location::Disk) {
        time.disk = disk.read_per_token as f64 / costs.disk?;
    }
    match time.gpus > 0.0 {
        true => time.gpus += TOKEN_ON_GPU,
        false => time.cpu += TOKEN_ON_CPU,
    }
    Some(time)
}

/// Bytes of weights that the threads multiply with together at a time, on average.
pub fn region_bytes(sizes: &Sizes) -> u64 {
    let blocks = sizes.blocks() as u64;
    let bytes: u64 = sizes.reads.iter().take(sizes.blocks()).flatten().map(|(_, bytes)| bytes).sum();
    bytes / (LINEAR_REGIONS * blocks).max(1)
}

/// A layer beside its bytes: by the type that most of them have.
fn layer_on_gpu(reads: &[(ElementType, u64)]) -> f64 {
    use ElementType as T;
    let most = reads.iter().max_by_key(|(_, bytes)| *bytes).map(|(element_type, _)| *element_type);
    match most {
        None | Some(T::F32 | T::F16 | T::BF16 | T::Q8_0) => LAYER_OF_FLOATS,
        Some(T::Q4_0 | T::Q4_1 | T::Q5_0 | T::Q5_1) => LAYER_OF_PLAIN_BLOCKS,
        Some(_) => LAYER_OF_SUPER_BLOCKS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{Capacity, GpuLayers, GpuRoom, Session, UnitSize};

    fn sizes() -> Sizes {
        let unit = UnitSize { mapped: 1 << 20, made: 0, gpu: 1 << 20, touched: 1 << 20 };
        Sizes { units: vec![unit; 3], reads: vec![vec![(ElementType::Q8_0, 1 << 20)]; 3], ..Sizes::default() }
    }

    fn time(gpu_layers: usize, costs: &Costs) -> Option<TokenTime> {
        let room = 1 << 30;
        let gpu = GpuRoom { index: 0, name: "a".into(), total: room, free: room, room, limited: false };
        let capacity = Capacity { gpus: vec![gpu], ram: None };
        let layers = GpuLayers::Last(gpu_layers);
        let session = Session { gpu_layers: layers, context: 16, batch: 1, rows: 1 };
        let plan = Plan::new(&sizes(), &capacity, session).unwrap();
        token_time(&sizes(), &plan, costs)
    }

    #[test]
    fn bytes_are_read_by_the_device_that_has_them() {
        let costs =
            Costs { cpu: vec![(ElementType::Q8_0, 1e9)], region: 1e-6, gpus: vec![Some(1e12)], disk: None };
        let mib = (1 << 20) as f64;
        let cpu = time(0, &costs).unwrap();
        assert!(
            (cpu.cpu - (3.0 * mib / 1e9 + 2.0 * (1e-6 + LAYER_ON_CPU) + TOKEN_ON_CPU)).abs() < 1e-9,
            "{cpu:?}"
        );
        assert_eq!(cpu.gpus, 0.0);
        // The head and one block on the GPU.
        let split = time(2, &costs).unwrap();
        assert!((split.cpu - (mib / 1e9 + 1e-6 + LAYER_ON_CPU)).abs() < 1e-9, "{split:?}");
        assert!((split.gpus - (2.0 * mib / 1e12 + LAYER_OF_FLOATS + TOKEN_ON_GPU)).abs() < 1e-9);
        assert!(split.tokens_per_second() > cpu.tokens_per_second());
        // Nothing is made up for a device that nobody measured.
        assert_eq!(time(2, &Costs { gpus: vec![None], ..costs.clone() }), None);
        assert_eq!(time(0, &Costs { cpu: Vec::new(), ..costs }), None);
    }
}
