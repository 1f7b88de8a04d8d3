//! Where a model is run: the devices chosen, the plan of `--dry-run`, the report after a run.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Once;

use anyhow::bail;
use quern_hub::Remote;
use quern_model::{Config, View};
use quern_quantize::load_in::{LoadScheme, Loader};
use quern_run::placement::{
    Capacity, DeviceChoice, DeviceReport, GpuLayers, GpuRoom, Made, PlacementReport, Plan, Session,
    SizeOptions, Sizes, Source, Transfer, cards, ram_room,
};
use quern_run::{KvType, LoadIn, SessionOptions};
use quern_tensor_io::Checkpoint;
use serde_json::{Value, json};

use super::beside::share;
use super::{Outcome, print, print_json};
use crate::{args, format, messages, model};

/// Whether the user knows that `--ngl` has no effect.
static NOTED: Once = Once::new();

/// The cards to use. Says so where layers were asked for on GPUs and there is none.
///
/// # Errors
/// A card that was asked for is not there or cannot be used.
pub fn gpus(args: &args::Devices) -> anyhow::Result<Vec<GpuRoom>> {
    let options = args.options();
    let cards = match options.device {
        // No driver is loaded for that.
        DeviceChoice::Cpu => Ok(Vec::new()),
        DeviceChoice::Auto | DeviceChoice::Cuda(_) => cards(),
    };
    let why = cards.as_ref().err().map(|reason| format!(": {reason}")).unwrap_or_default();
    let gpus = options.choose(cards).map_err(quern_run::Error::from)?;
    let asked = !matches!(options.gpu_layers, GpuLayers::Auto | GpuLayers::Last(0));
    if gpus.is_empty() && asked {
        // Once, however many models are loaded.
        NOTED.call_once(|| match options.device {
            DeviceChoice::Cpu => messages::note("--ngl has no effect with --device cpu"),
            DeviceChoice::Auto | DeviceChoice::Cuda(_) => messages::note(format_args!(
                "--ngl has no effect, the CPU computes all layers: there is no GPU to use{why}"
            )),
        });
    }
    Ok(gpus)
}

/// The cards that a calibration may use; none if the CPU computes.
///
/// # Errors
/// A card that was asked for is not there or cannot be used; a limit on RAM.
pub fn calibration_gpus(args: &args::CalibrationDevice) -> anyhow::Result<Vec<GpuRoom>> {
    let options = args.options();
    if options.memory.ram.is_some() {
        bail!(
            "--max-memory limits the GPUs of a calibration, such as 0=10GiB; what it takes of RAM is said by --dry-run"
        );
    }
    let cards = match options.device {
        // No driver is loaded for that.
        DeviceChoice::Cpu => Ok(Vec::new()),
        DeviceChoice::Auto | DeviceChoice::Cuda(_) => cards(),
    };
    Ok(options.choose(cards).map_err(quern_run::Error::from)?)
}

/// Refuses GPUs for a command that does not use them.
///
/// # Errors
/// One was asked for.
pub fn refuse_gpus(command: &str, device: DeviceChoice) -> anyhow::Result<()> {
    match device {
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(()),
        DeviceChoice::Cuda(_) => {
            bail!(
                "quern {command} computes on the CPU only, and --device {device} asks for a GPU; leave --device out"
            )
        }
    }
}

/// One model of a dry run.
pub struct Planned<'a> {
    /// The argument.
    pub path: &'a Path,
    /// Scheme to quantize to while loading.
    pub load_in: Option<LoadScheme>,
    /// The session it would have.
    pub session: &'a dyn Fn(&Config) -> SessionOptions,
    /// How it would keep keys and values.
    pub kv: KvType,
    /// Most rows of logits wanted together.
    pub rows: usize,
}

/// Prints the plans of several models and loads none of them. With `together`, they are loaded at the same time.
pub fn dry_run(
    models: &[Planned<'_>],
    args: &args::Devices,
    threads: usize,
    together: bool,
    as_json: bool,
) -> Outcome {
    let mut gpus = gpus(args)?;
    let (mut values, mut text) = (Vec::new(), Vec::new());
    for (index, planned) in models.iter().enumerate() {
        let mut room = gpus.clone();
        if let Some(next) = models.get(index + 1).filter(|_| together) {
            share(&mut room, next, args, threads)?;
        }
        let report = plan(planned, args, threads, room)?;
        if together {
            // The next one has what this one leaves.
            for gpu in &mut gpus {
                let name = format!("cuda:{}", gpu.index);
                let used = report.devices.iter().find(|device| device.device == name).map_or(0, total);
                gpu.room = gpu.room.saturating_sub(used);
            }
        }
        text.push(described(planned, &report));
        let mut value = json!({"model": planned.path, "kv": planned.kv.name()});
        if let (Value::Object(value), Value::Object(report)) = (&mut value, serde_json::to_value(&report)?) {
            value.extend(report);
        }
        values.push(value);
    }
    match (as_json, &*values) {
        (true, [value]) => print_json(value)?,
        (true, _) => print_json(&values)?,
        (false, _) => print(&text.join("\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Plans one model by its headers.
pub(super) fn plan(
    planned: &Planned<'_>,
    args: &args::Devices,
    threads: usize,
    gpus: Vec<GpuRoom>,
) -> anyhow::Result<PlacementReport> {
    let found = model::find(planned.path)?;
    let checkpoint: Checkpoint = match &found {
        Remote::Cached(path) => model::open_file(path)?,
        Remote::Headers(headers) => headers.open()?,
    };
    let loader = planned.load_in.map(|scheme| Loader::new(&checkpoint, scheme)).transpose()?;
    let view = View::stored(&checkpoint)?;
    let load_in = loader.as_ref().map(|loader| loader as &dyn LoadIn);
    let sizes = Sizes::of(&view, SizeOptions { threads, load_in, kv: planned.kv, made: Made::WhileLoading })?;
    let Some(config) = view.config() else {
        bail!("{}: its configuration is not known", planned.path.display())
    };
    let options = (planned.session)(config);
    quern_run::check_context(config, options.context)?;
    let capacity = Capacity { gpus, ram: ram_room(args.options().memory.ram, sizes.units.len()) };
    let session = session(args, options, planned.rows);
    let plan = Plan::fitting(&sizes, &capacity, session).map_err(quern_run::Error::from)?;
    Ok(PlacementReport::planned(&sizes, &capacity, &plan))
}

/// What a session asks of a plan.
pub fn session(args: &args::Devices, options: SessionOptions, rows: usize) -> Session {
    let SessionOptions { context, batch, kv: _ } = options;
    Session { gpu_layers: args.options().gpu_layers, context, batch: batch.min(context), rows }
}

/// Bytes of everything on a device.
pub(super) fn total(device: &DeviceReport) -> u64 {
    device.weights_bytes.saturating_add(device.cache_bytes).saturating_add(device.scratch_bytes)
}

/// A plan in words.
fn described(planned: &Planned<'_>, report: &PlacementReport) -> String {
    let mut text = format!(
        "{}: {} parameters, {} on disk; context {} ({}), batch {}; {} of {} layers on GPUs\n\n{}\n",
        planned.path.display(),
        format::count(report.parameters),
        format::bytes(report.file_size),
        report.context,
        planned.kv.name(),
        report.batch,
        report.gpu_layers,
        report.layers,
        plan_table(report)
    );
    if let Some(shortage) = report.shortage {
        text += &format!(
            "\nall {} layers would take {} on one GPU, and {} can be used\n",
            report.layers,
            format::bytes(shortage.needed_bytes),
            format::bytes(shortage.room_bytes)
        );
    }
    for transfer in &report.transfers {
        text += &format!("\n{}\n", moved(transfer));
    }
    text
}

/// Devices, and what they would hold.
fn plan_table(report: &PlacementReport) -> comfy_table::Table {
    let header = ["device", "layers", "weights", "cache", "buffers", "together", "available"];
    let row = |device: &DeviceReport| {
        let mut row = held(device);
        row.push(format::bytes(total(device)));
        row.push(device.available_bytes.map_or_else(String::new, format::bytes));
        row
    };
    format::table(&header, &[2, 3, 4, 5, 6], report.devices.iter().map(row))
}

/// Devices, what they held, and the memory in use on them.
pub fn run_table(report: &PlacementReport) -> String {
    let header = ["device", "layers", "weights", "cache", "buffers", "before loading", "loaded", "peak"];
    let row = |device: &DeviceReport| {
        let memory = [device.memory_before_bytes, device.memory_after_bytes, device.memory_peak_bytes];
        let memory = memory.map(|bytes| bytes.map_or_else(String::new, format::bytes));
        held(device).into_iter().chain(memory).collect()
    };
    let table = format::table(&header, &[2, 3, 4, 5, 6, 7], report.devices.iter().map(row));
    let transfers = report.transfers.iter().map(moved);
    std::iter::once(table.to_string()).chain(transfers).collect::<Vec<_>>().join("\n")
}

/// The first columns of both tables.
fn held(device: &DeviceReport) -> Vec<String> {
    let name = device.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let mut layers: Vec<String> = device
        .blocks
        .iter()
        .map(|&[first, last]| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    if device.device == "cpu" {
        layers.insert(0, "embedding".to_owned());
    }
    if device.head {
        layers.push("head".to_owned());
    }
    let mut row = vec![format!("{}{name}", device.device), layers.join(", ")];
    row.extend([device.weights_bytes, device.cache_bytes, device.scratch_bytes].map(format::bytes));
    row
}

/// What is moved for a token.
fn moved(transfer: &Transfer) -> String {
    let from = match transfer.from {
        Source::Cpu => "RAM by the CPU",
        Source::Ram => "RAM to the GPU",
        Source::Disk => "disk to RAM",
    };
    let kind = if transfer.from == Source::Ram { "token of a prompt" } else { "token" };
    let mut text = format!("from {from}: {} per {kind}", format::bytes(transfer.bytes_per_token));
    if let Some(rate) = transfer.bytes_per_second {
        text += &format!(" at {:.1} GB/s", rate / 1e9);
    }
    if let Some(seconds) = transfer.seconds_per_token {
        text += &format!(", which costs {:.1} ms per {kind}", seconds * 1e3);
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn device(name: &str, blocks: &[[usize; 2]], head: bool) -> DeviceReport {
        DeviceReport {
            device: name.to_owned(),
            blocks: blocks.to_vec(),
            head,
            weights_bytes: 2 << 30,
            cache_bytes: 256 << 20,
            scratch_bytes: 64 << 20,
            ..DeviceReport::default()
        }
    }

    pub fn report() -> PlacementReport {
        let gpu = DeviceReport {
            name: Some("NVIDIA H100".to_owned()),
            memory_before_bytes: Some(500 << 20),
            memory_after_bytes: Some(3 << 30),
            memory_peak_bytes: Some(4 << 30),
            available_bytes: Some(8 << 30),
            ..device("cuda:0", &[[16, 31]], true)
        };
        PlacementReport {
            parameters: 7_241_732_096,
            file_size: 4 << 30,
            context: 4096,
            batch: 512,
            gpu_layers: 17,
            layers: 33,
            devices: vec![
                gpu,
                device("cpu", &[[0, 7], [9, 9]], false),
                device("disk", &[[8, 8], [10, 15]], false),
            ],
            transfers: vec![
                Transfer {
                    from: Source::Ram,
                    bytes_per_token: 1 << 30,
                    bytes_per_second: Some(5e10),
                    seconds_per_token: Some(0.0204),
                },
                Transfer {
                    from: Source::Disk,
                    bytes_per_token: 3 << 20,
                    bytes_per_second: None,
                    seconds_per_token: None,
                },
            ],
            shortage: None,
        }
    }

    #[test]
    fn tables_name_devices_layers_and_sizes() {
        let plan = plan_table(&report()).to_string();
        for part in
            ["cuda:0 NVIDIA H100", "16-31, head", "embedding, 0-7, 9", "8, 10-15", "2.31 GiB", "8.00 GiB"]
        {
            assert!(plan.contains(part), "{part} in {plan}");
        }
        let run = run_table(&report());
        for part in [
            "before loading",
            "500.00 MiB",
            "4.00 GiB",
            "from RAM to the GPU: 1.00 GiB per token of a prompt at 50.0 GB/s, which costs 20.4 ms per token of a \
             prompt",
            "from disk to RAM: 3.00 MiB per token",
        ] {
            assert!(run.contains(part), "{part} in {run}");
        }
    }
}
