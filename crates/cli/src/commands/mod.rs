//! One file per subcommand: arguments in, library calls, results out.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use quern_model::Config;
use quern_quantize::load_in::{LoadScheme, Loader};
use quern_run::placement::{Capacity, PlacementReport, Plan, ram_room};
use quern_run::{
    GenerateOptions, GenerateReport, LoadIn, LoadOptions, Model, Placing, Resident, SessionOptions, resident,
};
use quern_tensor_io::small;
use serde::Serialize;

use crate::format::escape;
use crate::progress::{Bar, Unit};
use crate::{args, format, messages, model};

pub mod bench;
mod beside;
pub mod completions;
pub mod convert;
pub mod demo;
pub mod diff;
pub mod doctor;
pub mod fit;
pub mod imatrix;
pub mod inspect;
pub mod man;
pub mod perplexity;
pub mod placement;
pub mod pull;
pub mod quantize;
mod record;
pub mod run;

/// What a command returns to `main`.
pub type Outcome = anyhow::Result<ExitCode>;

/// Opens the model and prepares it for running.
fn load(path: &Path, threads: usize) -> anyhow::Result<Model> {
    loaded(path, threads, None, None, None)
}

/// A model, and what its placement is reported from.
struct Placed {
    model: Model,
    capacity: Capacity,
    /// Memory of this process before loading.
    before: Option<Resident>,
    /// And when the model was loaded.
    after: Option<Resident>,
    /// Bytes that could be used on GPUs.
    room: u64,
}

impl Placed {
    /// Where the layers are, and the memory that was used. `None` if the sizes allow no plan.
    fn report(&self, args: &args::Devices, session: SessionOptions, rows: usize) -> Option<PlacementReport> {
        let sizes = self.model.sizes(session.kv);
        let plan = Plan::fitting(&sizes, &self.capacity, placement::session(args, session, rows)).ok()?;
        let mut report = PlacementReport::planned(&sizes, &self.capacity, &plan);
        for gpu in self.model.gpu_memory() {
            let before = self.capacity.gpus.iter().find(|room| room.index == gpu.index);
            let before = before.map(|room| room.total.saturating_sub(room.free));
            if let Some(device) = report.device_mut(&format!("cuda:{}", gpu.index)) {
                device.memory_before_bytes = before;
                device.memory_after_bytes = Some(gpu.used);
                device.memory_peak_bytes = Some(gpu.used.max(before.unwrap_or(0) + gpu.own_peak));
            }
        }
        let measured = self.model.transfers();
        if !measured.is_empty() {
            report.transfers = measured;
        }
        Some(report.with_process_memory(self.before, self.after))
    }
}

/// As [`load`], with weights quantized as asked for, placed as the options say.
fn load_placed(
    planned: &placement::Planned<'_>,
    threads: usize,
    args: &args::Devices,
) -> anyhow::Result<Placed> {
    load_beside(planned, threads, args, Beside::Nothing)
}

/// What else will be on the GPUs when a model is run.
enum Beside<'a> {
    Nothing,
    /// A model that will be loaded after this one.
    Next(&'a placement::Planned<'a>),
    /// A model that was loaded before this one, and has not yet the memory of its session.
    Loaded(&'a PlacementReport),
}

/// [`load_placed`] beside another model.
fn load_beside(
    planned: &placement::Planned<'_>,
    threads: usize,
    args: &args::Devices,
    other: Beside<'_>,
) -> anyhow::Result<Placed> {
    let mut gpus = placement::gpus(args)?;
    match other {
        Beside::Nothing => {}
        Beside::Next(next) => beside::share(&mut gpus, next, args, threads)?,
        Beside::Loaded(report) => beside::leave(&mut gpus, args, report),
    }
    let room = gpus.iter().map(|gpu| gpu.room).sum();
    let options = args.options();
    let limit = options.memory.ram;
    let before = resident();
    let mut capacity = Capacity { gpus, ram: ram_room(limit, 0) };
    let session = |config: &Config| SessionOptions { kv: planned.kv, ..(planned.session)(config) };
    let placing =
        Placing { gpus: &capacity.gpus, layers: options.gpu_layers, session: &session, rows: planned.rows };
    let model = loaded(planned.path, threads, planned.load_in, limit, Some(placing))?;
    if !model.uses_gpu() {
        capacity.gpus.clear();
    }
    // The number of units is known only now, the memory must be that of before.
    capacity.ram = capacity.ram.map(|room| room.with_units(model.config().layers + 1));
    Ok(Placed { model, capacity, before, after: resident(), room })
}

/// Opens and loads a model.
fn loaded(
    path: &Path,
    threads: usize,
    scheme: Option<LoadScheme>,
    max_memory: Option<u64>,
    placing: Option<Placing<'_>>,
) -> anyhow::Result<Model> {
    let checkpoint = Arc::new(model::open(path)?);
    let loader = scheme.map(|scheme| Loader::new(&checkpoint, scheme)).transpose()?;
    let load_in = loader.as_ref().map(|l| l as &dyn LoadIn);
    let progress = Bar::patient(Unit::Bytes, format!("loading {}", short_name(path)));
    let options = LoadOptions { threads, load_in, max_memory, placing, progress: &progress };
    let model = Model::load(checkpoint, options)?;
    drop(progress);
    for note in model.notes() {
        messages::note(note);
    }
    if scheme.is_some() {
        let (before, after) = model.weight_bytes();
        messages::info(format_args!(
            "weights: {} in the file, {} in memory",
            format::bytes(before),
            format::bytes(after)
        ));
    }
    Ok(model)
}

/// The last part of a path, or a name on the Hub.
fn short_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into())
}

/// Says what a model costs that does not fit into memory.
fn warn_of_memory(model: &Model, session: SessionOptions) -> anyhow::Result<()> {
    let Some(plan) = model.memory_plan(session)?.filter(|plan| plan.streamed > 0) else { return Ok(()) };
    messages::warning(format_args!(
        "the weights ({}) do not fit into {} of memory ({}): {} of them are read from the file again \
         for every token, and for every batch of the prompt; {:.1} s each time where the disk gives 1 GB/s and \
         the system keeps none of it",
        format::bytes(plan.weights),
        format::bytes(plan.bound),
        if plan.asked { "--max-memory" } else { "free on this system" },
        format::bytes(plan.streamed),
        plan.streamed as f64 / 1e9,
    ));
    Ok(())
}

/// Reads a text file whole; it must be UTF-8.
fn read_text(path: &Path) -> anyhow::Result<String> {
    utf8(path, small::stream(path, small::TEXT).context("cannot read the text")?)
}

/// Text out of bytes that came from `path`.
fn utf8(path: &Path, bytes: Vec<u8>) -> anyhow::Result<String> {
    String::from_utf8(bytes).with_context(|| format!("{}: it is not text in UTF-8", path.display()))
}

/// Prints text on standard output. What it repeats of files and models is escaped.
fn print(text: &str) -> anyhow::Result<()> {
    print_raw(&escape::text(text))
}

/// Writes to standard output as it is; unlike `print!`, a reader that has left is an error and no panic. Nothing is
/// written that was made from a file that has been cut or changed.
fn print_raw(text: &str) -> anyhow::Result<()> {
    quern_tensor_io::check_mapped_files()?;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Prints the prompt and, as it comes, its continuation.
fn generate(model: &Model, prompt: &str, options: &GenerateOptions) -> anyhow::Result<GenerateReport> {
    print(prompt)?;
    let mut printed = Ok(());
    let report = quern_run::generate(model, prompt, options, &mut |text: &str| {
        if printed.is_ok() {
            printed = print(text);
        }
    })?;
    printed?;
    print("\n")?;
    Ok(report)
}

/// Prints a report as JSON, which is written as it comes: the text of a list of all tensors is long.
fn print_json(report: &impl Serialize) -> anyhow::Result<()> {
    quern_tensor_io::check_mapped_files()?;
    let mut out = escape::Json(BufWriter::new(std::io::stdout().lock()));
    serde_json::to_writer_pretty(&mut out, report).map_err(std::io::Error::from)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// Prints a report as JSON on one line.
fn print_json_line(report: &serde_json::Value) -> anyhow::Result<()> {
    print_raw(&escape::json(&(report.to_string() + "\n")))
}
