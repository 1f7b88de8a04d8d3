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

mod builtin;
mod engine;
mod error;
mod filters;
mod json;
mod print;
mod probe;
mod python;
mod syntax;
mod tokens;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use builtin::BUILTINS;
pub use error::ChatError;
use jiff::ZonedDateTime;
use minijinja::{Environment, ErrorKind, Value};
use probe::Form;
use serde::{Deserialize, Serialize};

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
    env: Environment<'static>,
    variables: BTreeMap<String, Value>,
    end_of_turn: Option<&'static str>,
    /// How content is taken by role, where not as text. Found out when it is first asked for.
    forms: OnceLock<BTreeMap<String, Form>>,
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
            let mut template = Self::new(builtin.name.to_owned(), builtin.source, tokenizer)?;
            template.end_of_turn = builtin.end_of_turn;
            return Ok(template);
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
        let bad = |e: jiff::Error| ChatError::Template {
            template: origin.clone(),
            line: None,
            what: e.to_string(),
        };
        let now = now.parse::<jiff::Timestamp>().map_err(bad)?.to_zoned_datetime(jiff::tz::TimeZone::UTC);
        Self::with_clock(origin, source, tokenizer, Some(now))
    }

    fn with_clock(
        origin: String,
        source: &str,
        tokenizer: &Tokenizer,
        now: Option<ZonedDateTime>,
    ) -> Result<Self> {
        if source.len() > engine::MAX_SOURCE {
            return Err(too_long(&origin, source.len() as u64));
        }
        let env = engine::deep(|| engine::environment(source, now)).map_err(|e| error(&origin, &e))?;
        let ids = tokenizer.special_ids();
        let named = [
            ("bos_token", ids.bos),
            ("eos_token", ids.eos),
            ("unk_token", ids.unk),
            ("sep_token", ids.sep),
            ("pad_token", ids.pad),
            ("mask_token", ids.mask),
        ];
        let text =
            |(name, id): (&str, Option<u32>)| Some((name.to_owned(), Value::from(tokenizer.piece(id?)?)));
        let mut variables: BTreeMap<_, _> = named.into_iter().filter_map(text).collect();
        variables.extend(["tools", "documents"].map(|name| (name.to_owned(), Value::from(()))));
        variables.insert("add_generation_prompt".to_owned(), Value::from(true));
        Ok(Self { origin, env, variables, end_of_turn: None, forms: OnceLock::new() })
    }

    /// Shows the template a variable of the user's, such as `enable_thinking`.
    pub fn set(&mut self, name: &str, value: &serde_json::Value) {
        self.variables.insert(name.to_owned(), Value::from(minijinja::value::Serde(value)));
        self.forms = OnceLock::new();
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
        let Rendered { text, system_moved, left_out } = self.render_with_system(system, messages)?;
        let options = EncodeOptions { add_special: false, parse_special: true };
        let mut tokens = tokenizer.encode(&text, options)?;
        if let Some(bos) = tokenizer.bos().filter(|bos| tokenizer.add_bos() && tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        Ok(ChatPrompt { text, tokens, system_moved, left_out })
    }

    fn render_with_system(&self, system: Option<&str>, messages: &[Message]) -> Result<Rendered> {
        let Some(system) = system.filter(|text| !text.is_empty()) else {
            return self.rendered(messages, false);
        };
        let mut all = vec![Message::new("system", system)];
        all.extend_from_slice(messages);
        let refused = match self.rendered(&all, false) {
            // A system prompt that leaves no trace in the text was ignored.
            Ok(rendered)
                if rendered.left_out.first() != all.first()
                    && self.render(messages).ok().as_ref() != Some(&rendered.text) =>
            {
                return Ok(rendered);
            }
            Ok(_) => None,
            Err(error @ ChatError::Refused { .. }) => Some(error),
            Err(other) => return Err(other),
        };
        let lost = all.remove(0);
        match (all.first_mut().filter(|first| first.role == "user"), refused) {
            (Some(first), _) => first.content = format!("{system}\n\n{}", first.content),
            (None, Some(error)) => return Err(error),
            (None, None) => {
                let mut rendered = self.rendered(messages, false)?;
                rendered.left_out.insert(0, lost);
                return Ok(rendered);
            }
        }
        self.rendered(&all, true)
    }

    fn rendered(&self, messages: &[Message], system_moved: bool) -> Result<Rendered> {
        let text = self.render(messages)?;
        // A template that fails on marked messages has accepted the real ones: no problem is known.
        let left_out = self.left_out(messages).unwrap_or_default();
        let left_out = left_out.into_iter().map(|at| messages[at].clone()).collect();
        Ok(Rendered { text, system_moved, left_out })
    }

    /// The text of these messages, ready for the next answer.
    ///
    /// # Errors
    /// The template fails or refuses the messages.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let forms = self.forms.get_or_init(|| self.forms());
        let object = |message: &Message| {
            let form = forms.get(&message.role).copied().unwrap_or(Form::Text);
            serde_json::json!({ "role": message.role, "content": probe::content(form, &message.content) })
        };
        let objects: Vec<_> = messages.iter().map(object).collect();
        self.render_objects(&objects, messages.iter().map(|m| m.content.len()).sum())
    }

    /// As [`ChatTemplate::render`], for messages as passed to the template, with their bytes of content.
    fn render_objects(&self, messages: &[serde_json::Value], bytes: usize) -> Result<String> {
        let mut env = self.env.clone();
        env.set_fuel(Some(engine::fuel(bytes)));
        let mut context = self.variables.clone();
        context.insert("messages".to_owned(), Value::from(minijinja::value::Serde(messages)));
        let rendered = engine::deep(|| env.get_template(engine::NAME)?.render(Value::from(context)));
        rendered.map_err(|e| error(&self.origin, &e))
    }
}

/// A rendered conversation.
struct Rendered {
    text: String,
    system_moved: bool,
    left_out: Vec<Message>,
}

fn too_long(template: &str, bytes: u64) -> ChatError {
    let what = format!("it has {bytes} bytes, at most {} are read", engine::MAX_SOURCE);
    ChatError::Template { template: template.to_owned(), line: None, what }
}

/// An error of the template engine with its place, and the template's own words if it raised it.
fn error(origin: &str, e: &minijinja::Error) -> ChatError {
    let template = origin.to_owned();
    let line = e.line();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(inner) = cause {
        if let Some(refusal) = inner.downcast_ref::<engine::Refusal>() {
            let line = line.or_else(|| inner.downcast_ref::<minijinja::Error>().and_then(|e| e.line()));
            return ChatError::Refused { template, line, what: refusal.0.clone() };
        }
        cause = inner.source();
    }
    let what = match (e.kind(), e.detail()) {
        (ErrorKind::OutOfFuel, _) => "it takes too long or makes too much text".to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    ChatError::Template { template, line, what }
}
