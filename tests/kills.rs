//! Runs that end too soon: an output is absent or complete, inputs are as they were, and after the next run nothing
//! else is left.
//!
//! The short form kills each command a few times. `QUERN_KILLS=500` asks for so many kills in all, and
//! `QUERN_KILLS_SEED` for other moments.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::{command, fixture, model, model_copy, q4};

/// Path and content of every file below a folder.
pub type Files = BTreeMap<String, Vec<u8>>;

pub fn files(folder: &Path) -> Files {
    let mut found = Files::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// A command that writes `OUT` in a folder of its own.
pub struct Job {
    pub name: &'static str,
    pub args: Vec<String>,
    /// Another command with the same outputs, made before.
    pub older: Vec<String>,
}

impl Job {
    /// Whether a run that was stopped keeps its finished blocks, and the next one goes on with them.
    pub fn resumes(&self) -> bool {
        self.name.starts_with("gptq") || self.name.starts_with("calibrated")
    }
}

/// Whether a hidden name is what a run that was stopped keeps for the next one.
pub fn is_kept(name: &str) -> bool {
    [".gptq-unfinished", ".gguf-unfinished", ".decoded"].iter().any(|end| name.ends_with(end))
}

/// The commands, reading the model in `model`.
pub fn jobs(model: &str) -> Vec<Job> {
    let q4 = q4();
    let text = fixture("text/calibration.txt").display().to_string();
    let job = |name, args: &[&str], older: &[&str]| {
        let owned = |args: &[&str]| args.iter().map(|&arg| arg.to_owned()).collect();
        Job { name, args: owned(args), older: owned(older) }
    };
    let gptq = ["--to", "gptq", "--samples", "4", "--context", "64", "-o", "out"];
    let with = |start: &[&'static str], model: &str, rest: &[&str]| -> Vec<String> {
        start.iter().copied().chain([model]).chain(rest.iter().copied()).map(str::to_owned).collect()
    };
    vec![
        job(
            "gguf",
            &["quantize", model, "--to", "q4_k_m", "--card", "-o", "out.gguf"],
            &["quantize", model, "--to", "q8_0", "--card", "-o", "out.gguf"],
        ),
        job(
            "nf4",
            &["quantize", model, "--to", "nf4", "--card", "-o", "out"],
            &["quantize", model, "--to", "int8", "-o", "out"],
        ),
        job(
            "int8 of a GGUF file",
            &["quantize", &q4, "--to", "int8", "--allow-requantize", "-o", "out"],
            &["quantize", model, "--to", "fp4", "-o", "out"],
        ),
        Job {
            name: "gptq",
            args: with(&["quantize"], model, &gptq),
            older: with(&["quantize"], model, &["--to", "nf4", "-o", "out"]),
        },
        Job {
            name: "gptq of a GGUF file",
            args: with(&["quantize", "--allow-requantize"], &q4, &gptq),
            older: with(&["quantize"], model, &["--to", "nf4", "-o", "out"]),
        },
        Job {
            name: "calibrated gguf",
            args: with(
                &["quantize"],
                model,
                &["--to", "q4_0", "--calibrate", "--samples", "4", "--context", "64", "-o", "out.gguf"],
            ),
            older: with(&["quantize"], model, &["--to", "q8_0", "-o", "out.gguf"]),
        },
        job(
            "to gguf",
            &["convert", model, "--to", "gguf", "-o", "out.gguf"],
            &["convert", &q4, "--to", "gguf", "-o", "out.gguf"],
        ),
        job(
            "to safetensors",
            &["convert", &q4, "--to", "safetensors", "--dtype", "f16", "--shard-size", "2M", "-o", "out"],
            &["quantize", model, "--to", "nf4", "-o", "out"],
        ),
        job(
            "splits",
            &["convert", model, "--to", "gguf", "--split-max-tensors", "5", "-o", "out"],
            &["convert", &q4, "--to", "gguf", "--split-max-tensors", "5", "-o", "out"],
        ),
        job(
            "imatrix",
            &["imatrix", model, "--text", &text, "--context", "64", "--chunks", "8", "-o", "out.gguf"],
            &["imatrix", model, "--text", &text, "--context", "64", "--chunks", "2", "-o", "out.gguf"],
        ),
        job("report", &["inspect", model, "--report", "out.html"], &["inspect", &q4, "--report", "out.html"]),
    ]
}

pub fn start(args: &[String], folder: &Path, threads: &str) -> Child {
    let mut command = command();
    command.args(args).args(["--force", "--threads", threads, "--progress", "none"]).current_dir(folder);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("quern starts")
}

/// Runs to the end, which must be a good one. Returns what it said.
pub fn complete(args: &[String], folder: &Path, threads: &str) -> String {
    let output = start(args, folder, threads).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    said
}

/// What a command makes, and how long it takes.
pub struct Made {
    pub files: Files,
    pub older: Files,
    pub time: Duration,
}

impl Made {
    pub fn of(job: &Job) -> Self {
        let scratch = TempDir::new().unwrap();
        complete(&job.older, scratch.path(), "2");
        let older = files(scratch.path());
        // In its place; and with other threads elsewhere, which changes no byte of any file.
        let begin = Instant::now();
        complete(&job.args, scratch.path(), "2");
        let (time, made) = (begin.elapsed(), files(scratch.path()));
        let other = TempDir::new().unwrap();
        complete(&job.args, other.path(), "1");
        assert_same(&files(other.path()), &made, job.name);
        Self { files: made, older, time }
    }

    /// The folder holds the older output, the new one, or none that can be opened; hidden names do not count.
    pub fn check(&self, folder: &Path, what: &str) {
        let mut found = files(folder);
        found.retain(|name, _| !name.starts_with('.'));
        // The card is written after the model that it is about.
        let without_card = |files: &Files| {
            let mut files = files.clone();
            files.retain(|name, _| !name.ends_with("README.md"));
            files
        };
        found = without_card(&found);
        if let Some(first) = found.keys().find(|name| name.contains("-of-")).cloned()
            && !first.contains("-00001-of-")
            && first.ends_with(".gguf")
        {
            // Parts without the first: no reader opens them.
            let opened = command().args(["inspect", &first]).current_dir(folder).output().unwrap();
            assert!(!opened.status.success(), "{what}: {:?}", found.keys());
            return;
        }
        let whole =
            found.is_empty() || found == without_card(&self.files) || found == without_card(&self.older);
        assert!(
            whole,
            "{what}: {:?}",
            found.iter().map(|(name, data)| (name, data.len())).collect::<Vec<_>>()
        );
    }
}

pub fn assert_same(found: &Files, expected: &Files, what: &str) {
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (name, data) in expected {
        assert!(found[name] == *data, "{what}: {name} differs");
    }
}

/// Numbers that are different in every run of the long form.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        let given = std::env::var("QUERN_KILLS_SEED").ok().and_then(|seed| seed.parse().ok());
        Self(given.unwrap_or(0x9e37_79b9_7f4a_7c15))
    }

    /// At least 0, less than 1.
    pub fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn kill(child: &mut Child, signal: Signal) -> ExitStatus {
    let _ = kill_process(Pid::from_child(child), signal);
    child.wait().unwrap()
}

/// Names that begin with a dot.
pub fn hidden(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    entries.map(|name| name.into_string().unwrap()).filter(|name| name.starts_with('.')).collect()
}

#[test]
fn killed_at_any_moment_an_output_is_absent_or_complete_and_the_next_run_leaves_nothing() {
    let source = model_copy();
    let before = files(source.path());
    let jobs = jobs(source.path().to_str().unwrap());
    let wanted = std::env::var("QUERN_KILLS").ok().and_then(|n| n.parse::<usize>().ok());
    let each = wanted.map_or(2, |wanted| wanted.div_ceil(jobs.len()));
    let mut random = Random::new();
    let mut total = BTreeMap::<&str, (usize, usize, usize)>::new();
    for job in &jobs {
        let made = Made::of(job);
        let mut kills = 0;
        while kills < each {
            let scratch = TempDir::new().unwrap();
            if kills % 2 == 1 {
                complete(&job.older, scratch.path(), "2");
            }
            for _ in 0..=(random.next() * 3.0) as usize {
                let signals =
                    [Signal::KILL, Signal::KILL, Signal::KILL, Signal::INT, Signal::TERM, Signal::HUP];
                let signal = signals[(random.next() * 6.0) as usize];
                let delay = made.time.mul_f64(random.next() * 1.1);
                let what = format!("{}, {signal:?} after {delay:?} of {:?}", job.name, made.time);
                let mut child = start(&job.args, scratch.path(), "2");
                std::thread::sleep(delay);
                let status = kill(&mut child, signal);
                kills += 1;
                let count = total.entry(job.name).or_default();
                count.0 += 1;
                match status.signal() {
                    // It had ended before.
                    None => assert!(status.success(), "{what}: {status:?}"),
                    Some(number) => {
                        assert_eq!(number, signal.as_raw(), "{what}");
                        count.1 += 1;
                    }
                }
                made.check(scratch.path(), &what);
                let left = hidden(scratch.path());
                count.2 += usize::from(!left.is_empty());
                // Only what an unfinished run goes on with stays after a signal that can be received.
                if signal != Signal::KILL && !made.killed_before(&left) {
                    panic!("{what}: left {left:?}");
                }
            }
            complete(&job.args, scratch.path(), "2");
            assert_same(&files(scratch.path()), &made.files, job.name);
            let left = hidden(scratch.path());
            assert!(left.is_empty(), "{}: {left:?}", job.name);
        }
    }
    assert_same(&files(source.path()), &before, "the inputs");
    for (name, (kills, hits, left)) in &total {
        println!(
            "{name}: {kills} kills, {hits} before its end, {left} left something hidden until the next run"
        );
    }
    println!("{} kills in all", total.values().map(|count| count.0).sum::<usize>());
}

impl Made {
    /// Whether all these names may be there after a signal: an unfinished run, or what a kill before had left and
    /// the run that was stopped now had no time to remove.
    fn killed_before(&self, left: &[String]) -> bool {
        left.iter().all(|name| is_kept(name) || name.contains(".quern-"))
    }
}

#[test]
fn signals_that_can_be_received_leave_nothing() {
    let source = model();
    let jobs = jobs(&source);
    for job in jobs.iter().filter(|job| !job.resumes()) {
        let scratch = TempDir::new().unwrap();
        let begin = Instant::now();
        complete(&job.args, scratch.path(), "1");
        let time = begin.elapsed();
        for (signal, share) in
            [(Signal::INT, 0.3), (Signal::TERM, 0.5), (Signal::HUP, 0.7), (Signal::INT, 0.9)]
        {
            let scratch = TempDir::new().unwrap();
            let mut child = start(&job.args, scratch.path(), "1");
            std::thread::sleep(time.mul_f64(share));
            let status = kill(&mut child, signal);
            assert!(status.success() || status.signal() == Some(signal.as_raw()), "{}: {status:?}", job.name);
            assert_eq!(hidden(scratch.path()), [""; 0], "{}: {signal:?}", job.name);
        }
    }
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let scratch = TempDir::new().unwrap();
    let script = format!(
        "trap '' HUP; {:?} quantize {:?} --to q4_k_m --threads 1 -o out.gguf & pid=$!; sleep 0.1; kill -HUP $pid; wait $pid",
        env!("CARGO_BIN_EXE_quern"),
        model()
    );
    let status =
        Command::new("sh").args(["-c", &script]).current_dir(scratch.path()).stdout(Stdio::null()).status();
    assert!(status.unwrap().success());
    assert!(scratch.path().join("out.gguf").is_file());
}

#[test]
fn what_a_killed_run_left_is_removed_and_named_by_the_next_one() {
    let scratch = TempDir::new().unwrap();
    let left: PathBuf = scratch.path().join(".other.quern-abcdef.part");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("model.safetensors"), "half").unwrap();
    let args = ["convert", &q4(), "--to", "gguf", "-o", "out.gguf"].map(str::to_owned);
    let said = complete(&args, scratch.path(), "2");
    assert!(said.contains("note: ") && said.contains(".other.quern-abcdef.part: removed, a run"), "{said}");
    assert_eq!(files(scratch.path()).into_keys().collect::<Vec<_>>(), ["out.gguf"]);
}
