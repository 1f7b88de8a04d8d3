//! `quern fit`: what of a model, or which model, fits a machine.

mod list;
mod words;

use std::process::ExitCode;

use quern_hub::Remote;
use quern_inspect::fit::{self, Candidate, Machine, Scheme, Subject, Use, Wishes};
use quern_inspect::machine::file_read_speed;
use quern_model::identify;
use quern_run::estimate::{GPU_CONTEXT, MachineSpeed};
use quern_run::placement::{DeviceChoice, DeviceInfo, GpuRoom, PlacementOptions, cards};
use quern_run::{available_memory, gpu_bandwidth};
use quern_tensor_io::Checkpoint;
use serde_json::{Value, json};

use super::{Outcome, print, print_json};
use crate::progress::Bar;
use crate::{args, format, messages, model};

/// The share of the free memory that is planned with.
const SHARE: f64 = 0.9;
/// Tokens that quern run computes together.
const BATCH: usize = 512;

/// Prints what fits; the exit code is 1 if nothing does.
pub fn run(args: &args::Fit) -> Outcome {
    let machine = machine(args)?;
    let how = Use { context: args.context.map(|n| n as usize), kv: args.kv, batch: BATCH };
    let mut speed = MachineSpeed::new(args.threads.count());
    match &args.model {
        Some(_) => of_model(args, machine, how, &mut speed),
        None => list::run(args, &machine, how, &mut speed.coarse()),
    }
}

/// This machine, or the limits of the options.
fn machine(args: &args::Fit) -> anyhow::Result<Machine> {
    let free = available_memory().map(|available| (available as f64 * SHARE) as u64);
    let mut machine = Machine { ram: args.ram.or(free), ..Machine::default() };
    match &args.vram {
        Some(sizes) => {
            let known = args.gpu_bandwidth.map(|bytes| bytes as f64);
            let own = || cards().ok().and_then(|cards| gpu_bandwidth(cards.first()?.index).ok().flatten());
            let bandwidth = if sizes.is_empty() { None } else { known.or_else(own) };
            for (index, &total) in sizes.iter().enumerate() {
                let info = DeviceInfo {
                    index,
                    name: format!("a GPU with {}", format::bytes(total)),
                    free: total.saturating_sub(GPU_CONTEXT),
                    total,
                    compute_capability: (0, 0),
                    driver: (0, 0),
                };
                machine.gpus.push(GpuRoom::new(&info, None));
                machine.gpu_bandwidths.push(bandwidth);
            }
        }
        None => {
            let options = PlacementOptions { device: args.device, ..PlacementOptions::default() };
            let cards = match args.device {
                DeviceChoice::Cpu => Ok(Vec::new()),
                DeviceChoice::Auto | DeviceChoice::Cuda(_) => cards(),
            };
            machine.gpus = options.choose(cards).map_err(quern_run::Error::from)?;
            machine.gpu_bandwidths =
                machine.gpus.iter().map(|gpu| gpu_bandwidth(gpu.index).ok().flatten()).collect();
        }
    }
    Ok(machine)
}

/// All schemes of one model.
fn of_model(args: &args::Fit, mut machine: Machine, how: Use, speed: &mut MachineSpeed) -> Outcome {
    let path = args.model.as_deref().unwrap_or(std::path::Path::new(""));
    let found = model::find(path)?;
    let checkpoint: Checkpoint = match &found {
        Remote::Cached(path) => identify::open(path)?,
        Remote::Headers(headers) => headers.open()?,
    };
    let subject = Subject::new(&checkpoint)?;
    if let Some(context) = how.context {
        quern_run::check_context(subject.config(), context)?;
    }
    let plain = subject.is_plain();
    let schemes = match plain {
        true => [Scheme::Stored].into_iter().chain(fit::schemes()).collect(),
        false => vec![Scheme::Stored],
    };
    if machine.ram.is_some_and(|ram| checkpoint.file_size() > ram) {
        // Layers may have to be read for every token. Of headers alone there is nothing to read.
        let file = checkpoint.files().first().filter(|_| checkpoint.has_data());
        machine.disk = file.and_then(|file| file_read_speed(file).ok());
    }
    let bar = Bar::waiting("measuring what this machine does with each scheme");
    let (mut candidates, mut left_out) = (Vec::new(), Vec::new());
    for scheme in schemes {
        match subject.candidate(scheme, &machine, how, speed) {
            Ok(candidate) => candidates.push(candidate),
            // One scheme may not suit the shapes of a model, the model itself always does.
            Err(error) if scheme == Scheme::Stored => return Err(error.into()),
            Err(error) => left_out.push(format!("{}: {error}", scheme.title())),
        }
    }
    let best = fit::best(&candidates, Wishes { speed: args.speed });
    let cpu_alone = match best.filter(|_| !machine.gpus.is_empty()) {
        Some(best) => {
            let cpu = Machine { gpus: Vec::new(), gpu_bandwidths: Vec::new(), ..machine.clone() };
            Some(subject.candidate(candidates[best].scheme, &cpu, how, speed)?)
        }
        None => None,
    };
    drop(bar);
    let fits = candidates.iter().any(|candidate| candidate.placed.is_some());
    let name = words::short_name(path);
    if args.json {
        let rows: Vec<Value> = candidates
            .iter()
            .enumerate()
            .map(|(i, candidate)| {
                let mut value = words::json(candidate, &machine);
                value["best"] = json!(best == Some(i));
                value["commands"] = json!(words::commands(candidate, path, &name, args));
                value
            })
            .collect();
        print_json(&json!({
            "model": path,
            "machine": words::machine_json(&machine, speed.threads()),
            "speed_wanted": args.speed,
            "schemes": rows,
            "on_the_cpu_alone": cpu_alone.as_ref().map(|candidate| words::json(candidate, &machine)),
            "left_out": left_out,
        }))?;
    } else {
        print(&words::of_model(path, &subject, &candidates, best, &machine, args))?;
        if let Some(best) = best {
            print(&recommendation(&candidates[best], cpu_alone.as_ref(), path, &name, args))?;
        }
        if !plain {
            messages::note(
                "the model is quantized already; for other schemes, start from the unquantized original",
            );
        }
        for reason in left_out {
            messages::note(reason);
        }
    }
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What to try first, and how.
fn recommendation(
    best: &Candidate,
    cpu_alone: Option<&Candidate>,
    path: &std::path::Path,
    name: &str,
    args: &args::Fit,
) -> String {
    let speed = best.placed.as_ref().and_then(|placed| placed.tokens_per_second());
    let mut text = format!("\nTry first: {}", best.scheme.title());
    match speed {
        Some(speed) if speed < args.speed => {
            text += &format!(
                ", the fastest of acceptable quality; {} tokens per second are not reached (--speed)",
                args.speed
            );
        }
        Some(_) => {
            text += &format!(
                ", the closest to the original that reaches {} tokens per second (--speed)",
                args.speed
            );
        }
        None => text += ", the closest to the original that fits; speeds are not known",
    }
    text += "\n";
    if let Some(placed) = cpu_alone.and_then(|candidate| candidate.placed.as_ref()) {
        let speed = placed.tokens_per_second().map(|speed| format!(" at {} tokens/s", words::speed(speed)));
        text += &format!(
            "On the CPU alone (--device cpu) it needs {}{}.\n",
            format::bytes(placed.memory.ram.total()),
            speed.unwrap_or_default()
        );
    }
    text += "\n";
    for command in words::commands(best, path, name, args) {
        text += &format!("  {command}\n");
    }
    text
}
