//! Two models on the same GPUs, one after the other loaded; what is said of GPUs before long work.

use std::path::Path;

use quern_run::placement::{GpuRoom, PlacementReport};

use super::Placed;
use super::placement::{Planned, plan, total};
use crate::{args, format, messages};

/// Leaves room on GPUs for a model that is loaded next: what that one needs, and at most half, so that both have layers
/// there. Batches of tokens are computed on a GPU as soon as it has a layer.
///
/// # Errors
/// The headers of that model cannot be read, or it fits nowhere.
pub fn share(
    gpus: &mut [GpuRoom],
    next: &Planned<'_>,
    args: &args::Devices,
    threads: usize,
) -> anyhow::Result<()> {
    if !gpus.is_empty() {
        let report = plan(next, args, threads, gpus.to_vec())?;
        leave_part(gpus, needed(&report));
    }
    Ok(())
}

/// Bytes that all layers of a model need on GPUs.
fn needed(report: &PlacementReport) -> u64 {
    let there = report.devices.iter().filter(|device| device.device.starts_with("cuda")).map(total).sum();
    report.shortage.map_or(there, |shortage| shortage.needed_bytes)
}

/// Takes `needed` bytes from all GPUs together, in proportion to their room, and at most half of it.
fn leave_part(gpus: &mut [GpuRoom], needed: u64) {
    let all: u64 = gpus.iter().map(|gpu| gpu.room).sum();
    let part = (needed as f64 / all.max(1) as f64).min(0.5);
    for gpu in gpus {
        gpu.room -= (gpu.room as f64 * part) as u64;
    }
}

/// Leaves room on GPUs for a model that was loaded before, and has not yet the memory of its session.
pub fn leave(gpus: &mut [GpuRoom], args: &args::Devices, other: &PlacementReport) {
    let limits = args.options().memory.cards;
    for gpu in gpus {
        let name = format!("cuda:{}", gpu.index);
        let Some(device) = other.devices.iter().find(|device| device.device == name) else { continue };
        // Its weights are there already: what is free is less.
        let later = device.cache_bytes.saturating_add(device.scratch_bytes);
        gpu.room = gpu.room.saturating_sub(later);
        if let Some(limit) = limits.get(&gpu.index) {
            gpu.room = gpu.room.min(limit.saturating_sub(total(device)));
        }
    }
}

/// Says, before long work, which GPUs compute a model and what they hold, and what is too large for them.
pub(super) fn announce(path: &Path, placed: &Placed, report: Option<&PlacementReport>) {
    let Some(report) = report.filter(|_| placed.room > 0) else { return };
    for line in announced(&path.display().to_string(), placed.room, report) {
        messages::info(line);
    }
}

/// The lines of [`announce`].
fn announced(path: &str, room: u64, report: &PlacementReport) -> Vec<String> {
    let gpus = report.devices.iter().filter(|device| device.device.starts_with("cuda"));
    let mut lines: Vec<String> = gpus
        .map(|device| {
            format!(
                "{path}: {} {} takes {} of {}",
                device.device,
                device.name.as_deref().unwrap_or_default(),
                format::bytes(total(device)),
                device.available_bytes.map_or_else(String::new, format::bytes),
            )
        })
        .collect();
    let rest = report.layers - report.gpu_layers;
    let room = format::bytes(room);
    match (rest, lines.is_empty()) {
        (0, _) => {}
        (_, true) => lines.push(format!("{path}: the CPU computes it: no layer fits into the {room} of the GPU")),
        (_, false) => lines.push(format!(
            "{path}: {rest} of its {} layers do not fit into the {room} of the GPU: they stay in RAM, and are moved to it \
             for every batch of tokens",
            report.layers
        )),
    }
    lines
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use quern_run::placement::Shortage;

    use super::super::placement::tests::report;
    use super::*;

    #[test]
    fn what_gpus_hold_is_said_beforehand() {
        let lines = announced("m.gguf", 8 << 30, &report());
        assert_eq!(lines[0], "m.gguf: cuda:0 NVIDIA H100 takes 2.31 GiB of 8.00 GiB");
        assert!(
            lines[1].starts_with("m.gguf: 16 of its 33 layers do not fit into the 8.00 GiB"),
            "{lines:?}"
        );
        let mut all = report();
        all.gpu_layers = 33;
        assert_eq!(announced("m.gguf", 8 << 30, &all).len(), 1);
        let mut none = report();
        none.devices.remove(0);
        none.gpu_layers = 0;
        assert!(announced("m.gguf", 1 << 20, &none)[0].contains("the CPU computes it"));
    }

    #[test]
    fn a_first_model_leaves_what_the_second_needs_and_at_most_half() {
        let gpu =
            |room| GpuRoom { index: 0, name: String::new(), total: room, free: room, room, limited: false };
        let rooms = |needed| {
            let mut gpus = [gpu(8 << 30), gpu(24 << 30)];
            leave_part(&mut gpus, needed);
            gpus.map(|gpu| gpu.room)
        };
        assert_eq!(rooms(0), [8 << 30, 24 << 30]);
        assert_eq!(rooms(8 << 30), [6 << 30, 18 << 30]);
        assert_eq!(rooms(100 << 30), [4 << 30, 12 << 30]);
        leave_part(&mut [gpu(0)], 5);
        assert_eq!(needed(&report()), total(&report().devices[0]));
        let shortage = Some(Shortage { needed_bytes: 7, room_bytes: 3 });
        assert_eq!(needed(&PlacementReport { shortage, ..report() }), 7);
    }

    #[test]
    fn a_second_model_leaves_room_for_the_first_one_s_session() {
        #[derive(Parser)]
        struct Arguments {
            #[command(flatten)]
            devices: args::Devices,
        }
        let room = |arguments: &[&str], room: u64| {
            let Arguments { devices } = Arguments::parse_from([&["quern"], arguments].concat());
            let gpu = |index| GpuRoom {
                index,
                name: String::new(),
                total: 80 << 30,
                free: 70 << 30,
                room,
                limited: false,
            };
            let mut gpus = [gpu(0), gpu(1)];
            leave(&mut gpus, &devices, &report());
            gpus.map(|gpu| gpu.room)
        };
        // Its cache and buffers take 320 MiB, its weights 2 GiB that are no longer free.
        assert_eq!(room(&[], 4 << 30), [(4 << 30) - (320 << 20), 4 << 30]);
        assert_eq!(room(&["--max-memory", "0=3GiB,1=4GiB"], 3 << 30), [(1 << 30) - (320 << 20), 3 << 30]);
        assert_eq!(room(&["--max-memory", "0=1GiB,1=4GiB"], 1 << 30)[0], 0);
    }
}
