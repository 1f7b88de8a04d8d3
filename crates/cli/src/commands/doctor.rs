//! `quern doctor`: what this machine offers, what is missing, and what to do about it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use quern_hub::{CacheUse, Hub, Settings};
use quern_inspect::machine::{Cpu, Disk, Memory, cpu, disk, has_nvidia_card, memory, read_speed};
use quern_run::placement::{DeviceInfo, NoCuda, OLDEST_CAPABILITY, cards};
use quern_run::{gpu_bandwidth, read_bandwidth};
use serde::Serialize;

use super::{Outcome, print, print_json};
use crate::progress::Bar;
use crate::{args, format};

/// The longest wait for the Hub.
const PATIENCE: Duration = Duration::from_secs(5);
/// Less free space than this is worth a word: a 7B model and its quantized form take some 20 GB.
const LITTLE_SPACE: u64 = 20 << 30;
/// Memory that is read to measure.
const MEASURED: u64 = 1 << 30;

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    system: String,
    cpu: Cpu,
    memory: Memory,
    /// Bytes a second that all threads read together.
    memory_bytes_per_second: Option<f64>,
    threads: usize,
    disks: Vec<Disk>,
    gpus: Vec<Gpu>,
    /// Why there is no GPU to use.
    no_gpu: Option<String>,
    hub: HubState,
    /// What is missing or slow, with what to do.
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Gpu {
    device: String,
    name: String,
    total: u64,
    free: u64,
    compute_capability: String,
    /// The CUDA version that the driver supports.
    driver_cuda: String,
    bytes_per_second: Option<f64>,
    usable: bool,
}

#[derive(Debug, Default, Serialize)]
struct HubState {
    endpoint: Option<String>,
    cache: Option<PathBuf>,
    cached_models: usize,
    cache_bytes: u64,
    unfinished_bytes: u64,
    token: bool,
    offline: bool,
    /// Seconds that an answer took; `None` if there was none.
    answered_in_seconds: Option<f64>,
    error: Option<String>,
}

/// Something to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// `problem` (something does not work), `slow`, or `note`.
    kind: &'static str,
    what: String,
    remedy: String,
}

fn finding(kind: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { kind, what: what.into(), remedy: remedy.into() }
}

/// Prints the report; the exit code is 0 whatever was found.
pub fn run(args: &args::Doctor) -> Outcome {
    let threads = args.threads.count();
    let mut findings = Vec::new();
    let bar = Bar::waiting("measuring memory, disks and GPUs, asking the Hub");
    let (cpu, memory) = (cpu(), memory());
    let measured = (!args.no_measure).then(|| {
        let room = memory.available.map_or(MEASURED, |available| available / 4);
        read_bandwidth(threads, room.min(MEASURED))
    });
    about_cpu(&cpu, threads, &mut findings);
    about_memory(&memory, &mut findings);
    let (hub, cache) = hub(args, &mut findings);
    let (gpus, no_gpu) = gpus(!args.no_measure, &mut findings);
    let mut folders = vec![std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."))];
    folders.extend(cache);
    let disks = disks(&folders, !args.no_measure, &mut findings);
    drop(bar);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cpu,
        memory,
        memory_bytes_per_second: measured,
        threads,
        disks,
        gpus,
        no_gpu,
        hub,
        findings,
    };
    match args.json {
        true => print_json(&report)?,
        false => print(&text(&report))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn about_cpu(cpu: &Cpu, threads: usize, findings: &mut Vec<Finding>) {
    if cpu.simd != cpu.best_simd {
        let what = format!("QUERN_SIMD holds quern to {}, and the processor has {}", cpu.simd, cpu.best_simd);
        findings.push(finding("slow", what, "unset QUERN_SIMD"));
    } else if cpu.simd == "scalar" {
        let what =
            "the processor has no instructions that quern has fast kernels for (AVX2 with FMA, AVX-512)";
        findings.push(finding(
            "slow",
            what,
            "expect a tenth of the usual speed; use another machine for large models",
        ));
    }
    if let Some(processors) = cpu.processors.filter(|&processors| processors > cpu.usable) {
        let what = format!(
            "this process may use {} of {processors} processors (affinity, or the limit of a container)",
            cpu.usable
        );
        findings.push(finding("note", what, "raise the limit (docker run --cpus, taskset) to use them all"));
    }
    if threads > cpu.usable {
        let what = format!("{threads} threads are more than the {} processors", cpu.usable);
        findings.push(finding("slow", what, "leave --threads out"));
    }
}

fn about_memory(memory: &Memory, findings: &mut Vec<Finding>) {
    let little = memory.total.zip(memory.available).filter(|(total, available)| *available < total / 4);
    if let Some((total, available)) = little {
        let what =
            format!("only {} of {} of memory can be used", format::bytes(available), format::bytes(total));
        let remedy = "close other programs, or raise the container's limit; quern fit shows what fits";
        findings.push(finding("note", what, remedy));
    }
    if let Some(swap) = memory.swap_used.filter(|&swap| swap > 1 << 30) {
        let what = format!("{} of swap space are in use", format::bytes(swap));
        findings.push(finding(
            "slow",
            what,
            "close other programs: a model whose pages are swapped out is very slow",
        ));
    }
}

/// The Hub, and the folder of its cache.
fn hub(args: &args::Doctor, findings: &mut Vec<Finding>) -> (HubState, Option<PathBuf>) {
    let settings = match Settings::from_env() {
        Ok(settings) => settings,
        Err(error) => {
            let error = error.to_string();
            findings.push(finding(
                "problem",
                format!("settings of the Hub: {error}"),
                "mend the variable that it names",
            ));
            return (HubState { error: Some(error), ..HubState::default() }, None);
        }
    };
    let offline = settings.offline || args.offline;
    let mut state = HubState {
        endpoint: Some(settings.endpoint.to_string()),
        cache: Some(settings.cache.clone()),
        token: settings.token.is_some(),
        offline,
        ..HubState::default()
    };
    let cache = settings.cache.clone();
    let timeout = settings.timeout.min(PATIENCE);
    let asked = Hub::new(Settings { timeout, ..settings }).map(|hub| {
        let CacheUse { models, bytes, unfinished } = hub.cache_use();
        (state.cached_models, state.cache_bytes, state.unfinished_bytes) = (models, bytes, unfinished);
        (!offline).then(|| hub.reach())
    });
    match asked {
        Ok(None) => {}
        Ok(Some(Ok(time))) => state.answered_in_seconds = Some(time.as_secs_f64()),
        Ok(Some(Err(error))) | Err(error) => {
            state.error = Some(error.to_string());
            let remedy = match error.is_unreachable() {
                true => {
                    "check the network, HF_ENDPOINT and the proxy (HTTPS_PROXY); models in the cache run without it"
                }
                false => "check HF_TOKEN",
            };
            findings.push(finding("problem", format!("the Hub: {error}"), remedy));
        }
    }
    if state.unfinished_bytes > 0 {
        let what =
            format!("{} of unfinished downloads are in the cache", format::bytes(state.unfinished_bytes));
        findings.push(finding("note", what, "quern pull the model again: it goes on where it was"));
    }
    (state, Some(cache))
}

fn gpus(measure: bool, findings: &mut Vec<Finding>) -> (Vec<Gpu>, Option<String>) {
    let found = match cards() {
        Ok(found) => found,
        Err(reason) => {
            if has_nvidia_card() == Some(true) {
                let remedy = match &reason {
                    NoCuda::OldDriver { .. } => "install NVIDIA driver 550 or later",
                    NoCuda::NotBuilt => "use a build of quern with CUDA (the feature cuda)",
                    NoCuda::NoDriver(_) | NoCuda::NoCard | NoCuda::Unusable(_) => {
                        "install NVIDIA driver 550 or later; in a container, start it with the GPU (docker run --gpus all)"
                    }
                };
                let what = format!("this machine has an NVIDIA card that cannot be used: {reason}");
                findings.push(finding("problem", what, remedy));
            }
            return (Vec::new(), Some(reason.to_string()));
        }
    };
    let gpu = |card: DeviceInfo| {
        let usable = card.compute_capability >= OLDEST_CAPABILITY;
        if usable && card.free < card.total / 2 {
            let what = format!(
                "cuda:{} ({}) has {} of {} free",
                card.index,
                card.name,
                format::bytes(card.free),
                format::bytes(card.total)
            );
            findings.push(finding("note", what, "nvidia-smi shows which programs use it"));
        }
        let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
        Gpu {
            device: format!("cuda:{}", card.index),
            bytes_per_second: if measure { gpu_bandwidth(card.index).ok().flatten() } else { None },
            name: card.name,
            total: card.total,
            free: card.free,
            compute_capability: version(card.compute_capability),
            driver_cuda: version(card.driver),
            usable,
        }
    };
    let gpus: Vec<Gpu> = found.into_iter().map(gpu).collect();
    let none = gpus.is_empty().then(|| {
        let (major, minor) = OLDEST_CAPABILITY;
        format!("no card of compute capability {major}.{minor} or newer")
    });
    (gpus, none)
}

fn disks(folders: &[PathBuf], measure: bool, findings: &mut Vec<Finding>) -> Vec<Disk> {
    let mut disks: Vec<Disk> = Vec::new();
    for folder in folders {
        let mut found = disk(folder);
        // The same disk once more need not be measured again.
        let same = disks.iter().find(|known| known.total == found.total && known.free.is_some());
        let known = same.and_then(|known| known.read_bytes_per_second);
        let mentioned = same.is_some();
        match known {
            Some(speed) => found.read_bytes_per_second = Some(speed),
            None if measure => match read_speed(folder) {
                Ok(speed) => found.read_bytes_per_second = Some(speed),
                Err(error) => {
                    let what = format!("the disk of {} could not be measured: {error}", folder.display());
                    findings.push(finding(
                        "note",
                        what,
                        "free some space there, or check that the folder can be written to",
                    ));
                }
            },
            None => {}
        }
        if let Some(free) = found.free.filter(|&free| free < LITTLE_SPACE && !mentioned) {
            let what = format!("the disk of {} has {} free", folder.display(), format::bytes(free));
            findings.push(finding(
                "note",
                what,
                "free some space, write elsewhere with -o, or move the cache with HF_HOME",
            ));
        }
        disks.push(found);
    }
    disks
}

fn text(report: &Report) -> String {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |label: &str, text: String| rows.push((label.to_owned(), text));
    row("quern", format!("{} on {}", report.version, report.system));
    let cpu = &report.cpu;
    let cores = cpu.cores.map(|cores| format!("{cores} cores, ")).unwrap_or_default();
    let name = cpu.name.as_deref().unwrap_or("unknown");
    let cache =
        cpu.last_level_cache.map(|bytes| format!(", cache {}", format::bytes(bytes))).unwrap_or_default();
    row(
        "processor",
        format!("{name}: {cores}{} usable processors{cache}; SIMD level {}", cpu.usable, cpu.simd),
    );
    let memory = &report.memory;
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".into(), format::bytes);
    let speed = report.memory_bytes_per_second;
    let speed = speed.map(|s| format!("; {} on {} threads", rate(s), report.threads)).unwrap_or_default();
    row("memory", format!("{}, {} of it can be used{speed}", size(memory.total), size(memory.available)));
    for disk in &report.disks {
        let speed = disk.read_bytes_per_second.map(|s| format!(", reads {}", rate(s))).unwrap_or_default();
        row(
            "disk",
            format!("{}: {} free of {}{speed}", disk.folder.display(), size(disk.free), size(disk.total)),
        );
    }
    for gpu in &report.gpus {
        let speed = gpu.bytes_per_second.map(|s| format!(", {}", rate(s))).unwrap_or_default();
        let unusable = if gpu.usable { "" } else { "; too old for quern" };
        row(
            "GPU",
            format!(
                "{} {}: {} free of {}{speed}; compute capability {}, driver for CUDA {}{unusable}",
                gpu.device,
                gpu.name,
                format::bytes(gpu.free),
                format::bytes(gpu.total),
                gpu.compute_capability,
                gpu.driver_cuda
            ),
        );
    }
    if let Some(reason) = &report.no_gpu {
        row("GPU", format!("none: {reason}"));
    }
    let hub = &report.hub;
    if let Some(endpoint) = &hub.endpoint {
        let state = match (hub.answered_in_seconds, &hub.error) {
            (Some(seconds), _) => format!("answers in {:.0} ms", seconds * 1e3),
            (None, Some(_)) => "does not answer as it should".to_owned(),
            (None, None) => "not asked (offline)".to_owned(),
        };
        let token = if hub.token { "with a token" } else { "without a token" };
        row("Hub", format!("{endpoint} {state}, {token}"));
    }
    if let Some(cache) = &hub.cache {
        row(
            "Hub cache",
            format!("{}: {} models, {}", cache.display(), hub.cached_models, format::bytes(hub.cache_bytes)),
        );
    }
    let mut text: String = rows.into_iter().map(|(label, text)| format!("{label:<15} {text}\n")).collect();
    if report.findings.is_empty() {
        return text + "\nNothing is missing.\n";
    }
    text += "\n";
    for Finding { kind, what, remedy } in &report.findings {
        text += &format!("{kind}: {what}\n  what to do: {remedy}\n");
    }
    text
}

/// Bytes a second, in the decimal units that memories and disks are sold by.
fn rate(bytes_per_second: f64) -> String {
    match bytes_per_second {
        b if b >= 1e12 => format!("{:.2} TB/s", b / 1e12),
        b if b >= 1e10 => format!("{:.0} GB/s", b / 1e9),
        b if b >= 1e9 => format!("{:.1} GB/s", b / 1e9),
        b => format!("{:.0} MB/s", b / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(cpu: &Cpu, threads: usize) -> Vec<&'static str> {
        let mut findings = Vec::new();
        about_cpu(cpu, threads, &mut findings);
        findings.iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn what_makes_quern_slow_is_named_with_a_remedy() {
        let good = Cpu {
            name: None,
            cores: Some(4),
            processors: Some(8),
            usable: 8,
            simd: "avx2",
            best_simd: "avx2",
            last_level_cache: None,
        };
        assert!(kinds(&good, 8).is_empty());
        assert_eq!(kinds(&Cpu { simd: "scalar", ..good.clone() }, 8), ["slow"]);
        assert_eq!(kinds(&Cpu { simd: "scalar", best_simd: "scalar", ..good.clone() }, 8), ["slow"]);
        assert_eq!(kinds(&Cpu { usable: 2, ..good.clone() }, 2), ["note"]);
        assert_eq!(kinds(&good, 9), ["slow"]);
    }

    #[test]
    fn little_memory_and_much_swap_are_named() {
        let mut findings = Vec::new();
        let memory = Memory { total: Some(16 << 30), available: Some(2 << 30), swap_used: Some(3 << 30) };
        about_memory(&memory, &mut findings);
        assert_eq!(findings.len(), 2);
        assert!(findings[0].what.contains("2.00 GiB of 16.00 GiB"), "{findings:?}");
        about_memory(&Memory::default(), &mut findings);
        assert_eq!(findings.len(), 2);
    }

    #[test]
    fn rates_have_the_digits_they_deserve() {
        assert_eq!(
            [2.99e12, 4.7e10, 1.25e9, 3e8].map(rate),
            ["2.99 TB/s", "47 GB/s", "1.2 GB/s", "300 MB/s"]
        );
    }
}
