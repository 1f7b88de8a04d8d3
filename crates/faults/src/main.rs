//! Gives damaged inputs to every reader, in processes that may die.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Parser;
use quern_faults::allocation::{self, ALLOWANCE, Counting};
use quern_faults::reader::{Given, READERS, Reader};
use quern_faults::seed::{Place, Seed};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// An input that takes longer counts as a hang.
const LONGEST: Duration = Duration::from_secs(10);

/// Exit code of a process that met one.
const HANG: i32 = 124;

/// Gives damaged inputs to the readers of quern and reports panics, aborts, hangs and memory.
#[derive(Debug, Parser)]
struct Arguments {
    /// List the readers.
    #[arg(long)]
    list: bool,
    /// One reader; all if none is given.
    #[arg(long)]
    reader: Option<String>,
    /// Inputs for each reader.
    #[arg(long, default_value_t = 10_000)]
    runs: u64,
    /// The number of the first.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Processes at a time.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Write the sound inputs as libFuzzer's corpora below this folder, one folder for each target.
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Give the sound inputs and print what each comes to.
    #[arg(long)]
    sound: bool,
    /// Give this one input and print its outcome.
    #[arg(long)]
    case: Option<u64>,
    /// End a reader after so many seconds, however many inputs it has had.
    #[arg(long)]
    seconds: Option<u64>,
    /// Where inputs that failed are kept.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// The repository's fixtures.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures"))]
    fixtures: PathBuf,
    /// A process of the runner itself: takes every `jobs`-th input from this one on.
    #[arg(long, hide = true)]
    child: Option<u64>,
    /// Where the sound inputs of a child are put.
    #[arg(long, hide = true)]
    work: Option<PathBuf>,
}

fn main() -> ExitCode {
    // Only damaged templates are given to a process of their own: those of other readers are as they were.
    let templates =
        |argument: std::ffi::OsString| argument == "template" || argument == "render-chat-templates";
    if std::env::args_os().any(templates)
        && let Some(code) = quern_model::chat::enter()
    {
        return code;
    }
    let arguments = Arguments::parse();
    if arguments.list {
        for reader in READERS {
            println!("{:20} {}", reader.name, reader.what);
        }
        return ExitCode::SUCCESS;
    }
    let readers: Vec<&Reader> = match &arguments.reader {
        None => READERS.iter().collect(),
        Some(name) => match Reader::find(name) {
            Some(reader) => vec![reader],
            None => {
                eprintln!("there is no reader {name}; --list names them");
                return ExitCode::FAILURE;
            }
        },
    };
    if arguments.sound || arguments.corpus.is_some() {
        let each = |reader| match &arguments.corpus {
            Some(folder) => corpus(reader, &arguments, folder),
            None => sound(reader, &arguments),
        };
        return match readers.into_iter().try_for_each(each) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e}");
                ExitCode::FAILURE
            }
        };
    }
    let result = match (arguments.child, arguments.case) {
        (Some(_), _) => child(readers[0], &arguments).map(|()| true),
        (None, Some(case)) => one(readers[0], case, &arguments).map(|()| true),
        (None, None) => {
            let mut sound = true;
            let mut result = Ok(());
            for reader in readers {
                match campaign(reader, &arguments) {
                    Ok(clean) => sound &= clean,
                    Err(e) => result = Err(format!("{}: {e}", reader.name)),
                }
            }
            result.map(|()| sound)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// What all inputs of a reader came to.
#[derive(Default)]
struct Total {
    inputs: u64,
    accepted: u64,
    beyond: u64,
    slowest_ms: u64,
    failures: Vec<Value>,
}

/// All processes of one reader; false if anything fell out.
fn campaign(reader: &Reader, arguments: &Arguments) -> Result<bool, String> {
    let began = Instant::now();
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let jobs = arguments.jobs.max(1);
    let totals = std::thread::scope(|scope| {
        let run = |job: u64| {
            let program = program.clone();
            scope.spawn(move || series(reader, &program, job, jobs, arguments))
        };
        let threads: Vec<_> = (0..jobs).map(run).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err("a thread failed".into())))
            .collect::<Vec<_>>()
    });
    let mut all = Total::default();
    for total in totals {
        let total = total?;
        all.inputs += total.inputs;
        all.accepted += total.accepted;
        all.beyond = all.beyond.max(total.beyond);
        all.slowest_ms = all.slowest_ms.max(total.slowest_ms);
        all.failures.extend(total.failures);
    }
    println!(
        "{:20} {:>9} inputs, {:>8} accepted, at most {:>4} MiB beyond the file, {:>5} ms; {:>3} failures; {:.0} s",
        reader.name,
        all.inputs,
        all.accepted,
        all.beyond >> 20,
        all.slowest_ms,
        all.failures.len(),
        began.elapsed().as_secs_f64()
    );
    for failure in &all.failures {
        println!("    {failure}");
    }
    Ok(all.failures.is_empty())
}

/// The inputs of one process, and of those that take its place where it dies.
fn series(
    reader: &Reader,
    program: &Path,
    job: u64,
    jobs: u64,
    arguments: &Arguments,
) -> Result<Total, String> {
    let began = Instant::now();
    let mut total = Total::default();
    let end = arguments.first + arguments.runs;
    let mut next = arguments.first + job;
    while next < end {
        let work = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut command = Command::new(program);
        command.args(["--reader", reader.name, "--jobs", &jobs.to_string(), "--child", &next.to_string()]);
        command.args(["--first", "0", "--runs", &end.to_string(), "--work"]).arg(work.path());
        command.arg("--fixtures").arg(&arguments.fixtures);
        if let Some(keep) = &arguments.keep {
            command.arg("--keep").arg(keep);
        }
        if let Some(seconds) = arguments.seconds {
            let left = seconds.saturating_sub(began.elapsed().as_secs());
            if left == 0 {
                return Ok(total);
            }
            command.args(["--seconds", &left.to_string()]);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
            let line = line.map_err(|e| e.to_string())?;
            let Ok(said) = serde_json::from_str::<Value>(&line) else {
                return Err(format!("a process said {line:?}"));
            };
            let number = |key: &str| said.get(key).and_then(Value::as_u64).unwrap_or_default();
            if said.get("failure").is_some() {
                total.failures.push(said);
            } else {
                total.inputs += number("inputs");
                total.accepted += number("accepted");
                total.beyond = total.beyond.max(number("beyond"));
                total.slowest_ms = total.slowest_ms.max(number("slowest_ms"));
            }
        }
        let status = child.wait().map_err(|e| e.to_string())?;
        if status.success() {
            return Ok(total);
        }
        // It died at the input whose number it wrote down.
        let mut last = [0; 8];
        let file =
            File::open(work.path().join("case")).map_err(|e| format!("a process could not begin: {e}"))?;
        file.read_exact_at(&mut last, 0).map_err(|e| e.to_string())?;
        let case = u64::from_le_bytes(last);
        let failure = if status.code() == Some(HANG) { "hang".to_owned() } else { format!("died: {status}") };
        total.failures.push(json!({ "reader": reader.name, "case": case, "failure": failure }));
        keep(reader, case, work.path(), arguments);
        if total.failures.len() > 200 {
            return Err(format!("more than 200 failures, the last one {:?}", total.failures.last()));
        }
        next = case + jobs;
    }
    Ok(total)
}

/// Keeps an input that killed its process.
fn keep(reader: &Reader, case: u64, work: &Path, arguments: &Arguments) {
    let Some(folder) = &arguments.keep else { return };
    let place = Place { fixtures: arguments.fixtures.clone(), work: work.join("again") };
    if fs::create_dir_all(&place.work).is_err() {
        return;
    }
    if let Ok(seeds) = (reader.seeds)(&place) {
        save(reader, case, &reader.input(&seeds, case).1, folder);
    }
}

fn save(reader: &Reader, case: u64, bytes: &[u8], folder: &Path) {
    let _ = fs::create_dir_all(folder);
    let _ = fs::write(folder.join(format!("{}-{case}", reader.name)), bytes);
}

/// Writes the inputs before any damage, each behind the byte that chooses it (see `fuzz/src/lib.rs`).
fn corpus(reader: &Reader, arguments: &Arguments, folder: &Path) -> Result<(), String> {
    let work = tempfile::tempdir().map_err(|e| e.to_string())?;
    let place = Place { fixtures: arguments.fixtures.clone(), work: work.path().to_path_buf() };
    let folder = folder.join(reader.name.replace('-', "_"));
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for (at, seed) in (reader.seeds)(&place)?.iter().enumerate().take(256) {
        let bytes = [&[at as u8], seed.bytes.as_slice()].concat();
        fs::write(folder.join(format!("sound-{at}")), bytes).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The inputs before any damage.
fn sound(reader: &Reader, arguments: &Arguments) -> Result<(), String> {
    let work = tempfile::tempdir().map_err(|e| e.to_string())?;
    let place = Place { fixtures: arguments.fixtures.clone(), work: work.path().to_path_buf() };
    for seed in (reader.seeds)(&place)? {
        let name = seed.file.strip_prefix(work.path()).unwrap_or(&seed.file);
        let outcome = (reader.exercise)(&seed.open).err().unwrap_or_else(|| "sound".to_owned());
        println!("{:20} {}: {outcome}", reader.name, name.display());
    }
    Ok(())
}

/// One input, loudly.
fn one(reader: &Reader, case: u64, arguments: &Arguments) -> Result<(), String> {
    let work = tempfile::tempdir().map_err(|e| e.to_string())?;
    let place = Place { fixtures: arguments.fixtures.clone(), work: work.path().to_path_buf() };
    let seeds = (reader.seeds)(&place)?;
    let (seed, bytes) = reader.input(&seeds, case);
    println!("{}, {} bytes of {}", seed.file.display(), bytes.len(), seed.bytes.len());
    if let Some(folder) = &arguments.keep {
        save(reader, case, &bytes, folder);
    }
    seed.put(&bytes)?;
    let began = Instant::now();
    let (outcome, peak) = allocation::peak(|| (reader.exercise)(&seed.open));
    println!("{outcome:?}");
    println!(
        "{} ms, {} KiB beyond the file",
        began.elapsed().as_millis(),
        peak.saturating_sub(bytes.len()) >> 10
    );
    Ok(())
}

thread_local! {
    /// Where the last panic came from.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A process of a campaign: every `jobs`-th input, until the last or its death.
fn child(reader: &Reader, arguments: &Arguments) -> Result<(), String> {
    let work = arguments.work.as_ref().ok_or("a child needs --work")?;
    let mut case = arguments.child.unwrap_or_default();
    let place = Place { fixtures: arguments.fixtures.clone(), work: work.clone() };
    let seeds = (reader.seeds)(&place)?;
    let _ = rayon::ThreadPoolBuilder::new().num_threads(1).build_global();
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let what = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or_default();
        PANIC.with_borrow_mut(|panic| *panic = format!("{place}: {what}"));
    }));
    let file = File::create(work.join("case")).map_err(|e| e.to_string())?;
    let watch = watch();
    let began = Instant::now();
    let mut total = Total::default();
    while case < arguments.runs && arguments.seconds.is_none_or(|s| began.elapsed().as_secs() < s) {
        file.write_all_at(&case.to_le_bytes(), 0).map_err(|e| e.to_string())?;
        let (seed, bytes) = reader.input(&seeds, case);
        watch.store(began.elapsed().as_millis() as u64 + 1, Relaxed);
        input(reader, seed, &bytes, case, arguments, &mut total)?;
        watch.store(0, Relaxed);
        case += arguments.jobs;
    }
    println!(
        "{}",
        json!({
            "inputs": total.inputs, "accepted": total.accepted,
            "beyond": total.beyond, "slowest_ms": total.slowest_ms,
        })
    );
    Ok(())
}

/// Gives one input and says what fell out.
fn input(
    reader: &Reader,
    seed: &Seed,
    bytes: &[u8],
    case: u64,
    arguments: &Arguments,
    total: &mut Total,
) -> Result<(), String> {
    let began = Instant::now();
    let Given { outcome, beyond } = reader.give(seed, bytes)?;
    let took = began.elapsed();
    total.inputs += 1;
    total.beyond = total.beyond.max(beyond as u64);
    total.slowest_ms = total.slowest_ms.max(took.as_millis() as u64);
    let failure = match outcome {
        Ok(Ok(())) => {
            total.accepted += 1;
            None
        }
        Ok(Err(what)) if what.trim().is_empty() => Some("an error without words".to_owned()),
        Ok(Err(_)) => None,
        Err(_) => Some(format!("panic at {}", PANIC.with_borrow(Clone::clone))),
    };
    let memory = (beyond > ALLOWANCE).then(|| format!("{} MiB beyond the file", beyond >> 20));
    for failure in failure.into_iter().chain(memory) {
        let said = json!({ "reader": reader.name, "case": case, "failure": failure });
        let mut out = std::io::stdout().lock();
        writeln!(out, "{said}").map_err(|e| e.to_string())?;
        if let Some(folder) = &arguments.keep {
            save(reader, case, bytes, folder);
        }
    }
    Ok(())
}

/// Ends the process when an input takes too long. The number is when the input began, in milliseconds since now plus
/// one, or 0 between inputs.
fn watch() -> Arc<AtomicU64> {
    let (watch, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let seen = watch.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(250));
            let since = seen.load(Relaxed);
            if since > 0 && began.elapsed().as_millis() as u64 > since + LONGEST.as_millis() as u64 {
                std::process::exit(HANG);
            }
        }
    });
    watch
}
