//! What a machine offers: processor, memory, disks.

mod cpu;
mod disk;
mod memory;

pub use cpu::{Cpu, cpu};
pub use disk::{Disk, disk, file_read_speed, read_speed};
pub use memory::{Memory, memory};

use std::path::Path;

/// Whether the bus has a card of NVIDIA's, with or without a driver. `None` where the system does not say.
pub fn has_nvidia_card() -> Option<bool> {
    let devices = std::fs::read_dir("/sys/bus/pci/devices").ok()?;
    // The vendor's number; and class 03 is display, 12 processing accelerators.
    let is_card = |path: &Path| {
        let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
        let class = read("class");
        read("vendor").trim() == "0x10de" && (class.starts_with("0x03") || class.starts_with("0x12"))
    };
    Some(devices.flatten().any(|device| is_card(&device.path())))
}
