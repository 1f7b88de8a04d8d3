//! `quern run --chat`: hold a conversation with a model.

use std::io::{BufRead, IsTerminal};

use anyhow::Context;
use clap::CommandFactory;
use clap::error::ErrorKind;
use quern_model::chat::ChatTemplate;
use quern_run::{Chat, ChatNote, GenerateOptions};

use super::{Placed, Printer, report, terminal};
use crate::{args, messages};

/// One turn if a prompt was given, a conversation on a terminal, otherwise a turn for each line of standard input.
pub fn run(
    args: &args::Run,
    placed: &Placed,
    options: GenerateOptions,
    prompt: Option<String>,
) -> anyhow::Result<()> {
    let model = &placed.model;
    let tokenizer = model.tokenizer()?;
    let choice = args.chat.chat_template.as_deref();
    let mut template = ChatTemplate::choose(model.checkpoint().path(), tokenizer, choice)?;
    for (name, value) in args.chat.variables() {
        template.set(name, value);
    }
    if let Some(end) = template.foreign_end(tokenizer) {
        messages::note(format_args!(
            "{end} is no token of this model: it was not trained on the form of {}, and may answer badly",
            template.origin()
        ));
    }
    let mut chat = Chat::new(model, template, options.clone())?;
    chat.set_system(args.chat.system.clone());
    let turns = Turns { args, placed, options: &options };
    match prompt {
        Some(text) => turns.say(&mut chat, &text, true),
        None if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() => {
            if args.json {
                let message = "--json needs -p, -f or lines from standard input: a conversation on a terminal has no JSON form";
                args::Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
            }
            terminal::converse(chat, model, args.raw)
        }
        None => {
            for line in std::io::stdin().lock().lines() {
                let line = line.context("cannot read standard input")?;
                if !line.trim().is_empty() {
                    turns.say(&mut chat, &line, false)?;
                }
            }
            Ok(())
        }
    }
}

/// Turns whose answers go to standard output.
struct Turns<'a> {
    args: &'a args::Run,
    placed: &'a Placed,
    options: &'a GenerateOptions,
}

impl Turns<'_> {
    fn say(&self, chat: &mut Chat<'_>, text: &str, only: bool) -> anyhow::Result<()> {
        let mut printer = Printer::new(!self.args.json, self.args.raw, self.options.limit);
        let report = chat.say(text, &mut printer)?;
        printer.finish()?;
        print_notes(chat);
        report::print_report(self.args, self.placed, self.options, &report, only)
    }
}

/// Says what the template made of the messages, once.
pub fn print_notes(chat: &mut Chat<'_>) {
    for note in chat.take_notes() {
        match note {
            ChatNote::SystemMoved => messages::note(
                "the chat template has no place for a system prompt: it is put in front of the first message",
            ),
            ChatNote::LeftOut { role } => messages::warning(format_args!(
                "the chat template leaves out the text of {role} messages, and the model does not read it; \
                 another template can be given with --chat-template"
            )),
        }
    }
}
