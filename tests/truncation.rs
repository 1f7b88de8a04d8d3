//! Model files that are cut or changed while a command reads them: one sentence that names the file, and no output.
//!
//! A command is stopped (SIGSTOP) as soon as the system lists its map of the file, and continues when the file is cut: the
//! file is cut while it is mapped, however fast the machine is. A command that was too fast for that is run again.
#![cfg(target_os = "linux")]

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::{command, fixture, listing, model_copy, stderr};

/// A child is killed if the test ends before it does: one that is stopped would wait for ever.
struct Reading(Option<Child>);

impl Reading {
    fn start(args: &[&str]) -> Self {
        let mut command = command();
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(command.spawn().unwrap()))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    fn signal(&mut self, signal: Signal) {
        kill_process(Pid::from_child(self.child()), signal).unwrap();
    }

    /// Stops it, and waits until it is; `false` if it ended before.
    fn stop(&mut self) -> bool {
        self.signal(Signal::STOP);
        loop {
            // PID (NAME) STATE …
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.child().id())).unwrap();
            match stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]) {
                Some(b'T') => return true,
                Some(b'Z') => return false,
                _ => std::thread::yield_now(),
            }
        }
    }

    fn maps(&mut self, file: &Path) -> bool {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.child().id())).unwrap_or_default();
        maps.contains(file.to_str().unwrap())
    }

    /// Stops it while `file` is mapped; `false` if it was never seen so.
    fn stop_while_mapped(&mut self, file: &Path) -> bool {
        while !self.maps(file) {
            if self.child().try_wait().unwrap().is_some() {
                return false;
            }
        }
        self.stop() && self.maps(file)
    }

    /// Lets it continue to its end.
    fn finish(mut self) -> Output {
        self.signal(Signal::CONT);
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a command and does something to `file` while it is mapped. The file is then as it was.
fn meanwhile(args: &[&str], file: &Path, change: impl Fn(&Path)) -> Output {
    let original = fs::read(file).unwrap();
    for _ in 0..100 {
        let mut reading = Reading::start(args);
        if !reading.stop_while_mapped(file) {
            continue;
        }
        change(file);
        let output = reading.finish();
        let _ = fs::remove_file(file);
        fs::write(file, original).unwrap();
        return output;
    }
    panic!("{args:?} was never seen with {} mapped", file.display());
}

fn cut(file: &Path, length: u64) {
    OpenOptions::new().write(true).open(file).unwrap().set_len(length).unwrap();
}

/// The error of a command whose file was cut: exit code `code`, and nothing on standard output.
fn cut_error(output: &Output, code: i32, file: &Path) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{}: {text}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{text}");
    let errors: Vec<_> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors[..] else { panic!("not one error: {text}") };
    assert!(error.contains(&file.display().to_string()), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    error.to_owned()
}

/// A copy of the small model and a text, with a folder for outputs.
struct Inputs {
    model: TempDir,
    other: TempDir,
    out: TempDir,
}

impl Inputs {
    fn new() -> Self {
        let other = tempfile::tempdir().unwrap();
        fs::copy(fixture("bookworm-4m-Q4_K_M.gguf"), other.path().join("q4.gguf")).unwrap();
        let text =
            "The quick brown fox jumps over the lazy dog, and the dog sleeps on in the sun. ".repeat(100);
        fs::write(other.path().join("text.txt"), text).unwrap();
        Self { model: model_copy(), other, out: tempfile::tempdir().unwrap() }
    }

    fn weights(&self) -> PathBuf {
        self.model.path().canonicalize().unwrap().join("model.safetensors")
    }

    fn gguf(&self) -> PathBuf {
        self.other.path().canonicalize().unwrap().join("q4.gguf")
    }

    /// The words of a command, with the names of files put in.
    fn args(&self, words: &str) -> Vec<String> {
        let place = |word: &str| match word {
            "MODEL" => self.weights().parent().unwrap().display().to_string(),
            "GGUF" => self.gguf().display().to_string(),
            "TEXT" => self.other.path().join("text.txt").display().to_string(),
            "OUT" => self.out.path().join("out").display().to_string(),
            word => word.to_owned(),
        };
        words.split(' ').map(place).collect()
    }

    /// Cuts `file` while the command reads it, to several lengths.
    fn assert_cut(&self, words: &str, code: i32, file: &Path) {
        let args = self.args(words);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let length = fs::metadata(file).unwrap().len();
        for left in [0, length / 2 / 4096 * 4096, length - 1] {
            let output = meanwhile(&args, file, |file| cut(file, left));
            let error = cut_error(&output, code, file);
            let expected = format!("cut while it was being read: it had {length} bytes and has {left} now");
            assert!(error.contains(&expected), "{words}: {error}");
            // What a calibrated job keeps for its continuation is hidden.
            let left: Vec<_> =
                listing(self.out.path()).into_iter().filter(|n| !n.ends_with("-unfinished")).collect();
            assert_eq!(left, Vec::<String>::new(), "{words}");
        }
    }
}

#[test]
fn quantize_says_that_its_input_was_cut() {
    let inputs = Inputs::new();
    inputs.assert_cut("quantize MODEL --to q4_k_m -o OUT", 1, &inputs.weights());
    inputs.assert_cut("quantize MODEL --to q2_k --threads 1 -o OUT", 1, &inputs.weights());
    inputs.assert_cut("quantize MODEL --to nf4 -o OUT", 1, &inputs.weights());
    inputs.assert_cut("quantize GGUF --allow-requantize --to q3_k_m -o OUT", 1, &inputs.gguf());
    let calibrated = "quantize MODEL --to q4_0 --calibrate --samples 8 --context 64 -o OUT";
    inputs.assert_cut(calibrated, 1, &inputs.weights());
}

#[test]
fn gptq_says_that_its_input_was_cut() {
    let inputs = Inputs::new();
    let words = "quantize MODEL --to gptq --calibration TEXT --samples 4 --context 64 -o OUT";
    inputs.assert_cut(words, 1, &inputs.weights());
}

#[test]
fn convert_says_that_its_input_was_cut() {
    let inputs = Inputs::new();
    inputs.assert_cut("convert MODEL --to gguf --no-verify -o OUT", 1, &inputs.weights());
    inputs.assert_cut("convert MODEL --to gguf --split-max-size 2M --no-verify -o OUT", 1, &inputs.weights());
    inputs.assert_cut("convert GGUF --to safetensors --dtype f16 --no-verify -o OUT", 1, &inputs.gguf());
}

#[test]
fn inspect_and_diff_say_that_a_file_was_cut() {
    let inputs = Inputs::new();
    inputs.assert_cut("inspect MODEL --check --json", 1, &inputs.weights());
    inputs.assert_cut("inspect GGUF --report OUT", 1, &inputs.gguf());
    inputs.assert_cut("diff GGUF MODEL", 2, &inputs.weights());
    inputs.assert_cut("diff GGUF MODEL", 2, &inputs.gguf());
}

#[test]
fn imatrix_and_perplexity_say_that_the_model_was_cut() {
    let inputs = Inputs::new();
    inputs.assert_cut("imatrix MODEL --text TEXT --context 64 -o OUT", 1, &inputs.weights());
    inputs.assert_cut("perplexity GGUF --text TEXT --context 64", 1, &inputs.gguf());
    inputs.assert_cut("perplexity MODEL --text TEXT --context 64 --reference GGUF", 1, &inputs.gguf());
}

#[test]
fn run_and_bench_say_that_the_model_was_cut() {
    let inputs = Inputs::new();
    inputs.assert_cut("bench GGUF --prompt 64 --generate 16 -r 2", 1, &inputs.gguf());
    inputs.assert_cut("run MODEL -p The -n 50 --ignore-eos --json", 1, &inputs.weights());
    inputs.assert_cut("run MODEL -p The -n 50 --ignore-eos --json --load-in nf4", 1, &inputs.weights());
}

/// Between two tokens: text that came before stays, nothing comes of zeros.
#[test]
fn a_model_cut_while_it_writes_says_so_at_the_next_token() {
    let inputs = Inputs::new();
    let (file, args) = (inputs.gguf(), inputs.args("run GGUF -p The -n 400 --ignore-eos --seed 1"));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let whole = command().args(&args).output().unwrap();
    assert!(whole.status.success(), "{}", stderr(&whole));
    let stopped = (0..100).find_map(|_| {
        let mut reading = Reading::start(&args);
        let mut stdout = reading.child().stdout.take().unwrap();
        let mut text = vec![0; 24];
        stdout.read_exact(&mut text).unwrap();
        (reading.stop() && reading.maps(&file)).then_some((reading, stdout, text))
    });
    let (reading, mut stdout, mut text) = stopped.expect("a run that is still writing");
    cut(&file, 0);
    let rest = std::thread::spawn(move || {
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).map(|_| rest)
    });
    let output = reading.finish();
    text.extend(rest.join().unwrap().unwrap());
    let error = cut_error(&output, 1, &file);
    assert!(error.contains("was cut while it was being read"), "{error}");
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    assert!(whole.stdout.starts_with(text), "{:?}", String::from_utf8_lossy(text));
    assert!(text.len() < whole.stdout.len() - 1, "it went on to the end");
}

#[test]
fn a_file_that_grows_or_is_written_gives_no_output_and_one_that_is_replaced_does() {
    let inputs = Inputs::new();
    let (file, args) = (inputs.weights(), inputs.args("quantize MODEL --to q4_k_m --no-provenance -o OUT"));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let out = inputs.out.path().join("out");
    let changes: [&dyn Fn(&Path); 2] = [&|file| cut(file, fs::metadata(file).unwrap().len() + 1), &|file| {
        let later = fs::metadata(file).unwrap().modified().unwrap() + Duration::from_secs(1);
        File::options().write(true).open(file).unwrap().set_modified(later).unwrap();
    }];
    for change in changes {
        let output = meanwhile(&args, &file, change);
        let error = cut_error(&output, 1, &file);
        assert!(error.contains("was changed by another program while it was being read"), "{error}");
        assert_eq!(listing(inputs.out.path()), Vec::<String>::new());
    }

    let output = meanwhile(&args, &file, |file| {
        let new = file.with_extension("new");
        fs::write(&new, "another file under the same name").unwrap();
        fs::rename(new, file).unwrap();
    });
    assert!(output.status.success(), "{}", stderr(&output));
    let replaced = fs::read(&out).unwrap();
    fs::remove_file(&out).unwrap();
    assert!(command().args(&args).output().unwrap().status.success());
    assert!(fs::read(&out).unwrap() == replaced, "the bytes are not those of the file that was mapped");
}

/// A command that ends while it is cut must not wait for anything.
#[test]
fn a_cut_file_costs_no_time() {
    let inputs = Inputs::new();
    let args = inputs.args("inspect MODEL --check");
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let started = Instant::now();
    let output = meanwhile(&args, &inputs.weights(), |file| cut(file, 0));
    cut_error(&output, 1, &inputs.weights());
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}
