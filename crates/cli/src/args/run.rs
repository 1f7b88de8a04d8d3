//! Arguments of `quern run`.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use super::placement::Placement;
use super::sampling::Sampling;
use super::shared::{Load, Stated, Threads, given, model_help};

const EXAMPLES: &str = "\
Examples:
  Continue a text:
    quern run model.gguf -p \"Once upon a time\" -n 200

  Hold a conversation on the terminal:
    quern run ./TinyLlama-1.1B --chat

  Ask one question, with a system message:
    quern run model.gguf --chat --system \"Answer in one sentence.\" -p \"Why is the sky blue?\"

  Put 20 layers on the GPU; with --dry-run, show what that takes and load nothing:
    quern run -m model.gguf -p \"Once upon a time\" -n 100 -t 8 -ngl 20";

/// Arguments of `quern run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("source").args(["prompt", "file"]))]
pub struct Run {
    /// Model to run: a directory, a file, or a name on the Hugging Face Hub
    #[arg(long_help = model_help!("Model to run"), required_unless_present = "model_option")]
    model: Option<PathBuf>,
    /// Model to run, in place of MODEL: llama.cpp's form
    #[arg(short, long = "model", value_name = "MODEL", conflicts_with = "model")]
    model_option: Option<PathBuf>,
    /// Text to continue, or - for standard input; with --chat, the user's message
    #[arg(short, long, value_name = "TEXT", required_unless_present_any = ["file", "chat", "dry_run"])]
    pub prompt: Option<String>,
    /// File with the text to continue; one line break at its end is removed
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Number of tokens to generate at most, or -1 for no limit [default: 128; with --chat, no limit]
    #[arg(short = 'n', long = "predict", value_name = "N", allow_negative_numbers = true, value_parser = limit)]
    predict: Option<Limit>,
    /// Context length in tokens: prompt and generated text together [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N")]
    pub context: Option<usize>,
    /// Stop when this text is generated; the text is not printed (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Continue after the model's end-of-text token
    #[arg(long)]
    pub ignore_eos: bool,
    /// Print special tokens by name instead of leaving them out
    #[arg(long)]
    pub special: bool,
    /// Print the text as it is generated, with control characters that a terminal obeys
    ///
    /// Without it, they are escaped, as \u{1b}, except line breaks and tabs.
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
    /// Do not add the beginning-of-text token to the prompt
    #[arg(long, conflicts_with = "chat")]
    pub no_bos: bool,
    /// Report the log-probability of every generated token and of the N most probable tokens in its place
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1000))]
    pub logprobs: Option<u32>,
    /// Print one JSON object at the end instead of text while it is generated
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub stated: Stated,
    #[command(flatten)]
    pub threads: Threads,
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub placement: Placement,
    #[command(flatten)]
    pub chat: Chat,
    #[command(flatten)]
    pub sampling: Sampling,
}

impl Run {
    /// The model.
    pub fn model(&self) -> &Path {
        given(&self.model, &self.model_option)
    }

    /// Tokens to generate at most, and whether the user said so.
    pub fn limit(&self) -> (Option<usize>, bool) {
        match self.predict {
            Some(Limit(limit)) => (limit, limit.is_some()),
            None if self.chat.chat => (None, false),
            None => (Some(128), false),
        }
    }
}

/// Options for conversations.
#[derive(Debug, Args)]
#[command(next_help_heading = "Chat")]
pub struct Chat {
    /// Use the model's chat template: each prompt is a user message, the generated text is the answer
    ///
    /// With -p or -f there is one message. Without them, messages are read from the terminal until Ctrl-D, or from
    /// standard input, one per line.
    #[arg(long)]
    pub chat: bool,
    /// System message, placed before the first user message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Chat template: the name of one in the model, chatml, llama3, gemma, mistral, phi3, zephyr, or a Jinja file
    /// [default: the model's]
    #[arg(long, value_name = "NAME|FILE", requires = "chat")]
    pub chat_template: Option<String>,
    /// Variables for the chat template, such as {"enable_thinking": false}
    #[arg(long, value_name = "JSON", requires = "chat", value_parser = variables)]
    chat_template_kwargs: Option<Variables>,
}

impl Chat {
    /// Variables for the template.
    pub fn variables(&self) -> impl Iterator<Item = (&String, &serde_json::Value)> {
        self.chat_template_kwargs.iter().flat_map(|variables| &variables.0)
    }
}

/// A JSON object.
#[derive(Clone, Debug)]
struct Variables(serde_json::Map<String, serde_json::Value>);

fn variables(text: &str) -> Result<Variables, String> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(map)) => Ok(Variables(map)),
        Ok(_) => Err("expected a JSON object, such as {\"enable_thinking\": false}".to_owned()),
        Err(e) => Err(format!("not valid JSON: {e}")),
    }
}

/// A number of tokens; `None` for no limit.
#[derive(Clone, Copy, Debug)]
struct Limit(Option<usize>);

fn limit(text: &str) -> Result<Limit, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(Limit(None)),
        Ok(n @ 0..) => Ok(Limit(Some(n as usize))),
        _ => Err("expected a number of tokens, or -1 for no limit".to_owned()),
    }
}
