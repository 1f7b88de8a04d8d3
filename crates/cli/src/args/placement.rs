//! Arguments that say where a model is run: devices, layers on GPUs, limits on memory.

use clap::Args;
use quern_run::KvType;
use quern_run::placement::{DeviceChoice, GpuLayers, MemoryLimits, PlacementOptions};

use super::values::{device, gpu_layers, kv_types, max_memory};

/// The devices that compute, and how much of their memory is used.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Devices and memory")]
pub struct Devices {
    /// Device to compute on: auto, cpu, cuda (all cards) or cuda:N (card number N)
    ///
    /// auto takes all cards that can be used, and the CPU where there is none. Layers that the GPUs do not hold stay in RAM.
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device)]
    device: DeviceChoice,
    /// Number of layers on GPUs, also written -ngl: a number, all, or auto for as many as fit
    ///
    /// Layers are counted from the end, as llama.cpp does: the output head is the last one. A model of 32 blocks has 33
    /// layers, and a larger number means all of them.
    #[arg(
        long,
        aliases = ["gpu-layers", "n-gpu-layers"],
        value_name = "N",
        default_value = "auto",
        allow_negative_numbers = true,
        value_parser = gpu_layers
    )]
    ngl: GpuLayers,
    /// Limits on memory, such as 0=10GiB,cpu=32GiB, or a size alone for RAM [default: the memory that is free]
    ///
    /// A number names a card, and cards that such a list leaves out are not used. cpu (or a size alone) limits the
    /// resident memory of the process: weights, key-value cache and buffers together stay below the limit. Layers that
    /// do not fit are read from the file again for every token, which is slower and changes no result.
    #[arg(long, value_name = "DEVICE=SIZE,…", value_parser = max_memory)]
    max_memory: Option<MemoryLimits>,
}

/// Where a model is run, and how much memory that may take.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Devices and memory")]
pub struct Placement {
    #[command(flatten)]
    pub devices: Devices,
    /// Type of the key-value cache: f16, q8_0 (17/32 of the size of f16) or f32
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = kv_types(), hide_possible_values = true)]
    pub kv: KvType,
    /// Print where every layer would be and how much memory that takes, and load nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl Devices {
    /// What the library takes.
    pub fn options(&self) -> PlacementOptions {
        PlacementOptions {
            device: self.device,
            gpu_layers: self.ngl,
            memory: self.max_memory.clone().unwrap_or_default(),
        }
    }
}

/// The device of a calibration pass.
#[derive(Clone, Debug, Args)]
pub struct CalibrationDevice {
    /// Device that runs the model (gptq, auto, --calibrate, --evaluate): auto, cpu, cuda (all cards) or cuda:N (card N)
    ///
    /// auto takes all cards that can be used, and the CPU where there is none or their memory is too small. Quantization
    /// without calibration is done by the CPU.
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device)]
    device: DeviceChoice,
    /// Limits on the memory of GPUs during calibration, such as 0=10GiB [default: the memory that is free]
    ///
    /// Cards that such a list leaves out are not used. Where a limit is too small for the activations of all samples, they
    /// wait in RAM; where it is too small for one sample and one layer, the CPU computes.
    #[arg(long, value_name = "DEVICE=SIZE,…", value_parser = max_memory)]
    max_memory: Option<MemoryLimits>,
}

impl CalibrationDevice {
    /// Which GPUs are asked for.
    pub fn choice(&self) -> DeviceChoice {
        self.device
    }

    /// The same for models that are run whole.
    pub fn devices(&self) -> Devices {
        Devices { device: self.device, ngl: GpuLayers::Auto, max_memory: self.max_memory.clone() }
    }

    /// What the library takes.
    pub fn options(&self) -> PlacementOptions {
        let memory = self.max_memory.clone().unwrap_or_default();
        PlacementOptions { device: self.device, memory, ..PlacementOptions::default() }
    }
}
