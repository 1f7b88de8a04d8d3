//! A conversation on a terminal: lines with history and editing, answers that Ctrl-C interrupts.
//!
//! ```text
//! at the prompt        Ctrl-C discards the line; a second one, or Ctrl-D, exits
//! during an answer     Ctrl-C stops the answer and keeps it; a second one exits at once
//! ```

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use quern_run::{Chat, Error, Listener, Model, Stop};
use quern_tensor_io::output::OutputFile;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::{Printer, chat, report};
use crate::{messages, remedy, signals};

const HELP: &str = "\
/reset        clear the conversation (the system prompt stays)
/system TEXT  set the system prompt; without TEXT, remove it
/save FILE    write the conversation to a new file, as JSON messages
/help         show this help
/exit         exit, as Ctrl-D does
A \\ at the end of a line continues the message on the next line. Ctrl-C interrupts an answer.
A line that begins with a space is sent as a message, even if a / follows the space.";

/// How often Ctrl-C came during an answer.
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// Continues the conversation until the user ends it. `raw` prints control characters as they are.
pub fn converse(mut chat: Chat<'_>, model: &Model, raw: bool) -> anyhow::Result<()> {
    signals::count_interrupts(&INTERRUPTS);
    messages::info("/help lists the commands, Ctrl-D exits");
    let mut editor = DefaultEditor::new()?;
    // Whether the last input was Ctrl-C: a second one exits.
    let mut interrupted = false;
    loop {
        match read(&mut editor) {
            Ok(line) if line.trim().is_empty() => interrupted = false,
            Ok(line) => {
                let _ = editor.add_history_entry(line.as_str());
                interrupted = false;
                if let Some(command) = line.strip_prefix('/') {
                    if !obey(command, &mut chat) {
                        return Ok(());
                    }
                } else {
                    interrupted = say(&mut chat, model, raw, line.trim())?;
                }
            }
            Err(ReadlineError::Interrupted) if interrupted => return Ok(()),
            Err(ReadlineError::Interrupted) => {
                messages::line("(press Ctrl-C again or Ctrl-D to exit)");
                interrupted = true;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads a line, and the lines that continue it.
fn read(editor: &mut DefaultEditor) -> Result<String, ReadlineError> {
    let mut text = editor.readline("> ")?;
    while text.ends_with('\\') {
        text.pop();
        text.push('\n');
        text += &editor.readline(". ")?;
    }
    Ok(text)
}

/// One turn. Returns whether it was interrupted. Errors are printed and do not end the conversation.
fn say(chat: &mut Chat<'_>, model: &Model, raw: bool, text: &str) -> anyhow::Result<bool> {
    INTERRUPTS.store(0, Ordering::SeqCst);
    let mut listener = Interruptible(Printer::new(true, raw, None));
    let report = chat.say(text, &mut listener);
    listener.0.finish()?;
    match report {
        Ok(report) => {
            chat::print_notes(chat);
            match report.stop {
                Stop::Interrupted => messages::line("(interrupted)"),
                Stop::Limit => messages::line(format_args!(
                    "(cut off after {} tokens, the limit of -n)",
                    report.tokens.len()
                )),
                _ => report::note(&report, model),
            }
            Ok(report.stop == Stop::Interrupted)
        }
        Err(error) => {
            let full = matches!(error, Error::ContextFull { .. } | Error::NoRoom { .. });
            messages::line(format_args!("error: {}", remedy::described(&error.into())));
            if full {
                messages::line("(/reset starts a new conversation)");
            }
            Ok(false)
        }
    }
}

struct Interruptible(Printer);

impl Listener for Interruptible {
    fn text(&mut self, text: &str) {
        self.0.text(text);
    }

    fn prompt(&mut self, done: usize, total: usize) {
        self.0.prompt(done, total);
    }

    fn is_done(&mut self) -> bool {
        INTERRUPTS.load(Ordering::SeqCst) > 0 || self.0.is_done()
    }
}

/// Carries out a command, given without its `/`. Returns whether to continue.
fn obey(line: &str, chat: &mut Chat<'_>) -> bool {
    let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match command {
        "exit" | "quit" | "bye" => return false,
        "help" | "?" => messages::line(HELP),
        "reset" | "clear" => {
            chat.reset();
            messages::line("(the conversation is empty)");
        }
        "system" if rest.is_empty() => {
            chat.set_system(None);
            messages::line("(no system prompt)");
        }
        "system" => {
            chat.set_system(Some(rest.to_owned()));
            messages::line("(from the next turn on)");
        }
        "save" if rest.is_empty() => messages::line("error: /save needs the name of a file"),
        "save" => match save(chat, Path::new(rest)) {
            Ok(()) => messages::line(format_args!("(saved to {rest})")),
            Err(error) => messages::line(format_args!("error: {}", remedy::described(&error))),
        },
        other => {
            messages::line(format_args!("error: there is no command /{other}; /help lists the commands"))
        }
    }
    true
}

fn save(chat: &Chat<'_>, path: &Path) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(&chat.messages())? + "\n";
    let mut file = OutputFile::create(path, false)?;
    file.append(text.as_bytes())?;
    Ok(file.commit()?)
}
