//! What `quern fit` prints of a candidate.

use std::path::Path;

use quern_inspect::fit::{Candidate, Machine, Placed, Scheme, Subject};
use quern_run::KvType;
use quern_run::estimate::DeviceMemory;
use quern_run::placement::DeviceChoice;
use serde_json::{Value, json};

use crate::format::quoted;
use crate::{args, format};

/// The last part of a model's name, without what distinguishes files.
pub fn short_name(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = text.trim_end_matches('/');
    let text = text.split_once('@').map_or(text, |(name, _)| name);
    let last = text.rsplit('/').next().unwrap_or(text);
    let last = last.strip_suffix(".gguf").or_else(|| last.strip_suffix(".safetensors")).unwrap_or(last);
    if last.is_empty() || last == "." || last == ".." { "model".to_owned() } else { last.replace(':', "-") }
}

/// A speed with as many digits as it deserves.
pub fn speed(tokens_per_second: f64) -> String {
    match tokens_per_second {
        s if s < 10.0 => format!("{s:.1}"),
        s => format!("{s:.0}"),
    }
}

/// Where a candidate would be.
pub fn place(candidate: &Candidate) -> String {
    let Some(placed) = &candidate.placed else { return "does not fit".to_owned() };
    let Placed { gpu_layers, disk_layers, layers, .. } = *placed;
    let mut parts = Vec::new();
    match gpu_layers {
        0 => {}
        n if n == layers => parts.push("GPU".to_owned()),
        n => parts.push(format!("{n} of {layers} layers on GPU")),
    }
    if gpu_layers + disk_layers < layers {
        parts.push("RAM".to_owned());
    }
    if disk_layers > 0 {
        parts.push(format!("{disk_layers} on disk"));
    }
    parts.join(", ")
}

/// Bytes on all GPUs.
pub fn gpu_memory(candidate: &Candidate) -> String {
    let Some(placed) = &candidate.placed else { return String::new() };
    match placed.memory.gpus.iter().map(|(_, memory)| memory.total()).sum::<u64>() {
        0 => String::new(),
        bytes => format::bytes(bytes),
    }
}

/// Bytes of RAM, or what would be needed.
pub fn ram(candidate: &Candidate) -> String {
    match &candidate.placed {
        Some(placed) => format::bytes(placed.memory.ram.total()),
        None => format!("needs {}", format::bytes(candidate.needed)),
    }
}

/// Tokens per second.
pub fn rate(candidate: &Candidate) -> String {
    let rate = candidate.placed.as_ref().and_then(Placed::tokens_per_second);
    rate.map_or_else(|| if candidate.placed.is_some() { "unknown".into() } else { String::new() }, speed)
}

/// The table of all schemes.
pub fn of_model(
    path: &Path,
    subject: &Subject<'_>,
    candidates: &[Candidate],
    best: Option<usize>,
    machine: &Machine,
    args: &args::Fit,
) -> String {
    let config = subject.config();
    let context = candidates.first().map_or(0, |candidate| candidate.context);
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let loss = |i: usize| match candidates[i].scheme {
        Scheme::Stored => -1.0,
        Scheme::Gguf { .. } | Scheme::Gptq { .. } | Scheme::Bitsandbytes(_) => {
            candidates[i].quality.map_or(f64::INFINITY, |quality| quality.kl_mean)
        }
    };
    order.sort_by(|&a, &b| {
        let fits = |i: usize| candidates[i].placed.is_none();
        fits(a).cmp(&fits(b)).then(loss(a).total_cmp(&loss(b)))
    });
    let with_gpus = !machine.gpus.is_empty();
    let rows = order.into_iter().map(|i| {
        let candidate = &candidates[i];
        let mut row = vec![
            if best == Some(i) { "*".to_owned() } else { String::new() },
            candidate.scheme.title(),
            format!("{:.2}", candidate.bits_per_weight),
            format::bytes(candidate.file_size),
            place(candidate),
        ];
        if with_gpus {
            row.push(gpu_memory(candidate));
        }
        row.extend([ram(candidate), rate(candidate)]);
        row.extend(match candidate.quality {
            Some(quality) => [format!("{:.4}", quality.kl_mean), quality.word().to_owned()],
            None => [String::new(), "as it is".to_owned()],
        });
        row
    });
    let (header, right): (Vec<&str>, Vec<usize>) = match with_gpus {
        true => (
            vec!["", "scheme", "bits", "file", "where", "GPU memory", "RAM", "tokens/s", "KL", "quality"],
            vec![2, 3, 5, 6, 7, 8],
        ),
        false => (
            vec!["", "scheme", "bits", "file", "where", "RAM", "tokens/s", "KL", "quality"],
            vec![2, 3, 5, 6, 7],
        ),
    };
    format!(
        "{}: {} layers, context {context} ({}); {}\n\n{}\n\nMemory is the peak of quern run with a full context; \
         tokens/s are generated near the beginning of a text.\nKL is the divergence that each scheme caused in a small \
         model (docs/quality.md), not in this one.\n",
        path.display(),
        config.layers,
        args.kv.name(),
        self::machine(machine),
        format::table(&header, &right, rows),
    )
}

/// The machine in a line.
pub fn machine(machine: &Machine) -> String {
    let mut parts: Vec<String> = machine
        .gpus
        .iter()
        .zip(&machine.gpu_bandwidths)
        .map(|(gpu, bandwidth)| {
            let bandwidth = bandwidth.map(|b| format!(" at {:.0} GB/s", b / 1e9)).unwrap_or_default();
            format!("{} for quern on {}{bandwidth}", format::bytes(gpu.room), gpu.name)
        })
        .collect();
    parts.extend(machine.ram.map(|ram| format!("{} of RAM", format::bytes(ram))));
    parts.join(", ")
}

/// What makes and runs a candidate.
pub fn commands(candidate: &Candidate, path: &Path, name: &str, args: &args::Fit) -> Vec<String> {
    let source = quoted(&path.to_string_lossy());
    let mut commands = Vec::new();
    let scheme = candidate.scheme;
    let output = match scheme {
        Scheme::Stored => source.clone(),
        Scheme::Gguf { .. } | Scheme::Gptq { .. } | Scheme::Bitsandbytes(_) => quoted(&scheme.output(name)),
    };
    if scheme != Scheme::Stored {
        let mut options = scheme.quantize_options().join(" ");
        if scheme.wants_imatrix() {
            let matrix = quoted(&format!("{name}.imatrix.gguf"));
            commands.push(format!("quern imatrix {source} -o {matrix}"));
            options += &format!(" --imatrix {matrix}");
        }
        commands.push(format!("quern quantize {source} {options} -o {output}"));
    }
    let mut run = format!("quern run {output} -p \"Once upon a time\" --context {}", candidate.context);
    if args.kv != KvType::F16 {
        run += &format!(" --kv {}", args.kv.name());
    }
    if args.device != DeviceChoice::Auto {
        run += &format!(" --device {}", args.device);
    }
    commands.push(run);
    commands
}

fn memory_json(memory: &DeviceMemory) -> Value {
    json!({
        "weights_bytes": memory.weights,
        "cache_bytes": memory.cache,
        "scratch_bytes": memory.scratch,
        "other_bytes": memory.other,
        "total_bytes": memory.total(),
    })
}

/// A candidate.
pub fn json(candidate: &Candidate, machine: &Machine) -> Value {
    let placed = candidate.placed.as_ref();
    let gpus = placed.map(|placed| {
        let named = placed.memory.gpus.iter().map(|(gpu, memory)| {
            let mut value = memory_json(memory);
            let index = machine.gpus.get(*gpu).map_or(*gpu, |room| room.index);
            value["device"] = json!(format!("cuda:{index}"));
            value
        });
        named.collect::<Vec<_>>()
    });
    json!({
        "scheme": candidate.scheme.name(),
        "title": candidate.scheme.title(),
        "quantize_options": if candidate.scheme == Scheme::Stored { None } else { Some(candidate.scheme.quantize_options()) },
        "imatrix": candidate.scheme.wants_imatrix(),
        "bits_per_weight": candidate.bits_per_weight,
        "file_size": candidate.file_size,
        "context": candidate.context,
        "fits": placed.is_some(),
        "needed_ram_bytes": candidate.needed,
        "layers": placed.map(|placed| placed.layers),
        "gpu_layers": placed.map(|placed| placed.gpu_layers),
        "disk_layers": placed.map(|placed| placed.disk_layers),
        "ram": placed.map(|placed| memory_json(&placed.memory.ram)),
        "gpus": gpus,
        "tokens_per_second": placed.and_then(Placed::tokens_per_second),
        "quality": candidate.quality,
        "quality_word": candidate.quality.map(|quality| quality.word()),
    })
}

/// The machine.
pub fn machine_json(machine: &Machine, threads: usize) -> Value {
    let gpus: Vec<Value> = machine
        .gpus
        .iter()
        .zip(&machine.gpu_bandwidths)
        .map(|(gpu, bandwidth)| {
            json!({
                "device": format!("cuda:{}", gpu.index),
                "name": gpu.name,
                "total_bytes": gpu.total,
                "usable_bytes": gpu.room,
                "bytes_per_second": bandwidth,
            })
        })
        .collect();
    json!({"gpus": gpus, "ram_bytes": machine.ram, "disk_bytes_per_second": machine.disk, "threads": threads})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_outputs_come_from_the_model() {
        for (path, name) in [
            ("Qwen/Qwen3-8B", "Qwen3-8B"),
            ("Qwen/Qwen3-8B@main", "Qwen3-8B"),
            ("./models/TinyLlama/", "TinyLlama"),
            ("a/b.gguf", "b"),
            (".", "model"),
        ] {
            assert_eq!(short_name(Path::new(path)), name, "{path}");
        }
    }
}
