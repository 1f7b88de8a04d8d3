//! Chat templates: from messages to the text a model was trained on.
//!
//! A template is a Jinja program in the model's files (`tokenizer_config.json`, `chat_template.jinja`, GGUF's
//! `tokenizer.chat_template`). It sees what transformers' `apply_chat_template` shows it:
//!
//! | name | |
//! |---|---|
//! | `messages` | objects with `role` and `content`: a text, or a list of parts where the template takes nothing else |
//! | `add_generation_prompt` | true: the answer comes next |
//! | `bos_token`, `eos_token`, `unk_token`, `sep_token`, `pad_token`, `mask_token` | texts, where the model has them |
//! | `tools`, `documents` | none |
//! | `raise_exception`, `strftime_now` | functions |
//!
//! The rendered text has its special tokens written out, beginning-of-text included if the template has one.
//! Where it does not and the model takes one all the same, it is put in front: there is always exactly one.
//!
//! Templates come from files and are not trusted. What they may do is bounded by the engine as far as it counts, and
//! by a process of its own where the program offers one ([`enter`]): it has limits of memory and time, and is ended
//! when an answer takes too long. Templates that come with quern are rendered in the program's own process.

mod builtin;
mod compiled;
mod engine;
mod error;
mod filters;
mod json;
mod print;
mod probe;
#[cfg(unix)]
mod process;
#[cfg(not(unix))]
#[path = "no_process.rs"]
mod process;
mod python;
mod request;
mod syntax;
mod tokens;
mod worker;

use std::borrow::Cow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use builtin::{BUILTINS, Builtin};
use compiled::Compiled;
pub use error::ChatError;
use process::Served;
use request::{Answer, Rendered, Request, Variables};
use serde::{Deserialize, Serialize};
pub use worker::enter;

use crate::{EncodeOptions, Tokenizer};

/// The result type of this module.
type Result<T, E = ChatError> = std::result::Result<T, E>;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// What `role` said.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.to_owned(), content: content.into() }
    }
}

/// Messages as the model reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatPrompt {
    /// The text.
    pub text: String,
    /// Its tokens, with one beginning-of-text if the model takes one.
    pub tokens: Vec<u32>,
    /// Whether the system prompt went in front of the first message, because the template has no place for it.
    pub system_moved: bool,
    /// Messages whose content the template leaves out: the model does not see it.
    pub left_out: Vec<Message>,
}

/// A chat template, ready to render.
#[derive(Debug)]
pub struct ChatTemplate {
    /// Where it comes from, for errors.
    origin: String,
    renderer: Renderer,
    variables: Variables,
    end_of_turn: Option<&'static str>,
}

/// Where a template is rendered.
#[derive(Debug)]
enum Renderer {
    /// In this process.
    Here(Box<Mutex<Compiled>>),
    /// In a process of its own.
    Served(Served),
}

impl Renderer {
    /// What is made of a request.
    fn ask(&self, request: &Request<'_>) -> Answer {
        match self {
            Self::Served(served) => served.ask(request),
            Self::Here(compiled) => {
                worker::rendered(&mut compiled.lock().unwrap_or_else(PoisonError::into_inner), request)
            }
        }
    }
}

impl ChatTemplate {
    /// The template for conversations with a model: its own, or by `choice` one of its own by name, one that comes
    /// with quern, or a file. `model` is named in errors.
    ///
    /// # Errors
    /// The model has none, there is none of that name, it cannot be read, or it is no valid Jinja.
    pub fn choose(model: &Path, tokenizer: &Tokenizer, choice: Option<&str>) -> Result<Self> {
        let own = |name: &str| tokenizer.chat_templates().iter().find(|(n, _)| n == name);
        let Some(choice) = choice else {
            let Some((_, source)) = own("default") else {
                return Err(ChatError::None { model: model.to_path_buf() });
            };
            return Self::new(format!("of {}", model.display()), source, tokenizer);
        };
        if let Some((name, source)) = own(choice) {
            return Self::new(format!("{name:?} of {}", model.display()), source, tokenizer);
        }
        if let Some(builtin) = BUILTINS.iter().find(|b| b.name.eq_ignore_ascii_case(choice)) {
            return Self::builtin(builtin, tokenizer);
        }
        let file = Path::new(choice);
        if !file.is_file() {
            let own = tokenizer.chat_templates().iter().map(|(name, _)| format!("{name} (the model's), "));
            let known = own.collect::<String>() + &builtin::names();
            return Err(ChatError::Unknown { name: choice.to_owned(), known });
        }
        let failed = |error| ChatError::File { file: file.to_path_buf(), error };
        let length = file.metadata().map_err(failed)?.len();
        if length > engine::MAX_SOURCE as u64 {
            return Err(too_long(&file.display().to_string(), length));
        }
        Self::new(file.display().to_string(), &std::fs::read_to_string(file).map_err(failed)?, tokenizer)
    }

    /// A template from its source. `origin` names it in errors.
    ///
    /// # Errors
    /// It is no valid Jinja, or longer than 128 KiB.
    pub fn new(origin: String, source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        Self::with_clock(origin, source, tokenizer, None)
    }

    /// As [`ChatTemplate::new`], for a given date instead of today's.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`]; a time that cannot be parsed (`2024-07-05T08:09:10Z` can).
    pub fn at(origin: String, source: &str, tokenizer: &Tokenizer, now: &str) -> Result<Self> {
        Self::with_clock(origin, source, tokenizer, Some(now))
    }

    fn with_clock(origin: String, source: &str, tokenizer: &Tokenizer, now: Option<&str>) -> Result<Self> {
        if source.len() > engine::MAX_SOURCE {
            return Err(too_long(&origin, source.len() as u64));
        }
        let renderer = match Served::new(source, now) {
            Some(served) => served.map(Renderer::Served),
            None => Compiled::new(source, now).map(|compiled| Renderer::Here(Box::new(Mutex::new(compiled)))),
        };
        match renderer {
            Ok(renderer) => Ok(Self { origin, renderer, variables: variables(tokenizer), end_of_turn: None }),
            Err(failure) => Err(failure.of(&origin)),
        }
    }

    /// A template that comes with quern, which is trusted.
    fn builtin(builtin: &Builtin, tokenizer: &Tokenizer) -> Result<Self> {
        let compiled = Compiled::trusted(builtin.source).map_err(|failure| failure.of(builtin.name))?;
        Ok(Self {
            origin: builtin.name.to_owned(),
            renderer: Renderer::Here(Box::new(Mutex::new(compiled))),
            variables: variables(tokenizer),
            end_of_turn: builtin.end_of_turn,
        })
    }

    /// Shows the template a variable of the user's, such as `enable_thinking`.
    pub fn set(&mut self, name: &str, value: &serde_json::Value) {
        self.variables.insert(name.to_owned(), value.clone());
    }

    /// Where it comes from, for people.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What ends a turn of a template that comes with quern, if that is no token of the model: then generation does
    /// not end there by itself.
    pub fn foreign_end(&self, tokenizer: &Tokenizer) -> Option<&'static str> {
        self.end_of_turn.filter(|end| tokenizer.token(end).is_none())
    }

    /// The prompt for the next answer. Not every template knows a system role: if it refuses or ignores the system
    /// prompt, that goes in front of the first message, with an empty line between, as Gemma's and Mistral's makers
    /// advise and llama.cpp does.
    ///
    /// # Errors
    /// The template fails or refuses the messages.
    pub fn prompt(
        &self,
        tokenizer: &Tokenizer,
        system: Option<&str>,
        messages: &[Message],
    ) -> Result<ChatPrompt> {
        let request = Request::Converse {
            variables: Cow::Borrowed(&self.variables),
            system: system.map(Cow::Borrowed),
            messages: Cow::Borrowed(messages),
        };
        let rendered = self.renderer.ask(&request).map_err(|failure| failure.of(&self.origin))?;
        let Rendered { text, system_moved, left_out } = rendered;
        let options = EncodeOptions { add_special: false, parse_special: true };
        let mut tokens = tokenizer.encode(&text, options)?;
        if let Some(bos) = tokenizer.bos().filter(|bos| tokenizer.add_bos() && tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        Ok(ChatPrompt { text, tokens, system_moved, left_out })
    }

    /// The text of these messages, ready for the next answer.
    ///
    /// # Errors
    /// The template fails or refuses the messages.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let request =
            Request::Render { variables: Cow::Borrowed(&self.variables), messages: Cow::Borrowed(messages) };
        let rendered = self.renderer.ask(&request).map_err(|failure| failure.of(&self.origin))?;
        Ok(rendered.text)
    }
}

/// What every template sees beside the messages.
fn variables(tokenizer: &Tokenizer) -> Variables {
    let ids = tokenizer.special_ids();
    let named = [
        ("bos_token", ids.bos),
        ("eos_token", ids.eos),
        ("unk_token", ids.unk),
        ("sep_token", ids.sep),
        ("pad_token", ids.pad),
        ("mask_token", ids.mask),
    ];
    let text = |(name, id): (&str, Option<u32>)| Some((name.to_owned(), tokenizer.piece(id?)?.into()));
    let mut variables: Variables = named.into_iter().filter_map(text).collect();
    variables.extend(["tools", "documents"].map(|name| (name.to_owned(), serde_json::Value::Null)));
    variables.insert("add_generation_prompt".to_owned(), true.into());
    variables
}

fn too_long(template: &str, bytes: u64) -> ChatError {
    let what = format!("it has {bytes} bytes, at most {} are read", engine::MAX_SOURCE);
    ChatError::Template { template: template.to_owned(), line: None, what }
}
