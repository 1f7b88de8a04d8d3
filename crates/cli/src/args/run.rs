//! Arguments of `quern run`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use quern_run::{DryOptions, Mirostat, MirostatVersion, SamplingOptions, Stage};

use super::{Load, Memory, Threads};

/// Arguments of `quern run`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").args(["prompt", "file"]))]
pub struct Run {
    /// Checkpoint: a directory, a .safetensors or .gguf file, or a name on the Hub (see quern pull)
    pub model: PathBuf,
    /// Text to continue (with --chat: what the user says), - for standard input
    #[arg(short, long, value_name = "TEXT", required_unless_present_any = ["file", "chat"])]
    pub prompt: Option<String>,
    /// File with the text to continue; one line break at its end does not count
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Tokens to generate at most, -1 for no limit [default: 128, with --chat no limit]
    #[arg(short = 'n', long = "predict", value_name = "N", allow_negative_numbers = true, value_parser = limit)]
    predict: Option<Limit>,
    /// Context length in tokens [default: the model's, at most 4096]
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// End at this text, which is not printed (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Go on after the model's end of text
    #[arg(long)]
    pub ignore_eos: bool,
    /// Print special tokens by their names
    #[arg(long)]
    pub special: bool,
    /// Put no beginning-of-text in front of the prompt
    #[arg(long, conflicts_with = "chat")]
    pub no_bos: bool,
    /// Report the probability of every token, with the N likeliest in its place
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1000))]
    pub logprobs: Option<u32>,
    /// Print the result as JSON instead of streaming text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub memory: Memory,
    #[command(flatten)]
    pub threads: Threads,
    #[command(flatten)]
    pub chat: Chat,
    #[command(flatten)]
    pub sampling: Sampling,
}

impl Run {
    /// Tokens to generate at most, and whether the user said so.
    pub fn limit(&self) -> (Option<usize>, bool) {
        match self.predict {
            Some(Limit(limit)) => (limit, limit.is_some()),
            None if self.chat.chat => (None, false),
            None => (Some(128), false),
        }
    }
}

/// Options for talking.
#[derive(Debug, Args)]
#[command(next_help_heading = "Chat")]
pub struct Chat {
    /// Talk with the model in the form of its chat template: on a terminal until Ctrl-D, one turn for each line of
    /// standard input elsewhere, or the one turn given by -p or -f
    #[arg(long)]
    pub chat: bool,
    /// What the model is told before the talk
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Chat template: a name in the model, chatml, llama3, gemma, mistral, phi3, zephyr, or a Jinja file
    #[arg(long, value_name = "NAME|FILE", requires = "chat")]
    pub chat_template: Option<String>,
    /// Variables for the template, such as {"enable_thinking": false}
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
        Ok(_) => Err("a JSON object is expected".to_owned()),
        Err(e) => Err(format!("not valid JSON: {e}")),
    }
}

/// Options for drawing tokens, as llama.cpp has them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct Sampling {
    /// Temperature; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub temp: f32,
    /// Sample among the K likeliest tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,
    /// Sample among the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Sample among the tokens of about the expected surprise that together reach this probability
    #[arg(long, alias = "typical", value_name = "P", default_value_t = 1.0)]
    pub typical_p: f32,
    /// Drop logits more than N standard deviations below the highest; 0 for none
    #[arg(long, value_name = "N", default_value_t = 0.0, allow_negative_numbers = true)]
    pub top_n_sigma: f32,
    /// How often to leave out all likely tokens but the least likely of them
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub xtc_probability: f32,
    /// From which probability on XTC takes a token for likely
    #[arg(long, value_name = "P", default_value_t = 0.1)]
    pub xtc_threshold: f32,
    /// Divide the logits of recent tokens; 1 for no penalty
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// Take from the logits of recent tokens
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Take from the logits of recent tokens, for each time they occurred
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// How many tokens are recent for these penalties; -1 for all
    #[arg(long, value_name = "N", default_value = "64", allow_negative_numbers = true, value_parser = window)]
    repeat_last_n: Window,
    /// Strength of DRY, the penalty on repeated sequences; 0 for none, 0.8 is usual
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub dry_multiplier: f32,
    /// Growth of DRY's penalty for each token of a sequence
    #[arg(long, value_name = "X", default_value_t = 1.75)]
    pub dry_base: f32,
    /// Sequences shorter than this may be repeated
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub dry_allowed_length: usize,
    /// How many tokens DRY looks back; -1 for all
    #[arg(long, value_name = "N", default_value = "64", allow_negative_numbers = true, value_parser = window)]
    dry_penalty_last_n: Window,
    /// A text that no sequence goes across, none for none (repeatable) [default: line break : " *]
    #[arg(long, value_name = "TEXT")]
    pub dry_sequence_breaker: Vec<String>,
    /// Mirostat instead of all filters: 1, 2, or 0 for none
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub mirostat: u8,
    /// Mirostat's learning rate, eta
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    pub mirostat_lr: f32,
    /// Mirostat's target surprise in bits, tau
    #[arg(long, value_name = "X", default_value_t = 5.0)]
    pub mirostat_ent: f32,
    /// What acts in which order [default: penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature]
    #[arg(long, value_name = "A;B", value_parser = stages)]
    samplers: Option<Stages>,
    /// Seed; the same seed gives the same text on any number of threads [default: random]
    #[arg(long)]
    pub seed: Option<u64>,
}

impl Sampling {
    /// As the library takes them.
    pub fn options(&self, seed: u64) -> SamplingOptions {
        let version = [MirostatVersion::One, MirostatVersion::Two];
        let mirostat = usize::from(self.mirostat)
            .checked_sub(1)
            .and_then(|at| version.get(at))
            .map(|&version| Mirostat { version, tau: self.mirostat_ent, eta: self.mirostat_lr });
        let default = DryOptions::default();
        let breakers = match &self.dry_sequence_breaker[..] {
            [] => default.breakers,
            [none] if none == "none" => Vec::new(),
            given => given.to_vec(),
        };
        SamplingOptions {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            top_n_sigma: self.top_n_sigma,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            repeat_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repeat_window: self.repeat_last_n.0,
            dry: DryOptions {
                multiplier: self.dry_multiplier,
                base: self.dry_base,
                allowed_length: self.dry_allowed_length,
                window: self.dry_penalty_last_n.0,
                breakers,
            },
            mirostat,
            stages: self.samplers.as_ref().map_or(Stage::DEFAULT_ORDER.to_vec(), |s| s.0.clone()),
            seed,
        }
    }
}

/// A number of tokens; `None` for no limit.
#[derive(Clone, Copy, Debug)]
struct Limit(Option<usize>);

fn limit(text: &str) -> Result<Limit, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(Limit(None)),
        Ok(n @ 0..) => Ok(Limit(Some(n as usize))),
        _ => Err("a number of tokens, or -1 for no limit".to_owned()),
    }
}

/// Tokens to look back.
#[derive(Clone, Copy, Debug)]
struct Window(usize);

fn window(text: &str) -> Result<Window, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(Window(usize::MAX)),
        Ok(n @ 0..) => Ok(Window(n as usize)),
        _ => Err("a number of tokens, 0 for none or -1 for all".to_owned()),
    }
}

/// Stages in an order.
#[derive(Clone, Debug)]
struct Stages(Vec<Stage>);

fn stages(text: &str) -> Result<Stages, String> {
    let names = text.split([';', ',']).map(str::trim).filter(|name| !name.is_empty());
    let stage = |name| {
        let known = || Stage::DEFAULT_ORDER.map(Stage::name).join(", ");
        Stage::from_name(name).ok_or_else(|| format!("there is no {name:?}; known are {}", known()))
    };
    names.map(stage).collect::<Result<_, _>>().map(Stages)
}
