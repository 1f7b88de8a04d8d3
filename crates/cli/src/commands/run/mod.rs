//! `quern run`: generate text.

mod chat;
mod report;
mod terminal;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use quern_model::Config;
use quern_run::{GenerateOptions, Listener, SessionOptions, default_context};
use quern_tensor_io::{Progress, small};

use super::{Outcome, Placed, load_placed, placement, print_raw, warn_of_memory};
use crate::format::escape::Generated;
use crate::progress::{self, Bar, Style, Unit};
use crate::{args, messages, model};

/// Streams the text to standard output, or prints everything as JSON at the end.
pub fn run(args: &args::Run) -> Outcome {
    model::state(&args.stated);
    let threads = args.threads.count();
    let planned_session = |config: &Config| session(args, config);
    let (path, load_in, kv) = (args.model(), args.load.load_in, args.placement.kv);
    let planned = placement::Planned { path, load_in, session: &planned_session, kv, rows: 1 };
    if args.placement.dry_run {
        return placement::dry_run(&[planned], &args.placement.devices, threads, false, args.json);
    }
    // Before the model: reading it may take longer than finding out that there is no such file.
    let prompt = prompt(args)?;
    let placed = load_placed(&planned, threads, &args.placement.devices)?;
    let model = &placed.model;
    warn_of_memory(model, session(args, model.config()))?;
    for note in model.tokenizer()?.notes() {
        messages::note(note);
    }
    let seed = args.sampling.seed.unwrap_or_else(random_seed);
    let options = options(args, seed);
    if args.chat.chat {
        chat::run(args, &placed, options, prompt)?;
    } else {
        complete(args, &placed, &prompt.unwrap_or_default(), &options)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Size and precision of the session.
fn session(args: &args::Run, config: &Config) -> SessionOptions {
    let context = args.context.unwrap_or_else(|| default_context(config));
    SessionOptions { context, kv: args.placement.kv, ..SessionOptions::default() }
}

/// Continues a text.
fn complete(
    args: &args::Run,
    placed: &Placed,
    prompt: &str,
    options: &GenerateOptions,
) -> anyhow::Result<()> {
    let mut printer = Printer::new(!args.json, args.raw, options.limit);
    // Once it is sure that the text will go on.
    printer.first = prompt.to_owned();
    let report = quern_run::generate(&placed.model, prompt, options, &mut printer)?;
    printer.finish()?;
    report::print_report(args, placed, options, &report, args.json)
}

/// What the options say to the library.
fn options(args: &args::Run, seed: u64) -> GenerateOptions {
    let (limit, limit_must_fit) = args.limit();
    let mut options = GenerateOptions {
        limit,
        limit_must_fit,
        context: args.context,
        kv: args.placement.kv,
        sampling: args.sampling.options(seed),
        ignore_end: args.ignore_eos,
        stop_texts: args.stop.clone(),
        logprobs: args.logprobs.map(|n| n as usize),
        show_special: args.special,
        ..GenerateOptions::default()
    };
    options.encode.add_special &= !args.no_bos;
    options
}

/// The text of `-p` or `-f`, if one of them was given.
fn prompt(args: &args::Run) -> anyhow::Result<Option<String>> {
    match (&args.prompt, &args.file) {
        (Some(text), _) if text == "-" => Ok(Some(read_prompt(Path::new(text))?)),
        (Some(text), _) => Ok(Some(text.clone())),
        (None, Some(file)) => Ok(Some(read_prompt(file)?)),
        (None, None) => Ok(None),
    }
}

fn read_prompt(file: &Path) -> anyhow::Result<String> {
    let bytes = small::stream(file, small::TEXT).context("cannot read the prompt")?;
    Ok(without_line_break(super::utf8(file, bytes)?))
}

/// Editors end files with a line break that nobody means.
fn without_line_break(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// Prints text as it comes, with control characters escaped, and ends generation when nobody reads it any more. Shows the progress of long prompts, and of
/// generation where no text shows it.
struct Printer {
    shown: bool,
    /// Whether control characters are printed as they are.
    raw: bool,
    generated: Generated,
    /// Printed as soon as work begins, or below the bar of the prompt.
    first: String,
    result: anyhow::Result<()>,
    /// Of the prompt, then of what is generated.
    bar: Option<Bar>,
    /// Tokens of the prompt that are processed; `None` when all are.
    prompt: Option<usize>,
    /// Tokens to generate at most.
    limit: Option<usize>,
}

impl Printer {
    fn new(shown: bool, raw: bool, limit: Option<usize>) -> Self {
        Self {
            shown,
            raw,
            generated: Generated::default(),
            first: String::new(),
            result: Ok(()),
            bar: None,
            prompt: Some(0),
            limit,
        }
    }

    /// Ends the text with a line break.
    fn finish(mut self) -> anyhow::Result<()> {
        self.bar = None;
        let rest = self.generated.end();
        self.text(&format!("{rest}\n"));
        self.result
    }
}

impl Listener for Printer {
    fn text(&mut self, text: &str) {
        if self.shown && self.result.is_ok() && !text.is_empty() {
            self.result = match self.raw {
                true => print_raw(text),
                false => print_raw(&self.generated.next(text)),
            };
        }
    }

    fn prompt(&mut self, done: usize, total: usize) {
        if done == 0 {
            let bar = Bar::patient(Unit::Tokens, "processing the prompt");
            bar.total(total as u64);
            (self.bar, self.prompt) = (Some(bar), Some(0));
        }
        if let (Some(bar), Some(before)) = (&self.bar, self.prompt) {
            bar.advance((done - before) as u64);
        }
        self.prompt = Some(done);
        if done == total {
            (self.bar, self.prompt) = (None, None);
            let first = std::mem::take(&mut self.first);
            self.text(&first);
            if !self.shown {
                let bar = Bar::patient(Unit::Tokens, "generating");
                match self.limit {
                    Some(limit) => bar.total(limit as u64),
                    None => bar.begin(),
                }
                // The first token comes of the prompt itself.
                bar.advance(1);
                self.bar = Some(bar);
            }
        }
    }

    fn is_done(&mut self) -> bool {
        match (&self.bar, self.prompt) {
            // One token more.
            (Some(bar), None) => bar.advance(1),
            // A bar would be drawn behind the text, and take its last line away with itself.
            (_, Some(_)) if progress::style() == Style::Bars => {}
            (_, Some(_)) | (None, None) => {
                let first = std::mem::take(&mut self.first);
                self.text(&first);
            }
        }
        self.result.is_err()
    }
}

/// A seed nobody chose: the clock and the process.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Kept below 2^32 so that it is easy to type again.
    RandomState::new().hash_one(std::process::id()) & 0xffff_ffff
}
